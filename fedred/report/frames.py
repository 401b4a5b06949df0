"""Tidy frames: runs grouped into rows, rows divided into blocks that may be compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedred.errors import UserError
from fedred.report.labels import LabelledRun, label_runs, value_in_words
from fedred.report.layout import Cell
from fedred.report.notes import warned
from fedred.report.runs import Run
from fedred.report.statistics import FloatArray, spread
from fedred.report.style import display

Row = dict[str, Any]
COUNTS = ("AAR",)
"""Metrics that are numbers of rounds; all others are rates, reported in percent."""


def grouped(runs: Sequence[Run]) -> list[list[LabelledRun]]:
    """Return runs that differ in nothing but the seed, together and in the order of seeds."""
    groups: dict[tuple[Any, ...], list[LabelledRun]] = {}
    for labelled in label_runs(runs):
        groups.setdefault(labelled.experiment, []).append(labelled)
    return [sorted(group, key=lambda one: one.seed) for group in groups.values()]


def named(one: LabelledRun) -> Row:
    """Return the columns that name a row: data set, attack, defense, the settings that differ."""
    return {"dataset": one.dataset, "attack": one.attack, "defense": one.defense, **one.extra}


def tidy(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as a frame with all their columns, in the order in which they first appear."""
    return pd.DataFrame(rows, columns=list(dict.fromkeys(column for row in rows for column in row)))


def records(frame: pd.DataFrame) -> list[Row]:
    """Return a frame's rows, each as column -> value."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def final(run: Run, metric: str) -> float | None:
    """Return a metric at the end of a run, None where it is not defined.

    Raises:
        UserError: when run.json does not have it.
    """
    if metric not in run.final:
        raise UserError(f"{run.folder / 'run.json'} has no final {metric}")
    return run.final[metric]


def comparable(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Divide a tidy frame by data set and extra settings, each part with its title."""
    columns = list(frame.columns)
    extra = columns[columns.index("defense") + 1 : columns.index("metric")]
    return [
        (_title(key, extra), part)
        for key, part in frame.groupby(["dataset", *extra], sort=False, dropna=False)
    ]


def _title(key: Any, extra: list[str]) -> str:
    dataset, *values = key
    settings = [
        f"{name} = {value_in_words(value)}" for name, value in zip(extra, values, strict=True)
    ]
    return ", ".join([display(dataset), *settings])


def told_n(part: pd.DataFrame, unit: str = "seed") -> str:
    """Return how many values stand behind the numbers of a block: `n = 3 seeds`."""
    counts = part.loc[part["n"] > 0, "n"]
    low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    numbers = f"{low}" if low == high else f"{low} to {high}"
    return f"n = {numbers} {unit}" + ("" if high == 1 else "s")


def defined(value: Any) -> float | None:
    """Return a number, None for a missing one or NaN."""
    return None if value is None or np.isnan(value) else float(value)


def number_cell(row: Row, column: str, digits: int) -> Cell:
    """Return a cell for a row's number without an interval."""
    return Cell(defined(row[column]), digits=digits, warnings=warnings_of(row))


def warnings_of(row: Row) -> tuple[str, ...]:
    """Return the kinds of warnings of the runs behind a row of a tidy frame."""
    return tuple(str(row["warnings"]).split())


def summary(group: list[LabelledRun], metric: str) -> Row:
    """Return a row with a metric's mean over seeds, in percent or rounds, and its spread."""
    samples = samples_of(group, metric)
    row = {**named(group[0]), "metric": metric}
    mean, std, ci95 = map(float, spread(samples)) if len(samples) else (np.nan,) * 3
    numbers = {"mean": mean, "std": std, "ci95": ci95, "n": len(samples)}
    return row | numbers | {"warnings": warned(group)}


def samples_of(group: list[LabelledRun], metric: str) -> FloatArray:
    """Return a metric's defined values [seeds], in percent or rounds, in the order of seeds."""
    values = [final(one.run, metric) for one in group]
    unit = 1 if metric in COUNTS else 100
    samples = np.array([value for value in values if value is not None], dtype=float)
    return np.asarray(samples[~np.isnan(samples)] * unit)
