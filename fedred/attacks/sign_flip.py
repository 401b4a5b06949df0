"""Sign flip: send the opposite of what was trained."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, Knowledge, train_honestly
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class SignFlip:
    """Send -scale * x, x the attacker's own honest update.

    Source: Li et al., AAAI 2019, section 5 (sign-flipping attack).
    """

    scale: float = option(1.0, "factor on the reversed update", gt=0)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Li et al., AAAI 2019",
            "Li, Liping and Xu, Wei and Chen, Tianyi and Giannakis, Georgios B. and Ling, Qing",
            "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning "
            "from Heterogeneous Datasets",
            "AAAI Conference on Artificial Intelligence",
            2019,
        ),
    )
    tested: ClassVar[str] = "own update plus what is sent is zero; byzfl as an oracle"
    elsewhere: ClassVar[str] = "byzfl flips the mean of the honest updates, not each attacker's own"
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return -scale times the trained updates [m, P]."""
        return Forged(-self.scale * own_updates)
