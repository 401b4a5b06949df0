"""Clients in chunks: as many at once as were asked for, fewer when the device runs out of memory."""

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


NO_ENGINE = "unable to find an engine to execute this computation"
"""What a convolution on a GPU says when no algorithm of cuDNN's finds the memory that it needs."""


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch means that the device has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or NO_ENGINE in str(error)


def in_chunks(clients: int, at_once: int, compute: Callable[[range, int], None]) -> None:
    """Call a function with consecutive clients, halving their number when memory runs out.

    Args:
        clients: how many there are.
        at_once: how many to take, in chunks of nearly equal size.
        compute: of a range of clients, and the most clients of any later call; called again with fewer
            when memory runs out.

    Raises:
        RuntimeError: the one that says so, when one client alone is too much.
    """
    first, size, most = 0, -(-clients // max(1, -(-clients // at_once))), at_once
    while first < clients:
        chunk = range(first, min(first + size, clients))
        try:
            compute(chunk, most)
        except RuntimeError as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
            size = most = -(-size // 2)
            log.warning("out of memory: now %d clients at once", size)
        else:
            first = chunk.stop
            continue
        torch.cuda.empty_cache()  # here, where the failed attempt's tensors are gone
