"""Scaling: a backdoor, trained for real, then enlarged."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, Knowledge, Pass
from fedred.attacks.trigger import PixelTrigger
from fedred.options import check_options, option
from fedred.papers import BAGDASARYAN, Paper


@dataclass(frozen=True)
class Scaling:
    """Train on triggered images labelled with the target, then on clean ones; send factor * update.

    The attack wants every image with the trigger to be classified as the target and clean images to
    stay as they are; the factor makes the backdoor outlast the averaging with honest updates.

    Source: Bagdasaryan et al., AISTATS 2020 (model replacement), in the form of FedREDefense's
    released code: one pass over triggered images, one over clean ones, factor 3.
    """

    factor: float = option(3.0, "factor on the trained update", gt=0)
    target: int = option(0, "class that triggered images should get", ge=0)

    papers: ClassVar[tuple[Paper, ...]] = (BAGDASARYAN,)
    tested: ClassVar[str] = "exactly the factor times the trained update; trigger pixel by pixel"
    elsewhere: ClassVar[str] = "the factor is often n / m, which replaces the model outright"
    knowledge: ClassVar[Knowledge] = "own"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def backdoor(self) -> PixelTrigger:
        """The trigger and its target."""
        return PixelTrigger(self.target)

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the triggered pass and the clean one."""
        triggered = self.backdoor.apply(images)
        return [(triggered, torch.full_like(labels, self.target)), (images, labels)]

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return the trained updates times the factor [m, P]."""
        return Forged(self.factor * own_updates)
