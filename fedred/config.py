"""The only schema: settings of a run, grids of runs, run ids.

The models of the methods are made from the options that the methods declare (see fedred/options.py),
so that a new method or option is known here without being written here.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import MISSING, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from fedred.attacks import ATTACKS
from fedred.attacks.interface import Attack
from fedred.datasets import DATASETS
from fedred.defenses import DEFENSES
from fedred.defenses.interface import Defense
from fedred.errors import UserError, suggestion, unknown_name
from fedred.local_training import LocalTraining
from fedred.models import MODELS
from fedred.options import declared_options
from fedred.partition import PARTITIONS
from fedred.simulation import participants_of

FAMILIES: dict[str, Mapping[str, type]] = {
    "dataset": DATASETS,
    "partition": PARTITIONS,
    "model": MODELS,
    "attack": ATTACKS,
    "defense": DEFENSES,
}
COMPOSABLE: dict[Any, str] = {Attack: "attack", Defense: "defense"}
"""Types of an option that names another method of its family."""
TABLES = ("performance", "detection")
FIGURES = ("accuracy_over_rounds", "reconstruction_error", "detection", "heat_map", "partition")
SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class Strict(BaseModel):
    """Unknown keys, wrong types and values out of range are refused; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                sentence = unknown_name("key", key, cls.model_fields)
                raise PydanticCustomError("unknown_key", "{sentence}", {"sentence": sentence})
        return data


class MethodOptions(Strict):
    """The options of one method; `method` is the dataclass that they are for."""

    method: ClassVar[type]

    def build(self) -> Any:
        """Build the method itself."""
        options = {
            key: value.build() if isinstance(value, MethodOptions) else value
            for key, value in self
            if key != "name"
        }
        return type(self).method(**options)


@cache
def options_model(method: Any, name: str | None) -> type[MethodOptions]:
    """Return the pydantic model of a method's declared options, with its name as a constant key."""
    hints = get_type_hints(method)
    fields: dict[str, Any] = {} if name is None else {"name": (Literal[name], name)}
    for declared in declared_options(method):
        default = declared.default
        assert default is not MISSING
        described = Field(description=declared.metadata["help"], **declared.metadata["bounds"])
        kind = _field_type(hints[declared.name], method)
        if is_dataclass(default):
            fields[declared.name] = (Annotated[kind, described], _default_options(default))
        else:
            fields[declared.name] = (Annotated[kind, described], default)
    model = create_model(name or method.__name__, __base__=MethodOptions, **fields)
    model.method = method
    model.__doc__ = (method.__doc__ or "").strip().splitlines()[0]
    return model


def _field_type(hint: Any, owner: type) -> Any:
    if hint in COMPOSABLE:
        kind = COMPOSABLE[hint]
        return family_type(kind, _listed_above(owner, FAMILIES[kind]))
    return options_model(hint, None) if isinstance(hint, type) and is_dataclass(hint) else hint


def _listed_above(owner: type, family: Mapping[str, type]) -> dict[str, type]:
    """Return the methods on which another of their family may be built: those listed above it."""
    return dict(itertools.takewhile(lambda item: item[1] is not owner, family.items()))


def _default_options(method: Any) -> MethodOptions:
    names = {kind: name for family in FAMILIES.values() for name, kind in family.items()}
    kind: Any = type(method)
    model = options_model(kind, names.get(kind))
    return model(**{o.name: getattr(method, o.name) for o in declared_options(method)})


def family_type(kind: str, family: Mapping[str, Any]) -> Any:
    """Return the type of a setting that names one method of a family, with its options.

    `attack: min_max` is short for `attack: {name: min_max}`.
    """
    members = tuple(options_model(method, name) for name, method in family.items())
    union: Any = Union[members]  # noqa: UP007

    def by_name(data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        name = data.get("name") if isinstance(data, Mapping) else None
        if isinstance(data, Mapping) and not (isinstance(name, str) and name in family):
            sentence = unknown_name(kind, name, family)
            raise PydanticCustomError("unknown_method", "{sentence}", {"sentence": sentence})
        return data

    accepted: Any = Union[Literal[tuple(family)], union]  # noqa: UP007
    short = BeforeValidator(by_name, json_schema_input_type=accepted)
    return Annotated[union, Field(discriminator="name"), short]


def _family(kind: str, default: str, help: str) -> Any:
    family = FAMILIES[kind]
    value = options_model(family[default], default)()
    return (family_type(kind, family), Field(value, description=help))


class _Settings(Strict):
    """Cross checks of a run's settings; the fields are added below from the registries."""

    @model_validator(mode="after")
    def _possible_numbers_of_clients(self) -> Self:
        clients, malicious = self.partition.clients, self.malicious  # type: ignore[attr-defined]
        if malicious > clients:
            raise PydanticCustomError(
                "too_many",
                "malicious is {malicious}, but there are only {clients} clients",
                {"malicious": malicious, "clients": clients},
            )
        self.attack.build()  # type: ignore[attr-defined]
        participants = participants_of(self.participation, clients)  # type: ignore[attr-defined]
        fewest = self.defense.build().traits.fewest_participants  # type: ignore[attr-defined]
        if participants < fewest:
            raise PydanticCustomError(
                "too_few",
                "defense {name} needs at least {fewest} participants, but a round has {participants}",
                {"name": self.defense.name, "fewest": fewest, "participants": participants},  # type: ignore[attr-defined]
            )
        # One run, whatever the number of malicious clients elsewhere in a grid.
        harmless = self.attack.name == "none" and malicious  # type: ignore[attr-defined]
        return self.model_copy(update={"malicious": 0}) if harmless else self

    @property
    def run_id(self) -> str:
        """A readable slug and a short hash of all settings: same settings, same run."""
        names = (self.dataset.name, self.attack.name, self.defense.name)  # type: ignore[attr-defined]
        return f"{'-'.join(names)}-s{self.seed}-{short_hash(self.model_dump())}"  # type: ignore[attr-defined]


Settings: Any = create_model(
    "Settings",
    __base__=_Settings,
    __doc__="All that decides the numbers of one run.",
    dataset=_family("dataset", "digits", "training and test images"),
    partition=_family("partition", "balanced_dirichlet", "which client holds which images"),
    model=_family("model", "convnet", "the network"),
    training=(
        options_model(LocalTraining, None),
        Field(options_model(LocalTraining, None)(), description="local training of every client"),
    ),
    attack=_family("attack", "none", "what the malicious clients do"),
    malicious=(
        int,
        Field(
            0,
            ge=0,
            description="number of malicious clients, those of highest id; 0 when the attack is none",
        ),
    ),
    defense=_family("defense", "fedavg", "how the server aggregates"),
    participation=(
        float,
        Field(1.0, gt=0, le=1, description="share of the clients that takes part in a round"),
    ),
    rounds=(int, Field(100, ge=1, description="federated rounds")),
    evaluate_every=(int, Field(1, ge=1, description="rounds between two evaluations")),
    seed=(int, Field(0, ge=0, description="of every random number of the run")),
)


class Experiment(Strict):
    """Base settings, a grid over them, seeds, and the tables and figures that it feeds."""

    base: Settings = Field(Settings(), description="settings shared by all runs of the experiment")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {},
        description="settings (dotted paths) with the list of their values; all combinations run",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="seeds of every combination"
    )
    tables: list[Literal[TABLES]] | None = Field(  # type: ignore[valid-type]
        None, description="tables to make; null: all that the runs can feed"
    )
    figures: list[Literal[FIGURES]] | None = Field(  # type: ignore[valid-type]
        None, description="figures to draw; null: all that the runs can feed"
    )

    @model_validator(mode="before")
    @classmethod
    def _seed_belongs_to_seeds(cls, data: Any) -> Any:
        for part in ("base", "grid"):
            group = data.get(part) if isinstance(data, Mapping) else None
            if isinstance(group, Mapping) and "seed" in group:
                sentence = f"{part}.seed is set: give the list `seeds` instead"
                raise PydanticCustomError("seed", "{sentence}", {"sentence": sentence})
        return data


ExperimentName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Config(Strict):
    """A configuration file: named experiments."""

    experiments: dict[ExperimentName, Experiment] = Field(
        min_length=1, description="experiments by name (small letters, digits, underscores)"
    )


def short_hash(value: Any) -> str:
    """Return eight hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def expand(raw: Mapping[str, Any], experiment: Experiment, path: str) -> Iterable[Any]:
    """Yield the settings of every combination of an experiment's grid, for every seed."""
    base = raw.get("base") or {}
    # Parents before children: a path below a method is set on the method that the grid chose.
    grid = dict(sorted(experiment.grid.items(), key=lambda item: item[0].count(".")))
    for key, values in grid.items():
        for index, value in enumerate(values):
            if "." not in key:
                validated(Settings, override(base, key, value), f"{path}.grid.{key}[{index}]", key)
    for values, seed in itertools.product(itertools.product(*grid.values()), experiment.seeds):
        settings = override(base, "seed", seed)
        for key, value in zip(grid, values, strict=True):
            settings = override(settings, key, value)
        yield validated(Settings, settings, path)


def override(settings: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return settings with the value at a dotted path replaced.

    A new `name` of a method starts it afresh, without the options of the method before.

    Raises:
        UserError: when the path runs through a value that is not a group of settings.
    """
    result = deepcopy(dict(settings))
    *parents, last = path.split(".")
    group: Any = result
    for parent in parents:
        child = group.get(parent)
        if isinstance(child, str):
            child = {"name": child}
        if child is not None and not isinstance(child, Mapping):
            raise UserError(f"{path}: '{parent}' is {child!r}, not a group of settings")
        group[parent] = dict(child or {})
        group = group[parent]
    if last == "name" and group.get("name") != value:
        group.clear()
    group[last] = value
    return result


def readable_numbers(raw: Any) -> Any:
    """Return YAML data in which `1e-3` is a number; YAML 1.1 reads a text unless a dot is in it."""
    if isinstance(raw, Mapping):
        return {key: readable_numbers(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [readable_numbers(value) for value in raw]
    return float(raw) if isinstance(raw, str) and SCIENTIFIC.fullmatch(raw) else raw


def validated(model: Any, raw: Any, path: str, replaced: str = "") -> Any:
    """Check raw data against a model.

    Args:
        model: a pydantic model.
        raw: the data.
        path: where the data stands in the file, for the sentences.
        replaced: the key of `raw` that stands at `path` itself (a value of a grid).

    Raises:
        UserError: with one sentence for each mistake, each in a line of its own.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_sentence(detail, raw, path, replaced) for detail in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _sentence(detail: ErrorDetails, raw: Any, path: str, replaced: str) -> str:
    location = _readable_location(detail["loc"], raw)
    location = location[1:] if replaced and location[:1] == [replaced] else location
    where = ".".join([path, *location] if path else location) or "the configuration"
    if detail["type"] in ("unknown_key", "unknown_method", "too_many", "too_few", "seed"):
        return f"{where}: {detail['msg']}"
    if detail["type"] == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    if detail["type"] == "missing":
        return f"{where} is missing: it is required"
    reason = detail["msg"].replace("Input should be", "it must be")
    return f"{where} is {_shown(detail['input'])}: {reason[0].lower()}{reason[1:]}{_near(detail)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _near(detail: ErrorDetails) -> str:
    expected = detail.get("ctx", {}).get("expected", "")
    return suggestion(detail["input"], re.findall(r"'([^']*)'", str(expected)))


def _readable_location(location: tuple[int | str, ...], raw: Any) -> list[str]:
    """Drop the names of methods that pydantic puts into a path although no key bears them."""
    result = []
    for part in location:
        if isinstance(raw, Mapping) and part not in raw and part == raw.get("name"):
            continue
        if isinstance(raw, str) and part == raw:
            continue
        if part == "[key]":
            continue
        result.append(str(part))
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
    return result


def parse_yaml(text: str, source: str) -> Any:
    """Return YAML text as plain values.

    Raises:
        UserError: naming the source, when it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} is not valid YAML: {reason}") from None


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Return YAML text that holds a mapping.

    Raises:
        UserError: naming the source, when it is not YAML or not a mapping.
    """
    raw = parse_yaml(text, source)
    if not isinstance(raw, dict):
        raise UserError(f"{source} holds no settings: it must be a mapping of keys to values")
    return raw


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: when it is not there, not readable as YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return parse_settings(text, str(path))


def resolve(raw: Mapping[str, Any], changes: Iterable[str] = ()) -> Any:
    """Return the checked settings of one run, after changes of the form `path=value` (YAML).

    Raises:
        UserError: for a change without `=`, and for every mistake in the settings.
    """
    settings = dict(raw)
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            raise UserError(f"'{change}' is not of the form path=value, for instance rounds=5")
        settings = override(settings, path, parse_yaml(value, f"the value of '{path}'"))
    return validated(Settings, readable_numbers(settings), "")


def resolve_method(family: str, raw: Any) -> Any:
    """Return the checked options of one method, given by name or with its options.

    Raises:
        UserError: for an unknown method, and for every mistake in its options.
    """
    holder = create_model(
        "Holder", __base__=Strict, method=(family_type(family, FAMILIES[family]), ...)
    )
    return validated(holder, {"method": raw}, family, "method").method
