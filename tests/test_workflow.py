"""The workflow, run for real on a tiny configuration in a copy of the project."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from workflow_support import TINY, copy_project, jobs, snakemake, tiny_jobs

from fedred.config import TABLES
from fedred.plan import gpus_per_run, make_plan
from fedred.report.tables import OFFLINE_TABLES

pytestmark = pytest.mark.slow

FORMATS = ("csv", "html", "md", "tex")
CANNOT_BE_FED = ("reference", *OFFLINE_TABLES)
"""Tables for which the tiny runs have no published value, and no recorded round."""


def test_all_tables_and_figures_are_there(finished):
    made = {path.name for path in (finished / "results").glob("[tf]*/*")}
    expected = {f"tiny-{t}.{e}" for t in TABLES if t not in CANNOT_BE_FED for e in FORMATS}
    figures = ("accuracy_over_rounds", "reconstruction_error", "errors_over_rounds")
    figures += ("detection", "heat_map", "partition")
    assert made == expected | {f"tiny-{f}.{e}" for f in figures for e in ("png", "pdf")}


def test_every_rule_left_a_log(finished):
    logs = {path.parent.name for path in (finished / "logs").rglob("*.log")}
    assert logs == {"dataset", "partition", "simulate", "table", "figure"}
    assert len(list((finished / "benchmarks/snakemake/simulate").glob("*.tsv"))) == 4


def test_a_second_run_has_nothing_to_do(finished):
    assert tiny_jobs(finished) == {}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fedred/report/style.py", {"figure": 6, "table": 5, "all": 1}),
        ("fedred/cli.py", {}),
        ("fedred/attacks/mpaf.py", {"simulate": 4, "figure": 5, "table": 5, "all": 1}),
        ("fedred/partition.py", {"partition": 1, "simulate": 4, "figure": 6, "table": 5, "all": 1}),
    ],
)
def test_an_edit_marks_what_depends_on_it_and_no_more(finished, path, expected):
    source = finished / path
    before = shutil.copy2(source, finished / "before")
    with source.open("a") as file:
        file.write("\n# an edit\n")
    try:
        assert tiny_jobs(finished) == expected
    finally:
        shutil.move(before, source)  # with its time


@pytest.mark.parametrize(
    ("target", "expected", "count"), [("tables", "table", 5), ("figures", "figure", 6)]
)
def test_tables_and_figures_have_targets_of_their_own(finished, target, expected, count):
    announced = jobs(finished, target, "--configfile", "tiny.yaml", "--forceall")
    assert announced[target] == 1
    assert announced[expected] == count
    assert {"table", "figure"} & set(announced) == {expected}


@pytest.mark.parametrize("ending", FORMATS)
def test_one_table_can_be_asked_for_by_its_file(finished, ending):
    target = f"results/tables/tiny-detection.{ending}"
    assert jobs(finished, target, "--configfile", "tiny.yaml", "--force") == {"table": 1}


def test_touching_a_file_marks_nothing(finished):
    source = finished / "fedred/attacks/mpaf.py"
    before = source.stat().st_mtime
    source.touch()
    try:
        assert tiny_jobs(finished) == {}
    finally:
        os.utime(source, (before, before))


def test_a_changed_setting_is_another_run_and_the_rest_is_kept(finished):
    config = yaml.safe_load((finished / "tiny.yaml").read_text())
    config["experiments"]["tiny"]["grid"]["attack"].append("min_max")
    (finished / "more.yaml").write_text(yaml.safe_dump(config))
    announced = jobs(finished, "--configfile", "more.yaml")
    assert announced["simulate"] == 2
    assert "dataset" not in announced
    assert "partition" not in announced


def test_spellings_are_refused_that_snakemake_has_read_as_something_else(tmp_path):
    project = copy_project(tmp_path)
    text = (project / "tiny.yaml").read_text()
    (project / "octal.yaml").write_text(text.replace("rounds: 2", "rounds: 02"))
    done = snakemake(project, "--dry-run", "--configfile", "octal.yaml")
    assert done.returncode == 2
    assert done.stderr.count("02 is 2 in YAML: write 2 or '02'") == 1
    assert "Traceback" not in done.stderr


def test_numbers_may_be_given_on_the_command_line_and_what_is_doubtful_is_said_once(tmp_path):
    project = copy_project(tmp_path)
    arguments = ("--configfile", "tiny.yaml", "--config")
    base = "experiments={tiny: {base: {malicious: 0, training: {lr: 1e-1}}}}"
    done = snakemake(project, "--dry-run", *arguments, base)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the attack mpaf has no attackers: malicious is 0 (2 of 4 runs)") == 1
    done = snakemake(project, "--dry-run", *arguments, base.replace("0,", "010,"))
    assert done.returncode == 2
    assert "--config: 010 is 8 in YAML 1.1 and 10 in YAML 1.2" in done.stderr


def test_the_report_is_written_without_network(finished):
    report = finished / "results/report.html"
    done = snakemake(finished, "--configfile", "tiny.yaml", "--cores", 1, "--report", report)
    assert done.returncode == 0, done.stderr
    page = report.read_text()
    assert "tiny-reconstruction_error.png" in page
    assert "tiny-performance" in page


def test_another_configuration_does_not_inherit_the_default(tmp_path):
    project = copy_project(tmp_path)
    default, laptop = jobs(project), jobs(project, "--configfile", "config/laptop.yaml")
    assert (default["simulate"], laptop["simulate"]) == (24, 2 * 7 * 9 * 3 + 2 * 6 * 3)
    both = snakemake(project, "-n", "--cores", 2, "--configfile", "config/laptop.yaml")
    assert "digits" not in both.stdout


def test_two_thousand_runs_are_planned(tmp_path):
    project = copy_project(tmp_path)
    experiment = TINY["experiments"]["tiny"] | {"seeds": list(range(500))}
    (project / "many.yaml").write_text(yaml.safe_dump({"experiments": {"tiny": experiment}}))
    assert jobs(project, "--quiet", "rules", "--configfile", "many.yaml")["simulate"] == 2000


def test_the_grid_crosses_every_attack_with_every_defense():
    runs = make_plan(yaml.safe_load(Path("config/grid.yaml").read_text())).runs.values()
    pairs = {(run["attack"]["name"], run["defense"]["name"]) for run in runs}
    attacks, defenses = ({pair[side] for pair in pairs} for side in (0, 1))
    assert len(runs) == len(pairs) == len(attacks) * len(defenses)
    assert len(attacks) >= 17
    assert len(defenses) >= 20


def test_a_mistake_in_a_configuration_is_one_sentence_and_no_job(tmp_path):
    project = copy_project(tmp_path)
    (project / "bad.yaml").write_text("experiments: {one: {base: {attack: min_mx}}}")
    done = snakemake(project, "--cores", 2, "--configfile", "bad.yaml")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fedred: experiments.one.base.attack: unknown attack 'min_mx'")
    assert "Traceback" not in done.stderr
    assert not (project / "results").exists()


@pytest.mark.parametrize("resources", [["--resources", "gpu=2"], []])
@pytest.mark.parametrize("gpus", ["", "0,1"])
def test_the_command_of_the_readme_plans_with_and_without_gpus(
    tmp_path, monkeypatch, gpus, resources
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    project = copy_project(tmp_path)
    assert jobs(project, "--cores", 8, *resources)["simulate"] == 24


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        ([], None, 0),
        (["nvidia0", "nvidia1"], None, 1),
        (["nvidia0"], "", 0),
        (["nvidia0"], "-1", 0),
        (["nvidiactl"], None, 0),
        (["nvidia0"], "0", 1),
    ],
)
def test_a_run_asks_for_a_gpu_only_where_one_is_seen(
    tmp_path, monkeypatch, devices, visible, expected
):
    for device in devices:
        (tmp_path / device).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_per_run(tmp_path) == expected
