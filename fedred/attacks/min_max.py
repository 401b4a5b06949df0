"""Min-Max: as far from the mean as the honest updates are from each other."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedred.attacks.interface import (
    AttackerView,
    Knowledge,
    Lone,
    forge_in_spread,
    knowledge_option,
    lone_option,
    train_honestly,
)
from fedred.options import check_options, option
from fedred.papers import SHEJWALKAR, Paper

TINY = 1e-30  # a mean of zero has no direction: it stays zero
Direction = Literal["deviation", "unit", "sign"]


@dataclass(frozen=True)
class MinMax:
    """Send mu + gamma p with the largest gamma that stays within the honest updates' diameter.

    gamma = max {g : max_i ||mu + g p - x_i|| <= max_ij ||x_i - x_j||}, over the known honest updates
    x_i with mean mu; p = -sigma (n - 1), -mu / ||mu|| or -sign(mu). Every attacker sends the
    same vector. One update alone has no spread: see `lone`.

    Source: Shejwalkar and Houmansadr, NDSS 2021, section IV; the attacker of FedREDefense's paper
    knows its own clients' updates only. They search gamma by halving steps, which cannot pass twice
    the start (30 in the released code: `largest: 60`); each constraint is a quadratic in gamma, so
    here it is solved in closed form (float64).
    """

    direction: Direction = option("deviation", "p: -sigma, -mu / ||mu|| or -sign(mu)")
    largest: float | None = option(None, "limit of gamma; null: none (released: 60)", gt=0)
    knowledge: Knowledge = knowledge_option()
    lone: Lone = lone_option()

    papers: ClassVar[tuple[Paper, ...]] = (SHEJWALKAR,)
    tested: ClassVar[str] = (
        "the constraint holds at gamma and fails just beyond; a bisection as its twin"
    )
    elsewhere: ClassVar[str] = "the search has a start, and cannot pass twice that"
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = forge_in_spread

    def __post_init__(self) -> None:
        check_options(self)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return mu + gamma p [P]."""
        mean, push = known.mean(0), perturbation(known, self.direction)
        gamma = largest_factor(known, mean, push)
        gamma = gamma if self.largest is None else min(gamma, self.largest)
        return mean + gamma * push


def perturbation(updates: Tensor, direction: Direction) -> Tensor:
    """Return the direction p [P] in which the mean of updates [m, P] is pushed."""
    mean = updates.mean(0)
    if direction == "deviation":
        return -updates.std(0)
    return -normalize(mean, dim=0, eps=TINY) if direction == "unit" else -mean.sign()


def largest_factor(updates: Tensor, mean: Tensor, push: Tensor) -> float:
    """Return the largest gamma with max_i ||mean + gamma push - x_i|| <= diameter of the updates.

    ||(mean - x_i) + gamma p||^2 <= D^2 holds between the two roots of a quadratic; 0 lies between
    them, because the mean of points is no farther from any of them than their diameter.

    Args:
        updates: x_i [m, P], m at least 2.
        mean: their mean [P].
        push: p [P].
    """
    offsets, push = (mean - updates).double(), push.double()
    diameter = torch.pdist(updates.double()).max()
    a, b = push @ push, offsets @ push
    if a == 0:
        return 0.0
    c = offsets.square().sum(1) - diameter**2
    return float(((-b + (b**2 - a * c).clamp(min=0).sqrt()) / a).min())
