"""Krum: the update with the closest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import pairwise_distances
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, tolerated_option
from fedred.options import check_options, option
from fedred.papers import BLANCHARD, Paper


@dataclass(frozen=True)
class Krum:
    """Return the update x_i whose score is smallest.

    score_i = sum of ||x_i - x_j||^2 over the n - f - 2 nearest other updates, f = `tolerated`.

    The winner alone is trusted. Needs n >= f + 3.

    Source: Blanchard et al., NIPS 2017, section 4. FedREDefense's released code takes f = 30 of 100
    and sums distances that are not squared (`squared: false`).
    """

    tolerated: int | None = tolerated_option("the most it can, (n - 3) // 2")
    squared: bool = option(True, "sum squared distances, as in the paper")

    papers: ClassVar[tuple[Paper, ...]] = (BLANCHARD,)
    tested: ClassVar[str] = "scores and winner of a loop written from the paper; byzfl as an oracle"
    elsewhere: ClassVar[str] = "byzfl sums n - f - 1 neighbours; others square twice, or not at all"
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """f + 3: the winner needs one neighbour at least."""
        return Traits(selects=True, fewest_participants=(self.tolerated or 0) + 3)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Return the winner of updates [n, P] and all scores [n]."""
        scores = krum_scores(updates, self.tolerated, self.squared)
        winner = int(scores.argmin())
        trusted = torch.zeros(len(updates), dtype=torch.bool)
        trusted[winner] = True
        return Verdict(updates[winner].clone(), trusted, scores)


def krum_scores(updates: Tensor, tolerated: int | None, squared: bool = True) -> Tensor:
    """Return Krum's score of each update [n, P] -> [n].

    Args:
        updates: x_i, n at least f + 3.
        tolerated: f; None: the most it can.
        squared: sum squared distances.
    """
    n = len(updates)
    f = most_tolerated(n) if tolerated is None else tolerated
    return nearest_sums(pairwise_distances(updates), n - f - 2, squared)


def most_tolerated(n: int) -> int:
    """Return the largest f for which Blanchard's proposition 4.2 holds: 2 f + 2 < n."""
    return (n - 3) // 2


def nearest_sums(distances: Tensor, neighbours: int, squared: bool = True) -> Tensor:
    """Return the sum of the smallest (squared) entries of each row of distances [n, n] -> [n]."""
    costs = distances.square() if squared else distances
    return costs.sort(1).values[:, :neighbours].sum(1)
