"""What an attack is, and what its attackers may know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fedred.parameters import FlatModel

State = Mapping[str, Tensor]
"""What a method remembers from round to round: named tensors, the whole of its memory."""

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
    state: State = field(default_factory=dict)


class Forged(NamedTuple):
    """What the attacker's clients send [m, P], and what the attack remembers."""

    updates: Tensor
    state: State = MappingProxyType({})


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
    data alone forges nothing, an attack on updates alone poisons nothing.
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
