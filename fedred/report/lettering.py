"""A text from outside as it stands in a figure: literal, in glyphs that there are, as wide as fits."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any
from unicodedata import combining

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.textpath import text_to_path

from fedred.errors import printable
from fedred.report import style

log = logging.getLogger(__name__)

FONT = "DejaVu Sans"
"""Of all figures; it comes with matplotlib."""
MARKS = 3
"""Accents of one letter that are drawn; more would be as high as a page."""
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def families() -> tuple[str, ...]:
    """Return the font of figures, then those of the user's matplotlibrc that are installed.

    The entry `font.sans-serif` there may name a font with letters that the first one lacks.
    """
    installed = {entry.name for entry in fontManager.ttflist}
    wanted = matplotlib.rcParams["font.sans-serif"]
    return FONT, *(name for name in wanted if name in installed and name != FONT)


@contextmanager
def house_style(**changes: Any) -> Iterator[None]:
    """Draw in the style of all figures: texts are no formulas, fonts are `families`.

    Args:
        changes: other settings of matplotlib, `__` in place of the dot.
    """
    own: Any = {name.replace("__", "."): value for name, value in changes.items()}
    with matplotlib.rc_context({**style.RC, "font.family": list(families()), **own}):
        yield


def in_figure(text: str, inches: float = style.PAGE_WIDTH, size: float = 8) -> str:
    """Return a text as it stands in a figure.

    Control characters and letters that no font has are shown as escapes, and the middle of a text
    that has no room as an ellipsis.

    Args:
        text: on one line.
        inches: of room.
        size: of the letters, in points.
    """
    fonts = families()
    return _shortened(_in_letters_of(printable(text), fonts), fonts, inches, size)


def wrapped(title: str, inches: float, size: float = 8) -> str:
    """Return a title as it stands in a figure, on more lines where one has no room: after commas.

    Args:
        title: its lines, of texts from outside that were made printable.
        inches: of room.
        size: of the letters, in points.
    """
    lines = [part for line in title.split("\n") for part in _broken(line, inches, size)]
    return "\n".join(in_figure(line, inches, size) for line in lines)


def _broken(line: str, inches: float, size: float) -> list[str]:
    lines = [""]
    for part in re.split(r"(?<=,) ", line):
        longer = f"{lines[-1]} {part}" if lines[-1] else part
        if lines[-1] and width(longer, size) > inches:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def width(text: str, size: float = 8) -> float:
    """Return the width in inches of a text as it stands in a figure."""
    fonts = families()
    return _width(_in_letters_of(printable(text), fonts), fonts, size)


@lru_cache(maxsize=10_000)
def _width(text: str, fonts: tuple[str, ...], size: float) -> float:
    letters = FontProperties(family=list(fonts), size=size)
    points, _, _ = text_to_path.get_text_width_height_descent(text, letters, False)
    return float(points) / 72


def _shortened(text: str, fonts: tuple[str, ...], inches: float, size: float) -> str:
    """Return a text with as many of its first and last letters as have room."""
    if _width(text, fonts, size) <= inches:
        return text
    low, high = 0, len(text)
    while high - low > 1:
        kept = (low + high) // 2
        fits = _width(_ends(text, kept), fonts, size) <= inches
        low, high = (kept, high) if fits else (low, kept)
    return _ends(text, low)


def _ends(text: str, kept: int) -> str:
    return text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def _in_letters_of(text: str, fonts: tuple[str, ...]) -> str:
    lacking = {letter for letter in text if ord(letter) not in _letters(fonts)}
    if lacking:
        _tell_of_code_points(fonts)
    drawn, marks = "", 0
    for letter in text:
        marks = marks + 1 if combining(letter) else 0
        drawn += ascii(letter)[1:-1] if letter in lacking or marks > MARKS else letter
    return drawn


@cache
def _letters(fonts: tuple[str, ...]) -> frozenset[int]:
    files = {findfont(FontProperties(family=name)) for name in fonts}
    return frozenset(code for file in files for code in get_font(file).get_charmap())


@cache
def _tell_of_code_points(fonts: tuple[str, ...]) -> None:
    """Say it once, whatever the number of names."""
    log.warning(
        "the font %s has no glyph for some letters of names: figures show them as code points such "
        "as \\u732b (name a font that has them in font.sans-serif of your matplotlibrc)",
        " or ".join(fonts),
    )
