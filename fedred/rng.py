"""Every random number of the project comes from `generator`."""

import hashlib
from typing import Literal, get_args

import numpy as np

Purpose = Literal[
    "subset", "partition", "model", "participants", "batches", "attack", "defense", "clean"
]


def generator(seed: int, purpose: Purpose, round: int = 0, client: int = 0) -> np.random.Generator:
    """Return the random source for one purpose: a pure function of its arguments.

    NumPy's generators take a seed of any length and mix it well; PyTorch's CPU generator keeps only
    32 bits of its seed, so that two of a long run's many streams would often be the same.

    Args:
        seed: of the whole run, at least 0.
        purpose: what the numbers are for; two purposes never share a stream.
        round: number of the federated round, 0 when there is none.
        client: id of the client, 0 when there is none.

    Raises:
        ValueError: for a purpose that is not listed in `Purpose`, or a negative number.
    """
    if purpose not in get_args(Purpose):
        raise ValueError(f"unknown purpose of randomness '{purpose}'")
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, word, round, client])
