"""What a configuration asks for: runs with their ids, and which file is made from which."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fedred.config import (
    FIGURES,
    TABLES,
    Config,
    Experiment,
    expand,
    resolve_method,
    short_hash,
)
from fedred.content import content_of
from fedred.datasets import Source, data_root
from fedred.errors import UserError
from fedred.files import told
from fedred.reference import references
from fedred.report.sweeps import swept_setting
from fedred.run_warnings import doubts
from fedred.validation import validated
from fedred.yaml_reading import read_floats, read_texts, read_yaml, within_limits

Settings = Mapping[str, Any]
PUBLISHED = "published"
"""Folder of published studies in that of the results."""
MEMOS = Path(".snakemake/fedred")
"""Folder of what need not be computed again when the workflow is planned again."""
UNREADABLE = ".unreadable"
"""Ending of a file that is never made: what a finished data set waits for that cannot be read again."""

JUDGED_OFFLINE = ("auroc", "threshold", "budget", "exclusion", "roc", "curves", "images")
"""Tables and figures that are made from recorded updates, not from the results of runs."""


@dataclass(frozen=True)
class Asked:
    """What an experiment has to show: settings of its runs, and what judges recorded updates."""

    runs: Sequence[Settings]
    judge: Settings | None = None

    @property
    def selects(self) -> bool:
        """Tell whether a defense accepts or rejects clients."""
        defenses = (resolve_method("defense", run["defense"]).build() for run in self.runs)
        return any(defense.traits.selects for defense in defenses)

    @property
    def reconstructs(self) -> bool:
        """Tell whether a run is defended by fedredefense."""
        return any(run["defense"]["name"] == "fedredefense" for run in self.runs)

    @property
    def compares_with_fedavg(self) -> bool:
        """Tell whether another defense stands beside fedavg."""
        names = {run["defense"]["name"] for run in self.runs}
        return "fedavg" in names and len(names) > 1

    @property
    def is_published(self) -> bool:
        """Tell whether there is a published value for a run."""
        return any(value.is_about(run) for value in references() for run in self.runs)

    @property
    def records(self) -> bool:
        """Tell whether updates are written down, and there is something to judge them by."""
        return self.judge is not None and any(run.get("record") for run in self.runs)


_RECORDS = (
    "runs that record rounds, and a fedredefense to judge them",
    lambda asked: asked.records,
)
NEEDS: dict[str, tuple[str, Callable[[Asked], bool]]] = {
    "detection": (
        "a run whose defense accepts or rejects clients",
        lambda asked: asked.selects,
    ),
    **dict.fromkeys(
        ("reconstruction_error", "errors_over_rounds", "errors"),
        ("a run defended by fedredefense", lambda asked: asked.reconstructs),
    ),
    "differences": (
        "a run defended by fedavg beside another defense",
        lambda asked: asked.compares_with_fedavg,
    ),
    "sweep": (
        "runs that differ in exactly one numeric setting besides attack, defense and seed",
        lambda asked: swept_setting(asked.runs) is not None,
    ),
    "reference": (
        "a run for which config/reference.yaml has a published value",
        lambda asked: asked.is_published,
    ),
    **dict.fromkeys(JUDGED_OFFLINE, _RECORDS),
}
"""What tables and figures need of an experiment; the others take any run."""


@dataclass(frozen=True)
class Plan:
    """All runs, data sets and partitions of a configuration, as plain values.

    Args:
        runs: run id -> resolved settings.
        experiments: name -> run ids.
        tables, figures: names of each experiment's.
        judges: experiment -> fedredefense as it judges recorded updates, where there are any.
        results: folder of all results.
        published: name of a published study that holds the finished runs; they are never made.
    """

    runs: dict[str, Settings] = field(default_factory=dict)
    experiments: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, list[str]] = field(default_factory=dict)
    judges: dict[str, Settings] = field(default_factory=dict)
    results: str = "results"
    published: str | None = None
    _contents: dict[str, str] = field(default_factory=dict)
    _refusals: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> str:
        """Folder of the runs, and of what else tables and figures are made from."""
        return f"{self.results}/{PUBLISHED}/{self.published}" if self.published else self.results

    @property
    def shown(self) -> str:
        """Folder of the tables and figures; a published study has its own, beside those of others."""
        return f"{self.results}/{PUBLISHED}-{self.published}" if self.published else self.results

    @cached_property
    def datasets(self) -> dict[str, Settings]:
        """Data set id -> settings."""
        return {dataset_id(run): run["dataset"] for run in self.runs.values()}

    @cached_property
    def partitions(self) -> dict[str, Settings]:
        """Partition id -> resolved settings of a run that uses it."""
        return {partition_id(run): run for run in self.runs.values()}

    def dataset_file(self, settings: Settings) -> str:
        """Return the file of a run's data set."""
        return f"{self.results}/datasets/{dataset_id(settings)}.safetensors"

    def content(self, dataset: str) -> str:
        """Return the checksum of the user's files that a data set is read from, nothing for others."""
        if dataset not in self._contents:
            files, memo = self._user_files(dataset), MEMOS / f"{dataset}.json"
            self._contents[dataset] = content_of(data_root(), files, memo)
        return self._contents[dataset]

    def before_reading_again(
        self, dataset: str, made: str, recorded: Sequence[str] | None
    ) -> list[str]:
        """Return what a finished data set needs before it may be deleted, to be made again.

        That is nothing where what it is read from now can be read. Where that is gone, it is a file
        that no rule makes: the data set then counts as given, with all that was made from it. Where
        that cannot be read, it is the output of a rule that fails with the reason.

        Args:
            dataset: its id.
            made: file of the data set, there or not.
            recorded: values of the parameters that it was made with, as Snakemake's records spell
                them; None where there is no record.
        """
        if not Path(made).exists() or not self._has_changed(dataset, recorded):
            return []
        if not self.refusal(dataset):
            return []
        gone = not self._is_there(dataset)
        return [f"{made} cannot be made again" if gone else f"{Path(made).with_suffix(UNREADABLE)}"]

    def _has_changed(self, dataset: str, recorded: Sequence[str] | None) -> bool:
        """Tell whether a data set was read from other files than those of now."""
        if recorded is None:
            return bool(self._user_files(dataset)) and not self._is_there(dataset)
        return repr(self.content(dataset)) not in recorded

    def refusal(self, dataset: str) -> str:
        """Return why a finished data set cannot be read again, and tell it once; else nothing."""
        if dataset not in self._refusals:
            self._refusals[dataset] = self._reason_not_to_read(dataset)
            if reason := self._refusals[dataset]:
                print(
                    f"fedred: the finished data set {dataset} is kept, with all that was made from "
                    f"it, for it cannot be read again: {reason}",
                    file=sys.stderr,
                )
        return self._refusals[dataset]

    def _reason_not_to_read(self, dataset: str) -> str:
        try:
            with told("its files cannot be read"):
                self._source(dataset).load(data_root(), download=False)
        except UserError as error:
            return str(error)
        return ""

    def _is_there(self, dataset: str) -> bool:
        return any(path.is_file() for path in self._user_files(dataset))

    def _user_files(self, dataset: str) -> Sequence[Path]:
        return self._source(dataset).files(data_root())

    def _source(self, dataset: str) -> Source:
        source: Source = resolve_method("dataset", self.datasets[dataset]).build()
        return source

    def partition_file(self, settings: Settings) -> str:
        """Return the file of a run's partition."""
        return f"{self.finished}/partitions/{partition_id(settings)}.safetensors"

    def run_folders(self, experiment: str) -> list[str]:
        """Return the folders of an experiment's runs, in the order of the configuration."""
        return [f"{self.finished}/runs/{run}" for run in self.experiments[experiment]]

    def sources(self, experiment: str, shown: str) -> list[str]:
        """Return what a table or figure is made from, by its name.

        That is the run.json files, the first run's partition, the recorded rounds as judged, or
        synthetic images.
        """
        if shown == "images":
            return self.synthetic_images(experiment)
        if shown in JUDGED_OFFLINE:
            return self.judged_rounds(experiment)
        if shown == "partition":
            return [self.partition_file(self.runs[self.experiments[experiment][0]])]
        return [f"{folder}/run.json" for folder in self.run_folders(experiment)]

    def judged_rounds(self, experiment: str) -> list[str]:
        """Return the files of an experiment's recorded rounds as judged, run by run."""
        return [
            f"{self._judged_prefix(experiment, run, round)}.parquet"
            for run in self.experiments[experiment]
            for round in self.runs[run].get("record", ())
        ]

    def synthetic_images(self, experiment: str) -> list[str]:
        """Return the files of the images of each run's first recorded round, of the first seed alone.

        They are large beside all else that is drawn.
        """
        runs = {run: self.runs[run] for run in self.experiments[experiment]}
        seed = next(iter(runs.values()))["seed"]
        return [
            f"{self._judged_prefix(experiment, run, min(settings['record']))}.safetensors"
            for run, settings in runs.items()
            if settings.get("record") and settings["seed"] == seed
        ]

    def _judged_prefix(self, experiment: str, run: str, round: int) -> str:
        return f"{self.finished}/reconstructions/{experiment}/{run}/round-{round:04}"

    def described(self, experiment: str) -> str:
        """Return the settings of an experiment that a reader wants first; several where runs differ."""
        runs = [self.runs[run] for run in self.experiments[experiment]]
        settings = {
            "data": [_data_in_words(run["dataset"]) for run in runs],
            "split": [run["partition"]["name"].replace("_", " ") for run in runs],
            "model": [run["model"]["name"].replace("_", " ") for run in runs],
            "clients": [run["partition"]["clients"] for run in runs],
            "malicious": [run["malicious"] for run in runs if run["malicious"]],
            "rounds": [run["rounds"] for run in runs],
            "seeds": [run["seed"] for run in runs],
        }
        different = {
            name: ", ".join(map(str, dict.fromkeys(all))) for name, all in settings.items()
        }
        return "; ".join(f"{name}: {values}" for name, values in different.items() if values)

    def doubts(self) -> Iterator[str]:
        """Yield what is doubtful in the settings, once an experiment."""
        return doubts(
            {name: [self.runs[run] for run in ids] for name, ids in self.experiments.items()}
        )

    def outputs(self) -> list[str]:
        """Return all tables and figures."""
        return self.table_files() + self.figure_files()

    def table_files(self) -> list[str]:
        """Return the files of all tables."""
        return [
            f"{self.shown}/tables/{experiment}-{table}.{ending}"
            for experiment, tables in self.tables.items()
            for table in tables
            for ending in ("csv", "html", "md", "tex")
        ]

    def figure_files(self) -> list[str]:
        """Return the files of all figures."""
        return [
            f"{self.shown}/figures/{experiment}-{figure}.{ending}"
            for experiment, figures in self.figures.items()
            for figure in figures
            for ending in ("png", "pdf")
        ]


def make_plan(raw: Settings) -> Plan:
    """Check a configuration and list its runs.

    Raises:
        UserError: with one sentence for each mistake: the key's path, the value, what is allowed.
    """
    raw = within_limits(raw)
    config = validated(Config, raw, "", complete=False)
    plan = Plan(published=config.published)
    for name, experiment in config.experiments.items():
        path = f"experiments.{name}"
        runs = {
            run.run_id: run.model_dump()
            for run in expand(raw["experiments"][name], experiment, path)
        }
        plan.runs.update(runs)
        plan.experiments[name] = list(runs)
        asked = Asked(list(runs.values()), _judge(experiment, runs.values(), f"{path}.judge"))
        plan.tables[name] = _feasible(experiment.tables, TABLES, asked, f"{path}.tables")
        plan.figures[name] = _feasible(experiment.figures, FIGURES, asked, f"{path}.figures")
        if asked.judge and asked.records:
            plan.judges[name] = asked.judge
    return plan


def _judge(experiment: Experiment, runs: Iterable[Settings], path: str) -> Settings | None:
    if experiment.judge is not None:
        return dict(resolve_method("defense", experiment.judge.model_dump(), path).model_dump())
    defenses = (run["defense"] for run in runs)
    return next((defense for defense in defenses if defense["name"] == "fedredefense"), None)


def _feasible(
    wanted: Sequence[str] | None, known: Sequence[str], asked: Asked, path: str
) -> list[str]:
    """Return the tables or figures to make, and refuse one that is asked for in vain."""
    names = list(known if wanted is None else dict.fromkeys(wanted))
    possible = [name for name in names if name not in NEEDS or NEEDS[name][1](asked)]
    for name in names if wanted else ():
        if name not in possible:
            raise UserError(f"{path}: '{name}' needs {NEEDS[name][0]}, and the experiment has none")
    return possible


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


def _data_in_words(dataset: Settings) -> str:
    """Return a data set's name, and of a folder of images its folder, without which it says nothing."""
    name = str(dataset["name"]).replace("_", " ")
    return f"{name} {dataset['folder']}" if dataset["name"] == "image_folder" else name


def in_words(name: str) -> str:
    """Return a name of a configuration as a heading, another one for each name."""
    return re.sub(r"(?<=[^_])_(?=[^_])", " ", name).capitalize()


def as_arguments(sources: Sequence[str]) -> list[str]:
    """Return what the command takes for `Plan.sources`, wherever they lie: folders for run.json."""
    paths = map(Path, sources)
    return [str(path.parent if path.name == "run.json" else path) for path in paths]


def updates_of(summary: str, round: str) -> str:
    """Return the recorded updates of a round that lie beside a run.json, wherever that lies."""
    return str(Path(summary).parent / "updates" / f"round-{round}.safetensors")


def as_text(settings: Settings) -> str:
    """Return settings as one line of JSON, which is also YAML, to stand in a command."""
    return json.dumps(settings)


def workflow_plan(workflow: Any, config: Settings) -> Plan:
    """Return the plan for Snakemake, or end the process with one sentence and exit code 2.

    A `WorkflowError` would print the lines of the workflow's source beside the sentence. What is
    doubtful is told once, not by every job.

    Args:
        workflow: Snakemake's object of that name.
        config: the configuration as Snakemake has read it.
    """
    try:
        plan = make_plan(as_written(workflow, config))
    except UserError as error:
        print(f"fedred: {error}", file=sys.stderr)
        sys.exit(2)
    for sentence in plan.doubts() if workflow.is_main_process else ():
        print(f"fedred: {sentence}", file=sys.stderr)
    return plan


def as_written(workflow: Any, config: Settings) -> Settings:
    """Return the configuration as its files and `--config` spell it.

    Snakemake has read both before this is called: files by YAML 1.1, and what stands inside a value of
    `--config` as texts. A module of another workflow is given values, whose spelling nobody knows: only
    numbers such as `1e-3`, which YAML 1.1 takes for texts, are read again.

    Raises:
        UserError: for a file or a value that cannot be read.
    """
    from snakemake.utils import update_config

    if workflow.modifier.skip_configfile:
        return dict(read_floats(config))
    given = workflow.config_settings
    replaced = given.replace_workflow_config
    merged: dict[str, Any] = {}
    for file in given.configfiles if replaced else workflow.configfiles:
        update_config(merged, read_yaml(Path(file)))
    update_config(merged, read_texts(given.config, "--config"))
    return merged


def gpus_per_run(devices: Path = Path("/dev")) -> int:
    """Return 1 where the machine shows an NVIDIA GPU to this process, else 0.

    A run that asks for no GPU is not held back by `--resources gpu=N` on a machine without one;
    the profiles for workstations and clusters set the number themselves.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return int(not hidden and any(devices.glob("nvidia[0-9]*")))
