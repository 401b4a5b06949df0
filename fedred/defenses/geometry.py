"""Lengths, distances and angles of updates, computed so that no update of any size breaks them."""

import torch
from torch import Tensor

COORDINATES = 2**16  # of a block: float64 copies of whole updates would double the memory


def norms(updates: Tensor) -> Tensor:
    """Return Euclidean norms float64 [n] of updates [n, P]; float32 would overflow from 1e19 on."""
    return torch.stack([row.double().norm() for row in updates])


def unit_rows(updates: Tensor) -> Tensor:
    """Return updates [n, P] divided by their norms, float64; a zero update stays zero."""
    lengths = norms(updates)
    return updates.double() / torch.where(lengths > 0, lengths, 1.0)[:, None]


def cosine_similarities(updates: Tensor) -> Tensor:
    """Return cosines float64 [n, n] of updates [n, P], in [-1, 1]; 0 beside a zero update."""
    units = unit_rows(updates)
    return (units @ units.T).clamp(-1, 1)


def clip_norms(updates: Tensor, limit: float | Tensor) -> Tensor:
    """Return a copy of updates [n, P] whose norms are at most `limit` (a number or [n])."""
    lengths = norms(updates)
    factors = (limit / torch.where(lengths > 0, lengths, 1.0)).clamp(max=1.0)
    return updates * factors.to(updates)[:, None]


def pairwise_distances(updates: Tensor) -> Tensor:
    """Return Euclidean distances [n, n] of updates [n, P]; to oneself, or when too large, infinite.

    Differences are taken before squaring: the Gram matrix would lose small distances between large
    updates.
    """
    distances = torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)


def gram_matrix(updates: Tensor) -> Tensor:
    """Return inner products float64 [n, n] of updates [n, P], summed over blocks of coordinates."""
    blocks = (block.double() for block in torch.split(updates, COORDINATES, 1))
    return torch.stack([block @ block.T for block in blocks]).sum(0)
