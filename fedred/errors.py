"""The one exception that stands for a user's mistake, and the words to report it."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of the user, told in one sentence; the command line prints it and exits with 2."""


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to a wrong one, or nothing."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence for a name that is in no registry: what is allowed, and a near match."""
    known = list(known)
    return f"unknown {kind} '{name}': allowed are {', '.join(known)}{suggestion(name, known)}"
