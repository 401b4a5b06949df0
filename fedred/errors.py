"""The exceptions that are told to the user in one sentence, and the words for it."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 60


class UserError(ValueError):
    """A mistake of the user; the command line prints its sentence and exits with its code."""

    exit_code = 2


class WriteError(UserError):
    """A file that could not be written: no room, no rights. What was there before still is."""

    exit_code = 74  # EX_IOERR


class BusyError(UserError):
    """Another process works on the same; to be started again later."""

    exit_code = 75  # EX_TEMPFAIL


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to a wrong one, or nothing."""
    near = get_close_matches(str(name)[:LONGEST], list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence for a name that is in no registry: what is allowed, and a near match."""
    known, near = list(known), suggestion(name, known)
    return f"unknown {kind} '{shortened(str(name))}': allowed are {', '.join(known)}{near}"


def shortened(text: str) -> str:
    """Return a text as it may stand in a sentence: printable, and no longer than LONGEST."""
    return printable(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


def printable(text: str) -> str:
    """Return a text whose line breaks, control characters and the like are written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
