"""Min-Sum: as far from all honest updates together as one of them may be."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedred.attacks.interface import (
    AttackerView,
    Knowledge,
    Lone,
    forge_in_spread,
    knowledge_option,
    lone_option,
    train_honestly,
)
from fedred.attacks.min_max import Direction, perturbation
from fedred.options import check_options, option
from fedred.papers import SHEJWALKAR, Paper

Bound = Literal["max", "min"]


@dataclass(frozen=True)
class MinSum:
    """Send mu + gamma p with the largest gamma whose squared distances do not sum to too much.

    gamma = max {g : sum_i ||mu + g p - x_i||^2 <= bound_i sum_j ||x_i - x_j||^2}, over the known honest
    updates x_i with mean mu; p = -sigma (n - 1), -mu / ||mu|| or -sign(mu). Every attacker sends the
    same vector. One update alone has no spread: see `lone`.

    Source: Shejwalkar and Houmansadr, NDSS 2021, section IV, equation 5, where `bound` is the maximum
    over i; their code and FedREDefense's released code take the minimum. gamma in closed form: the
    offsets from the mean sum to zero, so the left side is g^2 m ||p||^2 + sum_i ||mu - x_i||^2.
    """

    direction: Direction = option("deviation", "p: -sigma, -mu / ||mu|| or -sign(mu)")
    bound: Bound = option("max", "the honest sum that bounds (released: min)")
    knowledge: Knowledge = knowledge_option()
    lone: Lone = lone_option()

    papers: ClassVar[tuple[Paper, ...]] = (SHEJWALKAR,)
    tested: ClassVar[str] = (
        "the constraint holds at gamma and fails just beyond; a bisection as its twin"
    )
    elsewhere: ClassVar[str] = (
        "the paper bounds by the largest honest sum, its own code by the smallest"
    )
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = forge_in_spread

    def __post_init__(self) -> None:
        check_options(self)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return mu + gamma p [P]."""
        push = perturbation(known, self.direction)
        gamma = largest_factor(known, push, self.bound)
        return known.mean(0) + gamma * push


def largest_factor(updates: Tensor, push: Tensor, bound: Bound) -> float:
    """Return the largest gamma that meets the constraint above, for updates [m, P] and push [P]."""
    rows, push = updates.double(), push.double()
    offsets = rows - rows.mean(0)
    length = float(push @ push)
    if length == 0:
        return 0.0
    sums = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square().sum(1)
    limit = sums.max() if bound == "max" else sums.min()
    room = float(limit - offsets.square().sum())
    return math.sqrt(max(0.0, room) / (len(rows) * length))
