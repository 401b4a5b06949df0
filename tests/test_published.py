"""Published studies are whole, and documents show what they say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedred.plan import make_plan
from fedred.report.figures import write_figure
from fedred.report.runs import load_runs
from fedred.yaml_reading import read_yaml
from tools import published_figures, published_tables

ROOT = Path(__file__).parent.parent
STUDIES = sorted(ROOT.glob("results/published/*/study.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_a_study_holds_each_of_its_runs_and_no_other(path):
    plan = make_plan(read_yaml(path))
    assert plan.published == path.parent.name
    runs = load_runs(path.parent / "runs" / run for run in plan.runs)
    assert [run.settings for run in runs] == [dict(plan.runs[run.name]) for run in runs]
    for run in runs:
        assert len(run.rounds) == run.settings["rounds"]
        assert len(run.clients) == run.settings["rounds"] * run.settings["partition"]["clients"]
    assert {folder.name for folder in (path.parent / "runs").iterdir()} == set(plan.runs)
    about = json.loads((path.parent / "study.json").read_text())
    assert about["runs"] == len(runs)
    assert len(about["versions"]) == 1


@pytest.mark.parametrize("name", published_tables.DOCUMENTS)
def test_documents_show_the_tables_of_the_published_files(name):
    text = (ROOT / name).read_text()
    assert published_tables.refreshed(text) == text
    places = published_tables.PLACE.findall(text)
    assert text.count("<!-- table ") == len(places)
    assert all(published_tables.table_blocks(*place[1:4]) for place in places)


SHADES = 1e-5
"""Share of pixels that may differ clearly: rounding may be another, a digit may not (about 1e-4)."""


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), float)


def changed(one, other):
    """Return the share of pixels that differ by more than an eighth of full scale."""
    return float((np.abs(one - other).max(-1) > 32).mean())


@pytest.mark.parametrize(
    ("plan", "experiment", "figure"),
    [pytest.param(*one, id=f"{one[1]}-{one[2]}") for one in published_figures.shown()],
)
def test_documents_show_the_figures_of_the_published_files(plan, experiment, figure, tmp_path):
    name = f"{experiment}-{figure}"
    write_figure(published_figures.drawn(plan, experiment, figure), tmp_path / name, ["png"])
    drawn, shown = (pixels(path / f"{name}.png") for path in (tmp_path, published_figures.IMAGES))
    assert drawn.shape == shown.shape
    assert changed(drawn, shown) < SHADES


def test_a_changed_digit_of_a_figure_is_found():
    picture = pixels(published_figures.IMAGES / "fashion_mnist-heat_map.png")
    other = picture.copy()
    rows, columns = np.nonzero((picture < 64).all(-1))  # dark letters
    here = slice(rows[0], rows[0] + 14), slice(columns[0], columns[0] + 10)
    other[here] = other[here][:, ::-1]
    assert changed(picture, other) > SHADES


def test_a_changed_number_is_found(tmp_path, monkeypatch):
    study = STUDIES[0].parent
    experiment = next(iter(make_plan(read_yaml(STUDIES[0])).experiments))
    place = f"<!-- table {study.name} {experiment} performance 1 -->\nSTALE\n<!-- end -->"
    shown = published_tables.refreshed(place)
    assert "STALE" not in shown
    assert "| Attack |" in shown
    shutil.copytree(ROOT / "results/published", tmp_path / "results/published")
    monkeypatch.setattr(published_tables, "ROOT", tmp_path)
    published_tables.table_blocks.cache_clear()
    for path in tmp_path.glob("results/published/*/runs/*/run.json"):
        content = json.loads(path.read_text())
        content["final"]["accuracy"] = 0.125
        path.write_text(json.dumps(content))
    assert published_tables.refreshed(place) != shown
    published_tables.table_blocks.cache_clear()
