"""The calibration study: how many iterations clients need, and at which learning rate of theirs.

python -m benchmarks.calibration --data FOLDER fashion_mnist cifar10

Local training at several learning rates, then the reconstruction of every update, honest and forged, by
the bounded step size with one fixed setting, and of some honest ones by the released numbers. Curves go
to benchmarks/results/calibration-<data set>.parquet after each setting; settings that are there are
not computed again.

python -m benchmarks.calibration --replay STUDY ...

What giving up would have saved and changed in recorded rounds of published studies.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.report import RESULTS
from benchmarks.units import LAPTOP
from fedred import rng
from fedred.attacks import ATTACKS
from fedred.config import resolve
from fedred.errors import UserError, unknown_name
from fedred.execution import Execution
from fedred.files import opened_whole
from fedred.gradients import value_and_pull
from fedred.partition import partition
from fedred.reconstruction import (
    FALLS,
    Knowledge,
    Reconstruction,
    hopeless,
    reconstruction_error,
)
from fedred.report import style
from fedred.report.figures import write_figure
from fedred.report.judged import load_judged
from fedred.run import assemble, executed
from fedred.simulation import (
    Federation,
    State,
    announced_samples,
    forge,
    initial_state,
    local_updates,
)

CLIENTS, MALICIOUS = 20, 5
LEARNING_RATES, ALPHAS, ROUNDS = (0.001, 0.005, 0.01, 0.05), (0.1, 1.0), (1, 5)
ATTACKERS = {"fang_trim": 2, "min_max": 2, "min_sum": 2, "mpaf": 2, "scaling": 5, "dba": 5}
"""Attacks, and how many of their clients are reconstructed: those that send nearly the same, two."""
RELEASED_CLIENTS = 3
THRESHOLD, BUDGET = 0.6, 18
FIGURE = Path("docs/images/calibration")
BOUNDED = replace(LAPTOP, first_iterations=20, give_up=0.0)
"""The setting of config/laptop.yaml; the curves go on a little, and giving up is replayed on them."""
RELEASED = {
    "fashion_mnist": Reconstruction(
        image_lr=0.5,
        label_lr=0.2,
        step_size_lr=5e-6,
        initial_step_size=0.1,
        first_iterations=800,
    ),
    "cifar10": Reconstruction(),
}


@dataclass(frozen=True)
class Sent:
    """Updates [n, P] from clients of one kind in one round, and the state before it."""

    kind: str
    updates: Tensor
    state: State


def federation(data: Path, dataset: str, settings: dict[str, Any]) -> Federation:
    """Return the federation whose honest rounds are studied."""
    resolved = resolve({"dataset": settings.pop("dataset", dataset), **settings})
    loaded = resolved.dataset.build().load(data, download=False)
    method, classes = resolved.partition.build(), len(loaded.classes)
    held = partition(method, loaded.train_labels, classes, resolved.seed, loaded.checksum)
    return executed(assemble(resolved, loaded, held), torch.device("cpu"), Execution(compile="on"))


def rounds(honest: Federation) -> Iterator[Sent]:
    """Play FedAvg without attack; yield what honest clients, and those of each attack, would send."""
    state, everyone = initial_state(honest), torch.arange(CLIENTS)
    malicious = everyone >= CLIENTS - MALICIOUS
    for round in range(1, max(ROUNDS) + 1):
        updates = local_updates(honest, state.weights, everyone, round)
        if round in ROUNDS:
            yield Sent("honest", updates[~malicious].clone(), state)
            for name, count in ATTACKERS.items():
                attacked = replace(honest, attack=ATTACKS[name](), malicious=malicious)
                sent = updates.clone()
                sent[malicious] = local_updates(attacked, state.weights, everyone[malicious], round)
                forged = forge(attacked, state, everyone, sent, round)[0][malicious]
                yield Sent(name, forged[:count].clone(), state)
        aggregate = state.weights + updates.mean(0)
        state = replace(state, weights=aggregate, previous_weights=state.weights, round=round)


def curves(federation: Federation, sent: Sent, options: Reconstruction) -> Iterator[list[float]]:
    """Yield the errors of each client, iteration by iteration, until the threshold or the budget."""
    model, weights = federation.model, sent.state.weights
    generator = rng.generator(federation.seed, "defense", sent.state.round + 1)
    images = options.initial_images(model, generator)
    samples = announced_samples(federation, torch.zeros(len(sent.updates), dtype=torch.long))
    pace = options.pace(model, weights, sent.updates, samples, federation.training, generator)

    def error(parts: Knowledge, update: Tensor) -> Tensor:
        how = (options.steps, options.epsilon, pace.longest_slope)
        return reconstruction_error(model, weights, parts, update, *how)

    labels = images.new_zeros(1, options.images(model.classes), model.classes)
    for update, step_size in zip(sent.updates, pace.step_sizes, strict=True):
        current = Knowledge(images[None], labels, step_size[None])
        moments, curve = [Knowledge(*map(torch.zeros_like, current)) for _ in range(2)], []
        while len(curve) < options.first_iterations:
            value, pull = value_and_pull(error, 1, compiled=True)(current, update[None])
            curve.append(float(value))
            if not np.isfinite(curve[-1]) or curve[-1] < THRESHOLD:
                break
            current, moments = options.learn(current, pull(), moments, len(curve))
        yield curve


def read_table(path: Path) -> pd.DataFrame:
    """Return a parquet file, whatever its folder is called."""
    with path.open("rb") as file:
        return pd.read_parquet(file)


def study(data: Path, dataset: str, source: Any, path: Path) -> None:
    """Compute all settings of a data set that the file does not hold yet."""
    table = read_table(path) if path.exists() else pd.DataFrame()
    for lr, alpha in itertools.product(LEARNING_RATES, ALPHAS):
        if len(table) and ((table["lr"] == lr) & (table["alpha"] == alpha)).any():
            continue
        honest = federation(
            data,
            dataset,
            {
                "dataset": source,
                "partition": {
                    "name": "balanced_dirichlet",
                    "clients": CLIENTS,
                    "samples_per_client": 300,
                    "alpha": alpha,
                },
                "model": {"name": "convnet", "width": 32},
                "training": {"lr": lr},
                "rounds": max(ROUNDS),
            },
        )
        rows = list(measured(honest, dataset, lr, alpha))
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        with opened_whole(path) as file:
            table.to_parquet(file, index=False)


def measured(honest: Federation, dataset: str, lr: float, alpha: float) -> Iterator[dict[str, Any]]:
    """Yield one row for each reconstruction of one setting."""
    for sent in rounds(honest):
        methods = {"bounded": (BOUNDED, sent)}
        if sent.kind == "honest" and sent.state.round == 0 and alpha == ALPHAS[0]:
            few = replace(sent, updates=sent.updates[:RELEASED_CLIENTS])
            methods["released"] = (RELEASED[dataset], few)
        for method, (options, chosen) in methods.items():
            found = list(curves(honest, chosen, options))
            ends = ", ".join(f"{len(curve)} {curve[-1]:.2f}" for curve in found)
            print(dataset, lr, alpha, sent.state.round + 1, method, sent.kind, ends, flush=True)
            for client, curve in enumerate(found):
                yield {
                    "dataset": dataset,
                    "lr": lr,
                    "alpha": alpha,
                    "round": sent.state.round + 1,
                    "method": method,
                    "kind": sent.kind,
                    "client": client,
                    "errors": curve,
                }


def judged(table: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Return for each setting and kind: clients, share that passes in a budget, and iterations.

    Args:
        table: reconstructions by one method.
        budget: most iterations.
    """
    lengths = table["errors"].map(len)
    passes = (table["errors"].map(lambda errors: errors[-1]) < THRESHOLD) & (lengths <= budget)
    stood = table["errors"].map(lambda errors: errors[:budget][-1])
    group = table.assign(passes=passes, needed=lengths.where(passes), error=stood).groupby(
        ["dataset", "lr", "alpha", "kind"], sort=False
    )
    return group.agg(
        clients=("passes", "size"),
        passed=("passes", "sum"),
        fewest=("needed", "min"),
        median=("needed", "median"),
        most=("needed", "max"),
        smallest_error=("error", "min"),
    ).reset_index()


def given_up(errors: Sequence[float], give_up: float) -> int:
    """Return after how many iterations of its curve a client is done when it may be given up."""
    curve = list(torch.tensor(errors, dtype=torch.float64)[:BUDGET, None])
    for made in range(1, len(curve)):
        recent, left = curve[max(0, made - FALLS - 1) : made], torch.tensor([BUDGET - made])
        if hopeless(recent, left, THRESHOLD, give_up):
            return made
    return len(curve)


def savings(table: pd.DataFrame, give_up: float) -> str:
    """Return what giving up saves and changes, in a sentence."""
    curves = table["errors"].map(lambda errors: errors[:BUDGET])
    made, done = curves.map(len), curves.map(lambda errors: given_up(errors, give_up))
    passes = curves.map(lambda errors: errors[-1] < THRESHOLD)
    changed = (done < made) & passes
    saved = 1 - done.sum() / made.sum()
    return (
        f"give_up {give_up:g}: {changed.sum()} of {len(curves)} decisions changed, "
        f"{passes.sum()} pass without giving up, {saved:.0%} of the iterations saved"
    )


def replayed(studies: Sequence[Path]) -> pd.DataFrame:
    """Return the curves of published recorded rounds, each until it passes or is not finite.

    Raises:
        UserError: when a study has no recorded round, or one that was judged at another threshold.
    """
    files = [
        path for study in studies for path in sorted(study.glob("reconstructions/**/*.parquet"))
    ]
    rounds = load_judged(files) if files else []
    if {one.threshold for one in rounds} != {THRESHOLD}:
        raise UserError(
            f"{', '.join(map(str, studies))}: no recorded rounds judged at {THRESHOLD:g}: name "
            "folders that `fedred publish` wrote"
        )
    curves = [curve for one in rounds for curve in one.curves()[0]]
    return pd.DataFrame({"errors": [curve[: _until(curve)] for curve in curves]})


def _until(curve: np.ndarray) -> int:
    ends = np.flatnonzero((curve < THRESHOLD) | ~np.isfinite(curve))
    return int(ends[0]) + 1 if len(ends) else len(curve)


@matplotlib.rc_context(style.RC)
def draw(table: pd.DataFrame) -> Figure:
    """Draw, for each data set, iterations against the clients' learning rate, and errors of each kind."""
    figure = Figure(figsize=(style.PAGE_WIDTH, 4.6), layout="constrained")
    names = list(table["dataset"].unique())
    axes = figure.subplots(2, len(names), sharey="row", squeeze=False)
    for column, name in enumerate(names):
        chosen = table[table["dataset"] == name]
        _draw_iterations(axes[0, column], chosen)
        _draw_errors(axes[1, column], chosen[chosen["method"] == "bounded"])
        axes[0, column].set_title(style.display(name))
    axes[0, 0].set_ylabel(f"iterations until error < {THRESHOLD:g}")
    axes[1, 0].set_ylabel(f"error, after {BUDGET} iterations at most")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw_iterations(axis: Axes, table: pd.DataFrame) -> None:
    """Released and bounded, honest clients and attackers; those that never pass are not drawn."""
    needed = table.assign(needed=table["errors"].map(len))
    needed = needed[table["errors"].map(lambda errors: errors[-1]) < THRESHOLD]
    honest, bounded = needed["kind"] == "honest", needed["method"] == "bounded"
    series = {
        "honest, released": (honest & ~bounded, style.SKY, "^"),
        "honest, bounded": (honest & bounded, style.HONEST, "o"),
        "attackers, bounded": (~honest, style.MALICIOUS, "x"),
    }
    for shift, (label, (rows, colour, marker)) in enumerate(series.items()):
        places = needed[rows]["lr"] * 1.12 ** (shift - 1)
        how = {"ms": 3.5, "alpha": 0.6, "color": colour, "label": label}
        axis.loglog(places, needed[rows]["needed"], marker, **how)
    axis.axhline(BUDGET, color=style.GREY, linestyle=style.DASHED, label="budget")
    axis.set_xlabel("learning rate of the clients")
    axis.set_xticks(LEARNING_RATES, [f"{lr:g}" for lr in LEARNING_RATES])
    axis.minorticks_off()


def _draw_errors(axis: Axes, table: pd.DataFrame) -> None:
    """One column of points a kind, from the smallest learning rate at its left to the largest."""
    kinds = ["honest", *ATTACKERS]
    errors = table["errors"].map(lambda errors: errors[:BUDGET][-1])
    shift = table["lr"].map({lr: 0.17 * place for place, lr in enumerate(LEARNING_RATES)})
    places = table["kind"].map(kinds.index) + shift - 0.25
    colours = np.where(table["kind"] == "honest", style.HONEST, style.MALICIOUS)
    axis.scatter(places, errors, s=7, c=colours, alpha=0.4, linewidths=0)
    axis.axhline(THRESHOLD, color=style.GREY, linestyle=style.DASHED)
    names = [
        style.display(kind).capitalize() if kind == "honest" else style.display(kind)
        for kind in kinds
    ]
    axis.set_xticks(range(len(kinds)), names, rotation=35, ha="right")


def report(names: Sequence[str]) -> None:
    """Print what the files of these data sets say, and draw the figure."""
    table = pd.concat(
        [read_table(RESULTS / f"calibration-{name}.parquet") for name in names],
        ignore_index=True,
    )
    for method, budget in (("bounded", BUDGET), ("released", 10**6)):
        print(f"\n{method}")
        print(judged(table[table["method"] == method], budget).to_string(index=False))
    tell_savings(table[table["method"] == "bounded"])
    write_figure(draw(table), FIGURE, formats=("png",))


def tell_savings(table: pd.DataFrame) -> None:
    """Print what giving up saves and changes, at several factors."""
    for give_up in (1.0, 2.0, 3.0):
        print(savings(table, give_up))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for a mistake."""
    made = argparse.ArgumentParser("python -m benchmarks.calibration", description=__doc__)
    made.add_argument(
        "datasets", nargs="*", default=list(RELEASED), metavar="DATASET", help=", ".join(RELEASED)
    )
    made.add_argument(
        "--data", type=Path, help="folder of the data sets; none: report what is there"
    )
    made.add_argument("--folder", help="folder of CIFAR-10 as image files in it")
    made.add_argument(
        "--replay",
        nargs="+",
        type=Path,
        metavar="STUDY",
        help="published studies; nothing else is done",
    )
    options = made.parse_args(arguments)
    try:
        if options.replay:
            tell_savings(replayed(options.replay))
            return 0
        for name in options.datasets:
            if name not in RELEASED:
                raise UserError(unknown_name("data set", name, RELEASED))
            folder = options.folder if name == "cifar10" else None
            source = {"name": "image_folder", "folder": folder} if folder else name
            if options.data:
                study(options.data, name, source, RESULTS / f"calibration-{name}.parquet")
        report(options.datasets)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
