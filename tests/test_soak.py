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


BUSY = "import os\nwhile sum(os.times()[:2]) < 0.5: pass"  # seconds on a core
BUSY_WITH_A_BUSY_CHILD = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BUSY!r}], stdin=subprocess.DEVNULL)
{BUSY}
print(sum(os.times()[:2]), sum(os.times()[2:4]), flush=True)
sys.stdin.read()
"""


class LookedAtOnce:
    """A process that is looked at when it and its child have done their work, and then ends."""

    def __init__(self, process):
        self.pid, self.process, self.told = process.pid, process, []

    def wait(self, seconds):
        if self.told:
            self.process.stdin.close()
            return self.process.wait()
        self.told = [float(word) for word in self.process.stdout.readline().split()]
        raise subprocess.TimeoutExpired("", seconds)


def test_the_cores_of_a_process_are_its_own_and_not_those_of_its_children(monkeypatch):
    clock = itertools.count(0, 2)  # two seconds from look to look, however slow this machine is
    monkeypatch.setattr(soak, "time", SimpleNamespace(perf_counter=clock.__next__))
    command = [sys.executable, "-c", BUSY_WITH_A_BUSY_CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        looked_at = LookedAtOnce(process)
        (cores,) = soak.watch(looked_at).cores
    own, of_its_child = looked_at.told
    assert min(own, of_its_child) >= 0.5
    assert own - 0.05 < 2 * cores < own + of_its_child - 0.05  # told in hundredths of a second


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
    assert seen["snakemake_cores"]["largest"] > 0
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
