"""Files that are whole or absent, and tensors in them that can be trusted. Imports no PyTorch."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from fedred.errors import UserError, WriteError
from fedred.paths import opened, shown

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
Texts = dict[str, str]
TEMPORARY = ".fedred-tmp"
LONGEST_PART = 50
"""Characters of a file's name in that of its temporary folder, which may be no longer than any name."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a name in a temporary folder beside `path`; rename it on success, remove it on failure.

    Nothing half-written ever stands under the final name, not even after a loss of power. A folder,
    because some libraries write to temporary files of their own. Missing folders are made.

    Raises:
        WriteError: when there is no room, or no right to write.
    """
    with _beside(path) as temporary:
        # Some libraries make files that only their owner can read: start from the usual rights.
        temporary.touch()
        rights = temporary.stat().st_mode
        yield temporary
        temporary.chmod(rights)
        _bring_to_disk(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def opened_whole(path: Path) -> Iterator[BinaryIO]:
    """Yield an open file that gets the name `path` on success: for libraries, see `written_whole`."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; give it that name on success, remove it on failure.

    Raises:
        WriteError: when there is no room, or no right to write.
    """
    with _beside(path) as temporary:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield the name of `path` in a temporary folder beside it, which is removed at the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name[:LONGEST_PART]}."
        with tempfile.TemporaryDirectory(TEMPORARY, prefix, path.parent, True) as folder:
            yield Path(folder) / path.name
    except OSError as error:
        raise WriteError(
            f"{shown(path)} could not be written: {error.strerror or error}"
        ) from error


def _bring_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove what killed processes left half-written of files that only this process writes."""
    for path in paths:
        pattern = rf"\.{re.escape(path.name[:LONGEST_PART])}\.\w{{8}}{re.escape(TEMPORARY)}"
        with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
            for entry in entries:
                if re.fullmatch(pattern, entry.name) and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def told(sentence: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Turn any error of a library that reads or writes files into one sentence for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # on damaged input these libraries raise errors of nearly any type
        raise kind(f"{sentence}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what an error says in its first line, with those that this one announces by a colon."""
    said = ""
    for line in filter(None, map(str.strip, str(error).splitlines())):
        said = f"{said} {line}".lstrip()
        if not line.endswith((":", ",")):
            break
    return said.rstrip(":, ") or type(error).__name__


def checksum_of(tensors: Mapping[str, "Tensor"], texts: Mapping[str, str]) -> str:
    """Return SHA-256 over names, dtypes, shapes and bytes of tensors, and over named texts."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(np.ascontiguousarray(tensor.numpy(force=True)).data)
    digest.update(json.dumps(sorted(texts.items())).encode())
    return digest.hexdigest()


def write_tensors(tensors: Mapping[str, "Tensor"], texts: Mapping[str, str], path: Path) -> None:
    """Write tensors and texts to a safetensors file, whole or not at all.

    Args:
        tensors: by name; views of one another are written as copies.
        texts: by name.
        path: the file; missing folders are made.

    Raises:
        WriteError: when the file cannot be written.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sentence = f"{shown(path)} could not be written"
    with told(sentence, WriteError), written_whole(path) as temporary:
        save_file(whole, temporary, metadata=dict(texts))


def read_tensors(path: Path, kind: str) -> tuple[Tensors, Texts]:
    """Return tensors, mapped from the file, and texts of a file that `write_tensors` wrote.

    Args:
        path: the file.
        kind: what the file must be, the text `kind` in it.

    Raises:
        UserError: for a file that is missing, torn or of another kind.
    """
    absent = f"the {kind} {shown(path)} does not exist: build it first"
    with (
        told(f"{shown(path)} is not a whole {kind}: delete it and build it again"),
        opened_tensors(path, "pt", absent) as file,
    ):
        texts = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if texts.get("kind") != kind:
        raise UserError(
            f"{shown(path)} is not a {kind} of fedred: name another file, or build it again"
        )
    return tensors, texts


@contextlib.contextmanager
def opened_tensors(
    path: Path, framework: Literal["pt", "numpy"], absent: str = ""
) -> Iterator[Any]:
    """Yield a safetensors file, mapped and not read.

    Args:
        path: the file.
        framework: whose tensors it gives.
        absent: the sentence where there is no file.

    Raises:
        UserError: for a file that is missing, or no file.
    """
    from safetensors import safe_open

    with opened(path, absent) as whole:
        # safe_open takes a name, and only one in UTF-8.
        name = path if str(path).isprintable() else f"/dev/fd/{whole.fileno()}"
        with safe_open(name, framework=framework) as file:
            yield file


def require_checksum(path: Path, computed: str, texts: Texts) -> None:
    """Refuse a file whose content is not what was written.

    Raises:
        UserError: naming the file.
    """
    if texts.get("checksum") != computed:
        raise UserError(
            f"{shown(path)} has changed since it was written (its checksum differs): delete it and build "
            "it again"
        )
