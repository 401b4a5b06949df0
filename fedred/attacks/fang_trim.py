"""Fang's attack on trimmed mean and median (the paper's "Fang")."""

from dataclasses import dataclass
from typing import ClassVar

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
    uniform_draws,
)
from fedred.options import Relation, check_options, option
from fedred.papers import FANG, Paper


@dataclass(frozen=True)
class FangTrim:
    """Push every coordinate beyond its spread, against the direction in which it would move.

    knowledge own, with mu and sigma (n - 1) per coordinate over the attacker's own honest updates:
    U[mu - far sigma, mu - near sigma] where mu > 0, else U[mu + near sigma, mu + far sigma].

    knowledge full, with the least value a and the greatest b of a coordinate over the honest updates:
    between a and the lower one of a / reach and reach a where mu > 0; else between b and the
    higher one of b / reach and reach b.

    Each attacker draws for itself. One update alone has no spread: see `lone`. Extremes and reach
    are those of updates, not of the local models.

    Source: Fang et al., USENIX Security 2020, section 4.2: partial and full knowledge.
    """

    near: float = option(3.0, "inner end of the interval, in standard deviations", ge=0)
    far: float = option(4.0, "outer end of the interval, in standard deviations", ge=0)
    reach: float = option(2.0, "factor b beyond the extreme value, with full knowledge", gt=1)
    knowledge: Knowledge = knowledge_option()
    lone: Lone = lone_option()

    relations: ClassVar[tuple[Relation, ...]] = (Relation("near", "<=", "far"),)
    papers: ClassVar[tuple[Paper, ...]] = (FANG,)
    tested: ClassVar[str] = "every coordinate inside its interval; uniform by Kolmogorov's test"
    elsewhere: ClassVar[str] = "code of the attack leaves a coordinate of mean 0 where it is"
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = forge_in_spread

    def __post_init__(self) -> None:
        check_options(self)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return one draw from the interval for each attacker [m, P]."""
        start, end = self.interval(known)
        return start + (end - start) * uniform_draws(view, known)

    def interval(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return both ends [P] of the interval of every coordinate, from updates [k, P], k >= 2."""
        mean = known.mean(0)
        downward = mean > 0
        if self.knowledge == "own":
            step = torch.where(downward, -1.0, 1.0) * known.std(0)
            return mean + self.near * step, mean + self.far * step
        lowest, highest = known.min(0).values, known.max(0).values
        below = torch.minimum(lowest / self.reach, self.reach * lowest)
        above = torch.maximum(highest / self.reach, self.reach * highest)
        return torch.where(downward, lowest, highest), torch.where(downward, below, above)
