"""A folder in which one process works at a time. Imports no PyTorch.

The lock is flock on a file in the folder: the kernel frees it when its owner ends in whatever way,
killed included, and then the file that stays behind names an owner who is gone.
"""

import contextlib
import errno
import fcntl
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from fedred.errors import BusyError, WriteError
from fedred.paths import shown

log = logging.getLogger(__name__)

NAME = ".fedred.lock"
SECONDS_BETWEEN_TRIES = 0.2
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def this_process() -> str:
    """Return how a lock names its owner."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def owned(folder: Path, deadline: float = math.inf) -> Iterator[None]:
    """Be the only process that works in a folder while entered; wait for another one to end.

    Args:
        folder: made if it is not there.
        deadline: moment of time.monotonic() until which to wait.

    Raises:
        BusyError: when another process still works there then.
        WriteError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder / NAME, deadline)
    except OSError as error:
        raise WriteError(
            f"{shown(folder)} could not be locked: {error.strerror or error}"
        ) from error
    try:
        yield
    finally:
        if _is_still_at(folder / NAME, file):
            (folder / NAME).unlink()  # before it is unlocked: later it may be another's
        os.close(file)


def _locked(path: Path, deadline: float) -> int:
    """Return the file, locked by this process and signed with its name."""
    told = False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _is_free(file) and _is_still_at(path, file):
                return _signed(path, file)
            owner = _text(file)
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if time.monotonic() >= deadline:
            raise BusyError(f"{shown(path.parent)} is still in use by {owner or 'another process'}")
        if owner and not told:
            log.info("%s is in use by %s: waiting for it to end", path.parent, owner)
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _is_free(file: int) -> bool:
    """Lock a file unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("no locks on this file system (%s): start each run only once", error)
    return True


def _is_still_at(path: Path, file: int) -> bool:
    """Tell whether a path still leads to an open file: its last owner removed it when it ended."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _signed(path: Path, file: int) -> int:
    before = _text(file)
    if before:
        log.info("%s was left by %s, which has ended", path.parent, before)
    with contextlib.suppress(OSError):  # for people to read, and the disk may be full
        os.ftruncate(file, 0)
        os.pwrite(file, this_process().encode(), 0)
    return file


def _text(file: int) -> str:
    return os.pread(file, 1000, 0).decode(errors="replace")
