"""Two tables of what happened inside: reconstruction errors of clients, and the cost of a round."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedred.errors import UserError
from fedred.report.frames import (
    Row,
    comparable,
    defined,
    grouped,
    named,
    number_cell,
    records,
    tidy,
    told_n,
    warnings_of,
)
from fedred.report.labels import LabelledRun, label_runs
from fedred.report.layout import Block, Cell
from fedred.report.notes import COSTS, ERRORS, warned
from fedred.report.runs import Run
from fedred.report.style import display

ERROR_DIGITS = 3
CLIENTS = {"honest": "Honest", "malicious": "Malicious"}
PARTS = {
    "training": "Training (s)",
    "attack": "Attack (s)",
    "defense": "Defense (s)",
    "evaluation": "Evaluation (s)",
}
MEMORY = {"peak": "Peak (MiB)", "storage": "Kept a client (MiB)"}
COST = {**PARTS, "total": "Total (s)", "iterations": "Iterations", **MEMORY}
COST_DIGITS = {"iterations": 1, "peak": 0}


def errors(runs: Sequence[Run]) -> pd.DataFrame:
    """Return mean and standard deviation of the reconstruction errors of all rounds and seeds.

    Columns: dataset, attack, defense, the settings that differ, metric, clients (honest or
    malicious), mean, std, n (finite errors), not_finite (their number), seeds. A client has an
    error in each round in which it was reconstructed.

    Raises:
        UserError: when no run is defended by fedredefense.
    """
    chosen = [run for run in runs if run.settings["defense"]["name"] == "fedredefense"]
    if runs and not chosen:
        raise UserError("the table of reconstruction errors needs a run defended by fedredefense")
    rows = [
        _error_row(group, kind)
        for group in grouped(chosen)
        for kind in CLIENTS
        if kind == "honest" or any(one.run.clients["malicious"].any() for one in group)
    ]
    return tidy(rows)


def _error_row(group: list[LabelledRun], kind: str) -> Row:
    clients = pd.concat([_reconstructed(one.run) for one in group])
    found = clients.loc[clients["malicious"] == (kind == "malicious"), "score"].to_numpy(float)
    finite = found[np.isfinite(found)]
    return {
        **named(group[0]),
        "metric": "reconstruction_error",
        "clients": kind,
        "mean": float(finite.mean()) if len(finite) else np.nan,
        "std": float(finite.std(ddof=1)) if len(finite) > 1 else np.nan,
        "n": len(finite),
        "not_finite": len(found) - len(finite),
        "seeds": len(group),
        "warnings": warned(group, ERRORS),
    }


def _reconstructed(run: Run) -> pd.DataFrame:
    """Return the rows of the participants that were reconstructed: an excluded one is not."""
    clients = run.clients
    return clients[clients["participated"] & (clients["iterations"] > 0)]


def cost(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the cost of each defense: seconds a round, iterations a client and round, memory.

    Columns: dataset, defense, the settings that differ, metric, mean, std, n. A run counts as one
    value, its mean over rounds, whatever its attack and seed; n is the number of runs. Iterations
    are those of the participants that were reconstructed. Peak memory is that of the process (on a
    GPU of its tensors); storage is what the defense keeps between rounds, for each client.

    Raises:
        UserError: for a run that does not tell its seconds.
    """
    groups: dict[object, list[LabelledRun]] = {}
    for one in label_runs(runs):
        groups.setdefault((one.block, one.defense), []).append(one)
    return tidy([row for group in groups.values() for row in _cost_rows(group)])


def _cost_rows(group: list[LabelledRun]) -> list[Row]:
    names = {name: value for name, value in named(group[0]).items() if name != "attack"}
    costs = pd.DataFrame([_cost(one.run) for one in group], columns=list(COST), dtype=float)
    return [
        {
            **names,
            "metric": str(metric),
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)),
            "n": int(values.count()),
            "warnings": warned(group, ERRORS if metric == "iterations" else COSTS),
        }
        for metric, values in costs.items()
    ]


def _cost(run: Run) -> dict[str, float]:
    seconds = {part: run.seconds_per_round(part) for part in PARTS}
    iterations = _reconstructed(run)["iterations"]
    mean = float(iterations.mean()) if len(iterations) else np.nan
    storage = run.mebibytes("defense") / int(run.settings["partition"]["clients"])
    memory = {"peak": run.mebibytes("peak"), "storage": storage}
    return {**seconds, "total": sum(seconds.values()), "iterations": mean, **memory}


def error_blocks(frame: pd.DataFrame) -> list[Block]:
    """Attacks and kinds of clients as rows; the defense too, where it has variants."""
    variants = frame["defense"].nunique() > 1
    words = ["Attack", *(["Defense"] if variants else []), "Clients"]
    header = ["Mean", "Std", "n", "Not finite"]
    return [
        Block(
            f"{title}: reconstruction errors, {_told_seeds(part)}",
            words,
            header,
            [(_error_words(row, variants), _error_cells(row)) for row in records(part)],
        )
        for title, part in comparable(frame)
    ]


def _told_seeds(part: pd.DataFrame) -> str:
    return told_n(pd.DataFrame({"n": part["seeds"]})).removeprefix("n = ")


def _error_words(row: Row, variants: bool) -> list[str]:
    attack, defense = display(str(row["attack"])), display(str(row["defense"]))
    return [attack, *([defense] if variants else []), CLIENTS[str(row["clients"])]]


def _error_cells(row: Row) -> list[Cell]:
    spread = [number_cell(row, column, ERROR_DIGITS) for column in ("mean", "std")]
    return spread + [number_cell(row, column, 0) for column in ("n", "not_finite")]


def cost_blocks(frame: pd.DataFrame) -> list[Block]:
    """Defenses as rows, parts of a round as columns."""
    blocks = []
    for title, part in comparable(frame):
        rows = []
        for defense, values in part.groupby("defense", sort=False):
            cells = [_cost_cell(row) for row in records(values)]
            rows.append(([display(str(defense))], [*cells, Cell(values["n"].max(), digits=0)]))
        heading = (
            f"{title}: cost (seconds a round, iterations a client and round), mean and std of runs"
        )
        blocks.append(Block(heading, ["Defense"], [*COST.values(), "Runs (n)"], rows))
    return blocks


def _cost_cell(row: Row) -> Cell:
    digits = COST_DIGITS.get(row["metric"], 3)
    spread = defined(row["std"])
    return Cell(defined(row["mean"]), spread, digits=digits, warnings=warnings_of(row))
