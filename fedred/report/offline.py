"""Figures of updates judged offline: ROC curves and error curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_curve

from fedred.report import style
from fedred.report.drawing import (
    COLUMNS,
    add_note,
    defense_line,
    first_seen,
    label_handles,
    panel_grid,
    panel_room,
    tell_left_out,
)
from fedred.report.images import images, load_images
from fedred.report.judged import Judged, areas, by_attack, counts, load_judged
from fedred.report.lettering import house_style, wrapped
from fedred.report.statistics import FloatArray

ERROR_LIMIT = 1.5
"""Errors above it are drawn at the upper edge: a model that stays put has 1."""
RULES = 15
"""Rules that a panel of ROC curves has room for."""
LABEL = 1.3
"""Inches of the longest label in a panel of ROC curves."""
CURVES = 200
"""Clients of a kind whose error curves can be told apart in one panel."""
GRID = np.linspace(0, 1, 201)
"""False positive rates at which ROC curves are averaged."""


@house_style()
def roc(judged: Sequence[Judged]) -> Figure:
    """Return ROC curves, a panel an attack, with the AUROC of each rule in its legend.

    FedREDefense is judged by its error after all iterations, other rules by their scores. Curves and
    AUROC are means over recorded rounds and seeds: scores of some rules mean something in their round
    alone.

    Raises:
        UserError: when there is nothing to draw.
    """
    groups = by_attack(judged)
    figure, axes = panel_grid(len(groups), 3.1, 0.3)
    room = panel_room(min(len(groups), COLUMNS))
    for axis, (attack, group) in zip(axes, groups.items(), strict=False):
        axis.set(title=wrapped(attack, room), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.set(xlabel="False positive rate", ylabel="True positive rate")
        axis.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.6, zorder=0.9)
        rules = [name for one in group for name in one.frame["rule"].unique()]
        _draw_roc(axis, group, first_seen(rules)[:RULES])
    tell_left_out(figure, len(axes), len(groups), "panels")
    most = max(len({*one.frame["rule"]}) for one in judged)
    tell_left_out(figure, min(most, RULES), most, "rules")
    return figure


def _draw_roc(axis: Axes, group: Sequence[Judged], rules: list[str]) -> None:
    for rule in rules:
        found = [pair for one in group if (pair := one.scores(rule))]
        if not found:
            continue
        line = defense_line(rule, rules, GRID, mean_roc(found))
        line.set_label(f"{style.display(rule)} {np.mean(areas(group, rule)):.2f}")
        line.set_marker("")
        axis.add_line(line)
    if axis.lines[1:]:
        numbers = zip(counts(group), ("seed", "round"), strict=True)
        title = ", ".join(["AUROC", *(f"{n} {name}{'s' * (n != 1)}" for n, name in numbers)])
        labels = [str(line.get_label()) for line in axis.lines[1:]]
        places = [str(place) for place in range(len(labels))]
        legend = axis.legend(
            axis.lines[1:], places, title=title, loc="lower right", fontsize=6, title_fontsize=6
        )
        label_handles(legend, labels, LABEL)


def mean_roc(found: Sequence[tuple[FloatArray, np.ndarray]]) -> FloatArray:
    """Return the mean true positive rates at the false positive rates GRID.

    Args:
        found: scores [n] and who is malicious, bool [n], of each recorded round.
    """
    curves = []
    for scores, malicious in found:
        false, true, _ = roc_curve(malicious, scores, drop_intermediate=False)
        at = (
            np.searchsorted(false, GRID + 1e-12, side="right") - 1
        )  # the upper end of a vertical step
        after = np.minimum(at + 1, len(false) - 1)
        width = false[after] - false[at]
        share = np.divide(GRID - false[at], width, out=np.zeros_like(GRID), where=width > 0)
        curves.append(true[at] + share * (true[after] - true[at]))
    return np.asarray(np.mean(curves, axis=0))


@house_style()
def curves(judged: Sequence[Judged]) -> Figure:
    """Return the errors of honest and malicious clients over iterations, a panel an attack.

    Raises:
        UserError: when there is nothing to draw.
    """
    groups = by_attack(judged)
    figure, axes = panel_grid(len(groups), 2.1, 0.3)
    room = panel_room(min(len(groups), COLUMNS))
    for axis, (attack, group) in zip(axes, groups.items(), strict=False):
        draw = _draw_bands if _clients(group) > CURVES else _draw_curves
        for one in group:
            draw(axis, one)
        axis.set(title=wrapped(attack, room), ylim=(0, ERROR_LIMIT), xlabel="Iteration")
        axis.set_ylabel("Reconstruction error")
        for threshold in {one.threshold for one in group}:
            axis.axhline(threshold, color="black", linestyle="--", linewidth=0.9, zorder=3)
    labels = {"Honest client": style.HONEST, "Malicious client": style.MALICIOUS}
    handles = [Line2D([], [], color=color, label=label) for label, color in labels.items()]
    dashed = Line2D([], [], color="black", linestyle="--", label="Threshold")
    figure.legend(handles=[*handles, dashed], loc="outside upper center", ncols=3)
    if any(_clients(group) > CURVES for group in groups.values()):
        add_note(figure, f"More than {CURVES} clients: their median, middle half, and range.")
    tell_left_out(figure, len(axes), len(groups), "panels")
    return figure


def _clients(group: Sequence[Judged]) -> int:
    return sum(len(one.curves()[1]) for one in group)


def _draw_bands(axis: Axes, one: Judged) -> None:
    """Draw the median of the clients' curves, and bands of their middle half and of all."""
    errors, malicious = one.curves()
    made = np.arange(1, errors.shape[1] + 1)
    for bad, color in ((False, style.HONEST), (True, style.MALICIOUS)):
        shown = np.minimum(errors[malicious == bad], ERROR_LIMIT)
        if not len(shown):
            continue
        low, quarter, median, rest, high = np.quantile(shown, [0, 0.25, 0.5, 0.75, 1], axis=0)
        axis.fill_between(made, low, high, color=color, alpha=0.12, linewidth=0)
        axis.fill_between(made, quarter, rest, color=color, alpha=0.25, linewidth=0)
        axis.plot(made, median, color=color)


def _draw_curves(axis: Axes, one: Judged) -> None:
    errors, malicious = one.curves()
    made = np.arange(1, errors.shape[1] + 1)
    for bad, color in ((False, style.HONEST), (True, style.MALICIOUS)):
        shown = np.minimum(errors[malicious == bad], ERROR_LIMIT)
        axis.plot(made, shown.T, color=color, linewidth=0.5, alpha=0.5, rasterized=True)


OFFLINE_FIGURES: dict[str, Callable[[Sequence[Path]], Figure]] = {
    "roc": lambda files: roc(load_judged(files)),
    "curves": lambda files: curves(load_judged(files)),
    "images": lambda files: images(load_images(files)),
}
"""Figures of the files that `fedred reconstruct` wrote; `images` takes those of `--images`."""
