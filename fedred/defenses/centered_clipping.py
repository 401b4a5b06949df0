"""Centered clipping: the last aggregate, moved by clipped differences."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import by_columns, clip_factors, norms
from fedred.defenses.interface import ServerView, Traits, Verdict, everybody, judge_finite
from fedred.defenses.median import middle_of
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class CenteredClipping:
    """Return v + mean_i (x_i - v) min(1, tau / ||x_i - v||), v the last aggregate.

    In the first round v = 0. The step is repeated `iterations` times, each from the result before.
    tau is `radius`, or the median of the distances ||x_i - v||. All are trusted.

    Source: Karimireddy, He, Jaggi, ICML 2021, algorithm 2.
    """

    radius: float | None = option(None, "tau; null: the median distance from v", gt=0)
    iterations: int = option(1, "steps in a round", ge=1)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Karimireddy, He, Jaggi, ICML 2021",
            "Karimireddy, Sai Praneeth and He, Lie and Jaggi, Martin",
            "Learning from History for Byzantine Robust Optimization",
            "International Conference on Machine Learning",
            2021,
        ),
    )
    tested: ClassVar[str] = (
        "moves no farther than tau; memory over rounds by hand; byzfl as an oracle"
    )
    elsewhere: ClassVar[str] = "much code forgets v and clips around zero in every round"
    traits: ClassVar[Traits] = Traits()
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] around the last aggregate, which is remembered."""
        center = view.state.get("center", torch.zeros_like(updates[0]))
        for _ in range(self.iterations):
            center = center + self._step(updates, center)
        return Verdict(center, everybody(updates), state={"center": center.clone()})

    def _step(self, updates: Tensor, center: Tensor) -> Tensor:
        """Return the mean clipped difference [P] between updates [n, P] and the center [P]."""
        distances = norms(updates, center)
        limit = middle_of(distances) if self.radius is None else self.radius
        factors = clip_factors(distances, limit).to(updates)[:, None]
        return by_columns(lambda block, start: ((block - start) * factors).mean(0), updates, center)
