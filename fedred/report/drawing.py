"""What several figures share: the page, its panels, lines of defenses, their legend."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedred.report import style
from fedred.report.labels import LabelledRun, value_in_words

Panel = tuple[str, list[LabelledRun]]
COLUMNS = 3
"""Panels beside each other."""


def page_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def panel_grid(
    count: int,
    panel_height: float,
    other_height: float,
    shared: bool = False,
    most: int = COLUMNS,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels.

    Args:
        count: of panels.
        panel_height: inches of each.
        other_height: inches of what stands beside the panels, as a legend.
        shared: whether all have the same axes.
        most: panels beside each other.
    """
    columns = min(count, most)
    rows = -(-count // columns)
    figure = page_figure(style.PAGE_WIDTH, other_height + panel_height * rows)
    share: Any = {"sharex": shared, "sharey": shared, "squeeze": False}
    axes = list(figure.subplots(rows, columns, **share).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def first_seen(names: Iterable[str]) -> list[str]:
    """Return names without repetition, in their order."""
    return list(dict.fromkeys(names))


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


def panels_of(labelled: list[LabelledRun], name: Callable[[LabelledRun], str]) -> list[Panel]:
    """Group runs by block and name; titles tell what differs, the name on a line of its own."""
    several_datasets = len({one.dataset for one in labelled}) > 1
    groups: dict[tuple[Any, ...], Panel] = {}
    for one in labelled:
        parts = [style.display(one.dataset)] if several_datasets else []
        parts += [f"{key} = {value_in_words(value)}" for key, value in one.extra.items()]
        title = "\n".join(part for part in (", ".join(parts), name(one)) if part)
        groups.setdefault((one.block, name(one)), (title, []))[1].append(one)
    return list(groups.values())


def label_outer(axes: Sequence[Axes], x: str, y: str) -> None:
    """Label the outer panels of a grid, also above a place where the last row ends early."""
    columns = min(len(axes), COLUMNS)
    for index, axis in enumerate(axes):
        lowest = index + columns >= len(axes)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel(x if lowest else "")
        axis.set_ylabel(y if index % columns == 0 else "")
