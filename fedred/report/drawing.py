"""What several figures share: the page, its panels, lines of defenses, their legend."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from fedred.errors import printable
from fedred.report import style
from fedred.report.labels import LabelledRun, value_in_words
from fedred.report.lettering import in_figure, width, wrapped
from fedred.report.notes import warned
from fedred.run_warnings import KINDS

Panel = tuple[str, list[LabelledRun]]
COLUMNS = 3
"""Panels beside each other."""
LINES = 40
"""Defenses that have room in one figure."""
LABEL = style.PAGE_WIDTH - 0.6
"""Inches of the longest label of a legend."""


def page_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, at most as high as `style.PAGE_HEIGHT`."""
    return Figure(figsize=(width, min(height, style.PAGE_HEIGHT)), layout="constrained")


def panel_grid(
    count: int,
    panel_height: float,
    other_height: float,
    shared: bool = False,
    most: int = COLUMNS,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, or with the first of them that a page has room for.

    Args:
        count: of panels.
        panel_height: inches of each.
        other_height: inches of what stands beside the panels, as a legend.
        shared: whether all have the same axes.
        most: panels beside each other.
    """
    columns = min(count, most)
    rows = min(-(-count // columns), rows_of_page(panel_height, other_height))
    figure = page_figure(style.PAGE_WIDTH, other_height + panel_height * rows)
    share: Any = {"sharex": shared, "sharey": shared, "squeeze": False}
    axes = list(figure.subplots(rows, columns, **share).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def rows_of_page(height: float, other_height: float) -> int:
    """Return how many panels of a height, in inches, a page has room for below each other."""
    return max(1, int((style.PAGE_HEIGHT - other_height) / height))


def tell_left_out(figure: Figure, shown: int, count: int, what: str) -> None:
    """Say how many a figure shows, where it has no room for all.

    Args:
        figure: with its legend.
        shown: how many it shows.
        count: of all.
        what: panels, defenses.
    """
    if shown < count:
        add_note(figure, f"{shown} of {count} {what} are shown.")


NOTE_SIZE = 7
"""Points of the letters of a note."""
MOST_NAMED = 6
"""Pairs of defense and attack that a note names."""


def add_note(figure: Figure, sentence: str) -> int:
    """Write a sentence above the legend of a figure, or below its panels when it has none.

    Returns:
        The lines that it takes; where it has no room, lines are broken after commas.
    """
    legend = figure.legends[0] if figure.legends else None
    before = legend.get_title().get_text() if legend else figure.get_supxlabel()
    told = wrapped(printable(sentence), style.PAGE_WIDTH - 0.2, NOTE_SIZE)
    text = "\n".join(filter(None, (before, told)))
    if legend:
        legend.set_title(text, FontProperties(size=NOTE_SIZE))
    else:
        figure.supxlabel(text, fontsize=NOTE_SIZE)
    return told.count("\n") + 1


def first_seen(names: Iterable[str]) -> list[str]:
    """Return names without repetition, in their order."""
    return list(dict.fromkeys(names))


def told_apart(defenses: Sequence[str]) -> list[str]:
    """Return the first defenses whose lines differ in colour, dashes or marker, at most LINES."""
    seen: Counter[Any] = Counter()
    kept = []
    for defense in defenses:
        seen[style.line(defense)] += 1
        if seen[style.line(defense)] <= len(style.VARIANT_MARKERS):
            kept.append(defense)
    return kept[:LINES]


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit on the page: about 14 letters an inch."""
    widest = max(max(len(label), 14 * width(label, 7.5)) for label in labels)
    return max(1, min(len(labels), int(style.PAGE_WIDTH * 14 / (widest + 7))))


def label_handles(legend: Legend, labels: Sequence[str], inches: float = LABEL) -> None:
    """Write labels into a legend as they are: matplotlib hides one that begins with an underscore.

    Args:
        legend: made with as many handles.
        labels: in the same order.
        inches: of room for each.
    """
    size = float(legend.get_texts()[0].get_fontsize())
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(in_figure(label, inches, size))


def defense_legend(figure: Figure, defenses: Sequence[str]) -> None:
    """Draw the legend of the lines of defenses below the panels."""
    handles: list[Artist] = [defense_line(one, list(defenses), [], []) for one in defenses]
    labels = [style.display(defense) for defense in defenses]
    numbers = [str(place) for place in range(len(labels))]
    legend = figure.legend(
        handles, numbers, loc="outside lower center", ncols=legend_columns(labels)
    )
    label_handles(legend, labels)


def legend_height(defenses: Sequence[str]) -> float:
    """Return the inches of `defense_legend`."""
    columns = legend_columns([style.display(defense) for defense in defenses])
    return 0.17 * -(-len(defenses) // columns)


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
        lines = map(printable, (", ".join(parts), name(one)))
        groups.setdefault((one.block, name(one)), ("\n".join(filter(None, lines)), []))[1].append(
            one
        )
    return list(groups.values())


def with_room(panels: Sequence[Panel], most: int = COLUMNS) -> list[Panel]:
    """Return panels whose titles are as wide as a panel, at most so many of them beside each other."""
    room = panel_room(min(len(panels), most))
    return [(wrapped(title, room), group) for title, group in panels]


def panel_room(columns: int) -> float:
    """Return the inches that a title of one of so many panels beside each other has."""
    return style.PAGE_WIDTH / columns - 0.25


def title_height(panels: Sequence[Panel]) -> float:
    """Return the inches of the lines of titles after the first."""
    return 0.14 * max(title.count("\n") for title, _ in panels)


def label_outer(axes: Sequence[Axes], x: str, y: str) -> None:
    """Label the outer panels of a grid, also above a place where the last row ends early."""
    columns = min(len(axes), COLUMNS)
    for index, axis in enumerate(axes):
        lowest = index + columns >= len(axes)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel(x if lowest else "")
        axis.set_ylabel(y if index % columns == 0 else "")


def noted(figure: Figure, runs: Sequence[LabelledRun], kinds: Sequence[str]) -> Figure:
    """Add to a figure what makes some of its runs doubtful, and which; nothing where nothing does.

    Args:
        figure: of runs; made higher by the lines of the notes.
        runs: that it shows.
        kinds: of warnings that concern what it shows.
    """
    concerned: dict[str, list[str]] = {}
    for one in runs:
        pair = f"{style.display(one.defense)} / {style.display(one.attack)}"
        for kind in warned([one], kinds).split():
            concerned.setdefault(kind, []).append(pair)
    for kind, pairs in concerned.items():
        lines = add_note(figure, f"{KINDS.get(kind, kind)}: {_named(pairs)}")
        higher = figure.get_figheight() + lines * 1.4 * NOTE_SIZE / 72
        figure.set_figheight(min(higher, style.PAGE_HEIGHT))
    return figure


def _named(pairs: Sequence[str]) -> str:
    once = list(dict.fromkeys(pairs))
    more = [f"and {len(once) - MOST_NAMED} more"][: len(once) > MOST_NAMED]
    return ", ".join([*once[:MOST_NAMED], *more])
