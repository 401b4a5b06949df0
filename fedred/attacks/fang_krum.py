"""Fang's attack on Krum: the farthest step against the honest direction that Krum still picks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.attacks.interface import (
    AttackerView,
    Knowledge,
    Lone,
    forge_in_spread,
    knowledge_option,
    lone_option,
    train_honestly,
)
from fedred.defenses.geometry import pairwise_distances
from fedred.defenses.krum import nearest_sums
from fedred.options import check_options, option
from fedred.papers import FANG, Paper


@dataclass(frozen=True)
class FangKrum:
    """Send -lambda * sign(mu), mu the mean of the known honest updates, with a large lambda.

    lambda is halved from an upper bound until Krum, among the known updates and the crafted ones,
    picks a crafted one; below `smallest` the search has failed. With full knowledge all m crafted
    updates stand among the candidates. With the attacker's own updates alone, one
    does first, and one more after each failed search (m of them always win). When no search
    succeeds, a zero update is sent. Every attacker sends the same. One update alone has no spread:
    see `lone`.

    Source: Fang et al., USENIX Security 2020, section 4.1, full and partial knowledge. There the
    attackers' copies are spread in a small ball around the crafted update; here they are equal.
    """

    smallest: float = option(1e-5, "lambda at which a search has failed", gt=0)
    squared: bool = option(True, "the server's Krum sums squared distances")
    knowledge: Knowledge = knowledge_option()
    lone: Lone = lone_option()

    papers: ClassVar[tuple[Paper, ...]] = (FANG,)
    tested: ClassVar[str] = (
        "Krum picks what is sent and does not pick it at twice lambda; within the bound"
    )
    elsewhere: ClassVar[str] = (
        "some code starts from a fixed lambda, or sums distances that are not squared"
    )
    backdoor: ClassVar[None] = None
    poison = train_honestly
    forge = forge_in_spread

    def __post_init__(self) -> None:
        check_options(self)

    def craft(self, known: Tensor, view: AttackerView) -> Tensor:
        """Return -lambda sign(mu) [P]."""
        m = len(view.clients)
        direction = -known.mean(0).sign()
        copies = range(1, m + 1) if view.honest_updates is None else [m]
        found = (self.largest_step(known, direction, crafted) for crafted in copies)
        step = next((step for step in found if step >= self.smallest), 0.0)
        return step * direction

    def largest_step(self, known: Tensor, direction: Tensor, crafted: int) -> float:
        """Return the first lambda of the halving at which Krum picks the crafted update.

        Args:
            known: honest updates [k, P], k at least 2.
            direction: of the crafted update, entries -1, 0 or 1 [P].
            crafted: copies of the crafted update beside the known ones.

        Returns:
            lambda, or 0 when the search ends below `smallest`.
        """
        rows = known.double()
        honest = pairwise_distances(rows)
        size = max(1, int(direction.count_nonzero()))
        step = upper_bound(honest, rows.norm(dim=1), crafted, size, self.squared)
        while step >= self.smallest:
            outward = (step * direction.double() - rows).norm(dim=1)
            if self._is_picked(honest, outward, crafted):
                return step
            step /= 2
        return 0.0

    def _is_picked(self, honest: Tensor, outward: Tensor, crafted: int) -> bool:
        """Ask Krum, given distances [k, k] between honest and [k] from honest to crafted updates."""
        k = len(honest)
        distances = torch.zeros(k + crafted, k + crafted, dtype=honest.dtype)
        distances[:k, :k] = honest.cpu()
        distances[:k, k:] = outward.cpu()[:, None]
        distances[k:, :k] = outward.cpu()
        distances.fill_diagonal_(torch.inf)
        scores = nearest_sums(distances, max(1, k - 2), self.squared)
        return bool(scores[k] < scores[:k].min())


def upper_bound(honest: Tensor, lengths: Tensor, crafted: int, size: int, squared: bool) -> float:
    """Return a lambda beyond which Krum never picks the crafted update, for c up to k - 2.

    max_i ||x_i|| / sqrt(p) + sqrt(min_i sum of the k - 2 smallest D_ij^2 / ((k - c - 1) p)), or, where
    Krum sums D itself, min_i sum of the k - 2 smallest D_ij / ((k - c - 1) sqrt(p)).

    Of the k - 2 neighbours that count, c - 1 at most are copies, and the k - c - 1 others are honest,
    none of them nearer than lambda sqrt(p) - max_i ||x_i||. More copies have the score 0 at any
    lambda: 1 stands for k - c - 1 then, and the search starts somewhere.

    Args:
        honest: distances D between the k honest updates [k, k], infinite on the diagonal.
        lengths: their norms [k].
        crafted: c.
        size: p, coordinates in which the crafted update is not 0.
        squared: sum squared distances.
    """
    k = len(honest)
    room = max(1, k - crafted - 1)
    closest = float(nearest_sums(honest, max(1, k - 2), squared).min())
    reach = math.sqrt(closest / (room * size)) if squared else closest / (room * math.sqrt(size))
    return reach + float(lengths.max()) / math.sqrt(size)
