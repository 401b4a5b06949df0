"""Targeted label flipping: images of one class are to be taken for another."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedred.attacks.interface import Knowledge, Pass, send_as_trained
from fedred.options import Relation, check_options, option
from fedred.papers import TOLPEGIN, Paper


@dataclass(frozen=True)
class Mistaken:
    """No trigger at all: images of the source class are to become the target as they are."""

    source: int
    target: int

    def apply(self, images: Tensor) -> Tensor:
        """Return a copy of the images."""
        return images.clone()


@dataclass(frozen=True)
class TargetedLabelFlip:
    """Relabel the images of one class as another, then train and send as an honest client would.

    The attack success rate is the share of test images of the source class that become the target.

    Source: Tolpegin et al., ESORICS 2020.
    """

    source: int = option(0, "class whose images are relabelled", ge=0)
    target: int = option(2, "class that they get", ge=0)

    relations: ClassVar[tuple[Relation, ...]] = (Relation("source", "!=", "target"),)
    papers: ClassVar[tuple[Paper, ...]] = (TOLPEGIN,)
    tested: ClassVar[str] = "labels of the source class change, and no others"
    elsewhere: ClassVar[str] = "some code moves both classes into each other"
    knowledge: ClassVar[Knowledge] = "own"
    forge = send_as_trained

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def backdoor(self) -> Mistaken:
        """Which images should become what."""
        return Mistaken(self.source, self.target)

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return one pass in which the source class bears the target's label."""
        return [(images, labels.masked_fill(labels == self.source, self.target))]
