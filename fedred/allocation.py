"""Memory that was freed stays with the process, so that its pages are not asked for again."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, as in its malloc.h."""
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of giving large blocks back to the system.

    A round allocates and frees the same large arrays again and again. By default glibc maps each of them
    anew, and the system clears every page at its first touch: a fifth of the time of a run went there
    (docs/decisions/allocation.md). No number changes. Memory that a process has used once stays with it
    until it ends.

    Returns:
        Whether it was done; False where the C library has no such setting (macOS, musl).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    parameters = ((MMAP_MAX, NONE), (TRIM_THRESHOLD, NEVER))
    return mallopt is not None and all(mallopt(*setting) for setting in parameters)
