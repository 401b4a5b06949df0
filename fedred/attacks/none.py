"""No attack: the malicious clients train and send like all others."""

from dataclasses import dataclass
from typing import ClassVar

from fedred.attacks.interface import Knowledge, send_as_trained, train_honestly
from fedred.papers import Paper


@dataclass(frozen=True)
class NoAttack:
    """The reference: clients marked malicious behave honestly."""

    papers: ClassVar[tuple[Paper, ...]] = ()
    tested: ClassVar[str] = "the identity on data and updates"
    elsewhere: ClassVar[str] = ""
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = send_as_trained
