"""Figures of reconstruction errors: of clients in the first rounds, and over all rounds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.errors import UserError
from fedred.report import style
from fedred.report.drawing import (
    first_seen,
    label_outer,
    page_figure,
    panel_grid,
    panel_room,
    panels_of,
    rows_of_page,
    tell_left_out,
    title_height,
    with_room,
)
from fedred.report.labels import LabelledRun, label_runs
from fedred.report.lettering import house_style, in_figure, width, wrapped
from fedred.report.runs import Run
from fedred.report.statistics import FloatArray

FIRST_ROUNDS = 10
"""Rounds shown by `reconstruction_error`."""

ERROR_LIMIT = 2.0
"""Reconstruction errors above it are drawn at the upper edge: a model that stays put has 1."""


@house_style()
def reconstruction_error(runs: Sequence[Run]) -> Figure:
    """Return reconstruction errors and iterations of honest and malicious clients, per attack.

    One dot is one client in one of the first rounds. The reconstruction of a client stops as soon
    as its error falls under the threshold, so that honest errors pile up there and only the number
    of iterations tells how easy they were; an excluded client has no dot in later rounds.

    Raises:
        UserError: when no run is defended by fedredefense.
    """
    reconstructing = _reconstructing(runs)
    panels = panels_of(label_runs(reconstructing), lambda one: style.display(one.defense))
    shown = panels[: rows_of_page(3.3, 0.3)]
    figure = page_figure(style.PAGE_WIDTH, 0.3 + 3.3 * len(shown))
    axes = figure.subplots(2 * len(shown), 1, squeeze=False)[:, 0]
    for row, (title, members) in enumerate(shown):
        errors, iterations = axes[2 * row : 2 * row + 2]
        _draw_reconstructions(errors, iterations, members)
        line = wrapped(title.replace("\n", ", "), panel_room(1))
        errors.set_title(line if len(panels) > 1 else "")
    last = min(FIRST_ROUNDS, max(run.settings["rounds"] for run in reconstructing))
    axes[-1].set_xlabel(f"Clients of rounds 1 to {last}, by attack")
    figure.align_ylabels()
    figure.legend(handles=_reconstruction_legend(), loc="outside upper center", ncols=3)
    tell_left_out(figure, len(shown), len(panels), "panels")
    return figure


def _reconstructing(runs: Sequence[Run]) -> list[Run]:
    chosen = [run for run in runs if run.settings["defense"]["name"] == "fedredefense"]
    if runs and not chosen:
        raise UserError("the figure of reconstruction errors needs a run defended by fedredefense")
    return chosen


def _draw_reconstructions(errors: Axes, iterations: Axes, group: list[LabelledRun]) -> None:
    attacks = first_seen(one.attack for one in group)
    for position, attack in enumerate(attacks):
        clients = _judged_clients([one for one in group if one.attack == attack])
        clients = clients[clients["round"] <= FIRST_ROUNDS]
        for malicious, shift in ((False, -0.2), (True, 0.2)):
            chosen = clients[clients["malicious"] == malicious]
            shown = chosen["score"].clip(upper=ERROR_LIMIT).to_numpy(float)
            _strip(errors, position + shift, shown, malicious)
            _strip(iterations, position + shift, chosen["iterations"].to_numpy(float), malicious)
    errors.axhline(
        _threshold(group[0].run), color="black", linestyle="--", linewidth=0.9, zorder=0.9
    )
    errors.set_ylabel("Reconstruction error")
    errors.set_ylim(bottom=0)
    iterations.set_ylabel("Iterations")
    iterations.set_ylim(bottom=0)
    for axis in (errors, iterations):
        axis.set_xlim(-0.5, len(attacks) - 0.5)
        axis.set_xticks(range(len(attacks)), [""] * len(attacks))
        axis.tick_params(axis="x", length=0)
        axis.grid(visible=False, axis="x")
    _name_attacks(iterations, [in_figure(style.display(attack), 1.8, 7) for attack in attacks])


def _name_attacks(axis: Axes, names: list[str]) -> None:
    """Name the attacks on an axis, turned where they have no room; some, where they still have none."""
    room = (style.PAGE_WIDTH - 0.6) / len(names)
    turned = max(width(name, 7) for name in names) > room
    step = math.ceil(0.17 / room) if turned else 1
    turn: Any = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axis.set_xticks(range(len(names))[::step], names[::step], **turn)


def _judged_clients(group: list[LabelledRun]) -> pd.DataFrame:
    """Return the rows of all clients that have an error, over all seeds."""
    clients = pd.concat([one.run.clients for one in group], ignore_index=True)
    return clients[clients["score"].notna()]


def _strip(axis: Axes, position: float, values: FloatArray, malicious: bool) -> None:
    """Draw values as a column of dots, spread sideways by a fixed sequence."""
    golden = 0.6180339887498949
    sideways = (np.arange(len(values)) * golden % 1 - 0.5) * 0.3
    axis.scatter(
        position + sideways,
        values,
        s=9 if malicious else 5,
        color=style.MALICIOUS if malicious else style.HONEST,
        marker="^" if malicious else "o",
        alpha=0.55,
        linewidths=0,
        rasterized=True,
    )


def _threshold(run: Run) -> float:
    if "threshold" not in run.settings["defense"]:
        raise UserError(f"{run.folder / 'run.json'} has no entry settings.defense.threshold")
    return float(run.settings["defense"]["threshold"])


def _reconstruction_legend() -> list[Line2D]:
    dot: Any = {"linestyle": "", "markersize": 4}
    return [
        Line2D([], [], marker="o", color=style.HONEST, label="Honest client", **dot),
        Line2D([], [], marker="^", color=style.MALICIOUS, label="Malicious client", **dot),
        Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="Threshold"),
    ]


@house_style()
def errors_over_rounds(runs: Sequence[Run]) -> Figure:
    """Return reconstruction errors of honest and malicious clients over rounds, a panel an attack.

    A line is the median of all clients and seeds that are judged in a round, a bar reaches from the
    smallest to the largest. An excluded client has no error in later rounds.

    Raises:
        UserError: when no run is defended by fedredefense.
    """
    labelled = label_runs(_reconstructing(runs))
    several = len({one.defense for one in labelled}) > 1
    panels = with_room(panels_of(labelled, lambda one: _attack_and_defense(one, several)))
    figure, axes = panel_grid(len(panels), 1.5 + title_height(panels), 0.5, shared=True)
    for axis, (title, group) in zip(axes, panels, strict=False):
        axis.set(title=title, ylim=(0, 1.02 * ERROR_LIMIT))
        _draw_over_rounds(axis, _judged_clients(group))
        axis.axhline(_threshold(group[0].run), color="black", linestyle="--", linewidth=0.9)
    label_outer(axes, "Round", "Reconstruction error")
    figure.legend(handles=_reconstruction_legend(), loc="outside upper center", ncols=3)
    tell_left_out(figure, len(axes), len(panels), "panels")
    return figure


def _attack_and_defense(one: LabelledRun, several: bool) -> str:
    names = [one.attack, *([one.defense] if several else [])]
    return ", ".join(map(style.display, names))


def _draw_over_rounds(axis: Axes, clients: pd.DataFrame) -> None:
    for malicious, color, marker in (
        (False, style.HONEST, "o"),
        (True, style.MALICIOUS, "^"),
    ):
        scores = clients.loc[clients["malicious"] == malicious, ["round", "score"]]
        scores = scores.assign(score=scores["score"].clip(upper=ERROR_LIMIT))
        by_round = scores.groupby("round")["score"].agg(["min", "median", "max"])
        rounds = by_round.index.to_numpy(float)
        axis.vlines(rounds, by_round["min"], by_round["max"], color=color, alpha=0.3, linewidth=1.5)
        axis.plot(rounds, by_round["median"], color=color, marker=marker, markersize=2)
