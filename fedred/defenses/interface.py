"""What a defense is, and what a server may know."""

from dataclasses import dataclass, field, replace
from functools import singledispatch
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, get_type_hints

import numpy as np
import torch
from torch import Tensor

from fedred.defenses.geometry import by_columns, by_rows
from fedred.errors import UserError
from fedred.local_training import LocalTraining
from fedred.options import declared_options, option
from fedred.papers import Paper
from fedred.parameters import FlatModel, NamedTensors, part_of


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
        clean: the server's own normalised images and labels, as many as the rule's `clean_samples`;
            None for a rule that asks for none.
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
    clean: tuple[Tensor, Tensor] | None = None
    state: NamedTensors = field(default_factory=dict)

    def select(self, chosen: Tensor) -> "ServerView":
        """Return the view of a rule that sees the chosen participants only (bool or ids [n])."""
        chosen = chosen.cpu()
        return replace(self, clients=self.clients[chosen], samples=self.samples[chosen])

    def within(self, part: str) -> "ServerView":
        """Return the view of a rule inside this one: its state stands below `part.`."""
        return replace(self, state=part_of(self.state, part))


class Verdict(NamedTuple):
    """What a defense decides in a round.

    aggregate: what is added to the global model [P].
    trusted: whose updates may have entered the aggregate, bool [n].
    scores: suspicion of each participant, higher is more suspicious [n], or None.
    state: what the defense remembers.
    excluded: whom the server never asks again, bool [n], or None for nobody.
    iterations: work spent on each participant int64 [n], or None.
    diverged: whose reconstruction diverged, so that its score says nothing, bool [n], or None.
    """

    aggregate: Tensor
    trusted: Tensor
    scores: Tensor | None = None
    state: NamedTensors = MappingProxyType({})
    excluded: Tensor | None = None
    iterations: Tensor | None = None
    diverged: Tensor | None = None


class Traits(NamedTuple):
    """What a rule is and needs.

    selects: whether it accepts or rejects whole clients, so that detection rates mean something.
    remembers_clients: whether its state holds something of each client, so that rows without a client
        make no sense to it.
    fewest_participants: the smallest n that it can judge; fewer are refused.
    clean_samples: how many clean samples the server must own.
    """

    selects: bool = False
    remembers_clients: bool = False
    fewest_participants: int = 1
    clean_samples: int = 0


class Defense(Protocol):
    """What a member of DEFENSES is: options at construction, data at call, no other state.

    `tested` says by what definition its tests hold it, `elsewhere` where public implementations differ.
    """

    papers: ClassVar[tuple[Paper, ...]]
    tested: ClassVar[str]
    elsewhere: ClassVar[str]

    @property
    def traits(self) -> Traits: ...

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates float [n, P], n as in its traits; they are not changed."""
        ...


class FiniteRule(Defense, Protocol):
    """A rule that leaves out updates that are not finite: `__call__ = judge_finite`."""

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] that are all finite, n as in its traits."""
        ...


def judge_finite(self: FiniteRule, updates: Tensor, view: ServerView) -> Verdict:
    """Judge the finite ones of updates [n, P]; the others are distrusted, with infinite suspicion.

    They count among the f of a rule that is told one, and of the rules inside it (`without_broken`).
    When too few are finite for the rule, or the aggregate overflows, nobody is trusted and the model
    stays as it is.

    Raises:
        UserError: when the round has fewer than `fewest_participants`.
    """
    refuse_too_few(self, len(updates))
    finite = finite_rows(updates)
    if finite.all():
        return _bounded(self.judge(updates, view), view)
    left = int(finite.sum())
    rest = without_broken(self, len(updates), left)
    if left < max(1, rest.traits.fewest_participants):
        return keep_model(view)
    seen = view.select(finite)
    verdict = _bounded(rest.judge(updates[finite], seen), seen)
    return verdict._replace(
        trusted=_scatter(verdict.trusted, finite, False),
        scores=None if verdict.scores is None else _scatter(verdict.scores, finite, torch.inf),
        excluded=None if verdict.excluded is None else _scatter(verdict.excluded, finite, False),
        iterations=None if verdict.iterations is None else _scatter(verdict.iterations, finite, 0),
        diverged=None if verdict.diverged is None else _scatter(verdict.diverged, finite, False),
    )


@singledispatch
def without_broken(rule: Any, asked: int, left: int) -> Any:
    """Return a rule for the `left` of `asked` updates that are finite: the others count among its f.

    They count among the f of the rules inside it too. A rule that shows those other rows than one for
    every client registers here how many (see `bucketing`).
    """
    hints = get_type_hints(type(rule))
    changes: dict[str, Any] = {}
    for declared in declared_options(rule):
        value = getattr(rule, declared.name)
        if hints[declared.name] is Defense:
            changes[declared.name] = without_broken(value, asked, left)
        elif declared.name == "tolerated" and value is not None:
            changes[declared.name] = max(0, value - (asked - left))
    return replace(rule, **changes)


def _bounded(verdict: Verdict, view: ServerView) -> Verdict:
    """Return a verdict, or keep the model when huge finite updates made the aggregate overflow."""
    return verdict if verdict.aggregate.isfinite().all() else keep_model(view)


def _scatter(values: Tensor, chosen: Tensor, missing: float) -> Tensor:
    """Return values of the chosen (bool [n]) in their places, `missing` elsewhere [n]."""
    result = torch.full(chosen.shape, missing, dtype=values.dtype, device=values.device)
    result[chosen.to(values.device)] = values
    return result


def refuse_too_few(rule: Defense, participants: int) -> None:
    """Refuse a round that a rule cannot judge.

    Raises:
        UserError: naming the rule with its options, what it needs and what is there.
    """
    if participants < rule.traits.fewest_participants:
        raise UserError(
            f"{rule} needs at least {rule.traits.fewest_participants} participants, "
            f"but the round has {participants}"
        )


def keep_model(view: ServerView) -> Verdict:
    """Return the verdict of a round that ends without a trusted update."""
    nobody = torch.zeros(len(view.clients), dtype=torch.bool)
    return Verdict(torch.zeros_like(view.weights), nobody, state=view.state)


def tolerated_option(most: str) -> Any:
    """Declare `tolerated`, the f of a rule that is told how many malicious clients to expect."""
    return option(None, f"f, malicious clients the rule must tolerate; null: {most}", ge=0)


def a_third(tolerated: int | None, n: int) -> int:
    """Return f of n participants for a rule that works for any f below n / 2: a third unless told."""
    return n // 3 if tolerated is None else tolerated


def mean_of_trusted(updates: Tensor, trusted: Tensor, factors: Tensor | None = None) -> Tensor:
    """Return the mean of the trusted updates; zero when there is none.

    Args:
        updates: [n, P].
        trusted: bool [n].
        factors: what each update is multiplied by [n]; None: 1.

    Returns:
        The mean [P].
    """
    if not trusted.any():
        return torch.zeros_like(updates[0])
    chosen = trusted.to(updates.device)
    scale = updates.new_ones(len(updates)) if factors is None else factors.to(updates)
    return by_columns(lambda block: (block[chosen] * scale[chosen, None]).mean(0), updates)


def of_participants(memory: Tensor, view: ServerView) -> Tensor:
    """Return the participants' rows [n, ...] of a memory of all clients, uncopied when all take part."""
    everyone = len(view.clients) == len(memory)
    return memory if everyone else memory[view.clients.to(memory.device)]


def everybody(updates: Tensor) -> Tensor:
    """Return `trusted` of a rule that rejects nobody, bool [n]."""
    return torch.ones(len(updates), dtype=torch.bool)


def finite_rows(updates: Tensor) -> Tensor:
    """Return which updates [n, P] hold only finite numbers, bool [n]."""
    return by_rows(lambda rows: rows.isfinite().all(1), updates)
