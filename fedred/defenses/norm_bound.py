"""Norm bound: clip every update, then average."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.defenses.geometry import clip_factors, norms
from fedred.defenses.interface import (
    ServerView,
    Traits,
    Verdict,
    everybody,
    judge_finite,
    mean_of_trusted,
)
from fedred.defenses.median import middle_of
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class NormBound:
    """Return the mean of x_i min(1, M / ||x_i||).

    M is `bound`, or the median of the received norms. All are trusted: nobody is rejected.

    Source: Sun et al., 2019, section 3, without its noise. FedREDefense's released code takes for M the
    mean norm of the truly honest clients, which a server cannot know and which is not offered here.
    """

    bound: float | None = option(None, "M; null: the median of the received norms", gt=0)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Sun et al., 2019",
            "Sun, Ziteng and Kairouz, Peter and Suresh, Ananda Theertha and McMahan, H. Brendan",
            "Can You Really Backdoor Federated Learning?",
            "arXiv:1911.07963",
            2019,
            "misc",
        ),
    )
    tested: ClassVar[str] = "every row no longer than M, and in its own direction; the mean by hand"
    elsewhere: ClassVar[str] = "the released M is the mean over truly honest clients"
    traits: ClassVar[Traits] = Traits()
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by the mean of the clipped ones [P]."""
        lengths, all_of_them = norms(updates), everybody(updates)
        factors = clip_factors(lengths, middle_of(lengths) if self.bound is None else self.bound)
        return Verdict(mean_of_trusted(updates, all_of_them, factors), all_of_them)
