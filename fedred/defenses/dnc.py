"""DnC: divide and conquer, outliers along the direction of largest variance."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedred.defenses.geometry import gram_matrix
from fedred.defenses.interface import (
    ServerView,
    Traits,
    Verdict,
    a_third,
    judge_finite,
    mean_of_trusted,
    tolerated_option,
)
from fedred.options import InRound, check_options, option
from fedred.papers import SHEJWALKAR, Paper


@dataclass(frozen=True)
class DnC:
    """Drop the c f updates with the largest projections on the top singular vector; mean of the rest.

    On a random subset of coordinates, with x_i centred: score_i = <x_i, v>^2, v the top right singular
    vector. floor(c f) are dropped, in each of `iterations` new subsets; who is never dropped is trusted.
    The suspicion is the mean score. Needs n >= 2 f + 1, f = `tolerated`.

    Source: Shejwalkar and Houmansadr, NDSS 2021, algorithm 2.
    """

    tolerated: int | None = tolerated_option("a third, n // 3")
    iterations: int = option(1, "subsets of coordinates", ge=1)
    coordinates: int = option(10_000, "coordinates in a subset, or all when they are fewer", ge=1)
    filtered: float = option(1.0, "c, updates dropped in an iteration over f", ge=0)

    relations: ClassVar[tuple[InRound, ...]] = (
        InRound("filtered", "<", "n / f", lambda rule, n: _share(n, a_third(rule.tolerated, n))),
    )
    papers: ClassVar[tuple[Paper, ...]] = (SHEJWALKAR,)
    tested: ClassVar[str] = (
        "scores of NumPy's SVD; a planted direction is found, an isotropic one is not"
    )
    elsewhere: ClassVar[str] = (
        "one library draws a fifth of the coordinates, in each of five iterations"
    )
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """2 f + 1: an honest majority."""
        return Traits(selects=True, fewest_participants=2 * (self.tolerated or 0) + 1)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Return the mean of the trusted ones of updates [n, P], and the suspicion of all [n]."""
        n, P = updates.shape
        dropped = min(n - 1, whole_part(self.filtered, a_third(self.tolerated, n)))
        scores = torch.stack(
            [
                outlier_scores(updates[:, self._subset(P, view.generator)])
                for _ in range(self.iterations)
            ]
        )
        kept = scores.argsort(1)[:, : n - dropped].cpu()
        passes = torch.zeros(self.iterations, n, dtype=torch.bool).scatter(1, kept, True)
        trusted = passes.all(0)
        return Verdict(mean_of_trusted(updates, trusted), trusted, scores.mean(0))

    def _subset(self, size: int, generator: np.random.Generator) -> Tensor:
        count = min(size, self.coordinates)
        return torch.from_numpy(np.sort(generator.choice(size, count, replace=False)))


def _share(participants: int, tolerated: int) -> float:
    """Return n / f, by which more than all would be dropped."""
    return participants / tolerated if tolerated else math.inf


def whole_part(factor: float, count: int) -> int:
    """Return floor(factor * count) of the factor as it is written: 1.16 * 25 is 29, not 28.99...96."""
    return math.floor(Decimal(str(factor)) * count)


def outlier_scores(updates: Tensor) -> Tensor:
    """Return the squared projections [n] of centred updates [n, k] on their top right singular vector.

    With the centred updates U S V^T the projections are the first column of U S, which the Gram
    matrix U S^2 U^T gives without V.
    """
    rows = updates.double()
    values, vectors = torch.linalg.eigh(gram_matrix(rows, rows.mean(0)))
    scores: Tensor = values[-1].clamp(min=0) * vectors[:, -1].square()
    return scores
