"""NNM: nearest-neighbour mixing before another rule."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.defenses.geometry import group_means, pairwise_distances
from fedred.defenses.interface import (
    Defense,
    ServerView,
    Traits,
    Verdict,
    a_third,
    judge_finite,
    tolerated_option,
)
from fedred.defenses.trimmed_mean import TrimmedMean
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class NNM:
    """Replace every update by the mean of the n - f updates nearest to it, itself included.

    What comes of it goes to `aggregator`; a client is trusted when its mixture is. Needs
    n >= 2 f + 1, f = `tolerated`.

    Source: Allouah et al., AISTATS 2023, algorithm 2.
    """

    tolerated: int | None = tolerated_option("a third, n // 3")
    aggregator: Defense = option(TrimmedMean(), "rule that judges the mixtures")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Allouah et al., AISTATS 2023",
            "Allouah, Youssef and Farhadkhani, Sadegh and Guerraoui, Rachid and Gupta, Nirupam "
            'and Pinot, Rafa{\\"e}l and Stephan, John',
            "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
            "International Conference on Artificial Intelligence and Statistics",
            2023,
        ),
    )
    tested: ClassVar[str] = "mixtures of a loop; less variance among the honest; byzfl as an oracle"
    elsewhere: ClassVar[str] = "byzfl hands out the mixtures, and leaves the rule to its user"
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """Those of the rule inside, and an honest majority."""
        inner = self.aggregator.traits
        enough = max(2 * (self.tolerated or 0) + 1, inner.fewest_participants)
        return inner._replace(fewest_participants=enough)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Let the rule inside judge the mixtures of updates [n, P]."""
        n = len(updates)
        return self.aggregator(mixtures(updates, n - a_third(self.tolerated, n)), view)


def mixtures(updates: Tensor, count: int) -> Tensor:
    """Return for each of updates [n, P] the mean of the `count` nearest ones, itself the first."""
    distances = pairwise_distances(updates)
    distances.fill_diagonal_(-1)
    return group_means(updates, distances.argsort(1)[:, :count].unbind())
