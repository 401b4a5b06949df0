"""Krum: the update with the closest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.interface import ServerView, Verdict
from fedred.errors import UserError
from fedred.options import check_options, option


@dataclass(frozen=True)
class Krum:
    """Return the update x_i whose score is smallest.

    score_i = sum of ||x_i - x_j||^2 over the n - f - 2 nearest other updates, f = `tolerated`.

    The winner alone is trusted. An update that is not finite is infinitely far from all others; when
    no update has a finite score, nobody is trusted and the model stays. Needs n >= f + 3.

    Source: Blanchard et al., NIPS 2017, section 4. FedREDefense's released code takes f = 30 of 100
    and sums distances that are not squared (`squared: false`).
    """

    tolerated: int | None = option(
        None,
        "f, malicious clients the rule must tolerate; null: the most it can, (n - 3) // 2",
        ge=0,
    )
    squared: bool = option(True, "sum squared distances, as in the paper")

    paper: ClassVar[str] = "Blanchard et al., NIPS 2017"
    selects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def fewest_participants(self) -> int:
        """f + 3: the winner needs one neighbour at least."""
        return (self.tolerated or 0) + 3

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Return the winner of updates [n, P] and all scores; NaN in a score counts as infinite."""
        scores = self.scores(updates)
        winner = int(scores.argmin())
        trusted = torch.zeros(len(updates), dtype=torch.bool)
        if not scores[winner].isfinite():
            return Verdict(torch.zeros_like(updates[0]), trusted, scores)
        trusted[winner] = True
        return Verdict(updates[winner].clone(), trusted, scores)

    def scores(self, updates: Tensor) -> Tensor:
        """Return the score of each update [n, P] -> [n].

        Raises:
            UserError: when n < tolerated + 3.
        """
        n = len(updates)
        tolerated = max(0, (n - 3) // 2) if self.tolerated is None else self.tolerated
        if n < tolerated + 3:
            raise UserError(
                f"krum with tolerated {tolerated} needs at least {tolerated + 3} participants, "
                f"but the round has {n}"
            )
        distances = pairwise_distances(updates)
        costs = distances.square() if self.squared else distances
        return costs.sort(1).values[:, : n - tolerated - 2].sum(1)


def pairwise_distances(updates: Tensor) -> Tensor:
    """Return Euclidean distances [n, n] of updates [n, P]; to oneself, or where not finite, infinite.

    Differences are taken before squaring: the Gram matrix would lose small distances between large
    updates.
    """
    distances = torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)
