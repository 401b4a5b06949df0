"""Gaussian: noise in place of an update."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedred.attacks.interface import (
    AttackerView,
    Forged,
    Knowledge,
    Lone,
    forge_in_spread,
    lone_option,
    normal_draws,
    train_honestly,
)
from fedred.options import check_options, option
from fedred.papers import BLANCHARD, Paper


@dataclass(frozen=True)
class Gaussian:
    """Send noise N(0, (std u_j)^2) in every coordinate j, drawn anew by each attacker.

    unit spread: u_j is the standard deviation (n - 1) of the coordinate over the attacker's own honest
    updates, so that the noise has their scale; absolute: u_j = 1, as in the paper, which takes 200.

    Source: Blanchard et al., NIPS 2017, section 5 (Gaussian Byzantine workers).
    """

    std: float = option(1.0, "standard deviation of the noise, in units of `unit`", gt=0)
    unit: Literal["spread", "absolute"] = option("spread", "what `std` is measured in")
    lone: Lone = lone_option()

    papers: ClassVar[tuple[Paper, ...]] = (BLANCHARD,)
    tested: ClassVar[str] = (
        "normal by Kolmogorov's test in units of the spread; attackers uncorrelated"
    )
    elsewhere: ClassVar[str] = "one library sends N(0, 1), whatever the size of updates"
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return one draw of noise for each attacker [m, P]."""
        if self.unit == "absolute":
            return Forged(self.std * normal_draws(view, own_updates))
        return forge_in_spread(self, own_updates, view)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return noise as wide as the known updates [m, P]."""
        return self.std * known.std(0) * normal_draws(view, known)
