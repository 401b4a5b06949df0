"""Bulyan: Krum's selection, then the values nearest the median of every coordinate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import by_columns, pairwise_distances
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, tolerated_option
from fedred.defenses.krum import nearest_sums
from fedred.defenses.median import middle_of
from fedred.options import check_options
from fedred.papers import Paper


@dataclass(frozen=True)
class Bulyan:
    """Select n - 2 f updates by Krum, then average the n - 4 f values nearest their median.

    Krum is asked n - 2 f times, each time among the updates that are left (a winner is taken
    out), which are the trusted ones. Of r left, r - f - 2 neighbours count, and at least one. Equal
    scores go to the update whose distances to all that are left sum to less. Needs n >= 4 f + 3,
    f = `tolerated`.

    Source: El Mhamdi, Guerraoui, Rouault, ICML 2018, section 4.
    """

    tolerated: int | None = tolerated_option("the most it can, (n - 3) // 4")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "El Mhamdi et al., ICML 2018",
            "El Mhamdi, El Mahdi and Guerraoui, Rachid and Rouault, S{\\'e}bastien",
            "The Hidden Vulnerability of Distributed Learning in Byzantium",
            "International Conference on Machine Learning",
            2018,
        ),
    )
    tested: ClassVar[str] = (
        "selection and aggregate of a loop written from the paper; no client twice"
    )
    elsewhere: ClassVar[str] = (
        "one library takes a winner's place among those left for its place among all"
    )
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """4 f + 3."""
        return Traits(selects=True, fewest_participants=4 * (self.tolerated or 0) + 3)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by the mean around the median of the selected ones [P]."""
        n = len(updates)
        f = (n - 3) // 4 if self.tolerated is None else self.tolerated
        chosen = select(pairwise_distances(updates).cpu(), f)
        trusted = torch.zeros(n, dtype=torch.bool)
        trusted[chosen] = True
        mean = by_columns(lambda block: mean_around_median(block[chosen], n - 4 * f), updates)
        return Verdict(mean, trusted)


def select(distances: Tensor, tolerated: int) -> list[int]:
    """Return the n - 2 f winners of Krum without replacement, from distances [n, n]."""
    left = list(range(len(distances)))
    winners = []
    for _ in range(len(distances) - 2 * tolerated):
        among = distances[left][:, left]
        scores = nearest_sums(among, max(1, len(left) - tolerated - 2))
        totals = among.clone().fill_diagonal_(0).sum(1)
        best = (scores == scores.min()).nonzero().flatten()  # one far row makes all totals infinite
        winners.append(left.pop(int(best[totals[best].argmin()])))
    return winners


def mean_around_median(updates: Tensor, count: int) -> Tensor:
    """Return, for every coordinate of updates [k, P], the mean of the `count` nearest the median."""
    offsets = updates - updates.median(0).values  # exact, where the middle of two would be rounded
    nearest = (offsets - middle_of(offsets)).abs().argsort(dim=0, stable=True)[:count]
    return updates.gather(0, nearest).mean(0)
