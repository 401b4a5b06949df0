"""Label flipping: train genuinely on wrong labels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedred.attacks.interface import Knowledge, Pass, send_as_trained
from fedred.options import check_options, option
from fedred.papers import TOLPEGIN, Paper


@dataclass(frozen=True)
class LabelFlip:
    """Replace every label y, then train and send as an honest client would.

    next: y -> (y + 1) mod C; reverse: y -> C - 1 - y.

    The update is the product of genuine training, so a rule that asks whether an update can be
    reconstructed is not meant to find it.

    Source: Tolpegin et al., ESORICS 2020. `next` is the map of FedREDefense's released code.
    """

    map: Literal["next", "reverse"] = option("next", "which label replaces y")

    papers: ClassVar[tuple[Paper, ...]] = (TOLPEGIN,)
    tested: ClassVar[str] = (
        "`next` moves every label and returns after C steps; `reverse` twice is nothing"
    )
    elsewhere: ClassVar[str] = "most code has one of the two maps and calls it label flipping"
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    forge = send_as_trained

    def __post_init__(self) -> None:
        check_options(self)

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return one pass with every label replaced."""
        flipped = (labels + 1) % classes if self.map == "next" else classes - 1 - labels
        return [(images, flipped)]
