"""Clients in chunks: as many at once as were asked for, fewer when the device runs out of memory."""

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


def in_chunks(clients: int, at_once: int, compute: Callable[[range, int], None]) -> None:
    """Call a function with consecutive clients, halving their number when memory runs out.

    Args:
        clients: how many there are.
        at_once: how many to take, in chunks of nearly equal size.
        compute: of a range of clients, and the most clients of any later call; called again with fewer
            when it raises OutOfMemoryError.

    Raises:
        torch.OutOfMemoryError: when one client alone is too much.
    """
    first, size, most = 0, -(-clients // max(1, -(-clients // at_once))), at_once
    while first < clients:
        chunk = range(first, min(first + size, clients))
        try:
            compute(chunk, most)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = most = -(-size // 2)
            log.warning("out of memory: now %d clients at once", size)
        else:
            first = chunk.stop
            continue
        torch.cuda.empty_cache()  # here, where the failed attempt's tensors are gone
