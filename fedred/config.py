"""The only schema: settings of a run, grids of runs, run ids.

The models of the methods are made from the options that the methods declare (see fedred/options.py),
so that a new method or option is known here without being written here.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
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
from fedred.errors import UserError, printable, shortened, suggestion, unknown_name
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
TABLES = (
    "performance",
    "detection",
    "differences",
    "errors",
    "cost",
    "reference",
    "auroc",
    "threshold",
    "budget",
    "exclusion",
)
FIGURES = (
    "accuracy_over_rounds",
    "reconstruction_error",
    "errors_over_rounds",
    "detection",
    "heat_map",
    "partition",
    "sweep",
    "roc",
    "curves",
    "images",
)
MOST_BYTES = 1_000_000
"""Of a file of settings; the largest one here has 3,000."""
MOST_VALUES = 100_000
"""In a file of settings, aliases written out."""
LONGEST_PLAIN = 1_000
"""Characters of a value without quotes, which YAML may take for a number of as many digits."""
MOST_RUNS = 100_000
"""Of all experiments of a configuration."""
MOST_MISTAKES = 20
"""Told at once."""
DEEPEST = 64
"""Groups inside groups; settings need 20, were every rule built on the one above it."""
LARGEST = 2**63 - 1
"""Whole number that files and libraries can hold."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it is built
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

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self.build()
        return self

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

    @model_validator(mode="after")
    def _records_rounds_that_are_played(self) -> Self:
        rounds: int = self.rounds  # type: ignore[attr-defined]
        recorded: list[int] = list(self.record)  # type: ignore[attr-defined]
        twice = [round for round in recorded if recorded.count(round) > 1]
        if twice:
            raise PydanticCustomError(
                "twice", "record names round {twice} twice", {"twice": twice[0]}
            )
        late = [round for round in recorded if round > rounds]
        if late:
            raise PydanticCustomError(
                "too_late",
                "record names round {late}, but the run has only the rounds 1 to {rounds}",
                {"late": late[0], "rounds": rounds},
            )
        return self

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
    record=(
        list[Annotated[int, Field(ge=1)]],
        Field(
            [],
            # A run that records nothing keeps the id that it had before there was this setting.
            exclude_if=lambda rounds: not rounds,
            description="rounds whose updates are written down, to be judged offline",
        ),
    ),
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
    judge: family_type("defense", {"fedredefense": FAMILIES["defense"]["fedredefense"]}) | None = (  # type: ignore[valid-type]
        Field(
            None,
            description="fedredefense as it judges recorded updates, all its first_iterations for "
            "every client; null: that of the experiment's first such run",
        )
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

    @property
    def combinations(self) -> int:
        """Number of runs, before equal ones are joined."""
        return math.prod(map(len, self.grid.values())) * len(self.seeds)


ExperimentName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=64)]
StudyName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=64)]


class Config(Strict):
    """A configuration file: named experiments."""

    experiments: dict[ExperimentName, Experiment] = Field(
        min_length=1, description="experiments by name (small letters, digits, underscores)"
    )
    published: StudyName | None = Field(
        None,
        description="name of a published study (`results/published/NAME`) whose finished runs are "
        "shown; none is made",
    )

    @model_validator(mode="after")
    def _possible_number_of_runs(self) -> Self:
        runs = sum(experiment.combinations for experiment in self.experiments.values())
        if runs > MOST_RUNS:
            sentence = (
                f"the grids and seeds ask for about 10^{math.log10(runs):.0f} runs: at most "
                f"{MOST_RUNS} are allowed in a configuration"
            )
            raise PydanticCustomError("too_many", "{sentence}", {"sentence": sentence})
        return self


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
    if len(parents) >= DEEPEST:
        raise UserError(f"{shortened(path)}: a path has at most {DEEPEST} parts")
    group: Any = result
    for parent in parents:
        child = group.get(parent)
        if isinstance(child, str):
            child = {"name": child}
        if child is not None and not isinstance(child, Mapping):
            told = f"'{shortened(parent)}' is {shortened(repr(child))}, not a group of settings"
            raise UserError(f"{shortened(path)}: {told}")
        group[parent] = dict(child or {})
        group = group[parent]
    if last == "name" and group.get("name") != value:
        group.clear()
    group[last] = value
    return result


def readable_numbers(raw: Any, path: tuple[object, ...] = ()) -> Any:
    """Return YAML data in which `1e-3` is a number; YAML 1.1 reads a text unless a dot is in it.

    Raises:
        UserError: for data that no setting could be: endless groups, and numbers beyond 64 bits.
    """
    if len(path) > DEEPEST:
        raise UserError(f"{_dotted(path[:3])} is nested too deep: at most {DEEPEST} levels")
    if isinstance(raw, Mapping):
        return {
            readable_key(key, path): readable_numbers(value, (*path, key))
            for key, value in raw.items()
        }
    if isinstance(raw, list):
        return [readable_numbers(value, (*path, index)) for index, value in enumerate(raw)]
    if isinstance(raw, int) and abs(raw) > LARGEST:
        raise UserError(f"{_dotted(path)} is {_huge(raw)}: it must lie between -2^63 and 2^63")
    return float(raw) if isinstance(raw, str) and SCIENTIFIC.fullmatch(raw) else raw


def readable_key(key: object, path: tuple[object, ...]) -> object:
    """Return a key, unless it is a number that cannot even be written."""
    if isinstance(key, int) and abs(key) > LARGEST:
        raise UserError(f"{_dotted(path)}: the key {_huge(key)} is not the name of a setting")
    return key


def _huge(number: int) -> str:
    """Return the magnitude of a whole number that may be too long to be written."""
    return f"about {'-' if number < 0 else ''}2^{abs(number).bit_length()}"


def _dotted(path: Iterable[object]) -> str:
    return ".".join(shortened(str(part)) for part in path) or "the configuration"


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
        sentences = (_sentence(detail, raw, path, replaced) for detail in error.errors())
        lines = list(dict.fromkeys(map(printable, sentences)))
        more = [f"and {len(lines) - MOST_MISTAKES} more mistakes"][: len(lines) > MOST_MISTAKES]
        raise UserError("\n".join(lines[:MOST_MISTAKES] + more)) from None


def _sentence(detail: ErrorDetails, raw: Any, path: str, replaced: str) -> str:
    location = _readable_location(detail["loc"], raw)
    location = location[1:] if replaced and location[:1] == [replaced] else location
    where = _dotted([*path.split("."), *location] if path else location)
    if detail["type"] in ("unknown_key", "unknown_method", "too_many", "too_few", "seed"):
        return f"{where}: {detail['msg']}"
    if detail["type"] == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    if detail["type"] == "missing":
        return f"{where} is missing: it is required"
    reason = detail["msg"].replace("Input should be", "it must be")
    value = shortened(repr(detail["input"]))
    return f"{where} is {value}: {reason[0].lower()}{reason[1:]}{_near(detail)}"


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
        UserError: naming the source, when it is not YAML, or YAML that says more than it shows: a
            key twice, a tag, an alias to itself, more values than any settings have.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"{source} is too large for settings: at most {MOST_BYTES} bytes")
    loader = LOADER(text)
    try:
        _refuse_traps(text)
        node = loader.get_single_node()
        _refuse_doubled(node)
        return loader.construct_document(node) if node else None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(printable(str(error).replace("\n", " ")).split())
        raise UserError(f"{source} is not valid YAML: {reason}") from None
    finally:
        loader.dispose()


def _refuse_traps(text: str) -> None:
    """Refuse tags, deep nesting and endless aliases, before anything is built of them."""
    values = 0  # so far, aliases written out
    sizes: dict[str | None, int] = {}  # values below an anchor
    opened: list[tuple[str | None, int]] = []  # anchors of the groups around, and values before
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            _refuse_loop(event, [anchor for anchor, _ in opened])
            values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = values - before + 1
        _refuse_excess(event, len(opened), values)


def _line(part: Any) -> int:
    return int(part.start_mark.line) + 1


def _refuse_loop(alias: yaml.AliasEvent, around: list[str | None]) -> None:
    if alias.anchor in around:
        name = shortened(str(alias.anchor))
        raise UserError(f"line {_line(alias)}: the alias *{name} stands inside what it repeats")


def _refuse_excess(event: Any, depth: int, values: int) -> None:
    if getattr(event, "tag", None):
        raise UserError(f"line {_line(event)} has the tag {shortened(event.tag)}: none is allowed")
    if (
        isinstance(event, yaml.ScalarEvent)
        and event.implicit[0]
        and len(event.value) > LONGEST_PLAIN
    ):
        raise UserError(f"line {_line(event)} has {len(event.value)} characters without quotes")
    if depth > DEEPEST:
        raise UserError(f"line {_line(event)} is nested too deep: at most {DEEPEST} levels")
    if values > MOST_VALUES:
        raise UserError(f"more than {MOST_VALUES} values up to line {_line(event)}: too many")


def _refuse_doubled(root: yaml.Node | None) -> None:
    """Refuse a key that stands twice in a mapping; YAML would silently take the last value."""
    for node in _nodes(root):
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = str(key.value), _line(key)
            if name in lines:
                told = f"line {line}: the key '{shortened(name)}' stands already in line"
                raise UserError(f"{told} {lines[name]}: keep one")
            lines[name] = line


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node once, whatever aliases repeat it."""
    waiting, seen = [root] if root else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        for part in node.value if isinstance(node, yaml.CollectionNode) else ():
            waiting += part if isinstance(part, tuple) else [part]


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
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8")
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
    settings = readable_numbers(raw)
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            told = f"'{shortened(change)}' is not of the form path=value"
            raise UserError(f"{told}, for instance rounds=5")
        parsed = parse_yaml(value, f"the value of '{shortened(path)}'")
        settings = override(settings, path, readable_numbers(parsed, (path,)))
    return validated(Settings, settings, "")


def resolve_method(family: str, raw: Any) -> Any:
    """Return the checked options of one method, given by name or with its options.

    Raises:
        UserError: for an unknown method, and for every mistake in its options.
    """
    return validated(_holder(family), {"method": raw}, family, "method").method


@cache
def _holder(family: str) -> Any:
    kind = family_type(family, FAMILIES[family])
    return create_model("Holder", __base__=Strict, method=(kind, ...))
