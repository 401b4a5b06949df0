"""The workflow, run for real on a tiny configuration in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small import DEFENSE, SETTINGS

from fedred.plan import gpus_per_run, make_plan

TINY = {
    "experiments": {
        "tiny": {
            "base": {**SETTINGS, "rounds": 2},
            "grid": {"attack": ["none", "mpaf"], "defense": ["fedavg", DEFENSE]},
            "seeds": [0],
        }
    }
}
COPIED = ("fedred", "workflow", "config")


def snakemake(project, *arguments):
    """Run Snakemake in a project whose own package is the one that is imported."""
    paths = {"PYTHONPATH": str(project), "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *map(str, arguments)],
        cwd=project,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=240,
    )


def jobs(project, *arguments):
    """Return rule -> number of jobs that a dry run announces."""
    done = snakemake(project, "--dry-run", "--cores", 2, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.search(r"Job stats:\n(.*?)\n\n", done.stdout, re.DOTALL)
    rows = re.findall(r"^(\w+) +(\d+)$", table[1] if table else "", re.MULTILINE)
    return {name: int(count) for name, count in rows if name != "total"}


def copy_project(folder):
    for name in COPIED:
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "bin").mkdir()
    command = folder / "bin" / "fedred"
    command.write_text(f"#!{sys.executable}\nfrom fedred.cli import main\nmain()\n")
    command.chmod(0o755)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project in which the tiny configuration has run to its end."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    done = snakemake(project, "--cores", 2, "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def tiny_jobs(project):
    return jobs(project, "--configfile", "tiny.yaml")


def test_all_tables_and_figures_are_there(finished):
    made = {path.name for path in (finished / "results").glob("[tf]*/*")}
    expected = {f"tiny-{t}.{e}" for t in ("performance", "detection") for e in ("csv", "md", "tex")}
    figures = ("accuracy_over_rounds", "reconstruction_error", "detection", "heat_map", "partition")
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
        ("fedred/report/style.py", {"figure": 5, "table": 2, "all": 1}),
        ("fedred/cli.py", {}),
        ("fedred/attacks/mpaf.py", {"simulate": 4, "figure": 4, "table": 2, "all": 1}),
        ("fedred/partition.py", {"partition": 1, "simulate": 4, "figure": 5, "table": 2, "all": 1}),
    ],
)
def test_an_edit_marks_what_depends_on_it_and_no_more(finished, path, expected):
    source = finished / path
    before = source.read_text()
    source.write_text(f"{before}\n# an edit\n")
    try:
        assert tiny_jobs(finished) == expected
    finally:
        source.write_text(before)


def test_touching_a_file_marks_nothing(finished):
    (finished / "fedred/attacks/mpaf.py").touch()
    assert tiny_jobs(finished) == {}


def test_a_changed_setting_is_another_run_and_the_rest_is_kept(finished):
    config = yaml.safe_load((finished / "tiny.yaml").read_text())
    config["experiments"]["tiny"]["grid"]["attack"].append("min_max")
    (finished / "more.yaml").write_text(yaml.safe_dump(config))
    announced = jobs(finished, "--configfile", "more.yaml")
    assert announced["simulate"] == 2
    assert "dataset" not in announced
    assert "partition" not in announced


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
    assert default["simulate"] == laptop["simulate"] == 24
    both = snakemake(project, "-n", "--cores", 2, "--configfile", "config/laptop.yaml")
    assert "digits" not in both.stdout


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
