"""The coordinate-wise median."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedred.defenses.geometry import by_columns
from fedred.defenses.interface import ServerView, Traits, Verdict, everybody, judge_finite
from fedred.options import check_options, option
from fedred.papers import YIN, Paper


@dataclass(frozen=True)
class Median:
    """Return the median of every coordinate over the participants.

    For an even number: the middle between the two central values, or the lower one (`lower`, as
    torch.median and FedREDefense's released code).

    Source: Yin et al., ICML 2018, definition 1.
    """

    even: Literal["middle", "lower"] = option("middle", "the median of an even number of values")

    papers: ClassVar[tuple[Paper, ...]] = (YIN,)
    tested: ClassVar[str] = "NumPy's median, torch's for the lower form; byzfl as an oracle"
    elsewhere: ClassVar[str] = (
        "torch.median takes the lower of two middle values, and so do many rules"
    )
    traits: ClassVar[Traits] = Traits()
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their median [P]."""
        median = lower_of if self.even == "lower" else middle_of
        return Verdict(by_columns(median, updates), everybody(updates))


def lower_of(updates: Tensor) -> Tensor:
    """Return the median over the first axis: the lower of the two values of an even number."""
    return updates.median(0).values


def middle_of(updates: Tensor) -> Tensor:
    """Return the usual median over the first axis: the middle of the two values of an even number."""
    lower = lower_of(updates)
    if len(updates) % 2:
        return lower
    upper = -(-updates).median(0).values
    return lower + (upper - lower) / 2
