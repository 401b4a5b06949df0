"""The coordinate-wise median."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedred.defenses.interface import ServerView, Verdict, everybody, judge_finite
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
    selects: ClassVar[bool] = False
    remembers_clients: ClassVar[bool] = False
    fewest_participants: ClassVar[int] = 1
    clean_samples: ClassVar[int] = 0
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their median [P]."""
        lower = updates.median(0).values
        if self.even == "lower" or len(updates) % 2:
            return Verdict(lower, everybody(updates))
        upper = -(-updates).median(0).values
        return Verdict(lower + (upper - lower) / 2, everybody(updates))
