"""How a round grows: seconds and memory against the number of clients and of parameters.

python -m benchmarks.growth            # measure, and draw docs/images/growth.png
python -m benchmarks.growth --draw     # draw what was measured before

Each point is the first round of a federation in a process of its own, with one thread.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.measure import environment, forget_peak_memory, machine_name, peak_memory, timed
from benchmarks.report import MEBIBYTE, RESULTS, table
from benchmarks.units import CLASSES, LAPTOP, random_dataset
from fedred.allocation import keep_freed_memory
from fedred.attacks.fang_trim import FangTrim
from fedred.defenses.fedavg import FedAvg
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.interface import Defense
from fedred.execution import choose_clients_per_chunk
from fedred.files import opened_whole
from fedred.local_training import LocalTraining
from fedred.models import ConvNet, flat_model
from fedred.report import style
from fedred.report.figures import write_figure
from fedred.simulation import Federation, initial_state, play_round

CPU = torch.device("cpu")
FIGURE = Path("docs/images/growth")
ITERATIONS = 10
DEFENSES: dict[str, Defense] = {
    "fedavg": FedAvg(),
    "fedredefense": FedREDefense(
        reconstruction=replace(LAPTOP, first_iterations=ITERATIONS, give_up=0.0)
    ),
}
SMALL, SMALL_SHAPE = ConvNet(width=16, depth=2), (1, 8, 8)
CLIENTS = (10, 30, 100, 300, 1000)
WIDTHS, WIDE_SHAPE, WIDE_CLIENTS = (8, 16, 32, 64, 128), (3, 32, 32), 4
COLUMNS = ("against", "defense", "clients", "parameters", "seconds", "memory MiB")


@dataclass(frozen=True)
class Point:
    """One federation: what its size is compared in, its defense, clients, network, image shape."""

    against: str
    defense: str
    clients: int
    network: ConvNet
    shape: tuple[int, int, int]
    samples: int


def points() -> list[Point]:
    """Return all federations that are measured."""
    return [
        *(Point("clients", d, n, SMALL, SMALL_SHAPE, 72) for d in DEFENSES for n in CLIENTS),
        *(
            Point("parameters", d, WIDE_CLIENTS, ConvNet(width=w), WIDE_SHAPE, 300)
            for d in DEFENSES
            for w in WIDTHS
        ),
    ]


def federation(point: Point) -> Federation:
    """Return the federation of a point; a quarter of its clients is malicious."""
    dataset = random_dataset(point.shape, point.clients * point.samples)
    images = dataset.normalise(dataset.train_images).split(point.samples)
    clients = tuple(zip(images, dataset.train_labels.split(point.samples), strict=True))
    model = flat_model(point.network, point.shape, CLASSES)
    return Federation(
        model=model,
        clients=clients,
        test_images=dataset.normalise(dataset.test_images),
        test_labels=dataset.test_labels,
        malicious=torch.arange(point.clients) >= point.clients - point.clients // 4,
        attack=FangTrim(),
        defense=DEFENSES[point.defense],
        training=LocalTraining(lr=0.01),
        rounds=1,
        clients_per_chunk=choose_clients_per_chunk(model, CPU, point.clients),
    )


def measured(point: Point) -> dict[str, Any]:
    """Return the row of one point: seconds of a round, and bytes beside data and libraries."""
    torch.set_num_threads(1)
    keep_freed_memory()
    fed = federation(point)
    state = initial_state(fed)
    few = federation(replace(point, clients=4, network=SMALL, shape=SMALL_SHAPE))
    play_round(few, initial_state(few))  # loads what PyTorch loads when it is first used
    forget_peak_memory(CPU)
    before = peak_memory(CPU)
    seconds = timed(lambda: play_round(fed, state), CPU)[1]
    return {
        "against": point.against,
        "defense": point.defense,
        "clients": point.clients,
        "parameters": fed.model.size,
        "seconds": seconds,
        "memory MiB": (peak_memory(CPU) - before) / MEBIBYTE,
    }


def measure() -> dict[str, Any]:
    """Measure all points, one after the other, each in a fresh process."""
    rows = []
    for point in points():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measured, point).result())
        print(rows[-1], file=sys.stderr, flush=True)
    return {"environment": environment(CPU), "rows": rows}


def slope(x: "pd.Series[float]", y: "pd.Series[float]") -> float:
    """Return the exponent of a power law through the points: 1 means twice as much costs twice."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@matplotlib.rc_context(style.RC)
def draw(rows: pd.DataFrame) -> Figure:
    """Draw seconds and memory against clients and against parameters, each with its slope."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    for column, against in enumerate(("clients", "parameters")):
        for row, value in enumerate(("seconds", "memory MiB")):
            axis, chosen = axes[row, column], rows[rows["against"] == against]
            for name in DEFENSES:
                group, colour = chosen[chosen["defense"] == name], style.line(name)[0]
                label = f"{style.display(name)}, slope {slope(group[against], group[value]):.2f}"
                axis.loglog(group[against], group[value], "o-", ms=3, color=colour, label=label)
            axis.set_ylabel(value.replace("memory MiB", "memory (MiB)"))
            axis.legend(fontsize="small")
        axes[1, column].set_xlabel(against)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    made = argparse.ArgumentParser("python -m benchmarks.growth", description=__doc__)
    made.add_argument("--draw", action="store_true", help="draw what was measured before")
    options = made.parse_args(arguments)
    path = RESULTS / f"growth-{machine_name(CPU)}.json"
    if not options.draw:
        text = f"{json.dumps(measure(), indent=2)}\n"
        with opened_whole(path) as file:
            file.write(text.encode())
    rows = pd.DataFrame(json.loads(path.read_text())["rows"])
    print(table([[told(cell) for cell in row] for row in rows.itertuples(index=False)], COLUMNS))
    write_figure(draw(rows), FIGURE, formats=("png",))
    return 0


def told(cell: Any) -> str:
    """Return a number with three digits, and anything else as it is."""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    sys.exit(main())
