"""Lengths, distances and angles of updates, computed so that no update of any size breaks them.

Nothing here copies a whole matrix of updates: it is read in blocks of columns or of rows. What comes of
a block is written into place at once: small tensors kept between large ones splinter the heap, which
then grows with every block.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

ENTRIES = 2**18  # of a block: 2 MiB as float64
NEAR = 1e-8  # a difference of two numbers, over their size, that has lost half of its digits
AROUND = 1e-4  # 1 - cos: seen from a row so close, even rows that are near lie far enough apart
LANES = 64  # a block begins where torch's vectors do: sums over clients keep every bit


def by_columns(function: Callable[..., Tensor], updates: Tensor, *others: Tensor) -> Tensor:
    """Return a function of every coordinate [P], computed in blocks of coordinates.

    Args:
        function: of blocks [n, width] of the updates and [..., width] of the others; gives [width].
        updates: float [n, P].
        others: what has the same coordinates [..., P].
    """
    result = updates.new_empty(updates.shape[1])
    for *blocks, part in column_blocks(updates, *others, result):
        part.copy_(function(*blocks))
    return result


def column_blocks(updates: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of the same coordinates of updates [n, P] and others [..., P], block by block."""
    lanes = ENTRIES // max(1, len(updates)) // LANES | 1  # odd: even strides collide in the cache
    width = lanes * LANES
    return _split(width, -1, updates, *others)


def by_rows(function: Callable[..., Tensor], updates: Tensor, *others: Tensor) -> Tensor:
    """Return a function of every client [n, ...], computed in blocks of clients.

    Args:
        function: of blocks [k, ...] of the updates and of the others; gives [k, ...].
        updates: [n, ...].
        others: what has the same clients [n, ...].
    """
    height = max(1, ENTRIES // max(1, updates[:1].numel()))
    if len(updates) <= height:
        return function(updates, *others)
    like = function(*(one[:1] for one in (updates, *others)))
    result = like.new_empty(len(updates), *like.shape[1:])
    for *blocks, part in _split(height, 0, updates, *others, result):
        part.copy_(function(*blocks))
    return result


def norms(updates: Tensor, center: Tensor | float = 0.0) -> Tensor:
    """Return Euclidean norms float64 [n] of updates [n, P], seen from a center [P].

    float32 would overflow from 1e19 on.
    """
    return by_rows(lambda rows: (rows - center).double().norm(dim=1), updates)


def unit_rows(updates: Tensor) -> Tensor:
    """Return updates [n, P] divided by their norms, float64; a zero update stays zero."""
    return updates.double() / _divisors(norms(updates))[:, None]


def cosine_distances(updates: Tensor, center: Tensor | float = 0.0) -> Tensor:
    """Return 1 - cos float64 [n, n] of updates [n, P], seen from a center [P].

    0 between updates of one direction, equal ones among them; 1 beside a zero update, which has none.
    """
    lengths = _divisors(norms(updates, center))
    above = (1 - gram_matrix(updates, center, lengths).clamp(-1, 1)).triu(1)
    distances = above + above.T
    near = (distances < NEAR).fill_diagonal_(False)
    first = _first_equals(updates, near)
    distinct = first == torch.arange(len(first), device=first.device)
    some = (distinct & (near & distinct).any(1)).nonzero().flatten()
    if len(some):
        pairs = some[:, None], some
        distances[pairs] = _small_distances(updates, center, lengths, some, distances[pairs])
    return distances[first][:, first].fill_diagonal_(0)


def _first_equals(updates: Tensor, near: Tensor) -> Tensor:
    """Return the first client [n] that sent each of updates [n, P], among near pairs bool [n, n]."""
    first = list(range(len(updates)))
    for one, others in enumerate(near.triu(1)):
        for other in others.nonzero().flatten().tolist() if first[one] == one else ():
            if first[other] == other and updates[one].equal(updates[other]):
                first[other] = one
    return torch.tensor(first, device=updates.device)


def _small_distances(
    updates: Tensor, center: Tensor | float, lengths: Tensor, some: Tensor, distances: Tensor
) -> Tensor:
    """Return distances [k, k] of some updates (ids [k]), small ones as |u - v|^2 / 2 of unit rows.

    That is 1 - cos. A small angle keeps its digits; a difference that rounding can make of one
    direction is 0.
    """
    squares, lost = _squares_from_neighbours(updates, center, lengths, some, distances)
    near = distances < NEAR
    alone = (near & lost).any(1).nonzero().flatten()
    if len(alone):
        pairs = alone[:, None], alone
        exact = _squares(updates, center, lengths, some[alone])
        squares[pairs] = exact.where(lost[pairs], squares[pairs])
    small = torch.where(squares > rounding(updates.shape[1]) ** 2, squares / 2, 0.0)
    return small.where(near, distances)


def _squares_from_neighbours(
    updates: Tensor, center: Tensor | float, lengths: Tensor, some: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return |u - v|^2 [k, k] of unit rows that lie around a common one, and where that is too wrong.

    With r the first row around u and v it is |u - r|^2 + |v - r|^2 - 2 (u - r) (v - r): one product of
    matrices, whose rounding is as small as the differences from r.
    """
    first = (distances < AROUND).int().argmax(1)
    products = torch.zeros_like(distances)
    for rows in _seen_from(updates, center, lengths):
        differences = rows[some] - rows[some[first]]
        products.addmm_(differences, differences.T)
    sizes = products.diagonal()[:, None] + products.diagonal()
    above = (sizes - 2 * products).triu(1)
    squares = above + above.T
    lost = (squares < NEAR * sizes) | (first[:, None] != first)
    return squares, lost.fill_diagonal_(False)


def _squares(updates: Tensor, center: Tensor | float, lengths: Tensor, some: Tensor) -> Tensor:
    """Return |u - v|^2 [k, k] of the unit rows of some updates (ids [k]), from every difference."""
    squares = lengths.new_zeros(len(some), len(some))
    for rows in _seen_from(updates, center, lengths):
        squares += pairwise_distances(rows[some]).square()
    return squares


def rounding(size: int) -> float:
    """Return how large rounding can make a difference or product of unit rows [size] that is 0.

    Sums of `size` squares or products are wrong by less than `size` units of 2^-53, a root by half of
    that, and a few more come from the root and the division.
    """
    return (size + 4) * torch.finfo(torch.float64).eps


def clip_factors(lengths: Tensor, limit: float | Tensor) -> Tensor:
    """Return what shortens updates of these lengths [n] to at most `limit` (a number or [n]) -> [n]."""
    return (limit / _divisors(lengths)).clamp(max=1.0)


def _split(size: int, axis: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(one, size, axis) for one in tensors), strict=True)


def _divisors(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, 1.0)


def pairwise_distances(updates: Tensor) -> Tensor:
    """Return Euclidean distances [n, n] of updates [n, P]; to oneself, or when too large, infinite.

    Differences are taken before squaring: the Gram matrix would lose small distances between large
    updates.
    """
    distances = torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)


def gram_matrix(
    updates: Tensor, center: Tensor | float = 0.0, lengths: Tensor | None = None
) -> Tensor:
    """Return inner products float64 [n, n] of updates, summed over blocks of coordinates.

    Args:
        updates: x_i float [n, P].
        center: what is subtracted from each [P].
        lengths: what the differences are then divided by [n].
    """
    products = updates.new_zeros(len(updates), len(updates), dtype=torch.float64)
    for rows in _seen_from(updates, center, lengths):
        products.addmm_(rows, rows.T)
    return products


def _seen_from(updates: Tensor, center: Tensor | float, lengths: Tensor | None) -> Iterator[Tensor]:
    """Yield updates minus a center, over `lengths` [n], as float64, in blocks of coordinates."""
    middle = torch.as_tensor(center, device=updates.device).expand(updates.shape[1])
    for block, middle_block in column_blocks(updates, middle):
        rows = (block - middle_block).double()
        if lengths is not None:
            rows /= lengths[:, None]
        yield rows


def group_means(updates: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Return the mean of each group (ids of rows) of updates [n, P] -> [groups, P]."""
    means = updates.new_empty(len(groups), updates.shape[1])
    for block, part in column_blocks(updates, means):
        for mean, group in zip(part, groups, strict=True):
            mean.copy_(block[group].mean(0))
    return means
