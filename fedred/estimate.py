"""How much work a configuration is, and how long it takes at the pace of a measured run.

Work is counted in floating-point operations of products of matrices, local training and reconstruction
apart. A run that was measured tells how many of each a second; rates of another network are a guess.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedred.config import resolve
from fedred.defenses.fedredefense import FedREDefense
from fedred.errors import UserError
from fedred.execution import forward_operations
from fedred.models import flat_model
from fedred.plan import Plan, as_text
from fedred.reconstruction import Reconstruction
from fedred.simulation import participants_of

Settings = Mapping[str, Any]
Shape = tuple[int, int, int]
KNOWN: dict[str, tuple[Shape, int, int]] = {
    "digits": ((1, 8, 8), 10, 1_437),
    "fashion_mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cinic10": ((3, 32, 32), 10, 90_000),
}
"""Shape of an image, classes and training images of the data sets of one size."""
TRAINING_PASSES, RECONSTRUCTION_PASSES = 3.0, 9.0
"""Passes forward that a step costs: backward two, and a step of training is itself differentiated."""


@dataclass(frozen=True)
class Work:
    """Operations of a run: of all local training, and of all reconstruction at most."""

    training: float = 0.0
    reconstruction: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.training + other.training, self.reconstruction + other.reconstruction)


@dataclass(frozen=True)
class Pace:
    """Seconds an operation, and the share that was used of all iterations that there might be.

    `reconstruction` and `used` are None when no measured run reconstructed.
    """

    training: float
    reconstruction: float | None
    used: float | None
    source: str

    def hours(self, work: Work) -> float | None:
        """Return how long some work takes, None where its pace was not measured."""
        if work.reconstruction and self.reconstruction is None:
            return None
        return (
            work.training * self.training + work.reconstruction * (self.reconstruction or 0)
        ) / 3600


def work_of(settings: Settings) -> Work | None:
    """Return the work of a run, None when the size of its data is not known beforehand.

    The reconstruction is counted as if every participant used all its iterations, and as if nobody
    were excluded. Evaluation, attacks and other defenses are not counted.

    Args:
        settings: resolved settings of the run, as plain values.
    """
    if settings["dataset"]["name"] not in KNOWN:
        return None
    shape, classes, images = KNOWN[settings["dataset"]["name"]]
    run = resolve(settings)
    forward = _forward(as_text(settings["model"]), shape, classes)
    clients = run.partition.clients
    dealt = getattr(run.partition, "samples_per_client", None) or images / clients
    visits = run.rounds * participants_of(run.participation, clients)
    training = TRAINING_PASSES * forward * visits * dealt * run.training.epochs
    defense = run.defense.build()
    if not isinstance(defense, FedREDefense):
        return Work(training)
    options = defense.reconstruction
    # Between one round's participants and all clients are met for the first time.
    iterations = max(
        first * options.first_iterations + (visits - first) * options.later_iterations
        for first in (visits // run.rounds, min(clients, visits))
    )
    return Work(training, _an_iteration(settings, options) * iterations)


def work_of_judging(settings: Settings, judge: Settings) -> Work:
    """Return the work of judging a run's recorded rounds offline, all iterations for every client.

    Args:
        settings: resolved settings of the run, as plain values, its data of a known size.
        judge: fedredefense with its options, as plain values.
    """
    run, options = resolve(settings), resolve({"defense": judge}).defense.build().reconstruction
    clients = participants_of(run.participation, run.partition.clients)
    iterations = len(settings.get("record", ())) * clients * options.first_iterations
    return Work(reconstruction=_an_iteration(settings, options) * iterations)


def _an_iteration(settings: Settings, options: Reconstruction) -> float:
    """Return the operations of one iteration of one client."""
    shape, classes, _ = KNOWN[settings["dataset"]["name"]]
    images = options.steps * options.images(classes)
    return RECONSTRUCTION_PASSES * _forward(as_text(settings["model"]), shape, classes) * images


@cache
def _forward(model: str, shape: Shape, classes: int) -> int:
    built = resolve({"model": json.loads(model)}).model.build()
    return forward_operations(flat_model(built, shape, classes))


def pace_of(folders: Sequence[Path]) -> Pace:
    """Return the pace of finished runs, from the seconds and the iterations that they tell.

    Raises:
        UserError: for a folder without a finished run, or with one whose data are of unknown size.
    """
    from fedred.report.runs import load_runs  # pandas loads slowly

    training, reconstruction, most = [], [], 0.0
    for run in load_runs(folders):
        work = work_of(run.settings)
        if work is None:
            name = run.settings["dataset"]["name"]
            raise UserError(
                f"{run.folder}: how large {name} is cannot be told: measure another run"
            )
        parts = ("training", "attack", "evaluation")
        training.append((sum(map(run.seconds_per_round, parts)), run, work.training))
        if work.reconstruction:
            options = resolve(run.settings).defense.build().reconstruction
            made = float(run.clients["iterations"].sum()) * _an_iteration(run.settings, options)
            reconstruction.append((run.seconds_per_round("defense"), run, made))
            most += work.reconstruction
    told = {f"{one.settings['model']['name']}, {one.computed}" for _, one, _ in training}
    first, second = (_seconds_an_operation(part) for part in (training, reconstruction))
    used = sum(made for _, _, made in reconstruction) / most if most else None
    return Pace(first or 0.0, second, used, "; ".join(sorted(told)))


def _seconds_an_operation(measured: Iterable[tuple[float, Any, float]]) -> float | None:
    rows = list(measured)
    seconds = sum(each * run.settings["rounds"] for each, run, _ in rows)
    operations = sum(work for _, _, work in rows)
    return seconds / operations if operations else None


@dataclass(frozen=True)
class Estimate:
    """The runs of an experiment that no experiment before it has, and their work."""

    experiment: str
    runs: int
    unknown: int
    work: Work


def estimates(plan: Plan) -> list[Estimate]:
    """Return what each experiment adds to the work, with what it judges offline.

    A run that two experiments share counts in the first.
    """
    seen: set[str] = set()
    found = []
    for experiment, runs in plan.experiments.items():
        new = [run for run in runs if run not in seen]
        seen.update(new)
        works = [work_of(plan.runs[run]) for run in new]
        known = [work for work in works if work is not None]
        total = sum((*known, *_judging(plan, experiment)), Work())
        found.append(Estimate(experiment, len(new), len(works) - len(known), total))
    return found


def _judging(plan: Plan, experiment: str) -> Iterator[Work]:
    for run in plan.experiments[experiment] if experiment in plan.judges else ():
        settings = plan.runs[run]
        if settings.get("record") and settings["dataset"]["name"] in KNOWN:
            yield work_of_judging(settings, plan.judges[experiment])


def print_estimates(
    found: Sequence[Estimate], pace: Pace | None, gpus: int, console: Console
) -> None:
    """Print runs, work and hours of each experiment and in all, and what the hours rest on."""
    total = sum((each.work for each in found), Work())
    rows = [*((each.experiment, each.runs, each.work) for each in found)]
    rows.append(("all", sum(each.runs for each in found), total))
    columns = ["experiment", "runs", "training, PFLOP", "reconstruction, PFLOP"]
    table = Table(*columns, *([f"hours on {gpus}"] if pace else []), box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name, runs, work in rows:
        cells = [name, f"{runs:,}", _peta(work.training), _peta(work.reconstruction)]
        table.add_row(*cells, *([_hours(pace.hours(work), gpus)] if pace else []))
    console.print(table)
    for line in _remarks(found, pace):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _peta(operations: float) -> str:
    return f"{operations / 1e15:,.3g}" if operations < 1e18 else f"{operations / 1e15:,.0f}"


def _hours(hours: float | None, gpus: int) -> str:
    return "\N{EN DASH}" if hours is None else f"{hours / gpus:,.1f}"


def _remarks(found: Sequence[Estimate], pace: Pace | None) -> Iterator[str]:
    if any(each.work.reconstruction for each in found):
        yield "Reconstruction: at most, as if every participant used all its iterations."
    unknown = sum(each.unknown for each in found)
    if unknown:
        yield f"{unknown} runs are not estimated: the size of their data is known once it is read."
    if pace is None:
        yield (
            "For hours, measure a round: fedred run SETTINGS --set rounds=1 --out measured, then "
            "fedred plan CONFIG --measured measured"
        )
        return
    yield f"At the pace of {pace.source}. Another network or batch has another pace."
    if pace.used is not None:
        yield f"The measured runs used {pace.used:.1%} of the iterations that they might have used."
    if pace.reconstruction is None:
        yield "No measured run was defended by fedredefense: its runs are not estimated."
