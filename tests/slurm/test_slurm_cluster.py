"""The workflow through a real SLURM of one node with two fake GPUs: `make test-slurm`."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import one_node_slurm as slurm
import pytest
import workflow_support
import yaml
from run_results import same_results
from small import SETTINGS
from test_resume import LONG
from workflow_support import copy_project

from fedred.plan import make_plan

pytestmark = pytest.mark.slow

PROFILE = "workflow/profiles/slurm"
FEDRED = """\
#!{python}
# The command, with a record of when and where it ran.
import json, os, pathlib, signal, sys, time
sys.path.insert(0, {tests!r})
from pausing import pause_after_checkpoints
from fedred.cli import main
from fedred.run import StopRequest

here = pathlib.Path({folder!r})
note = StopRequest._note

def note_and_go_on(request, number, frame):
    note(request, number, frame)
    (here / "pause").unlink(missing_ok=True)

def together(number):
    (here / "started").mkdir(exist_ok=True)
    (here / "started" / str(os.getpid())).touch()
    while len(os.listdir(here / "started")) < number:
        time.sleep(0.1)

StopRequest._note = note_and_go_on
pause_after_checkpoints(here / "pause")
line = {{"command": sys.argv[1], "start": time.monotonic(), "code": 0}}
for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
    line[name] = os.environ.get(name)
if line["command"] == "run":
    line["run"] = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).name
    sys.argv += {arguments}
    together({together})
try:
    main()
except SystemExit as exit:
    line["code"] = exit.code
    raise
finally:
    line["end"] = time.monotonic()
    with open(here / "record.jsonl", "a") as record:
        record.write(json.dumps(line) + "\\n")
"""


def experiment(base, **grid):
    """Return a configuration that ends with one table."""
    settings = {"base": base, "grid": grid, "seeds": [0], "tables": ["performance"], "figures": []}
    return {"experiments": {"cluster": settings}}


SHORT = experiment({**SETTINGS, "rounds": 2}, attack=["none", "mpaf"], malicious=[1, 2])
GROUPED = experiment({**SETTINGS, "rounds": 2}, attack=["none", "mpaf"], malicious=[3, 4])
LASTING = experiment({**LONG, "rounds": 20})
FAILING = experiment({**SETTINGS, "attack": {"name": "targeted_label_flip", "target": 99}})


@pytest.fixture(scope="session")
def cluster():
    """A running SLURM, stopped at the end unless it ran before."""
    if "FEDRED_TEST_SLURM" not in os.environ:
        pytest.skip("brings up a SLURM: only through `make test-slurm`")
    ran_before = bool(slurm.running())
    try:
        slurm.start()
        yield
    except slurm.Refused as reason:
        pytest.skip(str(reason))
    finally:
        if not ran_before:
            slurm.stop()


@dataclass
class Project:
    """A copy of the project whose `fedred` keeps a record, and the plan of a configuration."""

    folder: object
    config: dict

    @property
    def runs(self):
        return make_plan(self.config).runs

    def records(self, command="run"):
        lines = (self.folder / "record.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [record for record in records if record["command"] == command]

    def log(self, run):
        return (self.folder / f"logs/simulate/{run}.log").read_text()

    def start(self, *arguments):
        """Start Snakemake with the profile that users start with, polling more often."""
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(self.config))
        often = ["--slurm-init-seconds-before-status-checks", 15, "--latency-wait", 10]
        command = [*arguments, "--workflow-profile", PROFILE, "--configfile", "tiny.yaml", *often]
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *map(str, command)],
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def environment(folder):
    """Return variables under which a machine with two GPUs would lease them."""
    return workflow_support.environment(folder) | {"FEDRED_LOCKS": str(folder / "locks")}


def make_project(folder, config, arguments=(), together=1):
    """Make a project whose runs begin when so many have started.

    While it has a file `pause`, a run waits after its checkpoint until it is asked to stop.
    """
    project = Project(copy_project(folder), config)
    text = FEDRED.format(
        python=sys.executable,
        tests=str(Path(workflow_support.__file__).parent),
        folder=str(folder),
        arguments=list(arguments),
        together=together,
    )
    (folder / "bin/fedred").write_text(text)
    query = folder / "bin/nvidia-smi"
    query.write_text("#!/bin/sh\necho GPU-one\necho GPU-two\n")
    query.chmod(0o755)
    return project


def finish(process, code=0):
    """Wait for Snakemake and return what it said."""
    try:
        said, _ = process.communicate()
    except pytest.fail.Exception:  # it hangs
        process.send_signal(signal.SIGINT)  # which cancels its jobs
        pytest.fail(f"no end:\n{process.communicate()[0]}")
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """Three short runs, each a job of its own, after a group that makes their data."""
    project = make_project(tmp_path_factory.mktemp("short"), SHORT, together=slurm.GPUS)
    finish(project.start("--groups", "dataset=data", "partition=data"))
    return project


def with_data_of(finished, folder, config, arguments=()):
    """Return a project that has the data set and the partition already."""
    project = make_project(folder, config, arguments)
    for name in ("results/datasets", "results/partitions", ".snakemake/metadata"):
        shutil.copytree(finished.folder / name, folder / name)
    return project


def overlaps(one, other):
    return one["start"] < other["end"] and other["start"] < one["end"]


def test_the_workflow_runs_to_its_end(finished):
    assert (finished.folder / "results/tables/cluster-performance.csv").exists()
    assert sorted(record["run"] for record in finished.records()) == sorted(finished.runs)
    everything = [*finished.records(), *finished.records("data"), *finished.records("table")]
    assert all(record["SLURM_JOB_ID"] for record in everything)


def test_jobs_at_the_same_time_have_different_gpus(finished):
    records = finished.records()
    assert {record["CUDA_VISIBLE_DEVICES"] for record in records} == {"0", "1"}
    together = [pair for pair in itertools.combinations(records, 2) if overlaps(*pair)]
    assert together, "no two runs overlapped: nothing was seen"
    for one, other in together:
        assert one["CUDA_VISIBLE_DEVICES"] != other["CUDA_VISIBLE_DEVICES"]


def test_never_more_than_two_gpu_jobs_at_once(finished):
    records = finished.records()
    at_once = [sum(r["start"] <= one["start"] < r["end"] for r in records) for one in records]
    assert max(at_once) == slurm.GPUS


def test_slurm_deals_the_gpus_out_and_no_lease_is_taken(finished, tmp_path):
    lease = "computing on GPU-one"
    assert not (finished.folder / "locks").exists()
    assert not any(lease in finished.log(run) for run in finished.runs)
    assert lease in play_here(finished, next(iter(finished.runs)), tmp_path / "run").stderr


def play_here(project, run, out):
    """Play a run of the project with `fedred run` alone, without SLURM."""
    (dataset,) = (project.folder / "results/datasets").glob("*.safetensors")
    (partition,) = (project.folder / "results/partitions").glob("*.safetensors")
    files = ["--dataset", dataset, "--partition", partition, "--threads", "1"]
    return subprocess.run(
        [project.folder / "bin/fedred", "run", "-", "--out", out, *files],
        input=json.dumps(project.runs[run]),
        env=environment(project.folder),
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def cancelled(finished, tmp_path_factory):
    """A run whose job was cancelled after a checkpoint, the job, and the same run undisturbed."""
    folder = tmp_path_factory.mktemp("long")
    project = with_data_of(finished, folder, LASTING, ["--device", "cpu"])
    (run,) = project.runs
    (folder / "pause").touch()
    process = project.start(f"results/runs/{run}/run.json")
    job = cancel_after_checkpoint(project, run)
    play_here(project, run, folder / "undisturbed" / run)
    finish(process)
    return project, run, job


def cancel_after_checkpoint(project, run):
    """Cancel the job of a run and return its number."""
    checkpoint = project.folder / f"results/runs/{run}/checkpoint.safetensors"
    slurm.wait_for(checkpoint.exists, f"the checkpoint of {run}")
    lines = slurm.output("squeue", "--noheader", "--format=%i %k").splitlines()
    (job,) = [line.split()[0] for line in lines if run in line]
    subprocess.run(["scancel", job], check=True)
    return job


def test_a_cancelled_job_stops_with_a_checkpoint_and_its_retry_resumes(cancelled):
    project, run, job = cancelled
    here = [record for record in project.records() if record["SLURM_JOB_ID"]]
    assert [record["code"] for record in here] == [128 + signal.SIGTERM, 0]
    assert here[0]["SLURM_JOB_ID"] == job != here[1]["SLURM_JOB_ID"]
    assert re.search(r"resuming after round \d+ of 20", project.log(run))


def test_a_cancelled_job_ends_with_the_bytes_of_an_undisturbed_one(cancelled):
    project, run, _ = cancelled
    same_results(project.folder / "results/runs" / run, project.folder / "undisturbed" / run)


@pytest.mark.skipif(
    os.environ.get("FEDRED_TEST_SLURM") != "all", reason="takes 4 minutes: FEDRED_TEST_SLURM=all"
)
def test_a_job_at_its_time_limit_resumes_by_retry_with_the_same_bytes(finished, tmp_path):
    folder = tmp_path / "project"
    project = with_data_of(finished, folder, LASTING, ["--device", "cpu"])
    (run,) = project.runs
    (folder / "pause").touch()  # until the first job's minute is over
    limits = ["--set-resources", "simulate:runtime=600**(attempt-1)", "simulate:gpu=1"]
    finish(project.start(f"results/runs/{run}/run.json", *limits))
    assert [record["code"] for record in project.records()] == [128 + signal.SIGTERM, 0]
    assert re.search(r"resuming after round \d+ of 20", project.log(run))
    play_here(project, run, tmp_path / run)
    same_results(project.folder / "results/runs" / run, tmp_path / run)


def test_groups_of_short_settings_take_one_gpu_in_turn(finished, tmp_path):
    project = with_data_of(finished, tmp_path, GROUPED)
    grouped = ["--groups", "simulate=runs", "--group-components", "runs=3"]
    one = ["--set-resource-scopes", "gpu=local", "--resources", "gpu=1", "--jobs", 10]
    targets = [f"results/runs/{run}/run.json" for run in project.runs]
    finish(project.start(*targets, *grouped, *one))
    records = sorted(project.records(), key=lambda record: record["start"])
    assert len(records) == len(project.runs) == 3
    assert len({record["SLURM_JOB_ID"] for record in records}) == 1
    assert len({record["CUDA_VISIBLE_DEVICES"] for record in records}) == 1
    assert not any(itertools.starmap(overlaps, itertools.pairwise(records)))


def test_a_failing_job_leaves_its_log_and_a_clear_last_line(finished, tmp_path):
    project = with_data_of(finished, tmp_path, FAILING)
    said = finish(project.start("--retries", 0), code=1)
    (run,) = project.runs
    reason = "attack.target is 99, but digits has only the classes 0 to 9"
    assert project.log(run).splitlines()[-1] == f"fedred: {reason}"
    assert f"logs/simulate/{run}.log" in said
    assert "Traceback" not in said


def test_a_wrong_partition_ends_with_a_clear_error(finished, tmp_path):
    project = with_data_of(finished, tmp_path, GROUPED)
    said = finish(project.start("--default-resources", "slurm_partition=nowhere"), code=1)
    assert "invalid partition specified: nowhere" in said
