"""SignGuard: a norm filter, and clusters of sign statistics."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedred.defenses.clustering import largest_cluster, mean_shift
from fedred.defenses.geometry import by_rows, clip_factors, norms
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, mean_of_trusted
from fedred.defenses.median import middle_of
from fedred.options import Relation, check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class SignGuard:
    """Return the mean of the trusted updates, clipped to the median norm M of all.

    Trusted is who passes both filters: lower <= ||x_i|| / M <= upper, and the largest of the clusters
    that MeanShift finds in the shares of positive, zero and negative entries, on a random subset of the
    coordinates.

    Needs four participants: MeanShift's bandwidth is zero for fewer, and each a cluster of its own.

    Source: Xu et al., ICDCS 2022, algorithm 2 (plain SignGuard): lower 0.1, upper 3, a tenth of the
    coordinates.
    """

    lower: float = option(0.1, "smallest norm over the median norm", ge=0)
    upper: float = option(3.0, "largest norm over the median norm", gt=0)
    share: float = option(0.1, "share of the coordinates whose signs are counted", gt=0, le=1)

    relations: ClassVar[tuple[Relation, ...]] = (Relation("lower", "<", "upper"),)
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Xu et al., ICDCS 2022",
            "Xu, Jian and Huang, Shao-Lun and Song, Linqi and Lan, Tian",
            "Byzantine-robust Federated Learning through Collaborative Malicious Gradient Filtering",
            "IEEE International Conference on Distributed Computing Systems",
            2022,
        ),
    )
    tested: ClassVar[str] = "each filter alone on a constructed case; sign statistics by hand"
    elsewhere: ClassVar[str] = (
        "one library clusters by DBSCAN, and draws coordinates that lie side by side"
    )
    traits: ClassVar[Traits] = Traits(selects=True, fewest_participants=4)
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P]; who fails one of the filters is not trusted."""
        lengths = norms(updates)
        limit = middle_of(lengths)
        usual = (lengths >= self.lower * limit) & (lengths <= self.upper * limit)
        count = max(1, round(self.share * updates.shape[1]))
        drawn = np.sort(view.generator.choice(updates.shape[1], count, replace=False))
        subset = torch.from_numpy(drawn).to(updates.device)
        signs = by_rows(lambda rows: sign_statistics(rows[:, subset]), updates)
        trusted = usual.cpu() & largest_cluster(mean_shift(signs))
        factors = clip_factors(lengths, limit)
        return Verdict(mean_of_trusted(updates, trusted, factors), trusted)


def sign_statistics(updates: Tensor) -> Tensor:
    """Return the shares of positive, zero and negative entries of updates [n, k] -> [n, 3]."""
    signs = updates.sign()
    return torch.stack([(signs == sign).double().mean(1) for sign in (1, 0, -1)], 1)
