"""Publishing a finished study: its small files alone make its tables and figures again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from command import fedred
from workflow_support import TINY, copy_project, snakemake

from fedred.plan import make_plan
from fedred.yaml_reading import read_yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    """A fresh project that holds a published study, and the project that it was made in."""
    made = copy_project(tmp_path_factory.mktemp("made"))
    shutil.copytree(finished / "results", made / "results")
    (made / "tiny.yaml").write_text(f"---\n{yaml.safe_dump({**TINY, 'published': None})}")
    done = fedred("publish", "tiny.yaml", "tiny", "--machine", "a machine", cwd=made)
    assert done.returncode == 0, done.stderr
    fresh = copy_project(tmp_path_factory.mktemp("fresh"))
    shutil.copytree(made / "results/published", fresh / "results/published")
    return made, fresh


def test_a_fresh_project_makes_the_same_tables_and_runs_nothing(study):
    made, fresh = study
    done = snakemake(fresh, "--cores", "2", "--configfile", "results/published/tiny/study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    made_anew = {path.name for path in (fresh / "results").iterdir()}
    assert made_anew == {"published", "published-tiny"}
    shown = fresh / "results/published-tiny"
    tables = sorted(path.name for path in (made / "results/tables").iterdir())
    assert tables == sorted(path.name for path in (shown / "tables").iterdir())
    for name in tables:
        one, other = (folder / "tables" / name for folder in (made / "results", shown))
        assert one.read_bytes() == other.read_bytes(), name
    figures = {path.name for path in (made / "results/figures").iterdir()}
    assert figures == {path.name for path in (shown / "figures").iterdir()}


def test_the_study_tells_what_made_it(study):
    folder = study[1] / "results/published/tiny"
    about = json.loads((folder / "study.json").read_text())
    assert about["machine"] == "a machine"
    assert about["runs"] == len(make_plan(TINY).runs) == len(list(folder.glob("runs/*/run.json")))
    assert about["versions"][0]["torch"]
    assert about["seconds_of_rounds"] >= 0
    plan = make_plan(read_yaml(folder / "study.yaml"))
    assert (plan.published, plan.runs) == ("tiny", make_plan(TINY).runs)
    assert not list(folder.rglob("model.safetensors"))


def test_a_lost_run_of_a_study_is_not_made_again(study, tmp_path):
    project = copy_project(tmp_path)
    shutil.copytree(study[1] / "results/published", project / "results/published")
    lost = next((project / "results/published/tiny/runs").iterdir())
    shutil.rmtree(lost)
    done = snakemake(project, "--cores", "1", "--configfile", "results/published/tiny/study.yaml")
    assert done.returncode != 0
    assert "MissingInputException" in done.stdout + done.stderr
    assert lost.name in done.stdout + done.stderr


def publish(project: Path, *arguments: str) -> str:
    done = fedred("publish", *arguments, cwd=project)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_nothing_is_overwritten_and_nothing_half_done_is_published(study, tmp_path):
    made, _ = study
    assert "tiny exists: remove it first" in publish(made, "tiny.yaml", "tiny")
    again = "results/published/tiny/study.yaml"
    assert "shows the published study 'tiny' already" in publish(made, again, "other")
    assert "published is '../other'" in publish(made, "tiny.yaml", "../other")
    assert "there is no file" in publish(made, "no.yaml", "other")
    empty = ("tiny.yaml", "other", "--results", str(tmp_path))
    files = 3 * len(make_plan(TINY).runs) + 1
    assert f"{files} of {files} files are missing, for instance" in publish(made, *empty)
    assert [path.name for path in (made / "results/published").iterdir()] == ["tiny"]


def test_a_torn_file_is_not_published(study, tmp_path):
    made, _ = study
    results = shutil.copytree(made / "results", tmp_path / "results")
    shutil.rmtree(results / "published")
    (partition,) = results.glob("partitions/*.safetensors")
    partition.write_bytes(b"torn")
    told = publish(made, "tiny.yaml", "other", "--results", str(results))
    assert str(partition) in told
    assert not (results / "published").exists()
