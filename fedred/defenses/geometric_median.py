"""The geometric median (RFA): the point whose distances to all updates sum to least."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import by_columns, gram_matrix
from fedred.defenses.interface import ServerView, Traits, Verdict, everybody, judge_finite
from fedred.defenses.median import middle_of
from fedred.options import check_options, option
from fedred.papers import Paper

NEVER_ZERO = 1e-200  # its inverse is finite


@dataclass(frozen=True)
class GeometricMedian:
    """Return argmin_z sum_i p_i ||z - x_i||, p_i = 1/n, or n_i / sum n_j with `by_samples`.

    Weiszfeld's iteration z <- sum_i b_i x_i / sum b_i with b_i = p_i / max(nu, ||z - x_i||), until no
    weight moves by more than `tolerance`. nu is `smoothing` times the median distance from the
    coordinate-wise median, where the iteration starts. Every z is a weighted mean of the updates, so
    the iteration runs on their n weights and inner products, not on P coordinates.

    Source: Pillutla, Kakade, Harchaoui, IEEE TSP 2022, algorithm 1, where nu is an absolute number and
    the iteration ends after three to five steps.
    """

    smoothing: float = option(1e-6, "nu, in units of the median distance", gt=0)
    tolerance: float = option(1e-12, "largest change of a weight at the end", ge=0)
    iterations: int = option(10_000, "most iterations", ge=1)
    by_samples: bool = option(False, "weight clients by their announced number of samples")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Pillutla et al., IEEE TSP 2022",
            "Pillutla, Krishna and Kakade, Sham M. and Harchaoui, Zaid",
            "Robust Aggregation for Federated Learning",
            "IEEE Transactions on Signal Processing",
            2022,
            "article",
        ),
    )
    tested: ClassVar[str] = "first-order condition; no nearby point is better; byzfl as an oracle"
    elsewhere: ClassVar[str] = "most code stops after a fixed number of steps"
    traits: ClassVar[Traits] = Traits()
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their geometric median [P]."""
        counts = view.samples if self.by_samples else torch.ones_like(view.samples)
        shares = (counts.double() / counts.sum()).to(updates.device)
        center = by_columns(middle_of, updates)
        weights = self.weights(gram_matrix(updates, center), shares).to(updates)
        move = by_columns(lambda block, start: weights @ (block - start), updates, center)
        return Verdict(center + move, everybody(updates))

    def weights(self, products: Tensor, shares: Tensor) -> Tensor:
        """Return the weights [n] that make the median of the x_i, which sum to at most one.

        Args:
            products: inner products of the x_i around the start of the iteration [n, n].
            shares: p [n].
        """
        squares = products.diagonal()
        distances = squares.sqrt()
        smallest = (self.smoothing * distances.median()).clamp(min=NEVER_ZERO)
        weights = torch.zeros_like(shares)
        for _ in range(self.iterations):
            pulls = shares / distances.clamp(min=smallest)
            before, weights = weights, pulls / pulls.sum()
            if (weights - before).abs().max() <= self.tolerance:
                break
            lean = products @ weights
            distances = (squares - 2 * lean + weights @ lean).clamp(min=0).sqrt()
        return weights
