"""Footnotes: what makes numbers doubtful is marked, and said below."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, product
from string import ascii_lowercase

from fedred.report.labels import LabelledRun
from fedred.report.layout import Block, Cell
from fedred.run_warnings import KINDS

ERRORS = tuple(KINDS)
"""Kinds that make reconstruction errors and iterations doubtful."""
RESULTS = tuple(kind for kind in KINDS if kind != "budget_never_reached")
"""Kinds that make accuracy, success of an attack and detection doubtful."""
COSTS = ("all_excluded", "reconstructions_diverged", "updates_not_finite")
"""Kinds that make seconds and memory doubtful: rounds in which less is done than in others."""


def warned(runs: Iterable[LabelledRun], kinds: Sequence[str] = RESULTS) -> str:
    """Return the kinds of warnings that any of some runs has, separated by blanks.

    Args:
        runs: behind one number.
        kinds: that concern the number; those of a later version, which nobody knows here, always do.
    """
    found = {kind for one in runs for kind in one.run.warnings}
    known = [kind for kind in kinds if kind in found]
    return " ".join([*known, *sorted(found - KINDS.keys())])


def footnoted(block: Block) -> Block:
    """Mark the doubtful numbers of a block with letters, and say below it what these mean.

    Where all numbers of a row are doubtful for the same reasons, the row's name is marked in their place.
    """
    shown = [kind for _, cells in block.rows for cell in cells for kind in cell.warnings]
    letters = dict(zip(dict.fromkeys(shown), _letters(), strict=False))
    rows = [_marked_row(words, cells, letters) for words, cells in block.rows]
    notes = [f"({letter}) {KINDS.get(kind, kind)}" for kind, letter in letters.items()]
    return replace(block, rows=rows, notes=notes)


def _letters() -> Iterator[str]:
    """Yield a to z, then aa to zz, and so on."""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


def _marked_row(
    words: list[str], cells: list[Cell], letters: dict[str, str]
) -> tuple[list[str], list[Cell]]:
    reasons = [cell.warnings for cell in cells if cell.mean is not None]
    common = reasons[0] if len(reasons) > 1 else ()
    if common and all(kinds == common for kinds in reasons):
        return [*words[:-1], words[-1] + _mark(common, letters)], cells
    return words, [replace(cell, note=_mark(cell.warnings, letters)) for cell in cells]


def _mark(kinds: Sequence[str], letters: dict[str, str]) -> str:
    return f" ({', '.join(letters[kind] for kind in kinds)})" if kinds else ""
