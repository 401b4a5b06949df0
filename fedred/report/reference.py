"""The table of published values beside those of runs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from fedred.errors import UserError
from fedred.report.frames import (
    Row,
    comparable,
    defined,
    grouped,
    named,
    records,
    summary,
    tidy,
    warnings_of,
)
from fedred.report.labels import LabelledRun
from fedred.report.layout import Block, Cell
from fedred.report.runs import Run
from fedred.report.style import DISPLAY_NAMES, display

if TYPE_CHECKING:
    from fedred.reference import Published

SAME = "same"


def reference(runs: Sequence[Run]) -> pd.DataFrame:
    """Return published values with what runs of the same data, attack and defense gave.

    Columns: dataset, attack, defense, the settings that differ, metric, mean, std, ci95, n,
    published, difference (mean minus published), protocol (`same`, or what the runs have instead),
    source. Rates are in percent, AAR is a number of rounds.

    Raises:
        UserError: when there is no published value for any run.
    """
    rows = [row for group in grouped(runs) for row in _rows(group)]
    if runs and not rows:
        raise UserError("config/reference.yaml has no published value for any of these runs")
    return tidy(rows)


def _rows(group: list[LabelledRun]) -> Iterator[Row]:
    from fedred.reference import references  # knows every method, for which PyTorch loads

    settings = group[0].run.settings
    for published in references():
        if published.is_about(settings):
            protocol = ", ".join(published.otherwise(settings)) or SAME
            for metric, value in published.values.items():
                yield _row(group, metric, value, protocol, published)


def _row(
    group: list[LabelledRun], metric: str, value: float, protocol: str, published: "Published"
) -> Row:
    found = summary(group, metric)
    return {
        **named(group[0]),
        **found,
        "published": value,
        "difference": found["mean"] - value,
        "protocol": protocol,
        "source": published.source,
    }


def reference_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block a data set and source: published values as rows, what runs gave beside them."""
    words = ["Attack", "Defense", "Metric", "Protocol"]
    header = ["Published", "Reproduced", "Difference", "n"]
    return [
        Block(
            f"{title}: values of {source}, and reproduced",
            words,
            header,
            [(_words(row), _cells(row)) for row in records(rows)],
        )
        for title, part in comparable(frame)
        for source, rows in part.groupby("source", sort=False)
    ]


def _words(row: Row) -> list[str]:
    shown = [display(str(row["attack"])), display(str(row["defense"]))]
    return [*shown, DISPLAY_NAMES[str(row["metric"])], str(row["protocol"])]


def _cells(row: Row) -> list[Cell]:
    mean, ci95 = defined(row["mean"]), defined(row["ci95"])
    difference = defined(row["difference"])
    reproduced = Cell(mean, ci95, warnings=warnings_of(row))
    return [Cell(row["published"]), reproduced, Cell(difference), Cell(row["n"], digits=0)]
