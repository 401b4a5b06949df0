"""The only schema: settings of a run, grids of runs, run ids.

The models of the methods are made from the options that the methods declare (see fedred/options.py),
so that a new method or option is known here without being written here.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    model_validator,
)

from fedred.attacks import ATTACKS
from fedred.attacks.interface import Attack
from fedred.datasets import DATASETS
from fedred.defenses import DEFENSES
from fedred.defenses.interface import Defense
from fedred.errors import UserError, shortened, suggestion, unknown_name
from fedred.local_training import LocalTraining
from fedred.models import MODELS
from fedred.options import Relation, declared_options, relations_in_round, relations_of
from fedred.partition import PARTITIONS
from fedred.simulation import participants_of
from fedred.validation import Where, mistake, mistake_at, spelled, validated
from fedred.yaml_reading import DEEPEST, parse_yaml, within_limits

FAMILIES: dict[str, Mapping[str, type]] = {
    "dataset": DATASETS,
    "partition": PARTITIONS,
    "model": MODELS,
    "attack": ATTACKS,
    "defense": DEFENSES,
}
DEFAULTS = {
    "dataset": "digits",
    "partition": "balanced_dirichlet",
    "model": "convnet",
    "attack": "none",
    "defense": "fedavg",
}
"""Methods of a run whose settings name no other."""
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
MOST_RUNS = 100_000
"""Of all experiments of a configuration."""


class Strict(BaseModel):
    """Unknown keys, wrong types and values out of range are refused; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise unknown_key(key, unknown_name("key", key, cls.model_fields))
        return data


def unknown_key(key: Any, sentence: str) -> Exception:
    """Return the refusal of a key, told at its group; of a grid, at the path that names it."""

    def told(where: Where) -> str:
        place = where(str(key))
        return f"{place if place.endswith(']') else where()}: {sentence}"

    return mistake(told)


def are_complete(info: ValidationInfo) -> bool:
    """Tell whether all settings of a run are there, so that they can be checked against each other.

    The base of an experiment alone is not a run: its grid may change any part of it.
    """
    return bool((info.context or {}).get("complete", True))


class MethodOptions(Strict):
    """The options of one method; `method` is the dataclass that they are for."""

    method: ClassVar[type]

    @model_validator(mode="after")
    def _can_be_built(self, info: ValidationInfo) -> Self:
        if are_complete(info):
            for relation in relations_of(type(self).method):
                if not relation.holds(self):
                    raise _contradiction(relation, relation.values(self))
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


def _contradiction(relation: Relation, values: tuple[Any, Any]) -> Exception:
    sides = list(zip((relation.left, relation.right), map(spelled, values), strict=True))

    def told(where: Where) -> str:
        return (
            " and ".join(f"{where(key)} is {value}" for key, value in sides) + f": {relation.rule}"
        )

    return mistake(told)


@cache
def options_model(method: Any, name: str | None) -> type[MethodOptions]:
    """Return the pydantic model of a method's declared options, with its name as a constant key."""
    hints = get_type_hints(method)
    fields: dict[str, Any] = {} if name is None else {"name": (Literal[name], name)}
    for declared in declared_options(method):
        default = declared.default
        assert default is not MISSING
        described = Field(description=declared.metadata["help"], **declared.metadata["bounds"])
        kind = _field_type(hints[declared.name], method, default)
        if is_dataclass(default):
            fields[declared.name] = (Annotated[kind, described], _default_options(default))
        else:
            fields[declared.name] = (Annotated[kind, described], default)
    model = create_model(name or method.__name__, __base__=MethodOptions, **fields)
    model.method = method
    model.__doc__ = (method.__doc__ or "").strip().splitlines()[0]
    return model


def _field_type(hint: Any, owner: type, default: Any) -> Any:
    if hint in COMPOSABLE:
        kind = COMPOSABLE[hint]
        family = _listed_above(owner, FAMILIES[kind])
        return family_type(kind, family, name_of(type(default)))
    return options_model(hint, None) if isinstance(hint, type) and is_dataclass(hint) else hint


def _listed_above(owner: type, family: Mapping[str, type]) -> dict[str, type]:
    """Return the methods on which another of their family may be built: those listed above it."""
    return dict(itertools.takewhile(lambda item: item[1] is not owner, family.items()))


def name_of(method: type) -> str | None:
    """Return the name of a method in its registry, None for a group of options without a name."""
    names = {kind: name for family in FAMILIES.values() for name, kind in family.items()}
    return names.get(method)


def _default_options(method: Any) -> MethodOptions:
    kind: Any = type(method)
    model = options_model(kind, name_of(kind))
    return model(**{o.name: getattr(method, o.name) for o in declared_options(method)})


def family_type(kind: str, family: Mapping[str, Any], default: str | None) -> Any:
    """Return the type of a setting that names one method of a family, with its options.

    `attack: min_max` is short for `attack: {name: min_max}`; options without a name are those of the
    default method.
    """
    members = tuple(options_model(method, name) for name, method in family.items())
    union: Any = Union[members]  # noqa: UP007

    def by_name(data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        if not isinstance(data, Mapping):
            raise mistake_at(f" is {spelled(data)}: {_how_to_name(kind, family)}")
        data = {"name": default, **data}
        name = data["name"]
        if not (isinstance(name, str) and name in family):
            raise mistake_at(f": {unknown_name(kind, name, family)}")
        options = options_model(family[name], name).model_fields
        for key in data:
            if key not in options:
                raise unknown_key(key, _unknown_option(name, key, family))
        return data

    accepted: Any = Union[Literal[tuple(family)], union]  # noqa: UP007
    short = BeforeValidator(by_name, json_schema_input_type=accepted)
    return Annotated[union, Field(discriminator="name"), short]


def _how_to_name(kind: str, family: Mapping[str, Any]) -> str:
    return f"name one {kind} of {', '.join(family)}, or give {{name: ..., option: ...}}"


def _unknown_option(name: str, key: Any, family: Mapping[str, Any]) -> str:
    """Return the sentence for an option that a method has not: what it has, and who has it."""
    options = {
        method: [option.name for option in declared_options(kind)]
        for method, kind in family.items()
    }
    allowed = f": allowed are {', '.join(options[name])}" if options[name] else ", nor any other"
    others = [method for method, names in options.items() if key in names]
    near = f"; {_who_has_it(others)}" if others else suggestion(key, options[name])
    return f"{name} has no option '{shortened(str(key))}'{allowed}{near}"


def _who_has_it(methods: Sequence[str]) -> str:
    *most, last = methods
    return f"{', '.join(most)} and {last} have it" if most else f"{last} has it"


def _family(kind: str, help: str) -> Any:
    family, default = FAMILIES[kind], DEFAULTS[kind]
    value = options_model(family[default], default)()
    return (family_type(kind, family, default), Field(value, description=help))


class _Settings(Strict):
    """Cross checks of a run's settings; the fields are added below from the registries."""

    @model_validator(mode="after")
    def _possible_numbers_of_clients(self, info: ValidationInfo) -> Self:
        if not are_complete(info):
            return self
        clients, malicious = self.partition.clients, self.malicious  # type: ignore[attr-defined]
        if malicious > clients:
            told = f"malicious is {malicious}, but there are only {clients} clients"
            raise mistake_at(f": {told}")
        participants = participants_of(self.participation, clients)  # type: ignore[attr-defined]
        _refuse_for_round(self.defense, ("defense",), participants)  # type: ignore[attr-defined]
        self._refuse_too_few_clean_samples()
        # One run, whatever the number of malicious clients elsewhere in a grid.
        harmless = self.attack.name == "none" and malicious  # type: ignore[attr-defined]
        return self.model_copy(update={"malicious": 0}) if harmless else self

    def _refuse_too_few_clean_samples(self) -> None:
        clean = self.defense.build().traits.clean_samples  # type: ignore[attr-defined]
        clients, each = self.partition.clients, self.partition.samples_per_client  # type: ignore[attr-defined]
        if each is not None and clean > clients * each:
            told = f"asks for {clean} clean samples, but {clients} clients hold {each} each"
            name = self.defense.name  # type: ignore[attr-defined]
            raise mistake_at(f": defense {name} {told}")

    @model_validator(mode="after")
    def _records_rounds_that_are_played(self, info: ValidationInfo) -> Self:
        if not are_complete(info):
            return self
        rounds: int = self.rounds  # type: ignore[attr-defined]
        recorded: list[int] = list(self.record)  # type: ignore[attr-defined]
        twice = [round for round in recorded if recorded.count(round) > 1]
        if twice:
            raise mistake_at(f" names round {twice[0]} twice", "record")
        late = [round for round in recorded if round > rounds]
        if late:
            told = f"names round {late[0]}, but the run has only the rounds 1 to {rounds}"
            raise mistake_at(f" {told}", "record")
        return self

    @property
    def run_id(self) -> str:
        """A readable slug and a short hash of all settings: same settings, same run."""
        names = (self.dataset.name, self.attack.name, self.defense.name)  # type: ignore[attr-defined]
        return f"{'-'.join(names)}-s{self.seed}-{short_hash(self.model_dump())}"  # type: ignore[attr-defined]


def _refuse_for_round(options: MethodOptions, path: tuple[str, ...], participants: int) -> None:
    """Refuse a defense that so many participants are too few for, or one inside it."""
    rule, name, place = options.build(), dict(options)["name"], ".".join(path)
    fewest = rule.traits.fewest_participants
    if participants < fewest:
        told = f"needs at least {fewest} participants, but a round has {participants}"
        raise mistake_at(f": {place} {name} {told}")
    relations = relations_in_round(type(rule))
    for relation in relations:
        if broken := relation.broken(rule, participants):
            raise mistake_at(f" {broken}", *path, relation.option)
    rows = min(
        (relation.inside(rule, participants) for relation in relations), default=participants
    )
    for key, value in options:
        if isinstance(value, MethodOptions) and name_of(type(value).method):
            _refuse_for_round(value, (*path, key), rows)


Settings: Any = create_model(
    "Settings",
    __base__=_Settings,
    __doc__="All that decides the numbers of one run.",
    dataset=_family("dataset", "training and test images"),
    partition=_family("partition", "which client holds which images"),
    model=_family("model", "the network"),
    training=(
        options_model(LocalTraining, None),
        Field(options_model(LocalTraining, None)(), description="local training of every client"),
    ),
    attack=_family("attack", "what the malicious clients do"),
    malicious=(
        int,
        Field(
            0,
            ge=0,
            description="number of malicious clients, those of highest id; 0 when the attack is none",
        ),
    ),
    defense=_family("defense", "how the server aggregates"),
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


JUDGES = {"fedredefense": FAMILIES["defense"]["fedredefense"]}


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
    judge: family_type("defense", JUDGES, "fedredefense") | None = Field(  # type: ignore[valid-type]
        None,
        description="fedredefense as it judges recorded updates, all its first_iterations for "
        "every client; null: that of the experiment's first such run",
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
                told = f"{part}.seed is set: give the list `seeds` instead"
                raise mistake_at(f": {told}")
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
            raise mistake_at(f": {sentence}")
        return self


def short_hash(value: Any) -> str:
    """Return eight hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def expand(raw: Mapping[str, Any], experiment: Experiment, path: str) -> Iterable[Any]:
    """Yield the settings of every combination of an experiment's grid, for every seed."""
    base = raw.get("base") or {}
    in_base = {key: f"{path}.base.{key}" for key in Settings.model_fields}
    # Parents before children: a path below a method is set on the method that the grid chose.
    grid = dict(sorted(experiment.grid.items(), key=lambda item: item[0].count(".")))
    combinations = itertools.product(*map(enumerate, grid.values()))
    for values, seed in itertools.product(combinations, experiment.seeds):
        settings, places = override(base, "seed", seed), dict(in_base)
        for key, (index, value) in zip(grid, values, strict=True):
            settings = override(settings, key, value, f"{path}.grid.")
            places[key] = f"{path}.grid.{key}[{index}]"
        yield validated(Settings, settings, path, places)


def override(settings: Mapping[str, Any], path: str, value: Any, place: str = "") -> dict[str, Any]:
    """Return settings with the value at a dotted path replaced.

    A new `name` of a method starts it afresh, without the options of the method before. Where no method
    is named, a path runs through the default one.

    Args:
        settings: of one run.
        path: keys with dots between them.
        value: put there.
        place: what stands before the path in the file, for the sentences.

    Raises:
        UserError: when the path runs through a value that is not a group of settings.
    """
    result = deepcopy(dict(settings))
    *parents, last = path.split(".")
    if len(parents) >= DEEPEST:
        raise UserError(f"{place}{shortened(path)}: a path has at most {DEEPEST} parts")
    group, model = result, Settings
    for parent in parents:
        child = group.get(parent)
        if isinstance(child, str):
            child = {"name": child}
        if child is not None and not isinstance(child, Mapping):
            told = f"'{shortened(parent)}' is {spelled(child)}, not a group of settings"
            raise UserError(f"{place}{shortened(path)}: {told}")
        default = _default_of(model, parent)
        group[parent] = {**_name_in(default), **(child or {})}
        group = group[parent]
        model = _model_of(default, group.get("name"))
    if last == "name" and group.get("name") != value:
        group.clear()
    group[last] = value
    return result


def _default_of(model: type[Strict] | None, key: str) -> MethodOptions | None:
    """Return the default of a key whose value is a group of options, or None."""
    field = model.model_fields.get(key) if model else None
    return field.default if field and isinstance(field.default, MethodOptions) else None


def _name_in(options: MethodOptions | None) -> dict[str, Any]:
    return {key: value for key, value in options or () if key == "name"}


def _model_of(default: MethodOptions | None, name: Any) -> type[MethodOptions] | None:
    """Return the model of the options at a place, given its default and the name of the method there."""
    if default is None or not _name_in(default):
        return type(default) if default else None
    method = type(default).method
    (family,) = (family for family in FAMILIES.values() if method in family.values())
    known = isinstance(name, str) and name in family
    return options_model(family[name], name) if known else None


def resolve(raw: Mapping[str, Any], changes: Iterable[str] = ()) -> Any:
    """Return the checked settings of one run, after changes of the form `path=value` (YAML).

    Raises:
        UserError: for a change without `=`, and for every mistake in the settings.
    """
    settings = within_limits(raw)
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            told = f"'{shortened(change)}' is not of the form path=value"
            raise UserError(f"{told}, for instance rounds=5")
        parsed = parse_yaml(value, f"the value of '{shortened(path)}'")
        settings = override(settings, path, within_limits(parsed, (path,)))
    return validated(Settings, settings, "")


def resolve_method(family: str, raw: Any, path: str | None = None) -> Any:
    """Return the checked options of one method, given by name or with its options.

    Args:
        family: a key of FAMILIES.
        raw: the name, or a mapping.
        path: where it stands in a file, for the sentences; None: `family`.

    Raises:
        UserError: for an unknown method, and for every mistake in its options.
    """
    places = {"method": path or family}
    return validated(_holder(family), {"method": raw}, "", places).method


@cache
def _holder(family: str) -> Any:
    kind = family_type(family, FAMILIES[family], DEFAULTS[family])
    return create_model("Holder", __base__=Strict, method=(kind, ...))
