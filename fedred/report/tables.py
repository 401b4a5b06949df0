"""The tables by name: performance and detection, averaged over seeds, are made here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from fedred.errors import UserError, unknown_name
from fedred.files import opened_whole
from fedred.paths import with_endings
from fedred.report.costs import cost, cost_blocks, error_blocks, errors
from fedred.report.differences import difference_blocks, differences
from fedred.report.escapes import in_csv, on_terminal
from fedred.report.frames import (
    comparable,
    defined,
    grouped,
    records,
    summary,
    tidy,
    told_n,
    warnings_of,
)
from fedred.report.judged import Judged, load_judged
from fedred.report.layout import DIGITS, Block, Cell, latex, markdown, page, print_blocks
from fedred.report.notes import footnoted
from fedred.report.offline_tables import (
    auroc,
    auroc_blocks,
    budget,
    decision_blocks,
    exclusion,
    exclusion_blocks,
    threshold,
)
from fedred.report.reference import reference, reference_blocks
from fedred.report.runs import Run, load_runs
from fedred.report.style import DISPLAY_NAMES, HIGHER_IS_BETTER, display

PERFORMANCE = ("accuracy", "attack_success_rate")
DETECTION = ("DACC", "FPR", "FNR", "ADACC", "AFPR", "AFNR", "AAR")


def performance(runs: Sequence[Run]) -> pd.DataFrame:
    """Return final accuracy and attack success rate, in percent, as a tidy frame.

    Columns: dataset, attack, defense, the settings that differ, metric, mean, std, ci95, n,
    warnings (their kinds).
    """
    return _summaries(runs, PERFORMANCE)


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
    return _summaries(selecting, DETECTION)


TABLES: dict[str, Callable[[Sequence[Run]], pd.DataFrame]] = {
    "performance": performance,
    "detection": detection,
    "differences": differences,
    "errors": errors,
    "cost": cost,
    "reference": reference,
}


OFFLINE_TABLES: dict[str, Callable[[Sequence[Judged]], pd.DataFrame]] = {
    "auroc": auroc,
    "threshold": threshold,
    "budget": budget,
    "exclusion": exclusion,
}
"""Tables of what `fedred reconstruct` wrote."""


def made_table(name: str, sources: Sequence[Path]) -> pd.DataFrame:
    """Return a table, tidy.

    Args:
        name: of a member of TABLES or OFFLINE_TABLES.
        sources: folders of finished runs; files of `fedred reconstruct` for OFFLINE_TABLES.

    Raises:
        UserError: for sources that are missing or torn, or that cannot feed the table.
    """
    if name in OFFLINE_TABLES:
        return OFFLINE_TABLES[name](load_judged(sources))
    return TABLES[name](load_runs(sources))


FORMATS = ("csv", "html", "md", "tex")


def write_table(frame: pd.DataFrame, name: str, prefix: Path | str) -> list[Path]:
    """Write a table as PREFIX.csv (tidy), PREFIX.html, .md and .tex (laid out, best in bold).

    Args:
        frame: what a member of TABLES returned.
        name: of that member.
        prefix: path without ending, or with that of the one form to write; its folder is made when
            missing.

    Returns:
        The files.

    Raises:
        WriteError: when one cannot be written.
    """
    blocks = _blocks(name, frame)
    texts = {
        "csv": _csv(frame),
        "html": page(blocks),
        "md": markdown(blocks),
        "tex": latex(blocks),
    }
    files = with_endings(Path(prefix), FORMATS)
    for ending, path in files.items():
        with opened_whole(path) as file:
            file.write(texts[ending].encode())
    return list(files.values())


def _csv(frame: pd.DataFrame) -> str:
    texts = frame.rename(columns=in_csv).map(
        lambda value: in_csv(value) if isinstance(value, str) else value
    )
    return str(texts.to_csv(index=False, lineterminator="\n", float_format="%.10g"))


def print_table(frame: pd.DataFrame, name: str, console: Console, title: str = "") -> None:
    """Print a table on a terminal, under a title if there is one; see `write_table`."""
    if title:
        console.rule(on_terminal(title), align="left", style="")
    print_blocks(_blocks(name, frame), console)


def _summaries(runs: Sequence[Run], metrics: Sequence[str]) -> pd.DataFrame:
    return tidy([summary(group, metric) for group in grouped(runs) for metric in metrics])


def _blocks(name: str, frame: pd.DataFrame) -> list[Block]:
    if name not in LAYOUTS:
        raise UserError(unknown_name("table", name, LAYOUTS))
    return [footnoted(block) for block in LAYOUTS[name](frame)]


def _performance_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block a metric: attacks as rows, defenses as columns, the best of each row in bold."""
    defenses = list(frame["defense"].unique())
    blocks = []
    for title, part in comparable(frame):
        for metric, values in part.groupby("metric", sort=False):
            rows = [
                ([display(attack)], _cells(values[values["attack"] == attack], "defense", defenses))
                for attack in values.loc[values["mean"].notna(), "attack"].unique()
            ]
            heading = f"{title}: {DISPLAY_NAMES[str(metric)]}, {told_n(values)}"
            if rows:
                header = [display(defense) for defense in defenses]
                blocks.append(Block(heading, ["Attack"], header, rows))
    return blocks


def _detection_blocks(frame: pd.DataFrame) -> list[Block]:
    """Attacks and defenses as rows, metrics as columns, the best defense of an attack in bold."""
    header = [DISPLAY_NAMES[metric] for metric in DETECTION]
    blocks = []
    for title, part in comparable(frame):
        rows = []
        for attack, values in part.groupby("attack", sort=False):
            defenses = list(values["defense"].unique())
            by_metric = [
                _cells(values[values["metric"] == metric], "defense", defenses)
                for metric in DETECTION
            ]
            for defense, *cells in zip(defenses, *by_metric, strict=True):
                rows.append(([display(str(attack)), display(defense)], cells))
        heading = f"{title}: rates in %, AAR in rounds, {told_n(part)}"
        blocks.append(Block(heading, ["Attack", "Defense"], header, rows))
    return blocks


def _cells(values: pd.DataFrame, by: str, order: list[str]) -> list[Cell]:
    """Return one metric's cells in a given order, the best ones marked."""
    rows = {row[by]: row for row in records(values)}
    means = [defined(rows.get(key, {}).get("mean")) for key in order]
    best = _best(str(values["metric"].iloc[0]), means)
    return [
        Cell(mean, defined(rows[key]["ci95"]), bold, warnings=warnings_of(rows[key]))
        if key in rows
        else Cell()
        for key, mean, bold in zip(order, means, best, strict=True)
    ]


def _best(metric: str, means: list[float | None]) -> list[bool]:
    """Mark the best numbers as printed, so that ties are all marked; one alone is not compared."""
    printed = [None if mean is None else round(mean, DIGITS) for mean in means]
    defined = [value for value in printed if value is not None]
    if len(defined) < 2:
        return [False] * len(means)
    best = max(defined) if HIGHER_IS_BETTER[metric] else min(defined)
    return [value == best for value in printed]


LAYOUTS: dict[str, Callable[[pd.DataFrame], list[Block]]] = {
    "performance": _performance_blocks,
    "detection": _detection_blocks,
    "differences": difference_blocks,
    "errors": error_blocks,
    "cost": cost_blocks,
    "reference": reference_blocks,
    "auroc": auroc_blocks,
    "threshold": decision_blocks,
    "budget": decision_blocks,
    "exclusion": exclusion_blocks,
}
