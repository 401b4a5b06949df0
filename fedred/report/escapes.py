"""A text from outside as it stands in each format, literally: one function a format.

Names of folders, options and methods may hold what a format takes for markup. In all formats line
breaks, control characters and characters that turn the direction of writing are shown as escapes.
"""

import html
import re

from rich.text import Text

from fedred.errors import printable

FORMULA = (
    *"=+-@",
    "\N{FULLWIDTH EQUALS SIGN}",
    "\N{FULLWIDTH PLUS SIGN}",
    "\N{FULLWIDTH HYPHEN-MINUS}",
    "\N{FULLWIDTH COMMERCIAL AT}",
)
"""What a spreadsheet takes for the beginning of a formula."""

LATEX = {
    **{letter: f"\\{letter}" for letter in "_%&#${}"},
    # Brackets and stars are arguments of the line break before them.
    **{letter: f"{{{letter}}}" for letter in "[*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
APART = re.compile("(?<=[-\N{EN DASH}\N{EM DASH}])(?=[-\N{EN DASH}\N{EM DASH}])|(?<=[,'])(?=[,'])")
"""Between letters that LaTeX would join into one."""
BLANKS = re.compile("^(?= )|(?<= )(?= )")
"""Before blanks that LaTeX would leave out."""
LATEX_NEEDS = {
    r"\textquotedbl": r"\usepackage[T1]{fontenc}",
    r"\textasciigrave": r"\usepackage{textcomp}",
}
"""Packages of some letters, the second one for LaTeX before 2020."""


def in_html(text: str) -> str:
    """Return a text as it stands in HTML, also within an attribute."""
    return html.escape(printable(text))


def in_markdown(text: str) -> str:
    """Return a text as it stands in GitHub's Markdown: a paragraph, a heading or the cell of a table."""
    escaped = re.sub(r"([\\|*_<>\[\]`~#$&])", r"\\\1", printable(text))
    no_links = re.sub(r"(?i)\b(www)(?=\.)|\b(https?|ftp)(?=://)", r"\g<0>\\", escaped)
    return re.sub(r"^ +| +$", lambda blanks: "&#32;" * len(blanks[0]), no_links)


def in_latex(text: str) -> str:
    """Return a text as it stands in LaTeX; see `latex_needs`."""
    parts = (part for apart in APART.split(printable(text)) for part in BLANKS.split(apart))
    return "{}".join("".join(LATEX.get(letter, letter) for letter in part) for part in parts)


def latex_needs(source: str) -> list[str]:
    """Return what the preamble of a document with this LaTeX source needs for its letters."""
    packages = (package for command, package in LATEX_NEEDS.items() if command in source)
    fonts = [] if source.isascii() else ["lualatex or xelatex, and a font with all its letters"]
    return [*dict.fromkeys(packages), *fonts]


def in_rst(text: str) -> str:
    """Return a text as it stands in a paragraph of reStructuredText."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


def in_csv(text: str) -> str:
    """Return a text as it stands in a CSV file, never a formula for a spreadsheet.

    One that begins like a formula follows an apostrophe; so does one that begins with an
    apostrophe, and no two texts become one.
    """
    told = printable(text)
    return f"'{told}" if told.startswith((*FORMULA, "'")) else told


def on_terminal(text: str, style: str = "") -> Text:
    """Return a text as it is printed by rich: no markup, no control sequences."""
    return Text(printable(text), style)
