"""The figure of a partition: what images every client holds."""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.files import opened_tensors, told
from fedred.paths import shown
from fedred.report import style
from fedred.report.drawing import page_figure
from fedred.report.lettering import house_style, in_figure
from fedred.report.statistics import FloatArray

MOST_CLIENTS, MOST_CLASSES = 100, 50
"""Clients and classes up to which each pair of them has a dot of its own."""
COLUMNS, ROWS = 200, 100
"""Cells of the map of more clients or classes."""
ROW = 0.1
"""Inches of the height of a row of the map."""
NAME = 1.8
"""Inches of the name of a class."""


@house_style()
def partition(path: Path | str) -> Figure:
    """Return how the samples of each class are divided: clients x classes, area = samples.

    More than MOST_CLIENTS or MOST_CLASSES are drawn as a map: the colour of a cell is the mean
    number of samples that its clients have of its classes. Above it stand the mean, smallest and
    largest number of samples of the clients of a column.

    Args:
        path: safetensors file with the tensor `counts` int64 [clients, C] and, when the classes
            have names, their JSON list as the metadata entry `classes`.

    Raises:
        UserError: for a file that is missing, torn or without `counts`.
    """
    counts, classes = read_partition(Path(path))
    clients, C = counts.shape
    names = [in_figure(name, NAME, 7) for name in classes]
    small = clients <= MOST_CLIENTS and C <= MOST_CLASSES
    figure = _dots(counts, names) if small else _map(counts, names)
    figure.align_ylabels()
    return figure


def _dots(counts: np.ndarray, names: list[str]) -> Figure:
    clients, C = counts.shape
    figure = page_figure(style.PAGE_WIDTH, 1.5 + 0.22 * C)
    total, dots = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.45 * C])
    total.bar(range(clients), counts.sum(axis=1), width=0.7, color=style.GREY)
    total.set_ylabel("Samples")
    y, x = np.meshgrid(range(C), range(clients))
    diameter = 72 * min(9 / clients, 0.2)
    area = diameter**2 / max(counts.max(), 1)
    dots.scatter(x, y, s=counts * area, color=style.HONEST, alpha=0.85, linewidths=0)
    dots.set(xlabel="Client", ylabel="Class", xlim=(-0.7, clients - 0.3), ylim=(C - 0.4, -0.6))
    dots.set_yticks(range(C), names)
    dots.xaxis.get_major_locator().set_params(integer=True)
    _size_legend(figure, counts, area)
    return figure


def _map(counts: np.ndarray, names: list[str]) -> Figure:
    clients, C = counts.shape
    columns, rows = _edges(clients, COLUMNS), _edges(C, ROWS)
    height = max(1.5, ROW * (len(rows) - 1))
    figure = page_figure(style.PAGE_WIDTH, 2.0 + height)
    total, cells = figure.subplots(2, 1, sharex=True, height_ratios=[0.8, height])
    _draw_sizes(total, counts.sum(axis=1), columns)
    image = cells.pcolormesh(
        columns - 0.5,
        rows - 0.5,
        mean_of_cells(counts, columns, rows).T,
        cmap="Blues",
        vmin=0,
        rasterized=True,
    )
    each = _cell_in_words(int(columns[1]), int(rows[1]))
    cells.set(xlabel=f"Client (each cell: {each})", xlim=(-0.5, clients - 0.5))
    cells.set(ylabel="Class", ylim=(C - 0.5, -0.5))
    named = rows[: -1 : max(1, math.ceil(0.13 * (len(rows) - 1) / height))]
    cells.set_yticks(named, [names[place] for place in named])
    cells.xaxis.get_major_locator().set_params(integer=True)
    cells.grid(visible=False)
    bar = figure.colorbar(image, ax=cells, fraction=0.025, pad=0.01)
    bar.set_label("Samples of a client and class, mean")
    bar.outline.set_visible(False)
    return figure


def _draw_sizes(axis: Axes, sizes: np.ndarray, columns: np.ndarray) -> None:
    parts = np.split(sizes, columns[1:-1])
    low, mean, high = (np.array([reduce(part) for part in parts]) for reduce in _SPREAD)
    axis.stairs(high, columns - 0.5, baseline=low, fill=True, color="#CCCCCC", linewidth=0)
    axis.stairs(mean, columns - 0.5, baseline=None, color="black", linewidth=0.6)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("Samples" if columns[1] == 1 else "Samples:\nmean, range")


def _cell_in_words(clients: int, classes: int) -> str:
    return f"{clients} client{'s' * (clients > 1)} x {classes} class{'es' * (classes > 1)}"


_SPREAD = (np.min, np.mean, np.max)


def _edges(count: int, most: int) -> np.ndarray:
    """Return where bins of equal size begin, so that there are at most so many, and the end."""
    return np.append(np.arange(0, count, -(-count // most)), count)


def mean_of_cells(counts: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> FloatArray:
    """Return the mean of counts [clients, C] in each cell [columns, rows].

    Args:
        counts: samples of each client and class.
        columns: first client of each column, and the number of clients.
        rows: first class of each row, and the number of classes.
    """
    sums = np.add.reduceat(np.add.reduceat(counts, columns[:-1], 0), rows[:-1], 1)
    means: FloatArray = sums / np.outer(np.diff(columns), np.diff(rows))
    return means


def read_partition(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return how many images of each class every client holds [clients, classes], and the classes.

    Raises:
        UserError: for a file that is missing, torn or without `counts`.
    """
    with (
        told(f"the partition file {shown(path)} cannot be read"),
        opened_tensors(path, "numpy") as file,
    ):
        counts = file.get_tensor("counts")
        names = json.loads((file.metadata() or {}).get("classes", "[]")) or range(counts.shape[1])
        if counts.dtype.kind not in "iu" or counts.size == 0 or counts.min() < 0:
            raise ValueError("its counts must be whole numbers for each client and class")
        if counts.ndim != 2 or len(names) != counts.shape[1]:
            raise ValueError("its counts and the names of its classes do not fit together")
        return counts, [str(name) for name in names]


def _size_legend(figure: Figure, counts: np.ndarray, area: float) -> None:
    largest = int(counts.max())
    sizes = sorted({max(1, round(largest * share)) for share in (0.1, 0.5, 1)})
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color=style.HONEST,
            markeredgewidth=0,
            markersize=(size * area) ** 0.5,
            label=f"{size} samples",
        )
        for size in sizes
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(sizes))
