"""What several figures share: the page, lines of defenses, their legend."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.report import style
from fedred.report.labels import in_words, label_runs
from fedred.report.runs import Run


def page_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def first_seen(names: Iterable[str]) -> list[str]:
    """Return names without repetition, in their order."""
    return list(dict.fromkeys(names))


def attack_panels(recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the panel of each recorded round: its attack, and what else the runs differ in.

    That is the data set, settings, and the defense that they ran under.

    Args:
        recorded: settings of the run of each; rounds of one run have the same.
    """
    texts = [json.dumps(settings, sort_keys=True) for settings in recorded]
    runs = [
        Run(Path("recorded"), text, json.loads(text), selects=True, final={}, timings={})
        for text in dict.fromkeys(texts)
    ]
    labelled = label_runs(runs)
    datasets, defenses = (
        {getattr(one, name) for one in labelled} for name in ("dataset", "defense")
    )
    panels = {
        one.run.name: ", ".join(
            [
                *[style.display(one.dataset)] * (len(datasets) > 1),
                style.display(one.attack),
                *[in_words({name: value}) for name, value in one.extra.items()],
                *[f"under {style.display(one.defense)}"] * (len(defenses) > 1),
            ]
        )
        for one in labelled
    }
    return [panels[text] for text in texts]


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit on the page: about 14 letters an inch."""
    return max(1, min(len(labels), int(style.PAGE_WIDTH * 14 / (max(map(len, labels)) + 7))))


def defense_line(label: str, labels: list[str], x: Any, y: Any) -> Line2D:
    """Return the line of a defense in its colour and dashes, told apart from variants by a marker.

    Args:
        label: of the defense.
        labels: of all defenses of the figure.
        x: positions, empty for a legend.
        y: values there.
    """
    color, dashes = style.line(label)
    own = style.base_name(label) == "fedredefense"
    return Line2D(
        x,
        y,
        color=color,
        linestyle=dashes,
        # Wide and below, so that a line that coincides with it can still be seen.
        linewidth=2.4 if own else 1.1,
        zorder=1.9 if own else 2,
        marker=style.variant_marker(label, labels),
        markersize=3,
        markevery=0.2 if len(x) else None,
        label=style.display(label),
    )
