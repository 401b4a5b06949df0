"""Multi-Krum: the mean of the updates with the closest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.interface import (
    ServerView,
    Traits,
    Verdict,
    judge_finite,
    mean_of_trusted,
    tolerated_option,
)
from fedred.defenses.krum import krum_scores, most_tolerated
from fedred.options import InRound, check_options, option
from fedred.papers import BLANCHARD, Paper


@dataclass(frozen=True)
class MultiKrum:
    """Return the mean of the k updates whose Krum scores (see `krum`) are smallest.

    Those k are trusted; k = `selected`, at most n. Needs n >= f + 3.

    Source: Blanchard et al., NIPS 2017, section 4, where k = n - f in the experiments.
    """

    tolerated: int | None = tolerated_option("the most it can, (n - 3) // 2")
    selected: int | None = option(None, "k, updates that are averaged; null: n - f", ge=1)
    squared: bool = option(True, "sum squared distances, as in the paper")

    relations: ClassVar[tuple[InRound, ...]] = (InRound("selected"),)
    papers: ClassVar[tuple[Paper, ...]] = (BLANCHARD,)
    tested: ClassVar[str] = (
        "the k best of a loop written from the paper; k = 1 is Krum, k = n the mean"
    )
    elsewhere: ClassVar[str] = "some code removes the winner and scores the rest anew, k times"
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """f + 3, as for Krum."""
        return Traits(selects=True, fewest_participants=(self.tolerated or 0) + 3)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Return the mean of the k best of updates [n, P], and all scores [n]."""
        n = len(updates)
        f = most_tolerated(n) if self.tolerated is None else self.tolerated
        scores = krum_scores(updates, f, self.squared)
        best = scores.argsort()[: self.selected or n - f].cpu()
        trusted = torch.zeros(n, dtype=torch.bool)
        trusted[best] = True
        return Verdict(mean_of_trusted(updates, trusted), trusted, scores)
