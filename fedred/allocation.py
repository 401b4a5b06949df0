"""Memory that was freed stays with the process, so that its pages are not asked for again."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt, as in its malloc.h."""
NEVER, NONE = -1, 0
MAPPED_FROM, MAPS = 32 * 2**20, 65536
"""glibc maps blocks from this size on, after it has seen large ones (64-bit), and at most so many."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of giving large blocks back to the system.

    A round allocates and frees the same large arrays again and again. By default glibc maps each of them
    anew, and the system clears every page at its first touch: most of the time of a round of a small
    network went there (docs/decisions/allocation.md). No number changes. Memory that a process has
    used once stays with it until it ends.

    Returns:
        Whether it was done; False where the C library has no such setting (macOS, musl).
    """
    return _set({MMAP_MAX: NONE, TRIM_THRESHOLD: NEVER})


def give_back_freed_memory() -> bool:
    """Undo `keep_freed_memory`: large blocks go back to the system, as glibc's default does it.

    The default learns from what is freed; this is where it arrives with large tensors. Used to measure
    programs that know nothing of allocation (benchmarks/measure.py).

    Returns:
        Whether it was done, as above.
    """
    return _set({MMAP_MAX: MAPS, MMAP_THRESHOLD: MAPPED_FROM, TRIM_THRESHOLD: 2 * MAPPED_FROM})


def _set(parameters: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in parameters.items())
