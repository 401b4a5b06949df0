"""What an attack is, and what its attackers may know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fedred.parameters import FlatModel, NamedTensors

Pass = tuple[Tensor, Tensor]
"""One stretch of local training: (images [samples, channels, height, width], labels [samples])."""


@dataclass(frozen=True)
class AttackerView:
    """All that the paper's attacker knows in a round; honest clients' data and updates are not here.

    Args:
        model: the network as a function of its parameters.
        weights: global model w of this round [P].
        previous_weights: global model of the round before, the initial one in round 1 [P].
        initial_weights: global model before round 1 [P].
        round: number of this round, from 1.
        clients: ids of the attacker's own participating clients [m].
        generator: client id -> its random source in this round.
        state: what the attack returned in the round before.
    """

    model: FlatModel
    weights: Tensor
    previous_weights: Tensor
    initial_weights: Tensor
    round: int
    clients: tuple[int, ...]
    generator: Callable[[int], np.random.Generator]
    state: NamedTensors = field(default_factory=dict)


class Forged(NamedTuple):
    """What the attacker's clients send [m, P], and what the attack remembers."""

    updates: Tensor
    state: NamedTensors = MappingProxyType({})


def train_honestly(
    self: object, images: Tensor, labels: Tensor, client: int, classes: int
) -> list[Pass]:
    """`poison` of an attack on updates alone: train on the data as they are."""
    return [(images, labels)]


def send_as_trained(self: object, own_updates: Tensor, view: AttackerView) -> Forged:
    """`forge` of an attack on data alone: send the updates as they are."""
    return Forged(own_updates)


class Backdoor(Protocol):
    """A trigger and the class that it is to cause, by which the attack success rate is measured."""

    @property
    def target(self) -> int: ...

    def apply(self, images: Tensor) -> Tensor:
        """Return a copy of normalised images [samples, channels, height, width] with the trigger."""
        ...


class Attack(Protocol):
    """What a member of ATTACKS is: options at construction, data at call, no other state.

    `poison` changes what a malicious client trains on; `forge` changes what it sends. An attack on
    updates alone has `poison = train_honestly`, an attack on data alone `forge = send_as_trained`.
    """

    paper: ClassVar[str]

    @property
    def backdoor(self) -> Backdoor | None:
        """What the attack wants triggered images to become, or None."""
        ...

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the passes of local training of one malicious client, each of all local epochs."""
        ...

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return what the attacker's clients send in place of their own updates [m, P]."""
        ...
