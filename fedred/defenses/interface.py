"""What a defense is, and what a server may know."""

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fedred.local_training import LocalTraining
from fedred.parameters import FlatModel, NamedTensors


@dataclass(frozen=True)
class ServerView:
    """All that a server knows in a round. Who is malicious is not here, so no rule can peek.

    Args:
        model: the network as a function of its parameters.
        weights: global model w of this round [P].
        round: number of this round, from 1.
        clients: ids of the participants int64 [n], ascending.
        all_clients: number of clients of the federation.
        samples: training samples that each participant announced int64 [n].
        training: the protocol that the server announced.
        generator: the server's random source in this round.
        clients_per_chunk: how many clients a rule that trains should compute at once.
        state: what the defense returned in the round before.
    """

    model: FlatModel
    weights: Tensor
    round: int
    clients: Tensor
    all_clients: int
    samples: Tensor
    training: LocalTraining
    generator: np.random.Generator
    clients_per_chunk: int = 1
    state: NamedTensors = field(default_factory=dict)

    def select(self, chosen: Tensor, part: str) -> "ServerView":
        """Return the view of a rule inside this one, which sees the chosen participants (bool [n]).

        Its state is what stands below `part.` in the state of the outer rule.
        """
        prefix = f"{part}."
        inner = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.state.items()
            if name.startswith(prefix)
        }
        return replace(
            self, clients=self.clients[chosen], samples=self.samples[chosen], state=inner
        )


class Verdict(NamedTuple):
    """What a defense decides in a round.

    aggregate: what is added to the global model [P].
    trusted: whose updates may have entered the aggregate, bool [n].
    scores: suspicion of each participant, higher is more suspicious [n], or None.
    state: what the defense remembers.
    excluded: whom the server never asks again, bool [n], or None for nobody.
    iterations: work spent on each participant int64 [n], or None.
    """

    aggregate: Tensor
    trusted: Tensor
    scores: Tensor | None = None
    state: NamedTensors = MappingProxyType({})
    excluded: Tensor | None = None
    iterations: Tensor | None = None


class Defense(Protocol):
    """What a member of DEFENSES is: options at construction, data at call, no other state.

    `selects` tells whether the rule accepts or rejects whole clients, so that detection rates
    mean something. `fewest_participants` is the smallest n that the rule can judge; fewer are refused.
    """

    paper: ClassVar[str]
    selects: ClassVar[bool]

    @property
    def fewest_participants(self) -> int: ...

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates float [n, P], n at least `fewest_participants`; they are not changed."""
        ...


def finite_rows(updates: Tensor) -> Tensor:
    """Return which updates [n, P] hold only finite numbers, bool [n]."""
    return updates.isfinite().all(1)
