"""The figures: accuracy over rounds, reconstruction errors, heat maps, the partition, a sweep."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.errors import UserError
from fedred.files import opened_tensors, opened_whole, told
from fedred.paths import shown, with_endings
from fedred.report import style
from fedred.report.drawing import (
    defense_line,
    first_seen,
    label_outer,
    legend_columns,
    page_figure,
    panel_grid,
    panels_of,
)
from fedred.report.error_figures import errors_over_rounds, reconstruction_error
from fedred.report.labels import LabelledRun, label_runs
from fedred.report.runs import Run, load_runs
from fedred.report.statistics import FloatArray, Spread, spread
from fedred.report.sweep_figure import sweep

Format = Literal["png", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "pdf")
SIDE_BY_SIDE = 8
"""Attacks up to which two heat maps fit beside each other."""


@matplotlib.rc_context(style.RC)
def accuracy_over_rounds(runs: Sequence[Run]) -> Figure:
    """Return test accuracy over rounds: a panel an attack, a line a defense.

    Lines are means over seeds, bands their 95 % confidence interval (none for a single seed).
    """
    labelled = label_runs(runs)
    defenses = first_seen(one.defense for one in labelled)
    panels = panels_of(labelled, lambda one: style.display(one.attack))
    legend_width = legend_columns([style.display(name) for name in defenses])
    legend_rows = -(-len(defenses) // legend_width)
    panel_height = 1.55 + 0.14 * panels[0][0].count("\n")
    figure, axes = panel_grid(len(panels), panel_height, 0.35 + 0.17 * legend_rows, shared=True)
    for axis, (title, members) in zip(axes, panels, strict=True):
        axis.set(title=title)
        for defense in defenses:
            _draw_accuracy(axis, [one for one in members if one.defense == defense], defenses)
    axes[0].set_yticks(np.linspace(0, 1, 6))  # before the limits, which they would widen
    axes[0].set_ylim(0, _fifths_above(axes))
    label_outer(axes, "Round", "Test accuracy")
    handles = [defense_line(defense, defenses, [], []) for defense in defenses]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_width)
    return figure


def _fifths_above(axes: Sequence[Axes]) -> float:
    """Return the smallest of 0.2, 0.4, ..., 1 that no line of the panels exceeds."""
    highest = max(
        float(np.max(line.get_ydata(), initial=0.0)) for axis in axes for line in axis.lines
    )
    return min(1.0, 0.2 * max(1, math.ceil(5 * highest)))


def _draw_accuracy(axis: Axes, group: list[LabelledRun], defenses: list[str]) -> None:
    if not group:
        return
    rounds, accuracy = _over_rounds(group, "accuracy")
    line = defense_line(group[0].defense, defenses, rounds, accuracy.mean)
    axis.add_line(line)
    axis.update_datalim(np.column_stack([rounds, accuracy.mean]))
    axis.autoscale_view(scaley=False)
    if len(group) > 1:
        low, high = accuracy.mean - accuracy.ci95, accuracy.mean + accuracy.ci95
        axis.fill_between(rounds, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def _over_rounds(group: list[LabelledRun], metric: str) -> tuple[FloatArray, Spread]:
    """Return the rounds in which a metric was measured, and its spread over seeds there."""
    series = [
        one.run.rounds.set_index("round")[metric] for one in sorted(group, key=lambda one: one.seed)
    ]
    table = pd.concat(series, axis=1).dropna()
    return table.index.to_numpy(float), spread(table.to_numpy(float).T)


@matplotlib.rc_context(style.RC | {"axes.grid": False})
def detection(runs: Sequence[Run]) -> Figure:
    """Return heat maps of FPR and FNR, averaged over rounds and seeds: defense x attack.

    Raises:
        UserError: when no run's defense accepts or rejects clients.
    """
    selecting = [run for run in runs if run.selects]
    if runs and not selecting:
        raise UserError("the detection figure needs a run whose defense accepts or rejects clients")
    titles = {"AFPR": "FPR, mean over rounds (%)", "AFNR": "FNR, mean over rounds (%)"}
    return _heat_maps(selecting, titles)


@matplotlib.rc_context(style.RC | {"axes.grid": False})
def heat_map(runs: Sequence[Run]) -> Figure:
    """Return heat maps of final accuracy and attack success rate, mean over seeds: defense x attack.

    Without an attack that has a backdoor there is no second map.
    """
    titles = {"accuracy": "Test accuracy (%)", "attack_success_rate": "Attack success rate (%)"}
    measured = {
        metric: words
        for metric, words in titles.items()
        if metric == "accuracy" or any(run.final.get(metric) is not None for run in runs)
    }
    return _heat_maps(runs, measured)


def _heat_maps(runs: Sequence[Run], titles: dict[str, str]) -> Figure:
    """Draw one map a metric, side by side, or below each other when the attacks are many."""
    panels = panels_of(label_runs(runs), lambda one: "")
    attacks = first_seen(one.attack for _, group in panels for one in group)
    defenses = [first_seen(one.defense for one in group) for _, group in panels]
    maps = [(metric, *panel) for panel in zip(panels, defenses, strict=True) for metric in titles]
    columns = len(titles) if len(attacks) <= SIDE_BY_SIDE else 1
    heights = [0.4 + 0.26 * len(names) for _, _, names in maps[::columns]]
    figure = page_figure(style.PAGE_WIDTH, 0.7 + sum(heights))
    axes = figure.subplots(
        len(heights), columns, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    for axis, (metric, (title, group), names) in zip(axes.flat, maps, strict=True):
        image = _heat_map(axis, _rates(group, metric, names, attacks))
        axis.set_title("\n".join(part for part in (title, titles[metric]) if part))
        for set_ticks, labels, turn in (
            (axis.set_yticks, names, {"rotation": 0}),
            (axis.set_xticks, attacks, {"rotation": 35, "ha": "right"}),
        ):
            shown = [style.display(label) for label in labels]
            set_ticks(np.arange(len(labels)) + 0.5, shown, **turn)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, ticks=[0, 50, 100])
    bar.outline.set_visible(False)
    return figure


def _rates(
    group: list[LabelledRun], metric: str, defenses: list[str], attacks: list[str]
) -> FloatArray:
    """Return a rate in percent [defenses, attacks], mean over seeds, NaN where not defined."""
    rates = np.full((len(defenses), len(attacks)), np.nan)
    for row, defense in enumerate(defenses):
        for column, attack in enumerate(attacks):
            values = [
                one.run.final.get(metric)
                for one in group
                if (one.defense, one.attack) == (defense, attack)
            ]
            defined = [value for value in values if value is not None]
            if defined:
                rates[row, column] = 100 * np.mean(defined)
    return rates


def _heat_map(axis: Axes, rates: FloatArray) -> Collection:
    """Draw rates with their numbers; a dash on grey where a rate is not defined."""
    axis.set_facecolor("#EEEEEE")
    seaborn.heatmap(
        rates,
        ax=axis,
        mask=np.isnan(rates),
        annot=np.vectorize(lambda rate: f"{rate:.1f}")(rates),
        fmt="",
        annot_kws={"fontsize": 7},
        cmap="Blues",
        vmin=0,
        vmax=100,
        cbar=False,
        linewidths=1,
    )
    for row, column in np.argwhere(np.isnan(rates)):
        axis.text(column + 0.5, row + 0.5, "\N{EN DASH}", ha="center", va="center", fontsize=7)
    axis.tick_params(length=0)
    return axis.collections[0]


@matplotlib.rc_context(style.RC)
def partition(path: Path | str) -> Figure:
    """Return how the samples of each class are divided: clients x classes, area = samples.

    Args:
        path: safetensors file with the tensor `counts` int64 [clients, C] and, when the classes
            have names, their JSON list as the metadata entry `classes`.

    Raises:
        UserError: for a file that is missing, torn or without `counts`.
    """
    counts, classes = read_partition(Path(path))
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
    dots.set_yticks(range(C), classes)
    dots.xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    _size_legend(figure, counts, area)
    return figure


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


FIGURES: dict[str, Callable[..., Figure]] = {
    "accuracy_over_rounds": accuracy_over_rounds,
    "reconstruction_error": reconstruction_error,
    "errors_over_rounds": errors_over_rounds,
    "detection": detection,
    "heat_map": heat_map,
    "partition": partition,
    "sweep": sweep,
}
"""Figures of runs take a list of `Run`; `partition` takes the path of a partition file."""


def made_figure(name: str, sources: Sequence[Path]) -> Figure:
    """Return a figure.

    Args:
        name: of a member of FIGURES or OFFLINE_FIGURES.
        sources: folders of finished runs; one partition file; files of `fedred reconstruct`.

    Raises:
        UserError: for sources that are missing or torn, or that cannot feed the figure.
    """
    if name not in FIGURES:
        from fedred.report.offline import OFFLINE_FIGURES  # scikit-learn loads slowly

        return OFFLINE_FIGURES[name](sources)
    if name != "partition":
        return FIGURES[name](load_runs(sources))
    if len(sources) > 1:
        raise UserError(f"the figure partition shows one file, but {len(sources)} are given")
    return partition(sources[0])


@matplotlib.rc_context(style.RC)
def write_figure(
    figure: Figure, prefix: Path | str, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Write a figure as PREFIX.png and PREFIX.pdf, the same bytes for the same figure.

    Args:
        figure: what a member of FIGURES returned.
        prefix: path without ending, or with that of the one form to write; its folder is made when
            missing.
        formats: which of the two to write.

    Returns:
        The files.

    Raises:
        WriteError: when one cannot be written.
    """
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = with_endings(Path(prefix), formats)
    for ending, path in files.items():
        with opened_whole(path) as file:
            figure.savefig(file, format=ending, metadata=undated[ending])
    return list(files.values())
