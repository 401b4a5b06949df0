"""The pixel trigger of the backdoor attacks."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class PixelTrigger:
    """Set some pixels of channel 0 to 1 (after normalisation); the target is what they should mean.

    Positions are given on a 28x28 grid and scaled to the image: with s = (side - 1) / 27, 26 becomes
    round(26 s), and 26 - d becomes that less max(1, round(d s)), so that the four stay apart in an
    image of any size from 4x4 on.

    Source: the released code of FedREDefense (pixels, value); the scaling is ours.
    """

    target: int
    positions: tuple[tuple[int, int], ...] = ((26, 26), (24, 26), (26, 24), (25, 25))

    source: ClassVar[None] = None
    GRID: ClassVar[int] = 28
    ANCHOR: ClassVar[int] = 26

    def apply(self, images: Tensor) -> Tensor:
        """Return a copy of images [samples, channels, height, width] with the trigger set."""
        triggered = images.clone()
        for row, column in self.pixels(images.shape[-2], images.shape[-1]):
            triggered[:, 0, row, column] = 1.0
        return triggered

    def part(self, number: int) -> "PixelTrigger":
        """Return the trigger of one position alone, that of `number` modulo their count."""
        return replace(self, positions=(self.positions[number % len(self.positions)],))

    def pixels(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the (row, column) positions in an image of this size."""
        return [
            (self._scaled(row, height), self._scaled(column, width))
            for row, column in self.positions
        ]

    def _scaled(self, position: int, side: int) -> int:
        scale = (side - 1) / (self.GRID - 1)
        distance = self.ANCHOR - position
        return round(self.ANCHOR * scale) - (max(1, round(distance * scale)) if distance else 0)
