"""Figures of made-up runs: what they draw is what the run folders hold."""

import copy
import dataclasses
import gc
import json
import math
import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from run_folders import ATTACKS, DEFENSES, settings, write_grid, write_partition, write_run
from safetensors.numpy import save_file
from scipy import stats

from fedred.errors import UserError, WriteError, printable
from fedred.plan import make_plan
from fedred.report import style
from fedred.report.drawing import LINES, told_apart
from fedred.report.error_figures import ERROR_LIMIT, FIRST_ROUNDS
from fedred.report.figures import FIGURES, write_figure
from fedred.report.judged import Judged
from fedred.report.lettering import (
    _tell_of_code_points,
    families,
    house_style,
    in_figure,
    wrapped,
)
from fedred.report.offline import CURVES, curves, roc
from fedred.report.partition_figure import MOST_CLASSES, MOST_CLIENTS, mean_of_cells
from fedred.report.runs import Run, load_runs
from fedred.report.sweeps import swept_setting

SEEDS = (0, 1, 2)
OF_RUNS = [name for name in FIGURES if name != "partition"]


def source(name: str, grid: list[Run]) -> list[Run]:
    """Return the runs that a figure can be drawn of: all, or those of a sweep."""
    return [sweep_of(run) for run in grid] + grid if name == "sweep" else grid


def sweep_of(run: Run) -> Run:
    changed = {**run.settings, "participation": 0.5}
    return dataclasses.replace(run, folder=run.folder / "half", settings=changed)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return load_runs(write_grid(tmp_path_factory.mktemp("runs"), seeds=SEEDS))


def of(runs: list[Run], attack: str, defense: str) -> list[Run]:
    wanted = (attack, defense)
    return [
        run
        for run in runs
        if (run.settings["attack"]["name"], run.settings["defense"]["name"]) == wanted
    ]


def colors(figure: Figure) -> dict[str, str]:
    """Colour of each line by its label, over all panels."""
    lines = [line for axis in figure.axes for line in axis.lines]
    pairs = {(str(line.get_label()), to_hex(line.get_color())) for line in lines}
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def line_of(figure: Figure, panel: int, label: str) -> Line2D:
    (line,) = (one for one in figure.axes[panel].lines if one.get_label() == label)
    return line


def offsets(figure: Figure, panel: int) -> np.ndarray:
    """Points [points, 2] of all dots of a panel."""
    dots = [np.asarray(one.get_offsets()) for one in figure.axes[panel].collections]
    return np.concatenate(dots)


def test_accuracy_lines_are_means_of_the_runs(grid: list[Run]) -> None:
    figure = FIGURES["accuracy_over_rounds"](grid)
    assert [axis.get_title() for axis in figure.axes] == [style.display(name) for name in ATTACKS]
    for panel, attack in enumerate(ATTACKS):
        assert len(figure.axes[panel].lines) == len(DEFENSES)
        assert figure.axes[panel].get_ylim() == (0, 1)
        for defense in DEFENSES:
            line = line_of(figure, panel, style.display(defense))
            accuracy = np.array([run.rounds["accuracy"] for run in of(grid, attack, defense)])
            np.testing.assert_allclose(np.asarray(line.get_ydata()), accuracy.mean(0))
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))


def test_accuracy_band_is_the_confidence_interval(grid: list[Run]) -> None:
    runs = of(grid, "mpaf", "median")
    (band,) = FIGURES["accuracy_over_rounds"](runs).axes[0].collections
    accuracy = np.array([run.rounds["accuracy"] for run in runs])
    low, high = stats.t.interval(0.95, 2, loc=accuracy.mean(0), scale=stats.sem(accuracy))
    drawn = band.get_paths()[0].vertices
    for number, (below, above) in enumerate(zip(low, high, strict=True), start=1):
        heights = drawn[drawn[:, 0] == number, 1]
        assert heights.min() == pytest.approx(below)
        assert heights.max() == pytest.approx(above)


def test_rounds_without_evaluation_are_skipped(tmp_path: Path) -> None:
    accuracy = [np.nan if number % 5 else 0.5 for number in range(1, 21)]
    (run,) = load_runs([write_run(tmp_path / "run", settings("mpaf"), accuracy=accuracy)])
    figure = FIGURES["accuracy_over_rounds"]([run])
    assert list(figure.axes[0].lines[0].get_xdata()) == [5, 10, 15, 20]
    assert not figure.axes[0].collections


def test_colour_belongs_to_the_defense(grid: list[Run]) -> None:
    everything = colors(FIGURES["accuracy_over_rounds"](grid))
    one = colors(FIGURES["accuracy_over_rounds"](of(grid, "mpaf", "fedredefense")))
    assert one == {"FedREDefense": style.LINES["fedredefense"][0].lower()}
    assert one.items() <= everything.items()
    assert len(set(everything.values())) == len(DEFENSES)


def test_no_two_defenses_have_the_same_line() -> None:
    assert len(set(style.LINES.values())) == len(style.LINES)
    assert style.line("fedredefense (threshold=0.8)") == style.LINES["fedredefense"]
    assert style.line("not_known_here") == style.OTHER_LINE


def test_variants_share_the_colour_and_differ_in_markers(tmp_path: Path) -> None:
    runs = load_runs(
        write_run(tmp_path / str(value), settings("mpaf", "fedredefense", defense__threshold=value))
        for value in (0.5, 0.6)
    )
    first, second = FIGURES["accuracy_over_rounds"](runs).axes[0].lines
    assert first.get_color() == second.get_color()
    assert first.get_marker() != second.get_marker()


def test_reconstruction_errors_are_those_of_the_clients(grid: list[Run]) -> None:
    figure = FIGURES["reconstruction_error"](grid)
    errors, iterations = (offsets(figure, panel) for panel in (0, 1))
    assert len(figure.axes) == 2
    for position, attack in enumerate(ATTACKS):
        near = np.abs(errors[:, 0] - position) < 0.5
        rows = [run.clients for run in of(grid, attack, "fedredefense")]
        rows = [part[(part["round"] <= FIRST_ROUNDS) & part["score"].notna()] for part in rows]
        scores = np.concatenate([part["score"] for part in rows])
        steps = np.concatenate([part["iterations"] for part in rows])
        np.testing.assert_allclose(np.sort(errors[near, 1]), np.sort(scores))
        np.testing.assert_array_equal(np.sort(iterations[near, 1]), np.sort(steps))


def test_honest_and_malicious_dots_have_their_colours(grid: list[Run]) -> None:
    runs = of(grid, "mpaf", "fedredefense")
    honest, malicious = FIGURES["reconstruction_error"](runs).axes[0].collections
    assert to_hex(honest.get_facecolor()[0]) == style.HONEST.lower()
    assert to_hex(malicious.get_facecolor()[0]) == style.MALICIOUS.lower()
    # Excluded at once: each malicious client of each seed is judged a single time.
    assert len(malicious.get_offsets()) == 5 * len(SEEDS)
    assert np.asarray(malicious.get_offsets())[:, 1].min() > 0.6


@pytest.mark.parametrize("threshold", [0.45, 0.8])
def test_threshold_line_is_the_configured_one(threshold: float, tmp_path: Path) -> None:
    made = settings("mpaf", "fedredefense", defense__threshold=threshold)
    figure = FIGURES["reconstruction_error"](load_runs([write_run(tmp_path / "run", made)]))
    (line,) = figure.axes[0].lines
    assert list(line.get_ydata()) == [threshold, threshold]


def test_each_threshold_has_its_own_panels(tmp_path: Path) -> None:
    runs = load_runs(
        write_run(tmp_path / str(value), settings("mpaf", "fedredefense", defense__threshold=value))
        for value in (0.5, 0.6)
    )
    figure = FIGURES["reconstruction_error"](runs)
    assert len(figure.axes) == 4
    assert [list(figure.axes[panel].lines[0].get_ydata()) for panel in (0, 2)] == [
        [0.5, 0.5],
        [0.6, 0.6],
    ]


def test_errors_beyond_the_limit_are_drawn_at_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings("mpaf", "fedredefense"))
    (run,) = load_runs([folder])
    run.clients.loc[run.clients["malicious"], "score"] = np.inf
    malicious = FIGURES["reconstruction_error"]([run]).axes[0].collections[1]
    assert (np.asarray(malicious.get_offsets())[:, 1] == ERROR_LIMIT).all()


@pytest.mark.parametrize(("reached", "top"), [(0.33, 0.4), (0.41, 0.6), (1.0, 1.0)])
def test_the_axis_of_accuracy_ends_a_fifth_above_the_lines(
    reached: float, top: float, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", settings(), accuracy=[reached] * 20)
    (axis,) = FIGURES["accuracy_over_rounds"](load_runs([folder])).axes
    assert axis.get_ylim() == pytest.approx((0, top))


def test_errors_over_rounds_are_median_and_range_of_the_clients(grid: list[Run]) -> None:
    figure = FIGURES["errors_over_rounds"](grid)
    assert [axis.get_title() for axis in figure.axes] == [style.display(name) for name in ATTACKS]
    place = ATTACKS.index("label_flip")
    clients = pd.concat(run.clients for run in of(grid, "label_flip", "fedredefense"))
    for malicious, line, bars in zip(
        (False, True), figure.axes[place].lines, figure.axes[place].collections, strict=False
    ):
        chosen = clients[(clients["malicious"] == malicious) & clients["score"].notna()]
        by_round = chosen.groupby("round")["score"]
        np.testing.assert_array_equal(line.get_xdata(), sorted(chosen["round"].unique()))
        np.testing.assert_allclose(line.get_ydata(), by_round.median())
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.column_stack([by_round.min(), by_round.max()]))


def test_errors_over_rounds_beyond_the_limit_are_drawn_at_it(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", settings("mpaf", "fedredefense"))])
    run.clients.loc[run.clients["malicious"], "score"] = np.inf
    malicious = FIGURES["errors_over_rounds"]([run]).axes[0].lines[1]
    assert (np.asarray(malicious.get_ydata()) == ERROR_LIMIT).all()


def test_detection_shows_rates_in_percent(grid: list[Run]) -> None:
    figure = FIGURES["detection"](grid)
    false_positives, false_negatives, _ = figure.axes
    np.testing.assert_allclose(false_positives.collections[0].get_array(), [[95] * 6, [0] * 6])
    missed = np.ma.filled(np.ma.masked_invalid(false_negatives.collections[0].get_array()), -1)
    np.testing.assert_allclose(missed, [[-1, 5, 5, 5, 5, 5], [-1, 100, 0, 0, 0, 0]])
    texts = {text.get_position(): text.get_text() for text in false_negatives.texts}
    assert texts[0.5, 0.5] == "\N{EN DASH}"
    assert texts[1.5, 0.5] == "5.0"
    labels = [label.get_text() for label in false_positives.get_yticklabels()]
    assert labels == ["Krum", "FedREDefense"]


def cells(axis) -> np.ndarray:
    return np.ma.filled(np.ma.masked_invalid(axis.collections[0].get_array()), -1)


def test_the_last_row_may_end_early_and_the_panels_above_are_labelled(grid: list[Run]) -> None:
    runs = [run for run in grid if run.settings["attack"]["name"] in ATTACKS[:4]]
    axes = FIGURES["accuracy_over_rounds"](runs).axes
    assert [axis.get_title() for axis in axes] == [style.display(name) for name in ATTACKS[:4]]
    assert [axis.get_xlabel() for axis in axes] == ["", "Round", "Round", "Round"]


def test_heat_map_shows_final_accuracy_and_success_in_percent(grid: list[Run]) -> None:
    accuracy, success, _ = FIGURES["heat_map"](grid).axes
    expected = [
        [
            100 * np.mean([run.final["accuracy"] for run in of(grid, attack, defense)])
            for attack in ATTACKS
        ]
        for defense in DEFENSES
    ]
    np.testing.assert_allclose(cells(accuracy), expected)
    np.testing.assert_allclose(cells(success)[:, -1], [90, 2, 2, 2])
    assert (cells(success)[:, :-1] == -1).all()
    labels = [label.get_text() for label in accuracy.get_yticklabels()]
    assert labels == [style.display(name) for name in DEFENSES]


def test_heat_map_without_a_backdoor_has_one_map(grid: list[Run]) -> None:
    runs = [run for run in grid if run.settings["attack"]["name"] != "scaling"]
    assert len(FIGURES["heat_map"](runs).axes) == 2  # the map and its colour bar


def test_many_attacks_stand_below_each_other(tmp_path: Path) -> None:
    factors = range(1, 11)
    runs = load_runs(
        write_run(tmp_path / str(factor), settings("scaling", attack__factor=float(factor)))
        for factor in factors
    )
    accuracy, success, _ = FIGURES["heat_map"](runs).axes
    assert cells(accuracy).shape == (1, 10)
    assert accuracy.get_position().y0 > success.get_position().y1


def swept_runs(root: Path, made: list[dict], seeds: tuple[int, ...] = (0,)) -> list[Run]:
    """Runs of the given settings for every seed; their accuracy is 0.5, 0.51, ... in this order."""
    root.mkdir()
    return load_runs(
        write_run(
            root / f"{index}-{seed}",
            one | {"seed": seed},
            {"accuracy": 0.5 + index / 100 + seed / 10},
        )
        for index, one in enumerate(made)
        for seed in seeds
    )


def alphas(*values: float, attack: str = "mpaf", defense: str = "krum") -> list[dict]:
    return [settings(attack, defense, partition__alpha=value) for value in values]


IID = settings("mpaf", "krum", partition={"name": "iid", "clients": 20})


def points(figure: Figure, panel: int) -> list[tuple[list[float], list[float]]]:
    lines = figure.axes[panel].lines
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def tick_labels(figure: Figure, panel: int) -> list[str]:
    return [label.get_text() for label in figure.axes[panel].get_xticklabels()]


def test_sweep_draws_means_over_seeds_against_the_setting(tmp_path: Path) -> None:
    runs = swept_runs(tmp_path / "runs", alphas(1.0, 0.1, 0.5), seeds=(0, 1))
    figure = FIGURES["sweep"](runs)
    assert [axis.get_ylabel() for axis in figure.axes] == ["Test accuracy", "FPR", "FNR"]
    assert figure.axes[0].get_xscale() == "linear"
    assert figure.axes[2].get_xlabel() == "Dirichlet alpha"
    ((x, accuracy),) = points(figure, 0)
    assert x == [0.1, 0.5, 1.0]
    assert accuracy == pytest.approx([0.56, 0.57, 0.55])
    for panel, rate in ((1, "AFPR"), (2, "AFNR")):
        ((x, drawn),) = points(figure, panel)
        order = [runs[2:4], runs[4:6], runs[0:2]]
        assert x == [0.1, 0.5, 1.0]
        assert drawn == pytest.approx([np.mean([run.final[rate] for run in two]) for two in order])
    (band,) = figure.axes[0].collections
    half = stats.t.ppf(0.975, 1) * np.std([0, 0.1], ddof=1) / np.sqrt(2)
    heights = band.get_paths()[0].vertices
    heights = heights[heights[:, 0] == 0.5, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.57 - half, 0.57 + half))


def test_sweep_puts_iid_last_and_wide_ranges_on_a_logarithmic_axis(tmp_path: Path) -> None:
    runs = swept_runs(tmp_path / "runs", [IID, *alphas(0.1, 1.0, 10.0)])
    figure = FIGURES["sweep"](runs)
    assert figure.axes[0].get_xscale() == "log"
    assert tick_labels(figure, 2) == ["0.1", "1", "10", "IID"]
    line, iid = points(figure, 0)
    assert line == ([0.1, 1.0, 10.0], pytest.approx([0.51, 0.52, 0.53]))
    assert iid[0] == pytest.approx([10 * 100**0.2])
    assert iid[1] == pytest.approx([0.5])
    assert figure.axes[0].get_xlim()[1] > iid[0][0]


def test_interval_of_iid_is_a_bar(tmp_path: Path) -> None:
    runs = swept_runs(tmp_path / "runs", [*alphas(0.1, 1.0), IID], seeds=(0, 1, 2))
    bar = FIGURES["sweep"](runs).axes[0].collections[-1].get_segments()[0]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert list(bar[:, 1]) == pytest.approx([0.62 - half, 0.62 + half])


def test_a_method_without_the_setting_is_a_level_line(tmp_path: Path) -> None:
    made = [settings("mpaf", "fedavg")]
    made += [
        settings("mpaf", "fedredefense", defense__threshold=value) for value in (0.4, 0.6, 0.8)
    ]
    figure = FIGURES["sweep"](swept_runs(tmp_path / "runs", made))
    level, own = figure.axes[0].lines
    assert list(level.get_ydata()) == [0.5, 0.5, 0.5]
    assert level.get_marker() in ("", "None")
    assert own.get_marker() == "o"
    assert list(own.get_xdata()) == [0.4, 0.6, 0.8]
    assert len(figure.axes[1].lines) == 1  # FedAvg flags nobody


def test_sweep_has_a_column_an_attack_and_a_dash_where_nothing_is_defined(tmp_path: Path) -> None:
    made = [settings("none", "krum")]
    made += [settings("mpaf", "krum", malicious=value) for value in (2, 5, 8)]
    figure = FIGURES["sweep"](swept_runs(tmp_path / "runs", made))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["No attack", "MPAF", "", "", "", ""]
    assert points(figure, 0) == [([2.0, 5.0, 8.0], [0.5, 0.5, 0.5])]
    assert [text.get_text() for text in figure.axes[4].texts] == ["\N{EN DASH}"]
    assert not figure.axes[4].lines


def test_sweep_without_selecting_defense_shows_accuracy_alone(tmp_path: Path) -> None:
    runs = swept_runs(tmp_path / "runs", alphas(0.1, 1.0, defense="median"))
    assert [axis.get_ylabel() for axis in FIGURES["sweep"](runs).axes] == ["Test accuracy"]


@pytest.mark.parametrize("attacks", [1, 4, 5, 7])
def test_every_attack_has_its_panels(attacks: int, tmp_path: Path) -> None:
    names = [f"attack{number}" for number in range(attacks)]
    made = [one for name in names for one in alphas(0.1, 1.0, attack=name)]
    figure = FIGURES["sweep"](swept_runs(tmp_path / "runs", made))
    assert sorted(filter(None, (axis.get_title() for axis in figure.axes))) == names
    assert len(figure.axes) == 3 * attacks
    assert all(axis.lines for axis in figure.axes)


def test_labels_of_a_sweep_do_not_overlap(tmp_path: Path) -> None:
    runs = swept_runs(tmp_path / "runs", alphas(0.05, 0.1, 0.12, 0.5, 0.9, 1.0))
    figure = FIGURES["sweep"](runs)
    assert tick_labels(figure, 2) == ["0.12", "0.5", "1"]
    ticks = [*figure.axes[2].get_xticks(minor=True), *figure.axes[2].get_xticks()]
    assert sorted(set(ticks)) == [0.05, 0.1, 0.12, 0.5, 0.9, 1.0]


DIRICHLET = settings(partition={"name": "dirichlet", "clients": 20, "alpha": 1.0})


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (alphas(0.1, 1.0), "partition.alpha"),
        ([*alphas(0.1, 1.0), IID], "partition.alpha"),
        ([*alphas(0.1), IID], None),
        ([settings(training__lr=value) for value in (0.1, 0.2)], "training.lr"),
        ([settings(participation=value) for value in (0.5, 1.0)], "participation"),
        ([settings("mpaf", malicious=2), settings("mpaf"), settings("none")], "malicious"),
        ([settings("mpaf"), settings("none")], None),
        ([settings("mpaf", "krum"), settings("mpaf", "median")], None),
        ([settings("scaling", attack__factor=value) for value in (2.0, 3.0)], "attack.factor"),
        (
            [
                settings("mpaf", "fedredefense", defense__reconstruction__images_per_class=value)
                for value in (1, 2)
            ],
            "defense.reconstruction.images_per_class",
        ),
        ([settings(training__lr=value, partition__alpha=value) for value in (0.1, 0.2)], None),
        ([settings(dataset__name=name) for name in ("digits", "cifar10")], None),
        ([settings(dataset__samples=value) for value in (None, 10)], None),
        ([settings(training__nesterov=value) for value in (False, True)], None),
        ([settings(), DIRICHLET], None),
        ([settings("mpaf", "krum", training__lr=0.2), settings("mpaf", "krum"), IID], None),
        (
            [
                settings(partition={"name": "iid", "clients": 20}, training__lr=value)
                for value in (0.1, 0.2)
            ],
            "training.lr",
        ),
    ],
)
def test_the_swept_setting_is_the_one_number_that_differs(
    made: list[dict], path: str | None, tmp_path: Path
) -> None:
    assert swept_setting(made) == path
    runs = swept_runs(tmp_path / "runs", made)
    if path is None:
        with pytest.raises(UserError, match="differ in exactly one numeric setting"):
            FIGURES["sweep"](runs)
    else:
        FIGURES["sweep"](runs)


@pytest.mark.parametrize(
    ("grid", "drawn"),
    [
        ({"partition.alpha": [0.1, 1.0]}, True),
        ({"partition.alpha": [0.1, 1.0], "rounds": [1, 2]}, False),
        ({"attack": ["none", "mpaf"]}, False),
    ],
)
def test_a_sweep_is_planned_where_the_grid_is_one(grid: dict, drawn: bool) -> None:
    partition = {"name": "balanced_dirichlet", "clients": 8}
    base = {"attack": "mpaf", "malicious": 2, "partition": partition}
    plan = make_plan({"experiments": {"one": {"base": base, "grid": grid, "seeds": [0, 1]}}})
    assert ("sweep" in plan.figures["one"]) == drawn
    assert plan.outputs() == plan.table_files() + plan.figure_files()


def test_partition_dots_are_the_counts(tmp_path: Path) -> None:
    counts = write_partition(tmp_path / "partition.safetensors")
    figure = FIGURES["partition"](tmp_path / "partition.safetensors")
    total, dots = figure.axes
    heights = [bar.get_height() for bar in total.patches]
    np.testing.assert_array_equal(heights, counts.sum(1))
    (points,) = dots.collections
    np.testing.assert_array_equal(
        np.asarray(points.get_offsets()), [(i, c) for i in range(20) for c in range(10)]
    )
    areas = points.get_sizes()
    np.testing.assert_allclose(areas / areas.max(), counts.ravel() / counts.max())


def test_partition_shows_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "partition.safetensors"
    names = ["cat", "dog", "a_b"]
    counts = np.array([[1, 2, 3], [4, 0, 6]], dtype=np.int64)
    save_file({"counts": counts}, path, metadata={"classes": json.dumps(names)})
    axis = FIGURES["partition"](path).axes[1]
    assert [label.get_text() for label in axis.get_yticklabels()] == names


@pytest.mark.parametrize("name", FIGURES)
def test_written_twice_the_bytes_are_the_same(name: str, grid: list[Run], tmp_path: Path) -> None:
    write_partition(tmp_path / "partition.safetensors")
    path = tmp_path / "partition.safetensors"
    for folder in ("first", "second"):
        drawn = FIGURES[name](path if name == "partition" else source(name, grid))
        write_figure(drawn, tmp_path / folder / "figure.v1")
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "figure.v1.pdf",
        "figure.v1.png",
    ]
    for ending in ("png", "pdf"):
        first, second = (
            tmp_path / folder / f"figure.v1.{ending}" for folder in ("first", "second")
        )
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 5000


def test_settings_of_matplotlib_stay_as_they_were(grid: list[Run], tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figure(FIGURES["accuracy_over_rounds"](grid), tmp_path / "figure")
    assert dict(matplotlib.rcParams) == before


def test_text_stays_inside_the_page(grid: list[Run], tmp_path: Path) -> None:
    write_partition(tmp_path / "partition.safetensors")
    figures = [FIGURES[name](source(name, grid)) for name in OF_RUNS]
    for figure in [*figures, FIGURES["partition"](tmp_path / "partition.safetensors")]:
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_figures_do_not_pile_up(grid: list[Run]) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(one) is Figure for one in gc.get_objects())

    before = alive()
    for _ in range(3):
        FIGURES["accuracy_over_rounds"](of(grid, "mpaf", "fedavg"))
    assert alive() == before


def test_one_format_alone_can_be_written(grid: list[Run], tmp_path: Path) -> None:
    figure = FIGURES["detection"](grid)
    write_figure(figure, tmp_path / "figure", formats=("png",))
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("name", OF_RUNS)
def test_no_runs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no runs"):
        FIGURES[name]([])


@pytest.mark.parametrize("name", ["reconstruction_error", "detection"])
def test_runs_without_what_is_shown_are_refused(name: str, grid: list[Run]) -> None:
    with pytest.raises(UserError, match="needs a run"):
        FIGURES[name](of(grid, "mpaf", "fedavg"))


@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_missing_or_torn_partition_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "partition.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        FIGURES["partition"](path)


def test_partition_without_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "partition.safetensors"
    save_file({"owners": np.zeros(3)}, path)
    with pytest.raises(UserError, match="counts"):
        FIGURES["partition"](path)


def with_classes(path: Path, counts: np.ndarray, names: list[str]) -> Path:
    whole = np.ascontiguousarray(counts, dtype=np.int64)
    save_file({"counts": whole}, path, metadata={"classes": json.dumps(names)})
    return path


NAMES = {
    "a$b": "a$b",
    r"c$\x$": r"c$\x$",
    "$\\frac$": "$\\frac$",
    "_hidden": "_hidden",
    "\\$5": "\\$5",
    "two\nlines": r"two\nlines",
    "\x1b[31m": r"\x1b[31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}x": r"\u202ex",
    "\udc80": r"\udc80",
    "\U0001f408\u732b": r"\U0001f408\u732b",
    "\u05e9\u05dc\u05d5\u05dd": "\u05e9\u05dc\u05d5\u05dd",
    "e\u0301": "e\u0301",
    "": "",
}
"""Names, and what a figure shows in letters of DejaVu Sans."""


def test_names_of_classes_are_literal_and_drawn_without_a_warning(tmp_path: Path) -> None:
    counts = np.ones((3, len(NAMES)))
    path = with_classes(tmp_path / "partition.safetensors", counts, list(NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES["partition"](path)
        write_figure(figure, tmp_path / "figure")
    labels = figure.axes[1].get_yticklabels()
    assert [label.get_text() for label in labels] == list(NAMES.values())
    assert not any(label.get_parse_math() for label in labels)


def test_a_long_name_keeps_its_ends_and_leaves_room_for_the_figure(tmp_path: Path) -> None:
    name = "first" + "x" * 500 + "last"
    figure = FIGURES["partition"](with_classes(tmp_path / "p", np.ones((3, 2)), ["a", name]))
    figure.draw_without_rendering()
    shown = figure.axes[1].get_yticklabels()[1].get_text()
    assert re.fullmatch("firstx+\N{HORIZONTAL ELLIPSIS}x+last", shown)
    assert figure.axes[1].get_position().width > 0.6


def test_letters_without_a_glyph_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    _tell_of_code_points.cache_clear()
    assert [in_figure(letter) for letter in "\u732b\u72ac"] == [r"\u732b", r"\u72ac"]
    (message,) = caplog.messages
    assert message.startswith("the font DejaVu Sans")
    assert "\n" not in message


def test_a_font_of_the_users_own_has_the_letters_that_are_lacking() -> None:
    import matplotlib

    letter = "\N{MATHEMATICAL SCRIPT SMALL A}"  # in a font that comes with matplotlib
    assert in_figure(letter) == r"\U0001d4b6"
    with matplotlib.rc_context({"font.sans-serif": ["STIXGeneral", "Not Installed"]}):
        assert families() == ("DejaVu Sans", "STIXGeneral")
        assert in_figure(letter) == letter


@hypothesis_settings(max_examples=30)
@given(
    text=st.lists(
        st.one_of(st.sampled_from("$_^\\{}%-"), st.characters(exclude_categories=())), max_size=20
    ).map("".join),
    room=st.sampled_from([0.6, 2.0]),
)
@example(text="$\\frac{1}{2}$", room=2.0)
@example(text="a" + "\u0301" * 40, room=2.0)
def test_any_text_is_drawn_as_it_is_in_its_room(text: str, room: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with house_style():
            figure = Figure(figsize=(7, 2), dpi=200)
            drawn = figure.text(0.1, 0.5, in_figure(text, room))
            figure.draw_without_rendering()
            box = drawn.get_window_extent()
    assert box.width / 200 <= 1.05 * room + 0.01
    assert box.height / 200 < 0.5
    if text.isascii() and len(printable(text)) < 4:
        assert drawn.get_text() == printable(text)


def test_a_title_without_room_goes_on_below_after_a_comma() -> None:
    title = "partition.alpha = 0.1, training.lr = 0.01\nMin-Max"
    assert wrapped(title, 7) == title
    assert wrapped(title, 2) == "partition.alpha = 0.1,\ntraining.lr = 0.01\nMin-Max"


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def like(run: Run, **changes: object) -> Run:
    """Return a run with other settings and the same numbers."""
    whole = copy.deepcopy(run.settings)
    for name, value in changes.items():
        *path, last = name.split("__")
        part = whole
        for key in path:
            part = part[key]
        part[last] = value
    other = dataclasses.replace(run, folder=Path(str(changes)), settings=whole)
    other.__dict__.update(rounds=run.rounds, clients=run.clients)
    return other


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = settings("min_max", "fedredefense", rounds=3)
    (run,) = load_runs([write_run(tmp_path_factory.mktemp("base") / "run", made)])
    return run


@pytest.mark.parametrize("name", ["accuracy_over_rounds", "sweep"])
def test_a_legend_shows_every_name_as_it_is(name: str, base: Run, tmp_path: Path) -> None:
    defenses = ["_hidden", "$x$", r"a\$", "plain"]
    runs = [
        like(base, defense__name=defense, participation=share)
        for defense in defenses
        for share in (0.5, 1.0)
    ]
    figure = FIGURES[name](runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figure(figure, tmp_path / "figure")
    assert legend_texts(figure) == defenses


def many(base: Run, count: int, path: str, value: str = "method_{}", **other: object) -> list[Run]:
    return [like(base, **{path: value.format(place)}, **other) for place in range(count)]


def numbered(base: Run, count: int, path: str) -> list[Run]:
    return [like(base, **{path: (place + 1) / 1000}) for place in range(count)]


LARGE = {
    "accuracy of 20 attacks": ("accuracy_over_rounds", lambda b: many(b, 20, "attack__name")),
    "accuracy of 60 defenses": ("accuracy_over_rounds", lambda b: many(b, 60, "defense__name")),
    "accuracy of long names": (
        "accuracy_over_rounds",
        lambda b: many(b, 12, "defense__name", "long " * 30 + "{}"),
    ),
    "errors of 6 thresholds": (
        "reconstruction_error",
        lambda b: numbered(b, 6, "defense__threshold"),
    ),
    "errors of 60 attacks": ("reconstruction_error", lambda b: many(b, 60, "attack__name")),
    "errors over rounds": ("errors_over_rounds", lambda b: many(b, 20, "attack__name")),
    "map of 16 x 20": (
        "heat_map",
        lambda b: [
            run
            for attack in many(b, 16, "attack__name", "an_attack_of_a_long_name_{}")
            for run in many(attack, 20, "defense__name", "a defense of a name that is too long {}")
        ],
    ),
    "map of 100 defenses": ("detection", lambda b: many(b, 100, "defense__name")),
    "map of 120 attacks": ("heat_map", lambda b: many(b, 120, "attack__name")),
    "map of 20 settings": ("heat_map", lambda b: numbered(b, 20, "training__lr")),
    "sweep of 12 attacks": (
        "sweep",
        lambda b: [
            run for name in many(b, 12, "attack__name") for run in numbered(name, 2, "training__lr")
        ],
    ),
    "sweep of long numbers": (
        "sweep",
        lambda b: [
            like(one, training__lr=0.123456789 * step)
            for one in many(b, 4, "attack__name")
            for step in range(1, 9)
        ],
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_large_figure_is_bounded_and_its_labels_stand_apart(
    case: str, base: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "PAGE_HEIGHT", 8.0)  # soon full
    name, make = LARGE[case]
    figure = FIGURES[name](make(base))
    assert_readable(figure)


def assert_readable(figure: Figure) -> None:
    """Nothing leaves the page, no two labels of an axis or titles of a row overlap."""
    wide, high = figure.get_size_inches()
    assert wide == style.PAGE_WIDTH
    assert high <= style.PAGE_HEIGHT
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= wide + 0.01
    assert box.y1 <= high + 0.01
    for axis in figure.axes:
        assert min(axis.get_position().width, axis.get_position().height) > 0
        require_apart(axis.get_xticklabels(), 0)
        require_apart(axis.get_yticklabels(), 1)
    rows: dict[float, list] = {}
    for axis in figure.axes:
        rows.setdefault(round(axis.get_position().y1, 3), []).append(axis.title)
    for titles in rows.values():
        require_apart(titles, 0)


def require_apart(labels: list, along: int) -> None:
    """Upright labels do not overlap; turned ones are as far apart as their letters are high."""
    shown = [label for label in labels if label.get_text() and label.get_visible()]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda b: b.min[along])
    angle = shown[0].get_rotation() if shown else 0
    for first, second in pairwise(boxes):
        if angle:
            points = shown[0].get_fontsize() / 72 * shown[0].get_figure(root=True).dpi
            step = second.max[along] - first.max[along]
            assert step * math.sin(math.radians(angle)) >= 0.9 * points
        else:
            assert second.min[along] >= first.max[along] - 1


@pytest.mark.parametrize(
    ("name", "path", "count", "what"),
    [
        ("accuracy_over_rounds", "attack__name", 20, "panels"),
        ("accuracy_over_rounds", "defense__name", 60, "defenses"),
        ("errors_over_rounds", "attack__name", 20, "panels"),
    ],
)
def test_what_is_left_out_is_told(
    name: str, path: str, count: int, what: str, base: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "PAGE_HEIGHT", 8.0)
    figure = FIGURES[name](many(base, count, path))
    told = figure.legends[0].get_title().get_text()
    (shown,) = re.findall(rf"(\d+) of {count} {what} are shown", told)
    drawn = figure.axes if what == "panels" else figure.axes[0].lines
    assert len(drawn) == int(shown)
    assert what != "defenses" or int(shown) == len(legend_texts(figure))


def test_lines_that_are_shown_can_be_told_apart() -> None:
    variants = [f"{name} ({place})" for name in (*style.LINES, "new") for place in range(20)]
    for defenses in (variants, variants[:20], [f"new{place}" for place in range(30)]):
        shown = told_apart(defenses)
        looks = {(*style.line(one), style.variant_marker(one, shown)) for one in shown}
        assert len(looks) == len(shown) >= len(style.VARIANT_MARKERS)
        assert len(shown) <= LINES


def test_methods_without_a_line_of_their_own_are_told_apart(base: Run) -> None:
    lines = FIGURES["accuracy_over_rounds"](many(base, 12, "defense__name")).axes[0].lines
    assert len({line.get_marker() for line in lines}) == 12


@pytest.mark.parametrize(("clients", "classes"), [(100, 1000), (10_000, 10), (10_000, 1000)])
def test_a_large_partition_is_a_map_of_means(clients: int, classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (clients, classes))
    names = [f"class number {place}" for place in range(classes)]
    figure = FIGURES["partition"](with_classes(tmp_path / "p", counts, names))
    assert_readable(figure)
    total, cells, _ = figure.axes
    (mesh,) = cells.collections
    drawn = np.asarray(mesh.get_array())
    across, down = clients // drawn.shape[1], classes // drawn.shape[0]
    blocks = counts.reshape(drawn.shape[1], across, drawn.shape[0], down)
    np.testing.assert_allclose(drawn, blocks.mean((1, 3)).T)
    words = f"each cell: {across} client{'s' * (across > 1)} x {down} class{'es' * (down > 1)}"
    assert words in cells.get_xlabel()
    sizes = counts.sum(1).reshape(-1, across)
    band, mean = (patch.get_data() for patch in total.patches)
    np.testing.assert_allclose(band.values, sizes.max(1))
    np.testing.assert_allclose(band.baseline, sizes.min(1))
    np.testing.assert_allclose(mean.values, sizes.mean(1))
    shown = [label.get_text() for label in cells.get_yticklabels()]
    assert shown == [names[int(place)] for place in cells.get_yticks()]


def test_the_last_cells_of_a_map_hold_what_is_left_over() -> None:
    counts = np.arange(21).reshape(7, 3)
    means = mean_of_cells(counts, np.array([0, 3, 6, 7]), np.array([0, 2, 3]))
    expected = [
        [counts[low:high, left:right].mean() for left, right in ((0, 2), (2, 3))]
        for low, high in ((0, 3), (3, 6), (6, 7))
    ]
    np.testing.assert_allclose(means, expected)


def test_the_largest_partition_of_dots_is_readable(tmp_path: Path) -> None:
    write_partition(tmp_path / "p", MOST_CLIENTS, MOST_CLASSES)
    assert_readable(FIGURES["partition"](tmp_path / "p"))


@pytest.mark.parametrize("names", [["one"], ["a", "b", "c"]])
def test_a_partition_whose_classes_do_not_fit_is_refused(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit together"):
        FIGURES["partition"](with_classes(tmp_path / "p", np.ones((3, 2)), names))


def judged(clients: int, attack: str = "lie", rules: int = 1) -> Judged:
    """A recorded round of half malicious clients with five iterations."""
    random = np.random.default_rng(clients)
    rows = [
        ("fedredefense" if rule == 0 else f"_rule $x$ {rule}", 1, client, client % 2 == 0, step)
        for rule in range(rules)
        for client in range(clients)
        for step in range(1, 6)
    ]
    frame = pd.DataFrame(rows, columns=["rule", "round", "client", "malicious", "iteration"])
    return Judged(frame.assign(score=random.random(len(frame))), {"seed": 0}, 0.6, attack)


def test_many_error_curves_are_bands_of_quantiles() -> None:
    one = judged(CURVES + 100)
    figure = curves([one])
    assert_readable(figure)
    errors, malicious = one.curves()
    axis = figure.axes[0]
    for line, bad in zip(axis.lines, (False, True), strict=False):
        np.testing.assert_allclose(line.get_ydata(), np.median(errors[malicious == bad], 0))
    outer = axis.collections[0].get_paths()[0].vertices[:, 1]
    honest = errors[~malicious]
    assert {outer.min(), outer.max()} == {honest.min(), honest.max()}
    assert "range" in figure.legends[0].get_title().get_text()
    assert len(curves([judged(CURVES)]).axes[0].lines) == CURVES + 1


def test_many_panels_and_rules_of_recorded_rounds_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(style, "PAGE_HEIGHT", 8.0)
    panels = [judged(8, f"attack {number}, under a long name", rules=30) for number in range(16)]
    figure = roc(panels)
    assert_readable(figure)
    assert len(figure.axes) == 6
    told = figure.get_supxlabel()
    assert "6 of 16 panels" in told
    assert "15 of 30 rules" in told
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[1].startswith("_rule $x$ 1 ")
    assert_readable(curves(panels))


def test_a_figure_that_cannot_be_drawn_or_written_is_told(tmp_path: Path) -> None:
    figure = Figure()
    figure.text(0, 0, r"$\x$", parse_math=True)
    with pytest.raises(UserError, match=r"figure\.png could not be drawn"):
        write_figure(figure, tmp_path / "figure", ["png"])
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"figure\.png could not be written"):
        write_figure(Figure(), tmp_path / "file" / "figure", ["png"])
