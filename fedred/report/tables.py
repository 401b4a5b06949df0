"""The tables: performance and detection, averaged over seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from fedred.errors import UserError, unknown_name
from fedred.files import written_whole
from fedred.report.labels import LabelledRun, Value, label_runs, value_in_words
from fedred.report.layout import DIGITS, Block, Cell, latex, markdown, print_blocks
from fedred.report.runs import Run
from fedred.report.statistics import FloatArray, spread
from fedred.report.style import DISPLAY_NAMES, HIGHER_IS_BETTER, display

PERFORMANCE = ("accuracy", "attack_success_rate")
DETECTION = ("DACC", "FPR", "FNR", "ADACC", "AFPR", "AFNR", "AAR")
COUNTS = ("AAR",)
"""Metrics that are numbers of rounds; all others are rates, reported in percent."""


def performance(runs: Sequence[Run]) -> pd.DataFrame:
    """Return final accuracy and attack success rate, in percent, as a tidy frame.

    Columns: dataset, attack, defense, the settings that differ, metric, mean, std, ci95, n.
    """
    return _tidy(runs, PERFORMANCE)


def detection(runs: Sequence[Run]) -> pd.DataFrame:
    """Return how well clients were told apart, for the defenses that select clients.

    DACC, FPR and FNR are those of the last round, ADACC, AFPR and AFNR averages over rounds, all in
    percent; AAR is a number of rounds. Columns as in `performance`.

    Raises:
        UserError: when no run's defense accepts or rejects clients.
    """
    selecting = [run for run in runs if run.selects]
    if runs and not selecting:
        raise UserError("the detection table needs a run whose defense accepts or rejects clients")
    return _tidy(selecting, DETECTION)


TABLES: dict[str, Callable[[Sequence[Run]], pd.DataFrame]] = {
    "performance": performance,
    "detection": detection,
}


def write_table(frame: pd.DataFrame, name: str, prefix: Path | str) -> None:
    """Write a table as PREFIX.csv (tidy), PREFIX.md and PREFIX.tex (laid out, best in bold).

    Args:
        frame: what a member of TABLES returned.
        name: of that member.
        prefix: path without ending; its folder is made when missing.
    """
    blocks = _layout(name)(frame)
    texts = {
        "csv": frame.to_csv(index=False, lineterminator="\n", float_format="%.10g"),
        "md": markdown(blocks),
        "tex": latex(blocks),
    }
    for ending, text in texts.items():
        with written_whole(Path(f"{prefix}.{ending}")) as temporary:
            temporary.write_bytes(text.encode())


def print_table(frame: pd.DataFrame, name: str, console: Console, title: str = "") -> None:
    """Print a table on a terminal, under a title if there is one; see `write_table`."""
    if title:
        console.rule(Text(title), align="left", style="")
    print_blocks(_layout(name)(frame), console)


def _tidy(runs: Sequence[Run], metrics: Sequence[str]) -> pd.DataFrame:
    groups: dict[tuple[Any, ...], list[LabelledRun]] = {}
    for labelled in label_runs(runs):
        groups.setdefault(labelled.experiment, []).append(labelled)
    rows = [_summary(group, metric) for group in groups.values() for metric in metrics]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return pd.DataFrame(rows, columns=columns)


def _summary(group: list[LabelledRun], metric: str) -> dict[str, Value]:
    first = group[0]
    samples = _samples(group, metric)
    summary: dict[str, Value] = {
        "dataset": first.dataset,
        "attack": first.attack,
        "defense": first.defense,
        **first.extra,
        "metric": metric,
    }
    if not len(samples):
        return summary | {"mean": np.nan, "std": np.nan, "ci95": np.nan, "n": 0}
    mean, std, ci95 = (float(part) for part in spread(samples))
    return summary | {"mean": mean, "std": std, "ci95": ci95, "n": len(samples)}


def _samples(group: list[LabelledRun], metric: str) -> FloatArray:
    """Return a metric's defined values [seeds], in percent or rounds, in the order of seeds."""
    values = [_final(one.run, metric) for one in sorted(group, key=lambda one: one.seed)]
    unit = 1 if metric in COUNTS else 100
    samples = np.array([value for value in values if value is not None], dtype=float)
    return np.asarray(samples[~np.isnan(samples)] * unit)


def _final(run: Run, metric: str) -> float | None:
    if metric not in run.final:
        raise UserError(f"{run.folder / 'run.json'} has no final {metric}")
    return run.final[metric]


def _layout(name: str) -> Callable[[pd.DataFrame], list[Block]]:
    layouts = {"performance": _performance_blocks, "detection": _detection_blocks}
    if name not in layouts:
        raise UserError(unknown_name("table", name, layouts))
    return layouts[name]


def _performance_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block a metric: attacks as rows, defenses as columns, the best of each row in bold."""
    defenses = list(frame["defense"].unique())
    blocks = []
    for title, part in _comparable(frame):
        for metric, values in part.groupby("metric", sort=False):
            rows = [
                ([display(attack)], _cells(values[values["attack"] == attack], "defense", defenses))
                for attack in values.loc[values["mean"].notna(), "attack"].unique()
            ]
            heading = f"{title}: {DISPLAY_NAMES[str(metric)]}"
            if rows:
                header = [display(defense) for defense in defenses]
                blocks.append(Block(heading, ["Attack"], header, rows))
    return blocks


def _detection_blocks(frame: pd.DataFrame) -> list[Block]:
    """Attacks and defenses as rows, metrics as columns, the best defense of an attack in bold."""
    header = [DISPLAY_NAMES[metric] for metric in DETECTION]
    blocks = []
    for title, part in _comparable(frame):
        rows = []
        for attack, values in part.groupby("attack", sort=False):
            defenses = list(values["defense"].unique())
            by_metric = [
                _cells(values[values["metric"] == metric], "defense", defenses)
                for metric in DETECTION
            ]
            for defense, *cells in zip(defenses, *by_metric, strict=True):
                rows.append(([display(str(attack)), display(defense)], cells))
        blocks.append(
            Block(f"{title}: rates in %, AAR in rounds", ["Attack", "Defense"], header, rows)
        )
    return blocks


def _comparable(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Divide a tidy frame by data set and extra settings, each part with its title."""
    extra = list(frame.columns[3 : list(frame.columns).index("metric")])
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


def _cells(values: pd.DataFrame, by: str, order: list[str]) -> list[Cell]:
    """Return one metric's cells in a given order, the best ones marked."""
    rows = {row[by]: row for row in values.to_dict("records")}
    means = [_number(rows.get(key, {}).get("mean")) for key in order]
    best = _best(str(values["metric"].iloc[0]), means)
    return [
        Cell(mean, _number(rows.get(key, {}).get("ci95")), bold)
        for key, mean, bold in zip(order, means, best, strict=True)
    ]


def _number(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _best(metric: str, means: list[float | None]) -> list[bool]:
    """Mark the best numbers as printed, so that ties are all marked; one alone is not compared."""
    printed = [None if mean is None else round(mean, DIGITS) for mean in means]
    defined = [value for value in printed if value is not None]
    if len(defined) < 2:
        return [False] * len(means)
    best = max(defined) if HIGHER_IS_BETTER[metric] else min(defined)
    return [value == best for value in printed]
