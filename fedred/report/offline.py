"""Figures and the table of updates judged offline: ROC curves, error curves, thresholds."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_auc_score, roc_curve

from fedred.errors import UserError
from fedred.files import told
from fedred.report import style
from fedred.report.drawing import attack_panels, defense_line, first_seen, page_figure
from fedred.report.images import images, load_images
from fedred.report.statistics import FloatArray

OWN = "fedredefense"
COLUMNS = ("rule", "round", "client", "malicious", "iteration", "score")
ERROR_LIMIT = 1.5
"""Errors above it are drawn at the upper edge: a model that stays put has 1."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GRID = np.linspace(0, 1, 201)
"""False positive rates at which ROC curves are averaged."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What `fedred reconstruct` wrote of one recorded round."""

    frame: pd.DataFrame
    settings: dict[str, Any]
    threshold: float
    attack: str
    """The panel in which it stands: the attack, and the defense where runs differ in it."""

    def curves(self) -> tuple[FloatArray, np.ndarray]:
        """Return the errors of each client [n, iterations], and who is malicious, bool [n]."""
        own = self.frame[self.frame["rule"] == OWN]
        table = own.pivot(index="client", columns="iteration", values="score")
        malicious = own.groupby("client")["malicious"].first().loc[table.index]
        return table.to_numpy(float), malicious.to_numpy(bool)

    def scores(self, rule: str) -> tuple[FloatArray, np.ndarray] | None:
        """Return a rule's scores [n] after all iterations, and who is malicious, bool [n]."""
        rows = self.frame[self.frame["rule"] == rule]
        rows = rows[rows["iteration"] == rows["iteration"].max()]
        malicious = rows["malicious"].to_numpy(bool)
        defined = malicious.any() and not malicious.all()
        return (_finite(rows["score"].to_numpy(float)), malicious) if defined else None


def _finite(scores: FloatArray) -> FloatArray:
    """Return scores in the same order, infinite ones just above the largest finite one."""
    largest = scores[np.isfinite(scores)].max(initial=0.0)
    return np.where(np.isposinf(scores), np.nextafter(np.float64(largest), np.inf), scores)


def load_judged(paths: Iterable[Path | str]) -> list[Judged]:
    """Read what `fedred reconstruct` wrote.

    Raises:
        UserError: for a file that is missing, torn or of another kind, and for two of the same round.
    """
    paths = list(paths)
    read = [_read(Path(path)) for path in paths]
    seen: dict[str, Path | str] = {}
    for path, (frame, about) in zip(paths, read, strict=True):
        key = json.dumps([about["settings"], frame["round"].unique().tolist()], sort_keys=True)
        if len(frame) and key in seen:
            raise UserError(
                f"{seen[key]} and {path} are of the same recorded round: give one of them"
            )
        seen[key] = path
    panels = attack_panels([about["settings"] for _, about in read])
    return [
        Judged(frame, about["settings"], float(about["threshold"]), panel)
        for (frame, about), panel in zip(read, panels, strict=True)
    ]


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    with told(f"{path} cannot be read as what `fedred reconstruct` writes"):
        table = pq.ParquetFile(path).read()
        about = json.loads((table.schema.metadata or {})[b"fedred"])
        frame = table.replace_schema_metadata().to_pandas()
        missing = {*COLUMNS} - {*frame.columns}
        if missing or {*about} != {"settings", "threshold"}:
            raise ValueError("its columns or settings are others")
    return frame, about


def _by_attack(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    if not judged:
        raise UserError("there are no recorded updates to report")
    return {name: [one for one in judged if one.attack == name] for name in _attacks(judged)}


def _attacks(judged: Sequence[Judged]) -> list[str]:
    """Return the panels in which there is an attacker, or all when there is none anywhere."""
    attacked = [one.attack for one in judged if one.frame["malicious"].any()]
    return first_seen(attacked or [one.attack for one in judged])


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = page_figure(style.PAGE_WIDTH, 0.3 + height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


@matplotlib.rc_context(style.RC)
def roc(judged: Sequence[Judged]) -> Figure:
    """Return ROC curves, a panel an attack, with the AUROC of each rule in its legend.

    FedREDefense is judged by its error after all iterations, other rules by their scores. Curves and
    AUROC are means over recorded rounds and seeds: scores of some rules mean something in their round
    alone.

    Raises:
        UserError: when there is nothing to draw.
    """
    groups = _by_attack(judged)
    figure, axes = _panels(len(groups), 3.1)
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
        area, rates = mean_roc(found)
        line = defense_line(rule, rules, GRID, rates)
        line.set_label(f"{style.display(rule)} {area:.2f}")
        line.set_marker("")
        axis.add_line(line)
    if axis.lines[1:]:
        axis.legend(title="AUROC", loc="lower right", fontsize=6, title_fontsize=6)


def mean_roc(found: Sequence[tuple[FloatArray, np.ndarray]]) -> tuple[float, FloatArray]:
    """Return the mean AUROC, and the mean true positive rates at the false positive rates GRID.

    Args:
        found: scores [n] and who is malicious, bool [n], of each recorded round.
    """
    areas = [float(roc_auc_score(malicious, scores)) for scores, malicious in found]
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
    return float(np.mean(areas)), np.mean(curves, axis=0)


@matplotlib.rc_context(style.RC)
def curves(judged: Sequence[Judged]) -> Figure:
    """Return the errors of honest and malicious clients over iterations, a panel an attack.

    Raises:
        UserError: when there is nothing to draw.
    """
    groups = _by_attack(judged)
    figure, axes = _panels(len(groups), 2.1)
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


def threshold(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return what each threshold would decide, a row an attack and threshold.

    Returns:
        Columns attack, threshold, FPR and FNR (shares of honest clients above it and of malicious
        clients below it, in [0, 1]; NaN without such clients), and iterations (mean until an honest
        client passes, the whole budget where it does not).

    Raises:
        UserError: when there is nothing to report.
    """
    rows = []
    for attack, group in _by_attack(judged).items():
        found = [one.curves() for one in group]
        for level in THRESHOLDS:
            flagged = np.concatenate([~(errors < level).any(1) for errors, _ in found])
            made = np.concatenate([_iterations(errors, level) for errors, _ in found])
            bad = np.concatenate([malicious for _, malicious in found])
            rates = (_mean(flagged[~bad]), _mean(~flagged[bad]), _mean(made[~bad]))
            rows.append((attack, level, *rates))
    return pd.DataFrame(rows, columns=["attack", "threshold", "FPR", "FNR", "iterations"])


def _iterations(errors: FloatArray, level: float) -> FloatArray:
    """Return after how many iterations [n] each client is decided."""
    below = np.pad(errors < level, ((0, 0), (0, 1)), constant_values=True)
    made: FloatArray = np.minimum(below.argmax(1) + 1.0, errors.shape[1])
    return made


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


OFFLINE_FIGURES: dict[str, Callable[[Sequence[Path]], Figure]] = {
    "roc": lambda files: roc(load_judged(files)),
    "curves": lambda files: curves(load_judged(files)),
    "images": lambda files: images(load_images(files)),
}
"""Figures of the files that `fedred reconstruct` wrote; `images` takes those of `--images`."""
