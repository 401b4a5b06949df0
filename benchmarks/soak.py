"""Many small jobs in one go: does the workflow fail, leak memory, or leave anything behind?

python -m benchmarks.soak               # 200 runs of two rounds
python -m benchmarks.soak --jobs 10     # fewer

Snakemake works in a temporary copy of the project, with a folder of temporary files of its own.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table
from scipy.stats import linregress

from benchmarks.measure import environment, machine_name, statistics_of
from benchmarks.report import MEBIBYTE, RESULTS
from fedred.files import TEMPORARY, opened_whole

ROOT = Path(__file__).parent.parent
COPIED = ("fedred", "workflow", "config")
CORES = 2
INTERVAL = 1.0
SIGNIFICANT = 0.01
GROWTH = 0.05
"""Of the median over the whole soak: less is no leak, however significant."""
LEFT_OVER = (f".*{TEMPORARY}/*", "checkpoint*", ".snakemake/incomplete/*", ".snakemake/locks/*")
BASE = {
    "dataset": "digits",
    "partition": {"name": "balanced_dirichlet", "alpha": 0.5, "clients": 8},
    "model": {"name": "mlp", "width": 16},
    "training": {"lr": 0.1, "batch_size": 16},
    "malicious": 2,
    "rounds": 2,
}
ATTACKS = ("none", "mpaf", "min_max", "fang_trim", "label_flip")
DEFENSES = ("fedavg", "median", "trimmed_mean", "krum")


def configuration(jobs: int) -> dict[str, Any]:
    """Return an experiment of attacks by defenses by seeds, with `jobs` runs or just more."""
    attacks = ATTACKS[: -(-jobs // len(DEFENSES))]
    seeds = range(-(-jobs // (len(attacks) * len(DEFENSES))))
    grid = {"attack": list(attacks), "defense": list(DEFENSES)}
    return {"experiments": {"soak": {"base": BASE, "grid": grid, "seeds": list(seeds)}}}


def copy_project(project: Path, jobs: int) -> None:
    """Copy what a run needs, a command `fedred` for this Python, and the configuration."""
    for name in COPIED:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "bin").mkdir()
    command = project / "bin" / "fedred"
    command.write_text(f"#!{sys.executable}\nfrom fedred.cli import main\nmain()\n")
    command.chmod(0o755)
    (project / "soak.yaml").write_text(yaml.safe_dump(configuration(jobs)))


def run_snakemake(project: Path, temporary: Path) -> tuple[int, "Watched", float]:
    """Return exit code, what the process held and used once a second, and seconds."""
    variables = {
        "PATH": f"{project / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        str(CORES),
        "--configfile",
        "soak.yaml",
    ]
    start = time.perf_counter()
    with (project / "soak.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | variables, stdout=log, stderr=log
        )
        watched = watch(process)
    return process.returncode, watched, time.perf_counter() - start


class Watched(NamedTuple):
    """Of a process, once a second: bytes resident, and cores in use since the second before."""

    resident: list[int]
    cores: list[float]


def watch(process: "subprocess.Popen[bytes]") -> Watched:
    """Watch a process, but none of its children, until it ends."""
    watched, resident, times = psutil.Process(process.pid), [], [(time.perf_counter(), 0.0)]
    while True:
        try:
            process.wait(INTERVAL)
            break
        except subprocess.TimeoutExpired:
            resident.append(int(watched.memory_info().rss))
            times.append((time.perf_counter(), sum(watched.cpu_times()[:2])))
    steps = itertools.pairwise(times)
    return Watched(
        resident, [(used - before) / (now - then) for (then, before), (now, used) in steps]
    )


def settled(resident: Sequence[int]) -> list[int]:
    """Return the second half: before, Snakemake still loads; without the 0 of a process that ended."""
    return [held for held in resident[len(resident) // 2 :] if held]


def measured_jobs(project: Path) -> pd.DataFrame:
    """Return a row for each job that Snakemake measured, in the order in which they ended."""
    files = sorted(
        (project / "benchmarks" / "snakemake").rglob("*.tsv"), key=lambda file: file.stat().st_mtime
    )
    rows = [pd.read_csv(file, sep="\t").assign(rule=file.parent.name) for file in files]
    jobs = pd.concat(rows, ignore_index=True)
    return pd.DataFrame(
        {"rule": jobs["rule"], "seconds": jobs["s"], "bytes": jobs["max_rss"] * MEBIBYTE}
    )


def left_over(project: Path, temporary: Path) -> list[str]:
    """Return files that should have gone: half-written, marks of unfinished jobs, temporary ones."""
    found = {path for pattern in LEFT_OVER for path in project.rglob(pattern)}
    found |= set(temporary.rglob("*"))
    return sorted(str(path.relative_to(project.parent)) for path in found if path.is_file())


def growth(values: Sequence[float]) -> dict[str, Any]:
    """Return whether values grow from first to last: a significant slope that adds up to something."""
    if len(set(values)) < 2:
        return {"slope": 0.0, "p": 1.0, "grows": False}
    line = linregress(range(len(values)), values)
    total = line.slope * len(values) / statistics_of(values)["median"]
    grows = total > GROWTH and line.pvalue < SIGNIFICANT
    return {"slope": float(line.slope), "p": float(line.pvalue), "grows": bool(grows)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return what is kept of a series: how many, spread, growth, and the values themselves."""
    return {
        "count": len(values),
        **statistics_of(values),
        **growth(values),
        "all": [float(f"{value:.4g}") for value in values],
    }


def soak(jobs: int) -> dict[str, Any]:
    """Run the workflow in a temporary copy and return what was seen."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        project, temporary = Path(folder) / "project", Path(folder) / "temporary"
        project.mkdir()
        temporary.mkdir()
        copy_project(project, jobs)
        code, watched, seconds = run_snakemake(project, temporary)
        log = (project / "soak.log").read_text()
        done = measured_jobs(project)
        by_rule = dict(list(done.groupby("rule")))
        return {
            "exit_code": code,
            "failures": log.count("Error in rule"),
            "runs": len(list(project.glob("results/runs/*/run.json"))),
            "left_over": left_over(project, temporary),
            "wall_seconds": seconds,
            "snakemake_bytes": summary(settled(watched.resident)),
            "snakemake_cores": summary(watched.cores),
            "seconds": {rule: summary(list(rows["seconds"])) for rule, rows in by_rule.items()},
            "bytes": {rule: summary(list(rows["bytes"])) for rule, rows in by_rule.items()},
            "log_of_failure": log[-3000:] if code else "",
            "environment": environment(torch.device("cpu")),
        }


def mistakes(seen: dict[str, Any]) -> list[str]:
    """Return in words what a workflow that can run for days must not show."""
    series = {"Snakemake": seen["snakemake_bytes"], "simulate": seen["bytes"]["simulate"]}
    return [
        *([f"{seen['failures']} jobs failed"] if seen["failures"] else []),
        *([f"Snakemake ended with {seen['exit_code']}"] if seen["exit_code"] else []),
        *(f"left over: {name}" for name in seen["left_over"]),
        *(f"memory of {name} grows" for name, found in series.items() if found["grows"]),
    ]


def shown(seen: dict[str, Any]) -> Table:
    """Return the series as a table."""
    made = Table("what", "count", "median", "smallest to largest", "growth each", "p")
    series = [
        ("Snakemake, MiB each second", seen["snakemake_bytes"], MEBIBYTE),
        ("Snakemake, cores in use", seen["snakemake_cores"], 1),
    ]
    for rule in seen["seconds"]:
        series.append((f"{rule}, s", seen["seconds"][rule], 1))
        series.append((f"{rule}, MiB", seen["bytes"][rule], MEBIBYTE))
    for name, found, unit in series:
        median, least, most, slope = (
            f"{found[key] / unit:.3g}" for key in ("median", "smallest", "largest", "slope")
        )
        made.add_row(
            name, str(found["count"]), median, f"{least} to {most}", slope, f"{found['p']:.2g}"
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    made = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    made.add_argument("--jobs", type=int, default=200, help="settings at least (200)")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    options = made.parse_args(arguments)
    seen = soak(options.jobs)
    path = options.results / f"soak-{machine_name(torch.device('cpu'))}.json"
    with opened_whole(path) as file:
        file.write(f"{json.dumps(seen, indent=2)}\n".encode())
    console, wrong = Console(), mistakes(seen)
    console.print(shown(seen))
    rate = seen["wall_seconds"] / seen["runs"]
    console.print(f"{seen['runs']} runs in {seen['wall_seconds']:.0f} s, {rate:.2f} s each")
    console.print("\n".join(wrong) or "No failure, no growing memory, nothing left over.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
