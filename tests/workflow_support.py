"""Copies of the project in which Snakemake runs for real, on a tiny configuration."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small import DEFENSE, SETTINGS

ROOT = Path(__file__).parent.parent
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


def copy_project(folder):
    """Copy what a run needs; the copy's `fedred` notes each of its calls in calls.txt."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = folder / "bin" / "fedred"
    command.parent.mkdir(parents=True)
    command.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from pathlib import Path\n"
        "from fedred.cli import main\n"
        "calls = Path(__file__).absolute().parents[1] / 'calls.txt'\n"
        "calls.open('a').write(sys.argv[1] + '\\n')\n"
        "main()\n"
    )
    command.chmod(0o755)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def environment(project):
    """Return the variables with which a project's own package is the one that is imported."""
    paths = {"PYTHONPATH": str(project), "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    return os.environ | paths


def snakemake(project, *arguments, **variables):
    """Run Snakemake in a project whose own package is the one that is imported."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *map(str, arguments)],
        cwd=project,
        env=environment(project) | variables,
        capture_output=True,
        text=True,
    )


def succeed(project, *arguments, **variables):
    """Run Snakemake on the tiny configuration and expect success."""
    done = snakemake(project, *arguments, "--configfile", "tiny.yaml", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def jobs(project, *arguments):
    """Return rule -> number of jobs that a dry run announces."""
    done = snakemake(project, "--dry-run", "--cores", 2, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.search(r"Job stats:\n(.*?)\n\n", done.stdout, re.DOTALL)
    rows = re.findall(r"^(\w+) +(\d+)$", table[1] if table else "", re.MULTILINE)
    return {name: int(count) for name, count in rows if name != "total"}


def tiny_jobs(project):
    """Return what a dry run of the tiny configuration announces."""
    return jobs(project, "--configfile", "tiny.yaml")


def finished_project(folder):
    """Return a project in `folder` that has run to its end, whichever process runs it first.

    Where it failed, every process fails with the same reason and none tries again.
    """
    folder.mkdir(exist_ok=True)
    project, unfinished, failure = (folder / name for name in ("project", "unfinished", "failure"))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failure.exists():
            pytest.fail(f"the project could not be finished: {failure.read_text()}")
        if not project.exists():
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            try:
                succeed(copy_project(unfinished), "--cores", 2)
            except BaseException as error:
                failure.write_text(str(error))
                raise
            unfinished.rename(project)
    return project
