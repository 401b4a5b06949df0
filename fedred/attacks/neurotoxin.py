"""Neurotoxin: a backdoor kept off the coordinates that honest clients overwrite."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.attacks.interface import Attack, AttackerView, Backdoor, Forged, Knowledge, Pass
from fedred.attacks.scaling import Scaling
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class Neurotoxin:
    """Send what `attack` sends, with zeros on the top-k coordinates of the last aggregate.

    Those are the k = round(share * P) coordinates of largest |w_t - w_(t-1)|, where honest training
    moves most and would soon undo a backdoor. In the first round nothing has moved, and nothing
    is masked.

    Source: Zhang et al., ICML 2022, algorithm 1. They project every local step; here the finished
    update is projected, once: what is sent keeps off the same coordinates.
    """

    share: float = option(0.05, "share of the coordinates that is left alone", ge=0, le=1)
    attack: Attack = option(Scaling(), "attack whose updates are masked")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Zhang et al., ICML 2022",
            "Zhang, Zhengming and Panda, Ashwinee and Song, Linyue and Yang, Yaoqing "
            "and Mahoney, Michael and Mittal, Prateek and Ramchandran, Kannan and Gonzalez, Joseph",
            "Neurotoxin: Durable Backdoors in Federated Learning",
            "International Conference on Machine Learning",
            2022,
        ),
    )
    tested: ClassVar[str] = "zero on exactly the k largest movements, unchanged elsewhere"
    elsewhere: ClassVar[str] = (
        "the paper's code estimates the coordinates by a gradient on clean data"
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def knowledge(self) -> Knowledge:
        """That of the masked attack."""
        return self.attack.knowledge

    @property
    def backdoor(self) -> Backdoor | None:
        """That of the masked attack."""
        return self.attack.backdoor

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the passes of the masked attack."""
        return self.attack.poison(images, labels, client, classes)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return the masked updates [m, P]; the state is that of the attack."""
        forged = self.attack.forge(own_updates, view)
        busy = busiest(view.weights - view.previous_weights, self.share)
        return forged._replace(updates=forged.updates.masked_fill(busy, 0.0))


def busiest(movement: Tensor, share: float) -> Tensor:
    """Return which coordinates of a movement [P] are its largest, bool [P]; none of a zero movement."""
    busy = torch.zeros_like(movement, dtype=torch.bool)
    if movement.any():
        busy[movement.abs().topk(round(share * len(movement))).indices] = True
    return busy
