"""The coordinate-wise trimmed mean."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.defenses.geometry import by_columns
from fedred.defenses.interface import (
    ServerView,
    Traits,
    Verdict,
    a_third,
    everybody,
    judge_finite,
    tolerated_option,
)
from fedred.options import check_options
from fedred.papers import YIN, Paper


@dataclass(frozen=True)
class TrimmedMean:
    """Return, for every coordinate, the mean without the f largest and the f smallest values.

    Needs n >= 2 f + 1, f = `tolerated`.

    Source: Yin et al., ICML 2018, definition 2, with f in place of beta n. FedREDefense's released code
    takes f = 30 of 100.
    """

    tolerated: int | None = tolerated_option("a third, n // 3")

    papers: ClassVar[tuple[Paper, ...]] = (YIN,)
    tested: ClassVar[str] = "scipy's trim_mean; byzfl as an oracle; between the honest extremes"
    elsewhere: ClassVar[str] = "released f is ceil(28.000000000000004) + 1 = 30 by a rounding error"
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """2 f + 1: one value must be left."""
        return Traits(fewest_participants=2 * (self.tolerated or 0) + 1)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their trimmed mean [P]."""
        n = len(updates)
        f = a_third(self.tolerated, n)
        mean = by_columns(lambda block: block.sort(0).values[f : n - f].mean(0), updates)
        return Verdict(mean, everybody(updates))
