"""Tests hold on any machine: one limit that ends what hangs, and a failure costs its own tests only."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import workflow_support
from bounded import Expanded, few_calls, little_memory
from command import HUNG
from workflow_support import finished_project

TESTS = Path(__file__).parent
HANGING = """
import signal, time, pytest

def hang():
    "Lets the time that is left run out at once, if there is a limit."
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while True:
        time.sleep(0.001)

@pytest.fixture(scope="module")
def fixture():
    hang()

def test_that_hangs():
    hang()

def test_of_a_fixture_that_hangs(fixture): pass

def test_that_ends(): pass
"""


def test_what_hangs_fails_and_the_rest_goes_on(tmp_path):
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_hanging.py").write_text(HANGING)
    paths = os.environ | {"PYTHONPATH": f"{tmp_path}:{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert done.stdout.count(f"E       Failed: hangs: no end after {HUNG} s") == 2, done.stdout
    assert "1 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr


def test_no_test_has_a_time_limit_of_its_own():
    limits = re.compile(r"\btimeout=|\bperf_counter\(|\bmonotonic\(\) [+<>]")
    files = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    found = {path.name for path in files if limits.search(path.read_text())}
    assert found <= {"one_node_slurm.py"}  # a program of its own, with one limit


def test_whoever_starts_snakemake_is_marked_slow():
    starts = re.compile(
        r"^from workflow_support import .*\b(snakemake|succeed|jobs)\b", re.MULTILINE
    )
    texts = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    found = {name for name, text in texts.items() if starts.search(text)}
    assert "test_workflow.py" in found
    assert [name for name in found if "\npytestmark = " not in texts[name]] == []


def copied(folder):
    folder.mkdir()
    (folder / "tiny.yaml").touch()
    return folder


@pytest.fixture
def tries(monkeypatch):
    """Copies that are quick to make, and the folders in which Snakemake was started."""
    folders = []
    monkeypatch.setattr(workflow_support, "copy_project", copied)
    monkeypatch.setattr(workflow_support, "succeed", lambda folder, *_: folders.append(folder))
    return folders


def test_a_project_that_could_not_be_finished_fails_with_its_reason_and_is_not_tried_again(
    tries, monkeypatch, tmp_path
):
    def fail(folder, *_):
        tries.append(folder)
        raise AssertionError("no room")

    monkeypatch.setattr(workflow_support, "succeed", fail)
    with pytest.raises(AssertionError, match="no room"):
        finished_project(tmp_path)
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception, match=r"could not be finished: no room"):
            finished_project(tmp_path)
    assert len(tries) == 1


def test_a_project_left_half_made_by_a_process_that_was_killed_is_made_anew(tries, tmp_path):
    half = tmp_path / "unfinished" / "results"
    half.mkdir(parents=True)
    project = finished_project(tmp_path)
    assert [path.name for path in project.iterdir()] == ["tiny.yaml"]
    assert finished_project(tmp_path) == project
    assert len(tries) == 1


def test_what_expands_is_stopped_by_its_calls_and_by_its_bytes():
    with few_calls(1000):
        sum(range(100_000))
    with pytest.raises(Expanded), few_calls(1000):
        sum(map(abs, iter(lambda: abs(1), 0)))
    if sys.platform == "linux":
        with pytest.raises(MemoryError), little_memory(2**20):
            bytes(2**27)
    assert len(bytes(2**27)) == 2**27
