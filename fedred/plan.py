"""What a configuration asks for: runs with their ids, and which file is made from which."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedred.config import (
    FIGURES,
    TABLES,
    Config,
    expand,
    readable_numbers,
    resolve_method,
    short_hash,
    validated,
)
from fedred.errors import UserError

Settings = Mapping[str, Any]

NEEDS: dict[str, tuple[str, Callable[[Settings], bool]]] = {
    "detection": (
        "a run whose defense accepts or rejects clients",
        lambda settings: resolve_method("defense", settings["defense"]).build().traits.selects,
    ),
    "reconstruction_error": (
        "a run defended by fedredefense",
        lambda settings: settings["defense"]["name"] == "fedredefense",
    ),
}
"""What tables and figures need of at least one run; the others take any run."""


@dataclass(frozen=True)
class Plan:
    """All runs, data sets and partitions of a configuration, as plain values.

    Args:
        runs: run id -> resolved settings.
        experiments: name -> run ids.
        tables, figures: names of each experiment's.
        results: folder of all results.
    """

    runs: dict[str, Settings] = field(default_factory=dict)
    experiments: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, list[str]] = field(default_factory=dict)
    results: str = "results"

    @property
    def datasets(self) -> dict[str, Settings]:
        """Data set id -> settings."""
        return {dataset_id(run): run["dataset"] for run in self.runs.values()}

    @property
    def partitions(self) -> dict[str, Settings]:
        """Partition id -> resolved settings of a run that uses it."""
        return {partition_id(run): run for run in self.runs.values()}

    def dataset_file(self, settings: Settings) -> str:
        """Return the file of a run's data set."""
        return f"{self.results}/datasets/{dataset_id(settings)}.safetensors"

    def partition_file(self, settings: Settings) -> str:
        """Return the file of a run's partition."""
        return f"{self.results}/partitions/{partition_id(settings)}.safetensors"

    def run_folders(self, experiment: str) -> list[str]:
        """Return the folders of an experiment's runs, in the order of the configuration."""
        return [f"{self.results}/runs/{run}" for run in self.experiments[experiment]]

    def figure_sources(self, experiment: str, figure: str) -> list[str]:
        """Return what a figure is drawn from: run folders, or the first run's partition."""
        if figure == "partition":
            return [self.partition_file(self.runs[self.experiments[experiment][0]])]
        return self.run_folders(experiment)

    def source_files(self, experiment: str, figure: str) -> list[str]:
        """Return the files whose change calls for a new table or figure."""
        sources = self.figure_sources(experiment, figure)
        return sources if figure == "partition" else [f"{run}/run.json" for run in sources]

    def outputs(self) -> list[str]:
        """Return all tables and figures."""
        made = [
            f"{self.results}/tables/{experiment}-{table}.{ending}"
            for experiment, tables in self.tables.items()
            for table in tables
            for ending in ("csv", "md", "tex")
        ]
        drawn = [
            f"{self.results}/figures/{experiment}-{figure}.{ending}"
            for experiment, figures in self.figures.items()
            for figure in figures
            for ending in ("png", "pdf")
        ]
        return made + drawn


def make_plan(raw: Settings) -> Plan:
    """Check a configuration and list its runs.

    Raises:
        UserError: with one sentence for each mistake: the key's path, the value, what is allowed.
    """
    raw = readable_numbers(raw)
    config = validated(Config, raw, "")
    plan = Plan()
    for name, experiment in config.experiments.items():
        path = f"experiments.{name}"
        runs = {
            run.run_id: run.model_dump()
            for run in expand(raw["experiments"][name], experiment, path)
        }
        plan.runs.update(runs)
        plan.experiments[name] = list(runs)
        settings = list(runs.values())
        plan.tables[name] = _feasible(experiment.tables, TABLES, settings, f"{path}.tables")
        plan.figures[name] = _feasible(experiment.figures, FIGURES, settings, f"{path}.figures")
    return plan


def _feasible(
    wanted: Sequence[str] | None, known: Sequence[str], runs: Sequence[Settings], path: str
) -> list[str]:
    """Return the tables or figures to make, and refuse one that is asked for in vain."""
    for name in wanted or ():
        if name in NEEDS and not any(map(NEEDS[name][1], runs)):
            raise UserError(f"{path}: '{name}' needs {NEEDS[name][0]}, and the experiment has none")
    names = known if wanted is None else dict.fromkeys(wanted)
    return [name for name in names if name not in NEEDS or any(map(NEEDS[name][1], runs))]


def dataset_id(settings: Settings) -> str:
    """Return the id of a run's data set: its name, and a hash of its options if it has any."""
    dataset = settings["dataset"]
    options = {key: value for key, value in dataset.items() if key != "name"}
    return f"{dataset['name']}-{short_hash(options)}" if options else str(dataset["name"])


def partition_id(settings: Settings) -> str:
    """Return the id of a run's partition, shared by all runs of equal data, options and seed."""
    partition, seed = settings["partition"], settings["seed"]
    key = short_hash([settings["dataset"], partition, seed])
    return f"{settings['dataset']['name']}-{partition['name']}-s{seed}-{key}"


def as_text(settings: Settings) -> str:
    """Return settings as one line of JSON, which is also YAML, to stand in a command."""
    return json.dumps(settings)


def workflow_plan(raw: Settings) -> Plan:
    """Return the plan for Snakemake, or end the process with one sentence and exit code 2.

    A `WorkflowError` would print the lines of the workflow's source beside the sentence.
    """
    try:
        return make_plan(raw)
    except UserError as error:
        print(f"fedred: {error}", file=sys.stderr)
        sys.exit(2)


def gpus_per_run(devices: Path = Path("/dev")) -> int:
    """Return 1 where the machine shows an NVIDIA GPU to this process, else 0.

    A run that asks for no GPU is not held back by `--resources gpu=N` on a machine without one;
    the profiles for workstations and clusters set the number themselves.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return int(not hidden and any(devices.glob("nvidia[0-9]*")))
