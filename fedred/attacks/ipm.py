"""IPM: inner product manipulation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.attacks.interface import (
    AttackerView,
    Forged,
    Knowledge,
    knowledge_option,
    train_honestly,
)
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class IPM:
    """Send -eps * mu, mu the mean of the known honest updates; every attacker sends the same.

    A small eps keeps the lie near the honest updates, and still turns the inner product of aggregate
    and honest mean negative where enough attackers are averaged.

    Source: Xie, Koyejo, Gupta, UAI 2019, section 4; its attacker knows all honest updates
    (`knowledge: full`).
    """

    eps: float = option(0.5, "factor on the reversed mean", gt=0)
    knowledge: Knowledge = knowledge_option()

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Xie, Koyejo, Gupta, UAI 2019",
            "Xie, Cong and Koyejo, Oluwasanmi and Gupta, Indranil",
            "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation",
            "Conference on Uncertainty in Artificial Intelligence",
            2019,
        ),
    )
    tested: ClassVar[str] = (
        "closed form; byzfl as an oracle; FedAvg's inner product with mu changes sign"
    )
    elsewhere: ClassVar[str] = "the default of eps differs between libraries"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return the reversed mean for every attacker [m, P]."""
        reversed_mean = -self.eps * view.known_updates(own_updates).mean(0)
        return Forged(reversed_mean.repeat(len(own_updates), 1))
