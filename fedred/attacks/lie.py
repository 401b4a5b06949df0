"""LIE: a little is enough."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

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
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class LIE:
    """Send mu - z sigma, with mean mu and deviation sigma (n - 1) of the known honest updates.

    z = Phi^-1((n - m - s) / (n - m)), s = floor(n / 2 + 1) - m: so few standard deviations that s
    honest updates are expected to lie farther out and to side with the m attackers in a majority.
    Every attacker sends the same. One update alone has no spread: see `lone`.

    A majority of attackers needs no supporter; one is kept then (s = 1), so that z stays finite.

    Source: Baruch et al., NeurIPS 2019, algorithm 3; its attacker knows its own clients only.
    """

    z: float | None = option(None, "standard deviations from the mean; null: the paper's formula")
    knowledge: Knowledge = knowledge_option()
    lone: Lone = lone_option()

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Baruch et al., NeurIPS 2019",
            "Baruch, Gilad and Baruch, Moran and Goldberg, Yoav",
            "A Little Is Enough: Circumventing Defenses For Distributed Learning",
            "Advances in Neural Information Processing Systems",
            2019,
        ),
    )
    tested: ClassVar[str] = (
        "z by its defining probability and by hand (n 50, m 10: 0.2533); byzfl as an oracle"
    )
    elsewhere: ClassVar[str] = (
        "public code subtracts z sigma or adds it; one takes Phi for its inverse (0.73 there)"
    )
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = forge_in_spread

    def __post_init__(self) -> None:
        check_options(self)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return mu - z sigma [P]."""
        z = hidden_deviations(view.participants, len(view.clients)) if self.z is None else self.z
        return known.mean(0) - z * known.std(0)


def hidden_deviations(participants: int, attackers: int) -> float:
    """Return z for n participants and m attackers; 0 where fewer than two are honest.

    Negative where the attackers are so few that more than half of the honest must side with them.
    """
    honest = participants - attackers
    if honest < 2:
        return 0.0
    supporters = max(1, participants // 2 + 1 - attackers)
    return NormalDist().inv_cdf((honest - supporters) / honest)
