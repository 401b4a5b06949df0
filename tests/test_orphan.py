"""A killed Snakemake leaves a run behind; the next Snakemake waits for it and takes its results."""

import os
import subprocess
import sys

import psutil
import pytest
import yaml
from command import PAUSING, wait_for
from run_results import same_results
from test_resume import LONG
from workflow_support import copy_project, environment, snakemake

pytestmark = pytest.mark.slow

SETTINGS = {**LONG, "rounds": 15}
CONFIG = {"experiments": {"one": {"base": SETTINGS, "tables": ["performance"], "figures": []}}}
ARGUMENTS = ("--cores", "1", "--configfile", "one.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with its data, in which one long run is left to do."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    (project / "one.yaml").write_text(yaml.safe_dump(CONFIG))
    pausing = PAUSING.format(str(project / "pause"))
    (project / "bin/fedred").write_text(f"#!{sys.executable}\n{pausing}")
    done = snakemake(project, *ARGUMENTS, "--until", "partition")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def start(project):
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *ARGUMENTS],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_of(snakemake):
    """Return the process of `fedred run` that a Snakemake has started."""
    children = psutil.Process(snakemake.pid).children(recursive=True)
    return next((c for c in children if "run" in c.cmdline() and c.name() != "bash"), None)


def test_the_next_snakemake_waits_for_an_orphan_and_takes_its_results(project):
    (project / "pause").touch()  # or a slow second Snakemake would find the work done
    first = start(project)
    (folder,) = wait_for(lambda: list(project.glob("results/runs/*/checkpoint*")), first)
    folder, orphan = folder.parent, run_of(first)
    second = snakemake(project, *ARGUMENTS)
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout + second.stderr
    first.kill()
    first.wait()
    assert snakemake(project, *ARGUMENTS, "--unlock").returncode == 0
    third = start(project)
    log = project / f"logs/simulate/{folder.name}.log"
    waiting = f"is in use by process {orphan.pid} on {os.uname().nodename}: waiting"
    wait_for(lambda: log.exists() and waiting in log.read_text(), third)
    (project / "pause").unlink()
    assert third.wait() == 0
    assert "is complete: nothing to do" in log.read_text()
    same_results(folder, undisturbed(project, folder.name))


def undisturbed(project, name):
    """Play the same run alone, in a folder of the same name."""
    (dataset,), (partition,) = (
        project.glob(f"results/{kind}/*.safetensors") for kind in ("datasets", "partitions")
    )
    settings, out = project / "alone.yaml", project / "alone" / name
    settings.write_text(yaml.safe_dump(SETTINGS))
    files = ("--dataset", dataset, "--partition", partition, "--threads", 1)
    command = [project / "bin/fedred", "run", settings, "--out", out, *files]
    subprocess.run([*map(str, command)], check=True, env=environment(project))
    return out
