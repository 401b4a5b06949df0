"""No attack: the malicious clients train and send like all others."""

from dataclasses import dataclass
from typing import ClassVar

from fedred.attacks.interface import send_as_trained, train_honestly


@dataclass(frozen=True)
class NoAttack:
    """The reference: clients marked malicious behave honestly."""

    paper: ClassVar[str] = "the attack-free reference"
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = send_as_trained
