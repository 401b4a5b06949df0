"""What a run warns of is marked where its number stands and said below, in every table and figure."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from run_folders import settings, write_grid, write_run

from fedred.errors import UserError
from fedred.report.costs import COST
from fedred.report.figures import FIGURES, made_figure
from fedred.report.frames import records
from fedred.report.lettering import house_style
from fedred.report.runs import load_runs
from fedred.report.tables import TABLES, print_table, write_table
from fedred.run_warnings import KINDS

BROKEN = {"updates_not_finite": "3 of 40 updates were not finite, in 2 of 20 rounds"}
GIVEN_UP = {"budget_never_reached": "none of 5 rejected reconstructions used its 18 iterations"}


def warn(folder: Path, warnings: object) -> Path:
    """Let a finished run warn of something."""
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"warnings": warnings}))
    return folder


def run(root: Path, defense: str, warnings: object = None, seed: int = 0) -> Path:
    folder = write_run(root / f"{defense}-{seed}", settings("mpaf", defense, seed))
    return warn(folder, warnings) if warnings is not None else folder


def texts_of(folders: Sequence[Path], name: str, out: Path) -> dict[str, str]:
    """Return a table in all its forms, and as it is printed."""
    frame = TABLES[name](load_runs(folders))
    texts = {path.suffix: path.read_text() for path in write_table(frame, name, out)}
    console = Console(width=200, record=True, file=(out.parent / "printed").open("w"))
    print_table(frame, name, console)
    return texts | {"terminal": console.export_text()}


def notes_of(figure: Figure) -> str:
    legends = [legend.get_title().get_text() for legend in figure.legends]
    return "".join([*legends, figure.get_supxlabel()])


def test_a_doubtful_number_is_marked_and_explained_in_every_form(tmp_path: Path) -> None:
    """One seed of two warns: the number stands on both."""
    folders = [run(tmp_path, "fedavg", seed=seed) for seed in (0, 1)]
    folders += [run(tmp_path, "median", BROKEN), run(tmp_path, "median", {}, seed=1)]
    texts = texts_of(folders, "performance", tmp_path / "table")
    assert [line.split(",")[-1] for line in texts.pop(".csv").splitlines()] == [
        "warnings",
        "",
        "",
        "updates_not_finite",
        "updates_not_finite",
    ]
    for text in texts.values():
        assert text.count("(a)") == 2  # at the number, and before what it means
        assert KINDS["updates_not_finite"] in text
    (row,) = (line for line in texts[".md"].splitlines() if line.startswith("| MPAF"))
    assert [cell.strip().strip("*").endswith("(a)") for cell in row.strip("|").split("|")] == [
        False,
        False,
        True,
    ]


def test_where_a_whole_row_is_doubtful_its_name_is_marked(tmp_path: Path) -> None:
    folders = [run(tmp_path, name, BROKEN) for name in ("fedavg", "median")]
    for text in texts_of(folders, "performance", tmp_path / "table").values():
        assert text.count("MPAF (a)") == text.count("(a) updates")


@pytest.mark.parametrize("name", TABLES)
def test_without_warnings_there_is_no_mark(name: str, tmp_path: Path) -> None:
    folders = write_grid(tmp_path / "runs", seeds=(0, 1), model__name="convnet")
    if name == "reference":
        pytest.skip("needs runs of a published protocol")
    for text in texts_of(folders, name, tmp_path / "table").values():
        assert "(a)" not in text


@pytest.mark.parametrize("name", ["performance", "detection", "differences", "errors", "cost"])
def test_every_table_of_runs_has_marks(name: str, tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg"), run(tmp_path, "fedredefense", BROKEN)]
    texts = texts_of(folders, name, tmp_path / "table")
    assert all(KINDS["updates_not_finite"] in texts[form] for form in (".md", ".html", ".tex"))


def test_giving_up_concerns_errors_and_iterations_alone(tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg"), run(tmp_path, "fedredefense", GIVEN_UP)]
    for name, told in (("performance", False), ("detection", False), ("errors", True)):
        text = texts_of(folders, name, tmp_path / name)["terminal"]
        assert (KINDS["budget_never_reached"] in text) == told
    cost = texts_of(folders, "cost", tmp_path / "cost")[".csv"]
    marked = [line for line in cost.splitlines() if line.endswith("budget_never_reached")]
    assert [line.split(",")[2] for line in marked] == ["iterations"]


def test_a_model_that_stays_costs_what_others_cost(tmp_path: Path) -> None:
    stayed, excluded = {"model_stayed": "in 20 of 20 rounds"}, {"all_excluded": "in 3 of 20 rounds"}
    for warnings, marked in ((stayed, {"iterations"}), (excluded, set(COST))):
        folder = run(tmp_path / next(iter(warnings)), "fedredefense", warnings)
        rows = records(TABLES["cost"](load_runs([folder])))
        assert {row["metric"] for row in rows if row["warnings"]} == marked


def test_a_difference_is_as_doubtful_as_its_baseline(tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg", BROKEN), run(tmp_path, "median")]
    assert KINDS["updates_not_finite"] in texts_of(folders, "differences", tmp_path / "t")[".md"]


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("partition", "sweep")])
def test_a_figure_names_the_runs_that_are_doubtful(name: str, tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg"), run(tmp_path, "fedredefense", BROKEN)]
    note = f"{KINDS['updates_not_finite']}: FedREDefense / MPAF"
    assert notes_of(made_figure(name, folders)) == note
    sound = [folders[0], run(tmp_path / "sound", "fedredefense")]
    assert notes_of(made_figure(name, sound)) == ""


@pytest.mark.parametrize("name", ["accuracy_over_rounds", "reconstruction_error", "heat_map"])
def test_many_notes_stand_clear_of_the_panels(name: str, tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg"), run(tmp_path, "fedredefense", dict.fromkeys(KINDS, "so"))]
    figure = made_figure(name, folders)
    with house_style():
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        panels = [axis.get_tightbbox() for axis in figure.axes]
    assert not any(box.overlaps(panel) for box in boxes for panel in panels)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    heights = [axis.get_window_extent().height for axis in figure.axes]
    sound = made_figure(name, [folders[0], run(tmp_path / "sound", "fedredefense")])
    with house_style():
        sound.draw_without_rendering()
    before = [axis.get_window_extent().height for axis in sound.axes]
    assert heights == pytest.approx(before, rel=0.2)


def test_more_kinds_than_letters_are_told_apart(tmp_path: Path) -> None:
    kinds = {f"kind_{number:02}": "so" for number in range(30)}
    text = texts_of(
        [run(tmp_path, "fedavg"), run(tmp_path, "median", kinds)], "performance", tmp_path / "t"
    )
    for letter, number in (("a", 0), ("z", 25), ("aa", 26), ("ad", 29)):
        assert f"({letter}) kind_{number:02}" in text["terminal"]


def test_a_kind_of_a_later_version_is_shown_as_it_is(tmp_path: Path) -> None:
    folders = [run(tmp_path, "fedavg"), run(tmp_path, "median", {"new_kind": "something"})]
    assert "(a) new" in texts_of(folders, "performance", tmp_path / "table")["terminal"]


@pytest.mark.parametrize("warnings", [3, ["a"], {"a": 3}, {"a": None}, "text", {"two words": "x"}])
def test_warnings_that_are_no_sentences_are_refused(warnings: object, tmp_path: Path) -> None:
    folder = run(tmp_path, "fedavg", warnings)
    with pytest.raises(UserError, match="warnings"):
        load_runs([folder])
