"""The figure of a sweep: accuracy and detection against the one setting that is varied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.errors import UserError
from fedred.report import style
from fedred.report.drawing import (
    defense_legend,
    defense_line,
    first_seen,
    legend_height,
    page_figure,
    panel_room,
    rows_of_page,
    tell_left_out,
    told_apart,
)
from fedred.report.labels import label_runs, value_in_words
from fedred.report.lettering import house_style, in_figure, width, wrapped
from fedred.report.runs import Run
from fedred.report.statistics import Spread, spread
from fedred.report.sweeps import flatten, swept_setting

METRICS = {"accuracy": "Test accuracy", "AFPR": "FPR", "AFNR": "FNR"}
SIDE_BY_SIDE = 4
"""Attacks beside each other."""
LOGARITHMIC = 20
"""Largest value over smallest above which the axis is logarithmic."""
APART = 0.13
"""Share of an axis that must lie between two of its labels."""


@dataclass(frozen=True)
class Scale:
    """Where the values of the swept setting stand on the axis; None, for IID, stands last."""

    path: str
    values: tuple[float, ...]
    iid: bool

    @property
    def logarithmic(self) -> bool:
        return self.values[0] > 0 and self.values[-1] > LOGARITHMIC * self.values[0]

    @property
    def places(self) -> list[float | None]:
        return [*self.values, *([None] if self.iid else [])]

    def share(self, value: float | None) -> float:
        """Return a place as a share of the axis between the smallest and the largest value."""
        if value is None:
            return 1.2
        ends = np.array([self.values[0], self.values[-1], value])
        low, high, here = np.log(ends) if self.logarithmic else ends
        return float((here - low) / (high - low))

    def place(self, value: float | None) -> float:
        return self.at(self.share(None)) if value is None else value

    def at(self, share: float) -> float:
        """Return the position at a share of the axis, the inverse of `share`."""
        low, high = self.values[0], self.values[-1]
        return low * (high / low) ** share if self.logarithmic else low + (high - low) * share

    def ticks(self, inches: float) -> list[float | None]:
        """Return the places that are labelled: as many as have room, the largest value among them.

        Args:
            inches: of the axis.
        """
        widest = max(width(value_in_words(value), 7) for value in self.values)
        apart = max(APART, 1.2 * widest / inches)
        kept: list[float | None] = [None] if self.iid else []
        for value in reversed(self.values):
            if not kept or self.share(kept[-1]) - self.share(value) >= apart:
                kept.append(value)
        return kept[::-1]


@dataclass(frozen=True)
class Point:
    """One run: its method, its value of the swept setting and whether it has one."""

    run: Run
    attack: str
    defense: str
    value: float | None
    swept: bool


@house_style()
def sweep(runs: Sequence[Run]) -> Figure:
    """Return accuracy, FPR and FNR against the setting that runs differ in: a column an attack.

    Lines are means over seeds, bands (bars for IID) their 95 % confidence interval. A method for
    which the setting does not exist, or is the same in all its runs, is a level line.

    Raises:
        UserError: when the runs do not differ in exactly one number besides attack, defense, seed.
    """
    label_runs(runs)
    path = swept_setting([run.settings for run in runs])
    if path is None:
        raise UserError(
            "the sweep figure needs runs that differ in exactly one numeric setting "
            "besides attack, defense and seed"
        )
    points = _points(runs, path)
    numbers = sorted({point.value for point in points if point.swept and point.value is not None})
    scale = Scale(path, tuple(numbers), any(p.swept and p.value is None for p in points))
    return _drawn(points, scale)


def _points(runs: Sequence[Run], path: str) -> list[Point]:
    values: dict[tuple[str, str], set[Any]] = {}
    flats = [flatten(run.settings) for run in runs]
    methods = [(str(flat["attack.name"]), str(flat["defense.name"])) for flat in flats]
    for method, flat in zip(methods, flats, strict=True):
        values.setdefault(method, set()).add(flat.get(path))
    return [
        Point(run, *method, _number(flat.get(path)), len(values[method]) > 1)
        for run, method, flat in zip(runs, methods, flats, strict=True)
    ]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _drawn(points: list[Point], scale: Scale) -> Figure:
    every_attack = first_seen(point.attack for point in points)
    every_defense = first_seen(point.defense for point in points)
    defenses = told_apart(every_defense)
    selecting = any(point.run.selects for point in points)
    metrics = list(METRICS) if selecting else ["accuracy"]
    other, band_height = 0.5 + legend_height(defenses), 1.25 * len(metrics) + 0.3
    attacks = every_attack[: SIDE_BY_SIDE * rows_of_page(band_height, other)]
    bands = -(-len(attacks) // SIDE_BY_SIDE)
    columns = -(-len(attacks) // bands)
    rows, room = bands * len(metrics), panel_room(columns)
    figure = page_figure(
        style.PAGE_WIDTH, 0.5 + 1.25 * rows + 0.3 * bands + legend_height(defenses)
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for index, attack in enumerate(attacks):
        band, column = divmod(index, columns)
        own = list(axes[band * len(metrics) : (band + 1) * len(metrics), column])
        here = [point for point in points if point.attack == attack]
        _draw_attack(own, metrics, here, defenses, scale, room)
        own[0].set_title(wrapped(style.display(attack), room))
        for axis, metric in zip(own, metrics, strict=True):
            axis.set_ylabel("" if column else METRICS[metric])
            axis.tick_params(labelleft=not column)
    for axis in axes[-len(metrics) :, len(attacks) - (bands - 1) * columns :].flat:
        axis.remove()
    figure.align_ylabels()
    defense_legend(figure, defenses)
    tell_left_out(figure, len(attacks), len(every_attack), "attacks")
    tell_left_out(figure, len(defenses), len(every_defense), "defenses")
    return figure


def _draw_attack(
    axes: Sequence[Axes],
    metrics: list[str],
    points: list[Point],
    defenses: list[str],
    scale: Scale,
    inches: float,
) -> None:
    for axis, metric in zip(axes, metrics, strict=True):
        _prepare(axis, scale, inches)
        for defense in defenses:
            own = [point for point in points if point.defense == defense]
            _draw_defense(axis, metric, own, defenses, scale)
        if not axis.lines:
            axis.text(0.5, 0.5, "\N{EN DASH}", transform=axis.transAxes, ha="center", va="center")
        axis.tick_params(labelbottom=axis is axes[-1])
    axes[-1].set_xlabel(in_figure(style.SETTING_NAMES.get(scale.path, scale.path), inches))


def _prepare(axis: Axes, scale: Scale, inches: float) -> None:
    axis.set_xscale("log" if scale.logarithmic else "linear")
    axis.set(ylim=(-0.03, 1.03), yticks=np.linspace(0, 1, 6))
    last = scale.share(None) if scale.iid else 1.0
    axis.set_xlim(scale.at(-0.06), scale.at(last + 0.06))
    ticks = scale.ticks(inches)
    names = ["IID" if value is None else value_in_words(float(value)) for value in ticks]
    axis.set_xticks([scale.place(value) for value in ticks], names)
    axis.set_xticks(
        [scale.place(value) for value in scale.places], [""] * len(scale.places), minor=True
    )
    axis.tick_params(which="minor", length=2.5, width=0.6)


def _draw_defense(
    axis: Axes, metric: str, points: list[Point], defenses: list[str], scale: Scale
) -> None:
    spreads = [(value, _spread(points, metric, value)) for value in scale.places]
    measured = [(value, found) for value, found in spreads if found is not None]
    numbers = [pair for pair in measured if pair[0] is not None]
    for group in (numbers, [pair for pair in measured if pair[0] is None]):
        if group:
            x = np.array([scale.place(value) for value, _ in group])
            line = defense_line(points[0].defense, defenses, x, [one.mean for _, one in group])
            # A level line has no runs at the single values.
            line.set(marker="o" if points[0].swept else "", markevery=None)
            _add_line(axis, line, np.array([float(one.ci95) for _, one in group]))


def _spread(points: list[Point], metric: str, value: float | None) -> Spread | None:
    """Return a metric's spread over seeds at a value, None where it is not defined."""
    chosen = [point for point in points if point.value == value or not point.swept]
    seeds = sorted(chosen, key=lambda point: int(point.run.settings["seed"]))
    samples = [point.run.final.get(metric) for point in seeds]
    defined = np.array([sample for sample in samples if sample is not None], dtype=float)
    return spread(defined) if len(defined) else None


def _add_line(axis: Axes, line: Line2D, half: np.ndarray) -> None:
    """Add a line with its 95 % interval: a band, or a bar where it is a single point."""
    axis.add_line(line)
    color = line.get_color()
    x, mean = (np.asarray(values, dtype=float) for values in line.get_data())
    if np.isnan(half).all():
        return
    if len(x) > 1:
        axis.fill_between(x, mean - half, mean + half, color=color, alpha=0.18, linewidth=0)
    else:
        axis.errorbar(x, mean, half, color=color, linewidth=0.8, capsize=2)
