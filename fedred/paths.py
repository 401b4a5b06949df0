"""Paths as users give them: taken literally, and checked before any work. Imports no library.

A path is never a pattern nor an address. What is read must be a file, and no output replaces an input.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from fedred.errors import UserError, WriteError, printable, shortened

LONGEST_TEMPORARY = "t" * 80


FORMS = (
    *("png", "pdf", "svg", "eps", "ps", "jpg", "jpeg", "gif", "tif", "tiff", "webp", "bmp"),
    *("csv", "html", "md", "tex", "htm", "tsv", "txt", "json", "xls", "xlsx", "ods", "parquet"),
)
"""Endings that ask for a form of a figure or a table; all others belong to the name."""


def expanded(text: str) -> Path:
    """Return a path with `~` and `~user` at its start as that home folder; unknown users stay as text."""
    return Path(os.path.expanduser(text))


def shown(path: Path) -> str:
    """Return a path as it may stand in a sentence, in quotes where it begins or ends with a space."""
    text = printable(str(path))
    return text if text == text.strip() else f"'{text}'"


def with_endings(path: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Return the file of each form that is asked for by one path.

    Args:
        path: with one of the endings, which asks for that form alone; else the whole name of all forms,
            to which each ending is appended (`alpha0.5` gives `alpha0.5.png`).
        endings: of all forms, without a dot.

    Raises:
        UserError: for an ending that asks for another form.
    """
    given = path.suffix[1:].lower()
    if given in endings:
        return {given: path}
    if given in FORMS:
        raise UserError(
            f"{shown(path)} ends in .{given}: it can be written as {' or '.join(endings)}"
        )
    return {ending: path.with_name(f"{path.name}.{ending}") for ending in endings}


def require_free(outputs: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse outputs that cannot be files, that are one file, or that would replace an input.

    Args:
        outputs: files to be written; their folders need not be there.
        inputs: all that the command reads; what is not there is passed over.

    Raises:
        UserError: naming the file.
    """
    read = [path for path in inputs if os.path.exists(path)]
    for path in outputs:
        _require_possible(path)
        if os.path.exists(path) and any(os.path.samefile(path, other) for other in read):
            raise UserError(
                f"{shown(path)} is read by this command, which would overwrite it: "
                "write to another file"
            )
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        told = " and ".join(map(shown, outputs))
        raise UserError(f"{told} are one file: give each a file of its own")


def require_writable(outputs: Iterable[Path]) -> None:
    """Refuse outputs where nothing can be written; nothing is left behind.

    Raises:
        WriteError: naming the folder.
    """
    for folder in dict.fromkeys(map(_ground, outputs)):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise WriteError(
                f"{shown(folder)} cannot be written to: {error.strerror or error}"
            ) from error


def require_outputs(outputs: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse outputs that cannot be written as they are asked for: `require_free`, `require_writable`."""
    require_free(outputs, inputs)
    require_writable(outputs)


def _ground(path: Path) -> Path:
    """Return the nearest path above that is there; it should be a folder."""
    return next(above for above in path.parents if os.path.lexists(above))


def _require_possible(path: Path) -> None:
    ground = _ground(path)
    if not os.path.isdir(ground):
        raise UserError(f"{shown(ground)} is {_kind(ground)}: name a folder in its place")
    _require_short(path, ground)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{shown(path)} is {_kind(path)}: name a file in its place")


def _kind(path: Path) -> str:
    if os.path.isdir(path):
        return "a folder"
    if os.path.isfile(path):
        return "a file"
    return "a device or a pipe" if os.path.exists(path) else "a link that leads nowhere"


def _require_short(path: Path, ground: Path) -> None:
    """Ask the system for each name to be made, and for the path with a temporary folder in it."""
    names = (ground / part for part in path.relative_to(ground).parts)
    for longest in (*names, path.parent / LONGEST_TEMPORARY / path.name):
        try:
            os.lstat(longest)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{shortened(str(path))} is longer than the system takes") from None


def without_waiting(path: str, flags: int) -> int:
    """Open a file for `open(opener=...)`; a pipe that nobody writes to is empty, and not waited for."""
    file = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(file, True)
    return file


def opened(path: Path, absent: str = "") -> BinaryIO:
    """Open a file to read: libraries get this, as some take a path for an address or a pattern.

    Args:
        path: of a regular file.
        absent: the sentence where there is none.

    Raises:
        UserError: when it is missing, no regular file, or cannot be read.
    """
    try:
        file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 (whoever asks closes it)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UserError(absent or f"there is no file {shown(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{shown(path)} is a folder: name a file") from None
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{shown(path)} is a device or a pipe: name a file")
    return file
