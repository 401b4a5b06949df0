"""Bucketing: the means of random groups, before another rule."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometric_median import GeometricMedian
from fedred.defenses.geometry import group_means
from fedred.defenses.interface import (
    Defense,
    ServerView,
    Traits,
    Verdict,
    judge_finite,
    without_broken,
)
from fedred.errors import UserError
from fedred.options import InRound, check_options, option
from fedred.papers import KARIMIREDDY_BUCKETING, Paper


@dataclass(frozen=True)
class Bucketing:
    """Divide the participants at random into buckets of `size`; judge the buckets' means.

    The last bucket may be smaller. What a rule inside says of a bucket holds for all of its clients;
    its own options speak of buckets. A rule inside that weights by samples weights the buckets by
    theirs; within a bucket all clients count alike. Rules that remember clients cannot stand inside.

    Source: Karimireddy, He, Jaggi, ICLR 2022, algorithm 1.
    """

    size: int = option(2, "s, clients in a bucket", ge=1)
    aggregator: Defense = option(GeometricMedian(), "rule that judges the buckets")

    relations: ClassVar[tuple[InRound, ...]] = (
        InRound("size", inside=lambda rule, n: math.ceil(n / rule.size)),
    )
    papers: ClassVar[tuple[Paper, ...]] = (KARIMIREDDY_BUCKETING,)
    tested: ClassVar[str] = (
        "every client in one bucket; size 1 is the rule alone; variance falls s-fold"
    )
    elsewhere: ClassVar[str] = (
        "its authors' code tells the rule inside the number of attackers, whatever the size"
    )
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)
        if self.aggregator.traits.remembers_clients:
            raise UserError(
                f"bucketing cannot hold {type(self.aggregator).__name__}, which remembers clients: "
                "a bucket is another one in every round"
            )

    @property
    def traits(self) -> Traits:
        """Those of the rule inside, and participants for as many buckets as it needs."""
        inner = self.aggregator.traits
        enough = self.size * (inner.fewest_participants - 1) + 1
        return inner._replace(fewest_participants=enough)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Let the rule inside judge the means of buckets of updates [n, P]."""
        order = torch.from_numpy(view.generator.permutation(len(updates)))
        buckets = torch.split(order, self.size)
        rows = group_means(updates, torch.split(order.to(updates.device), self.size))
        samples = torch.stack([view.samples[bucket].sum() for bucket in buckets])
        inside = replace(view, clients=torch.arange(len(buckets)), samples=samples)
        verdict = self.aggregator(rows, inside)
        bucket_of = order.argsort() // self.size

        def members(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[bucket_of.to(part.device)]

        return Verdict(
            verdict.aggregate,
            verdict.trusted[bucket_of],
            members(verdict.scores),
            verdict.state,
            members(verdict.excluded),
            members(verdict.iterations),
            members(verdict.diverged),
        )


@without_broken.register
def _(rule: Bucketing, asked: int, left: int) -> Bucketing:
    """The f of the rule inside speaks of buckets: those that are missing count among it."""
    buckets = [math.ceil(count / rule.size) for count in (asked, left)]
    return replace(rule, aggregator=without_broken(rule.aggregator, *buckets))
