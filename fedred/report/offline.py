"""Figures of updates judged offline: ROC curves and error curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_curve

from fedred.report import style
from fedred.report.drawing import defense_line, first_seen, panel_grid
from fedred.report.images import images, load_images
from fedred.report.judged import Judged, areas, by_attack, counts, load_judged
from fedred.report.statistics import FloatArray

ERROR_LIMIT = 1.5
"""Errors above it are drawn at the upper edge: a model that stays put has 1."""
GRID = np.linspace(0, 1, 201)
"""False positive rates at which ROC curves are averaged."""


@matplotlib.rc_context(style.RC)
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
    for axis, (attack, group) in zip(axes, groups.items(), strict=True):
        axis.set(title=attack, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.set(xlabel="False positive rate", ylabel="True positive rate")
        axis.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.6, zorder=0.9)
        rules = [name for one in group for name in one.frame["rule"].unique()]
        _draw_roc(axis, group, first_seen(rules))
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
        axis.legend(title=title, loc="lower right", fontsize=6, title_fontsize=6)


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


@matplotlib.rc_context(style.RC)
def curves(judged: Sequence[Judged]) -> Figure:
    """Return the errors of honest and malicious clients over iterations, a panel an attack.

    Raises:
        UserError: when there is nothing to draw.
    """
    groups = by_attack(judged)
    figure, axes = panel_grid(len(groups), 2.1, 0.3)
    for axis, (attack, group) in zip(axes, groups.items(), strict=True):
        for one in group:
            _draw_curves(axis, one)
        axis.set(title=attack, ylim=(0, ERROR_LIMIT), xlabel="Iteration")
        axis.set_ylabel("Reconstruction error")
        for threshold in {one.threshold for one in group}:
            axis.axhline(threshold, color="black", linestyle="--", linewidth=0.9, zorder=3)
    labels = {"Honest client": style.HONEST, "Malicious client": style.MALICIOUS}
    handles = [Line2D([], [], color=color, label=label) for label, color in labels.items()]
    dashed = Line2D([], [], color="black", linestyle="--", label="Threshold")
    figure.legend(handles=[*handles, dashed], loc="outside upper center", ncols=3)
    return figure


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
