"""What an attack is, and what its attackers may know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fedred.local_training import LocalTraining
from fedred.options import option
from fedred.papers import Paper
from fedred.parameters import FlatModel, NamedTensors

Pass = tuple[Tensor, Tensor]
"""One stretch of local training: (images [samples, channels, height, width], labels [samples])."""

Knowledge = Literal["own", "full"]
Lone = Literal["honest", "zero"]


@dataclass(frozen=True)
class AttackerView:
    """All that the attacker knows in a round; honest clients' data are never here.

    Args:
        model: the network as a function of its parameters.
        weights: global model w of this round [P].
        previous_weights: global model of the round before, the initial one in round 1 [P].
        initial_weights: global model before round 1 [P].
        round: number of this round, from 1.
        clients: ids of the attacker's own participating clients [m].
        participants: number n of participants of this round, honest ones included.
        samples: training samples of each of the attacker's clients int64 [m].
        training: the protocol that the server announced.
        generator: client id -> its random source in this round.
        clients_per_chunk: how many clients an attack that trains should compute at once.
        honest_updates: updates of the honest participants [n - m, P] for an attack whose
            `knowledge` is `full`, else None.
        state: what the attack returned in the round before.
    """

    model: FlatModel
    weights: Tensor
    previous_weights: Tensor
    initial_weights: Tensor
    round: int
    clients: tuple[int, ...]
    participants: int
    samples: Tensor
    training: LocalTraining
    generator: Callable[[int], np.random.Generator]
    clients_per_chunk: int = 1
    honest_updates: Tensor | None = None
    state: NamedTensors = field(default_factory=dict)

    def known_updates(self, own_updates: Tensor) -> Tensor:
        """Return the updates from which honest behaviour is estimated [k, P].

        Those of the honest participants if the attack knows them, else the attacker's own [m, P].
        """
        return own_updates if self.honest_updates is None else self.honest_updates


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


def knowledge_option() -> Any:
    """Declare `knowledge`, the option of an attack whose paper knows both threat models."""
    return option("own", "updates it sees: its own clients', or those of all honest participants")


def lone_option() -> Any:
    """Declare `lone`, the option of an attack that needs the spread of two updates or more."""
    return option("honest", "what it sends when it sees one update alone (released: zero)")


def uniform_draws(view: AttackerView, own_updates: Tensor) -> Tensor:
    """Return numbers from U[0, 1) [m, P], each attacker's from its own random source."""
    draws = [
        view.generator(client).random(own_updates.shape[1], "float32") for client in view.clients
    ]
    return torch.from_numpy(np.stack(draws)).to(own_updates)


def normal_draws(view: AttackerView, own_updates: Tensor) -> Tensor:
    """Return numbers from N(0, 1) [m, P], each attacker's from its own random source."""
    size = own_updates.shape[1]
    draws = [view.generator(client).standard_normal(size, "float32") for client in view.clients]
    return torch.from_numpy(np.stack(draws)).to(own_updates)


class Backdoor(Protocol):
    """What an attack wants test images to become, by which the attack success rate is measured.

    `target` is the class that it wants, `source` the class whose images it wants it of (None: all
    others), `apply` sets the trigger.
    """

    @property
    def target(self) -> int: ...

    @property
    def source(self) -> int | None: ...

    def apply(self, images: Tensor) -> Tensor:
        """Return a copy of normalised images [samples, channels, height, width] with the trigger."""
        ...


class Attack(Protocol):
    """What a member of ATTACKS is: options at construction, data at call, no other state.

    `poison` changes what a malicious client trains on; `forge` changes what it sends. An attack on
    updates alone has `poison = train_honestly`, an attack on data alone `forge = send_as_trained`.
    `knowledge` is `own` for an attacker who sees its own clients' updates only, `full` for one who
    sees those of all honest participants. `tested` says by what definition its tests hold it,
    `elsewhere` where public implementations differ.
    """

    papers: ClassVar[tuple[Paper, ...]]
    tested: ClassVar[str]
    elsewhere: ClassVar[str]

    @property
    def knowledge(self) -> Knowledge: ...

    @property
    def backdoor(self) -> Backdoor | None:
        """What the attack wants triggered images to become, or None."""
        ...

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the passes of a malicious client's local training, one or more, each of all epochs."""
        ...

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return what the attacker's clients send in place of their own updates [m, P]."""
        ...


class SpreadAttack(Attack, Protocol):
    """An attack that hides in the spread of honest updates: `forge = forge_in_spread`."""

    @property
    def lone(self) -> Lone: ...

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return what all attackers send [P], or a row for each [m, P], from updates [k, P], k >= 2."""
        ...


def forge_in_spread(self: SpreadAttack, own_updates: Tensor, view: AttackerView) -> Forged:
    """`forge` of an attack on the spread of the known updates; one alone has none (see `lone`)."""
    known = view.known_updates(own_updates)
    if len(known) >= 2:
        return Forged(self.craft(known, view).expand(len(own_updates), -1).clone())
    return Forged(own_updates if self.lone == "honest" else torch.zeros_like(own_updates))
