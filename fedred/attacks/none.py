"""No attack: the malicious clients train and send like all others."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, Pass


@dataclass(frozen=True)
class NoAttack:
    """The reference: clients marked malicious behave honestly."""

    paper: ClassVar[str] = "the attack-free reference"
    backdoor: ClassVar[None] = None

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Train on the data as it is."""
        return [(images, labels)]

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Send the honest updates."""
        return Forged(own_updates)
