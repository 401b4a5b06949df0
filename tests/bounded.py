"""Hostile input is refused before it is expanded: counted in calls and in bytes, not in seconds."""

import contextlib
import resource
import sys
from pathlib import Path

MOST_CALLS = 10_000_000  # a file of the greatest size that is read takes a fifth of it
ROOM = 512 * 2**20  # bytes


class Expanded(BaseException):
    """Something was built of hostile input; no code that is under test catches this."""


@contextlib.contextmanager
def few_calls(most=MOST_CALLS):
    """Raise Expanded in the middle of what takes more calls of functions, of C included."""
    calls, before = 0, sys.getprofile()

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls > most:
            sys.setprofile(before)
            raise Expanded(f"more than {most} calls")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def little_memory(room=ROOM):
    """Let nothing take more bytes than this beside what the process has; on Linux."""
    if sys.platform != "linux":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def small_effort():
    """Few calls and little memory."""
    with little_memory(), few_calls():
        yield
