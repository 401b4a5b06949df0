"""The figures: accuracy over rounds, reconstruction errors, heat maps, the partition, a sweep."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure

from fedred.errors import UserError
from fedred.files import opened_whole, told
from fedred.paths import shown, with_endings
from fedred.report import style
from fedred.report.drawing import (
    defense_legend,
    defense_line,
    first_seen,
    label_outer,
    legend_height,
    noted,
    page_figure,
    panel_grid,
    panel_room,
    panels_of,
    tell_left_out,
    title_height,
    told_apart,
    with_room,
)
from fedred.report.error_figures import errors_over_rounds, reconstruction_error
from fedred.report.labels import LabelledRun, label_runs
from fedred.report.lettering import house_style, in_figure, width, wrapped
from fedred.report.notes import ERRORS, RESULTS
from fedred.report.partition_figure import partition
from fedred.report.runs import Run, load_runs
from fedred.report.statistics import FloatArray, Spread, spread
from fedred.report.sweep_figure import sweep

Format = Literal["png", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "pdf")
SIDE_BY_SIDE = 8
"""Attacks up to which two heat maps fit beside each other."""
CELL = 0.26
"""Inches of the height of a row of a heat map, where a page has room for it."""
NUMBER = 0.24, 0.13
"""Inches that a number of a heat map needs."""
NAME, TICK, TURN = 1.8, 7.0, math.radians(35)
"""Inches of the name of a row or column, points of its letters, and the turn of those of columns."""


@house_style()
def accuracy_over_rounds(runs: Sequence[Run]) -> Figure:
    """Return test accuracy over rounds: a panel an attack, a line a defense.

    Lines are means over seeds, bands their 95 % confidence interval (none for a single seed).
    """
    labelled = label_runs(runs)
    every_defense = first_seen(one.defense for one in labelled)
    defenses = told_apart(every_defense)
    panels = with_room(panels_of(labelled, lambda one: style.display(one.attack)))
    panel_height, other_height = 1.55 + title_height(panels), 0.35 + legend_height(defenses)
    figure, axes = panel_grid(len(panels), panel_height, other_height, shared=True)
    for axis, (title, members) in zip(axes, panels, strict=False):
        axis.set(title=title)
        for defense in defenses:
            _draw_accuracy(axis, [one for one in members if one.defense == defense], defenses)
    axes[0].set_yticks(np.linspace(0, 1, 6))  # before the limits, which they would widen
    axes[0].set_ylim(0, _fifths_above(axes))
    label_outer(axes, "Round", "Test accuracy")
    defense_legend(figure, defenses)
    tell_left_out(figure, len(axes), len(panels), "panels")
    tell_left_out(figure, len(defenses), len(every_defense), "defenses")
    return figure


def _fifths_above(axes: Sequence[Axes]) -> float:
    """Return the smallest of 0.2, 0.4, ..., 1 that no line of the panels exceeds."""
    highest = max(
        float(np.max(np.asarray(line.get_ydata(), float), initial=0.0))
        for axis in axes
        for line in axis.lines
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


@house_style(axes__grid=False)
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


@house_style(axes__grid=False)
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
    columns = len(titles) if len(attacks) <= SIDE_BY_SIDE else 1
    words = [in_figure(style.display(attack), NAME, TICK) for attack in attacks]
    below = 0.7 + max(0.0, max(width(word, TICK) for word in words) - 1.4) * math.sin(TURN)
    shown = _blocks_of_page(defenses, len(titles) // columns, below)
    maps = [
        (metric, *panel)
        for panel in zip(panels[:shown], defenses[:shown], strict=True)
        for metric in titles
    ]
    heights = [0.4 + CELL * len(names) for _, _, names in maps[::columns]]
    figure = page_figure(style.PAGE_WIDTH, below + sum(heights))
    axes = figure.subplots(
        len(heights), columns, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    high = CELL * min(1.0, (style.PAGE_HEIGHT - below) / sum(heights))
    wide = (style.PAGE_WIDTH - 2.2) / columns / len(attacks)
    for axis, (metric, (title, group), names) in zip(axes.flat, maps, strict=True):
        image = _heat_map(axis, _rates(group, metric, names, attacks), wide, high)
        above = (title, titles[metric])
        room = panel_room(columns)
        axis.set_title("\n".join(wrapped(part, room) for part in above if part))
        rows = [in_figure(style.display(name), NAME, TICK) for name in names]
        _name_cells(axis.set_yticks, rows, 0.12 / high, rotation=0)
        _name_cells(axis.set_xticks, words, 0.17 / wide, rotation=math.degrees(TURN), ha="right")
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, ticks=[0, 50, 100])
    bar.outline.set_visible(False)
    tell_left_out(figure, shown, len(panels), "settings")
    return figure


def _blocks_of_page(defenses: Sequence[Sequence[str]], maps: int, below: float) -> int:
    """Return how many blocks, of so many maps below each other, a page has room for."""
    heights = np.cumsum([maps * (0.4 + CELL * len(names)) for names in defenses])
    return max(1, int(np.sum(heights <= style.PAGE_HEIGHT - below)))


def _name_cells(
    set_ticks: Callable[..., Any], names: Sequence[str], apart: float, **turn: Any
) -> None:
    """Name the rows or columns of a map: all, or each second, third ... where they are narrow."""
    step = max(1, math.ceil(apart))
    set_ticks(np.arange(len(names))[::step] + 0.5, names[::step], **turn)


def _rates(
    group: list[LabelledRun], metric: str, defenses: list[str], attacks: list[str]
) -> FloatArray:
    """Return a rate in percent [defenses, attacks], mean over seeds, NaN where not defined."""
    values: dict[tuple[str, str], list[float]] = {}
    for one in group:
        if (value := one.run.final.get(metric)) is not None:
            values.setdefault((one.defense, one.attack), []).append(value)
    rates = np.full((len(defenses), len(attacks)), np.nan)
    for (defense, attack), defined in values.items():
        rates[defenses.index(defense), attacks.index(attack)] = 100 * np.mean(defined)
    return rates


def _heat_map(axis: Axes, rates: FloatArray, wide: float, high: float) -> Collection:
    """Draw rates in cells of a size in inches; a dash on grey where a rate is not defined.

    Their numbers stand in the cells if there is room.
    """
    axis.set_facecolor("#EEEEEE")
    told = wide >= NUMBER[0] and high >= NUMBER[1]
    seaborn.heatmap(
        rates,
        ax=axis,
        mask=np.isnan(rates),
        annot=np.array([[f"{rate:.1f}" for rate in row] for row in rates]) if told else None,
        fmt="",
        annot_kws={"fontsize": 7},
        cmap="Blues",
        vmin=0,
        vmax=100,
        cbar=False,
        linewidths=1 if told else 0,
    )
    for row, column in np.argwhere(np.isnan(rates)) if told else ():
        axis.text(column + 0.5, row + 0.5, "\N{EN DASH}", ha="center", va="center", fontsize=7)
    axis.tick_params(length=0)
    return axis.collections[0]


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
OF_ERRORS = ("reconstruction_error", "errors_over_rounds")
"""Figures of reconstruction errors."""
SHOWS: dict[str, Callable[[Run], bool]] = {
    **dict.fromkeys(OF_ERRORS, lambda run: run.settings["defense"]["name"] == "fedredefense"),
    "detection": lambda run: run.selects,
}
"""Which runs a figure shows; the others show all."""


def _every(run: Run) -> bool:
    return True


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
        runs = load_runs(sources)
        figure, shows = FIGURES[name](runs), SHOWS.get(name, _every)
        shown_runs = [one for one in label_runs(runs) if shows(one.run)]
        return noted(figure, shown_runs, ERRORS if name in OF_ERRORS else RESULTS)
    if len(sources) > 1:
        raise UserError(f"the figure partition shows one file, but {len(sources)} are given")
    return partition(sources[0])


@house_style()
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
        UserError: for a figure that cannot be drawn.
        WriteError: for a file that cannot be written.
    """
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = with_endings(Path(prefix), formats)
    for ending, path in files.items():
        with told(f"{shown(path)} could not be drawn"), opened_whole(path) as file:
            figure.savefig(file, format=ending, metadata=undated[ending])
    return list(files.values())
