"""The soak, with a handful of runs."""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import soak
from fedred.plan import make_plan

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("jobs", "runs"), [(4, 4), (5, 8), (200, 200), (201, 220)])
def test_a_soak_has_as_many_different_runs_as_asked_for(jobs, runs):
    assert len(make_plan(soak.configuration(jobs)).runs) == runs


def test_growth_is_a_slope_that_is_sure_and_large():
    noise = np.random.default_rng(0).normal(0, 1, 200)
    level = 100 + noise
    assert not soak.growth(level)["grows"]
    assert soak.growth(level + 0.1 * np.arange(200))["grows"]
    assert not soak.growth(level - 0.1 * np.arange(200))["grows"]
    assert not soak.growth(100 + 0.001 * np.arange(200))["grows"]  # sure, and small
    assert not soak.growth([5.0, 5.0, 5.0])["grows"]


def test_memory_is_judged_once_snakemake_has_loaded():
    loading, level = [0, 10, 300, 600, 640, 657], [658] * 8
    assert soak.settled([*loading, *level, 0]) == level[1:]


def test_the_cores_of_a_process_are_its_own_and_not_those_of_its_children(monkeypatch):
    monkeypatch.setattr(soak, "INTERVAL", 0.2)
    clock = itertools.count(0, 2)  # two seconds from look to look, however slow this machine is
    monkeypatch.setattr(soak, "time", SimpleNamespace(perf_counter=clock.__next__))
    busy = "import os\nwhile sum(os.times()[:2]) < 2: pass"  # seconds on a core
    waiting = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    used = {}
    for code in (busy, waiting):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            used[code] = 2 * sum(soak.watch(process).cores)
    assert used[waiting] < used[busy] / 3
    assert 0.6 < used[busy] < 2.1


@pytest.mark.parametrize(
    "name",
    [
        "a/.run.json.0123abcd.fedred-tmp/run.json",
        "results/runs/x/checkpoint.safetensors",
        ".snakemake/locks/0",
    ],
)
def test_what_should_have_gone_is_found(tmp_path, name):
    project, temporary = tmp_path / "project", tmp_path / "temporary"
    temporary.mkdir()
    for kept in ("results/runs/x/run.json", name):
        (project / kept).parent.mkdir(parents=True, exist_ok=True)
        (project / kept).touch()
    (temporary / "forgotten").touch()
    assert soak.left_over(project, temporary) == [f"project/{name}", "temporary/forgotten"]


def test_the_command_runs_the_workflow_and_writes_what_it_saw(tmp_path, capsys):
    assert soak.main(["--jobs", "4", "--results", str(tmp_path)]) == 0
    seen = json.loads(next(tmp_path.glob("soak-*.json")).read_text())
    assert (seen["runs"], seen["failures"], seen["exit_code"]) == (4, 0, 0)
    assert seen["left_over"] == []
    assert seen["seconds"]["simulate"]["count"] == 4
    assert 50 < seen["bytes"]["simulate"]["median"] / 2**20 < 4000
    assert seen["snakemake_bytes"]["median"] > 2**20
    assert 0 < seen["snakemake_cores"]["largest"] < 3
    assert "No failure, no growing memory, nothing left over." in capsys.readouterr().out


def test_a_failure_a_leak_and_a_leftover_are_told():
    level, leak = soak.summary([1.0] * 9), soak.summary([float(n) for n in range(1, 10)])
    seen = {
        "failures": 2,
        "exit_code": 1,
        "left_over": ["project/.x.fedred-tmp/x"],
        "snakemake_bytes": leak,
        "bytes": {"simulate": level},
    }
    assert soak.mistakes(seen) == [
        "2 jobs failed",
        "Snakemake ended with 1",
        "left over: project/.x.fedred-tmp/x",
        "memory of Snakemake grows",
    ]
