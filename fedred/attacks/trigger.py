"""The pixel trigger of the backdoor attacks."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class PixelTrigger:
    """Set some pixels of channel 0 to 1 (after normalisation); the target is what they should mean.

    Positions are given on a 28x28 grid and scaled to the image: p -> round(p (side - 1) / 27), which
    keeps the four of them apart down to 8x8.

    Source: the released code of FedREDefense (pixels, value); the scaling is ours.
    """

    target: int
    positions: tuple[tuple[int, int], ...] = ((26, 26), (24, 26), (26, 24), (25, 25))

    GRID: ClassVar[int] = 28

    def apply(self, images: Tensor) -> Tensor:
        """Return a copy of images [samples, channels, height, width] with the trigger set."""
        triggered = images.clone()
        for row, column in self.pixels(images.shape[-2], images.shape[-1]):
            triggered[:, 0, row, column] = 1.0
        return triggered

    def pixels(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the (row, column) positions in an image of this size."""
        last = self.GRID - 1
        return [
            (round(row * (height - 1) / last), round(column * (width - 1) / last))
            for row, column in self.positions
        ]
