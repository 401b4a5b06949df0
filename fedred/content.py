"""What the files of a data set hold, as one checksum: by it one user's images are told from another's."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedred.errors import UserError
from fedred.files import written_whole

SETTLED = 2.0
"""Seconds after which a change of a file surely changes its time stamps."""


def content_of(root: Path, files: Sequence[Path], memo: Path) -> str:
    """Return SHA-256 over names and bytes of files, or nothing for no file.

    Two folders with equal files have equal content, wherever they lie and whenever they were
    written. As long as sizes and time stamps stay, the files are not read again.

    Args:
        root: folder to which names are relative.
        files: in order; those that are missing or no files count by name.
        memo: file of this function, to remember the content in.
    """
    if not files:
        return ""
    before = [(str(path), _stamps(path)) for path in files]
    signature = hashlib.sha256(json.dumps(before).encode()).hexdigest()
    if known := _remembered(memo, signature):
        return known
    digest, start = hashlib.sha256(), time.time()
    for path, (_, stamps) in zip(files, before, strict=True):
        held = _checksum(path) if stamps else ""
        digest.update(json.dumps([os.path.relpath(path, root), held]).encode())
    changed = max(max(stamps[-1:], default=0) for _, stamps in before) / 1e9
    if start - changed > SETTLED:
        _remember(memo, signature, digest.hexdigest())
    return digest.hexdigest()


def _stamps(path: Path) -> tuple[int, ...]:
    """Return place, size and times of a file, the kernel's own time last; nothing for others."""
    try:
        found = path.stat()
    except OSError:
        return ()
    place, times = (found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_ctime_ns)
    return (*place, found.st_size, *times) if stat.S_ISREG(found.st_mode) else ()


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _remembered(memo: Path, signature: str) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known = json.loads(memo.read_text())
        if known["signature"] == signature:
            return str(known["content"])
    return ""


def _remember(memo: Path, signature: str, content: str) -> None:
    """Write the memo, where there is the right to: it only saves time."""
    with suppress(UserError), written_whole(memo) as temporary:
        temporary.write_text(json.dumps({"signature": signature, "content": content}))
