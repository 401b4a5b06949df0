"""DBA: a backdoor whose trigger is divided among the attackers."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, Knowledge, Pass
from fedred.attacks.trigger import PixelTrigger
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class DBA:
    """As `scaling`, but every attacker trains on one pixel of the trigger alone: client id mod 4.

    The attack success rate is measured with the whole trigger, which no client ever saw.

    Source: Xie et al., ICLR 2020, in the form of FedREDefense's released code: one pass over triggered
    images, one over clean ones, factor 3.
    """

    factor: float = option(3.0, "factor on the trained update", gt=0)
    target: int = option(0, "class that triggered images should get", ge=0)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Xie et al., ICLR 2020",
            "Xie, Chulin and Huang, Keli and Chen, Pin-Yu and Li, Bo",
            "DBA: Distributed Backdoor Attacks against Federated Learning",
            "International Conference on Learning Representations",
            2020,
        ),
    )
    tested: ClassVar[str] = "each attacker sets its own pixel; four of them make the whole trigger"
    elsewhere: ClassVar[str] = (
        "the DBA paper divides the trigger into bars and poisons part of a batch"
    )
    knowledge: ClassVar[Knowledge] = "own"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def backdoor(self) -> PixelTrigger:
        """The whole trigger and its target."""
        return PixelTrigger(self.target)

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the pass with this client's pixel and the clean one."""
        triggered = self.backdoor.part(client).apply(images)
        return [(triggered, torch.full_like(labels, self.target)), (images, labels)]

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return the trained updates times the factor [m, P]."""
        return Forged(self.factor * own_updates)
