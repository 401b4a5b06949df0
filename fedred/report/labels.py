"""What tells runs apart: names of methods, their options where they differ, other settings."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedred.errors import UserError
from fedred.report.runs import Run
from fedred.report.sweeps import Flat, Value, flatten

METHODS = ("dataset", "attack", "defense")
ALWAYS_TOLD = {"image_folder": ["dataset.folder"]}
"""Options without which a name says nothing."""


@dataclass(frozen=True, eq=False)
class LabelledRun:
    """A run with the words under which it stands in a table or a figure."""

    run: Run
    dataset: str
    attack: str
    defense: str
    extra: Flat
    """The other settings that differ between the runs, the same names for all of them."""

    @property
    def seed(self) -> int:
        return int(self.run.settings["seed"])

    @property
    def block(self) -> tuple[Value, ...]:
        """What must be equal for two runs to be compared: data set and extra settings."""
        return (self.dataset, *self.extra.values())

    @property
    def experiment(self) -> tuple[tuple[Value, ...], str, str]:
        """What is equal for runs that differ in nothing but the seed."""
        return self.block, self.attack, self.defense


def label_runs(runs: Sequence[Run]) -> list[LabelledRun]:
    """Label runs by what differs between them.

    A method of one name with different options is labelled by these, as in `scaling (factor=3)`.
    Settings are compared within one data set, since each data set has its own protocol. Options of
    attacks and defenses are compared within one block (data set and extra settings); those that
    differ in one block are told in all.

    Raises:
        UserError: when there is no run, or two have the same settings and seed.
    """
    if not runs:
        raise UserError("there are no runs to report")
    settings = [flatten(run.settings) for run in runs]
    _refuse_duplicates(runs, settings)
    datasets = [_label("dataset", mine, [settings]) for mine in settings]
    peers = [_equal(settings, datasets, dataset) for dataset in datasets]
    columns = list(dict.fromkeys(column for group in peers for column in _extra_columns(group)))
    extras = [
        {column: _extra_value(column, mine, group) for column in columns}
        for mine, group in zip(settings, peers, strict=True)
    ]
    blocks = [(name, *extra.values()) for name, extra in zip(datasets, extras, strict=True)]
    groups = [_equal(settings, blocks, block) for block in dict.fromkeys(blocks)]
    attacks = [_label("attack", mine, groups) for mine in settings]
    defenses = [_label("defense", mine, groups) for mine in settings]
    return [
        LabelledRun(*parts) for parts in zip(runs, datasets, attacks, defenses, extras, strict=True)
    ]


def in_words(options: Flat) -> str:
    """Return options as `name=value, name=value`, numbers in their shortest form."""
    return ", ".join(f"{key}={value_in_words(value)}" for key, value in options.items())


def value_in_words(value: Value) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _refuse_duplicates(runs: Sequence[Run], settings: list[Flat]) -> None:
    seen: dict[str, Run] = {}
    for run, flat in zip(runs, settings, strict=True):
        first = seen.setdefault(json.dumps(flat, sort_keys=True), run)
        if first is not run:
            raise UserError(
                f"{first.folder} and {run.folder} have the same settings and seed: give one of them"
            )


def _equal(settings: list[Flat], keys: Sequence[object], key: object) -> list[Flat]:
    return [mine for mine, other in zip(settings, keys, strict=True) if other == key]


def _differing(names: Iterable[str], group: list[Flat]) -> list[str]:
    return [name for name in names if len({mine.get(name) for mine in group}) > 1]


def _names(group: list[Flat]) -> list[str]:
    return list(dict.fromkeys(name for mine in group for name in mine))


def _label(section: str, mine: Flat, groups: list[list[Flat]]) -> str:
    """Return a method's name, with the options that differ for this name within any group."""
    name = mine[f"{section}.name"]
    differing = list(ALWAYS_TOLD.get(str(name), []))
    for group in groups:
        same = [other for other in group if other.get(f"{section}.name") == name]
        keys = [key for key in _names(same) if key.startswith(f"{section}.")]
        differing += _differing(keys, same)
    options = {key.removeprefix(f"{section}."): mine[key] for key in differing if key in mine}
    return f"{name} ({in_words(options)})" if options else str(name)


def _extra_columns(group: list[Flat]) -> list[str]:
    """Name the settings that differ; a section whose methods differ by name is one column."""
    names = [name for name in _names(group) if name.split(".")[0] not in (*METHODS, "seed")]
    differing = [
        name for name in names if any(_differing([name], p) for p in _compared(name, group))
    ]
    sections = {name.removesuffix(".name") for name in differing if name.endswith(".name")}
    columns = (name.split(".")[0] if name.split(".")[0] in sections else name for name in differing)
    return list(dict.fromkeys(columns))


def _compared(name: str, group: list[Flat]) -> list[list[Flat]]:
    """A baseline without attack may have no malicious clients and yet share the table."""
    if name != "malicious":
        return [group]
    attacked = [mine for mine in group if mine["attack.name"] != "none"]
    return [attacked, [mine for mine in group if mine["attack.name"] == "none"]]


def _extra_value(column: str, mine: Flat, group: list[Flat]) -> Value:
    return _label(column, mine, [group]) if f"{column}.name" in mine else mine.get(column)
