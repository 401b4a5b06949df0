"""Standard streams that are closed, take nothing, or lack characters or columns. Imports no library."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from fedred.errors import WriteError

WIDTHS = range(10, 10_000)
"""Columns in which a table can be laid out."""
CLOSED_PIPE = 128 + 13  # SIGPIPE, which Windows does not have
"""As a shell tells the end of a program that writes to a pipe which nobody reads any more."""


@dataclass(eq=False)
class Guarded:
    """A stream whose failure is told once, to `failed`; what comes after is dropped.

    Libraries that print catch an OSError, each in a way of its own, and Python tries again at its end.
    """

    stream: TextIO
    failed: Callable[[OSError], None]

    def write(self, text: str) -> int:
        """Write as the stream does."""
        return self._try(self.stream.write, text) or len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        self._try(self.stream.flush)

    def _try(self, act: Callable[..., Any], *arguments: str) -> Any:
        try:
            return act(*arguments)
        except OSError as error:
            self._let_go()
            return self.failed(error)

    def _let_go(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _output_failed(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):  # who reads it has seen enough
        sys.exit(CLOSED_PIPE)
    raise WriteError(f"standard output could not be written: {error.strerror or error}") from error


def _log_failed(error: OSError) -> None:
    """Do without a log: it may lie on the disk that is full, and does not decide how a command ends."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Print with one sentence and the code of its kind where standard output takes nothing.

    A closed pipe ends the process with CLOSED_PIPE and no word; a log that takes nothing changes nothing.
    What an encoding lacks is written as escapes, an impossible width is taken for that of no terminal.

    Raises:
        WriteError: when standard output cannot be written.
    """
    _open_what_is_closed()
    _escape_what_is_lacking()
    _forget_impossible_sizes()
    output: Any = Guarded(sys.stdout, _output_failed)
    log: Any = Guarded(sys.stderr, _log_failed)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(log):
        yield


def _open_what_is_closed() -> None:
    """Take the numbers 0 to 2 where they are free: a log would be written into the next file opened.

    Standard input is then empty, and standard output cannot be written.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _escape_what_is_lacking() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_impossible_sizes() -> None:
    """Remove sizes of a terminal, such as COLUMNS=0, in which libraries print nothing, or never end."""
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        text = os.environ.get(name, "")
        if not (text.isdecimal() and len(text) < 10 and int(text) in WIDTHS):
            os.environ.pop(name, None)
