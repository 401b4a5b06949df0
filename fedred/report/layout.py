"""Blocks of printed cells, and their forms: Markdown, LaTeX, HTML and the terminal."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from fedred.report.escapes import in_html, in_latex, in_markdown, latex_needs, on_terminal

DIGITS = 2
"""Decimals of every printed number."""

GAP = 3
"""Blanks between two columns on a terminal."""

UNDEFINED = "\N{EN DASH}"

PAGE_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #1e293b; margin: 1.5em; }
table { border-collapse: collapse; margin-bottom: 2em; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.5em; white-space: nowrap; }
th, td { padding: 0.25em 0.6em; text-align: left; font-weight: normal; white-space: nowrap; }
td, .number { text-align: right; font-variant-numeric: tabular-nums; }
.best { font-weight: 700; }
tr { border-bottom: 1px solid #e2e8f0; }
tr:first-of-type { border-block: 2px solid #475569; }
"""


@dataclass(frozen=True)
class Cell:
    """One number with its spread (half-width or deviation): None where none, NaN where not defined.

    `warnings`: kinds of what makes it doubtful; `note`: the letters of footnotes that say so.
    """

    mean: float | None = None
    spread: float | None = None
    best: bool = False
    digits: int = DIGITS
    mark: str = ""
    warnings: tuple[str, ...] = ()
    note: str = ""

    def parts(self) -> tuple[str, str]:
        """Return the number and its half-width as printed, empty when there is none."""
        if self.mean is None:
            return UNDEFINED, ""
        return self._printed(self.mean), "" if self.spread is None else self._printed(self.spread)

    def _printed(self, value: float) -> str:
        return UNDEFINED if math.isnan(value) else f"{value:.{self.digits}f}"

    def text(self) -> str:
        return "±".join(part for part in self.parts() if part) + self.mark + self.note


@dataclass(frozen=True)
class Block:
    """A table whose rows may be compared: some columns of words, then columns of numbers; footnotes."""

    title: str
    words: list[str]
    header: list[str]
    rows: list[tuple[list[str], list[Cell]]]
    notes: Sequence[str] = ()


def page(blocks: list[Block]) -> str:
    """Return the blocks as one HTML page that needs nothing else."""
    tables = "".join(_html_table(block) for block in blocks)
    return f'<!DOCTYPE html>\n<meta charset="utf-8">\n<style>{PAGE_STYLE}</style>\n{tables}'


def _html_table(block: Block) -> str:
    rows = [
        [_html_cell("th", word) for word in words]
        + [_html_cell("td", cell.text(), "best" if cell.best else "") for cell in cells]
        for words, cells in block.rows
    ]
    header = [_html_cell("th", title) for title in block.words]
    header += [_html_cell("th", title, "number") for title in block.header]
    lines = "".join(f"<tr>{''.join(row)}</tr>\n" for row in [header, *rows])
    notes = "".join(f"<p>{in_html(note)}</p>\n" for note in block.notes)
    return f"<table>\n<caption>{in_html(block.title)}</caption>\n{lines}</table>\n{notes}"


def _html_cell(tag: str, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<{tag}{attribute}>{in_html(text)}</{tag}>"


def markdown(blocks: list[Block]) -> str:
    """Return the blocks as GitHub-flavoured Markdown tables under headings."""
    return "\n".join(line for block in blocks for line in _markdown_block(block))


def _markdown_block(block: Block) -> list[str]:
    rule = ["---"] * len(block.words) + ["---:"] * len(block.header)
    body = [
        [in_markdown(word) for word in words] + [_markdown_cell(cell) for cell in cells]
        for words, cells in block.rows
    ]
    header = [in_markdown(title) for title in block.words + block.header]
    lines = [f"| {' | '.join(line)} |" for line in [header, rule, *body]]
    notes = [line for note in block.notes for line in (in_markdown(note), "")]
    return [f"### {in_markdown(block.title)}", "", *lines, "", *notes]


def _markdown_cell(cell: Cell) -> str:
    text = in_markdown(cell.text())
    return f"**{text}**" if cell.best else text


def latex(blocks: list[Block]) -> str:
    """Return the blocks, which have the same columns, as one tabular for `booktabs`."""
    columns = "l" * len(blocks[0].words) + "r" * len(blocks[0].header)
    header = " & ".join(in_latex(title) for title in blocks[0].words + blocks[0].header)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{header} \\",
        *(line for block in blocks for line in _latex_block(block, len(columns))),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    needs = [r"\usepackage{booktabs}", *latex_needs("".join(lines))]
    return "\n".join([*(f"% needs {need}" for need in needs), *lines]) + "\n"


def _latex_block(block: Block, width: int) -> Iterator[str]:
    yield r"\midrule"
    yield rf"\multicolumn{{{width}}}{{l}}{{\textit{{{in_latex(block.title)}}}}} \\"
    previous: list[str] = []
    for words, cells in block.rows:
        shown = _without_repetition(words, previous)
        if shown == words and previous and len(words) > 1:
            yield r"\addlinespace"
        entries = [in_latex(word) for word in shown] + [_latex_cell(cell) for cell in cells]
        yield " & ".join(entries) + r" \\"
        previous = words
    for note in block.notes:
        yield rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {in_latex(note)}}} \\"


def _latex_cell(cell: Cell) -> str:
    number, half_width = (part.replace(UNDEFINED, "--") for part in cell.parts())
    number = rf"\textbf{{{number}}}" if cell.best else number
    number = rf"{number}\,{{\scriptsize$\pm${half_width}}}" if half_width else number
    number = rf"{number}\rlap{{$^{{{cell.mark}}}$}}" if cell.mark else number
    return number + in_latex(cell.note)


def print_blocks(blocks: list[Block], console: Console) -> None:
    """Print blocks on a terminal; one wider than it is cut into several with the same rows."""
    for block in blocks:
        console.print(on_terminal(block.title, "bold"))
        for columns in _fitting(block, console.width):
            console.print(_rich_table(block, columns), "", sep="\n")
        for note in block.notes:
            console.print(on_terminal(note))
        if block.notes:
            console.print()


def _rich_table(block: Block, columns: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in block.words:
        table.add_column(on_terminal(title))
    for column in columns:
        table.add_column(on_terminal(block.header[column]), justify="right", no_wrap=True)
    previous: list[str] = []
    for words, cells in block.rows:
        shown = _without_repetition(words, previous)
        numbers = [
            on_terminal(cells[column].text(), "bold" if cells[column].best else "")
            for column in columns
        ]
        table.add_row(*map(on_terminal, shown), *numbers)
        previous = words
    return table


def _fitting(block: Block, width: int) -> list[list[int]]:
    """Divide the columns of numbers so that each part, of at least one, fits beside the words."""
    texts = [[cell.text() for cell in cells] for _, cells in block.rows]
    widths = [
        _widest([title, *(row[column] for row in texts)])
        for column, title in enumerate(block.header)
    ]
    words = zip(block.words, *(row[0] for row in block.rows), strict=True)
    room = width - sum(map(_widest, words))
    parts: list[list[int]] = [[]]
    for column in range(len(widths)):
        if parts[-1] and sum(widths[other] for other in parts[-1]) + widths[column] > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _widest(texts: Iterable[str]) -> int:
    """Return the cells of a terminal that a column of texts takes, with the gap beside it."""
    return max(on_terminal(text).cell_len for text in texts) + GAP


def _without_repetition(words: list[str], previous: list[str]) -> list[str]:
    """Blank all words but the last where they equal those of the row above."""
    if len(words) > 1 and words[:-1] == previous[:-1]:
        return [""] * (len(words) - 1) + words[-1:]
    return words
