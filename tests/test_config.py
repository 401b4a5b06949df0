"""The schema: what is refused and in which words, grids, run ids."""

import json
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedred.config import (
    COMPOSABLE,
    DEFAULTS,
    FAMILIES,
    FIGURES,
    TABLES,
    Settings,
    name_of,
    override,
    resolve,
)
from fedred.errors import UserError
from fedred.options import declared_options
from fedred.plan import JUDGED_OFFLINE, make_plan, partition_id
from fedred.report.figures import FIGURES as DRAWN
from fedred.report.offline import OFFLINE_FIGURES
from fedred.report.tables import OFFLINE_TABLES
from fedred.report.tables import TABLES as MADE
from fedred.yaml_reading import parse_yaml, read_yaml

CONFIGS = sorted(Path("config").glob("*.yaml"))


def experiment(**parts):
    return {"experiments": {"one": parts}}


REFUSED = [
    (experiment(base={"attak": "none"}), "experiments.one.base: unknown key 'attak'", "'attack'?"),
    (
        experiment(base={"attack": "min_mx"}),
        "experiments.one.base.attack: unknown attack 'min_mx'",
        "'min_max'?",
    ),
    (
        experiment(grid={"attack": ["none", "fang"]}),
        "experiments.one.grid.attack[1]: unknown attack 'fang'",
        "'fang_trim'?",
    ),
    (
        experiment(grid={"defense": [{"name": "krum", "tolerate": 2}]}),
        "experiments.one.grid.defense[0]: krum has no option 'tolerate'",
        "'tolerated'?",
    ),
    (
        experiment(base={"training": {"lr": -1.0}}),
        "experiments.one.base.training.lr is -1.0",
        "greater than 0",
    ),
    (
        experiment(base={"training": {"lr": "fast"}}),
        "experiments.one.base.training.lr is 'fast'",
        "a number",
    ),
    (experiment(base={"rounds": 2.5}), "experiments.one.base.rounds is 2.5", "a whole number"),
    (experiment(base={"rounds": True}), "experiments.one.base.rounds is true", "a whole number"),
    (
        experiment(base={"participation": 0}),
        "experiments.one.base.participation is 0",
        "greater than 0",
    ),
    (
        experiment(base={"participation": float("nan")}),
        "experiments.one.base.participation is nan",
        "finite",
    ),
    (
        experiment(base={"model": {"name": "convnet", "norm": "batch"}}),
        "experiments.one.base.model.norm is 'batch'",
        "'instance', 'group' or 'none'",
    ),
    (
        experiment(base={"defense": {"name": "fedredefense", "aggregator": "fedredefense"}}),
        "unknown defense 'fedredefense'",
        "median",
    ),
    (
        experiment(base={"defense": {"name": "fedredefense", "reconstruction": {"image_lr": "x"}}}),
        "base.defense.reconstruction.image_lr is 'x'",
        "a number",
    ),
    (
        experiment(
            base={"partition": {"name": "iid", "clients": 3}, "malicious": 4, "attack": "mpaf"}
        ),
        "malicious is 4",
        "only 3 clients",
    ),
    (experiment(base={"seed": 3}), "base.seed is set", "seeds"),
    (experiment(seeds=[]), "experiments.one.seeds is []", "at least 1 value"),
    (experiment(seeds=[-1]), "experiments.one.seeds.0 is -1", "at least 0"),
    (
        experiment(tables=["accuracy"]),
        "experiments.one.tables.0 is 'accuracy'",
        "'performance', 'detection', 'differences', 'errors', 'cost', 'reference', 'auroc'",
    ),
    (
        experiment(tables=["detection"]),
        "experiments.one.tables: 'detection' needs",
        "accepts or rejects",
    ),
    (experiment(figures=["reconstruction_error"]), "'reconstruction_error' needs", "fedredefense"),
    (experiment(tables=["errors"]), "experiments.one.tables: 'errors' needs", "fedredefense"),
    (experiment(tables=["differences"]), "'differences' needs", "fedavg beside another defense"),
    (experiment(figures=["sweep"]), "'sweep' needs", "exactly one numeric setting"),
    (experiment(grid={"rounds.x": [1]}, base={"rounds": 3}), "rounds.x", "not a group"),
    (experiment(grid={"seed": [1]}), "grid.seed is set", "seeds"),
    (experiment(grid={"attack": []}), "experiments.one.grid.attack is []", "at least 1 value"),
    (experiment(base={"attack": {"name": ["none"]}}), "unknown attack '['none']'", "min_max"),
    (
        experiment(
            base={
                "defense": {"name": "krum", "tolerated": 8},
                "partition": {"name": "iid", "clients": 10},
            }
        ),
        "experiments.one: defense krum needs at least 11 participants",
        "a round has 10",
    ),
    (
        experiment(base={"participation": 0.02}, grid={"defense": ["fedavg", "krum"]}),
        "defense krum needs at least 3 participants",
        "a round has 2",
    ),
    ({"experiments": {"Bad Name": {}}}, "experiments.Bad Name", "small letters, digits"),
    ({"experiments": {}}, "experiments is {}", "at least 1 value"),
    ({}, "experiments is missing", "required"),
    ({"experiments": None}, "experiments is empty", "a mapping of keys to values"),
    ({"experiments": {"one": None}}, "experiments.one is empty", "a mapping of keys to values"),
    ({"experiment": {}}, "unknown key 'experiment'", "'experiments'?"),
]


@pytest.mark.parametrize(("raw", "start", "end"), REFUSED)
def test_mistakes_are_told_with_path_value_and_what_is_allowed(raw, start, end):
    with pytest.raises(UserError) as refused:
        make_plan(raw)
    first = str(refused.value).splitlines()[0]
    assert start in str(refused.value)
    assert end in str(refused.value)
    assert len(first) < 300


def test_every_mistake_has_a_line():
    with pytest.raises(UserError) as refused:
        resolve({"rounds": 0, "malicious": -1, "attack": "x"})
    assert len(str(refused.value).splitlines()) == 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "experiments",
                        "a",
                        "base",
                        "grid",
                        "attack",
                        "name",
                        "defense",
                        "rounds",
                        "seeds",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_data_is_a_plan_or_a_sentence(raw):
    try:
        plan = make_plan({"experiments": {"a": raw}})
    except UserError:
        return
    assert plan.experiments["a"]


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.name not in ("one.yaml", "reference.yaml", "released.yaml")],
    ids=str,
)
def test_shipped_configurations_are_valid(path):
    plan = make_plan(read_yaml(path))
    assert plan.runs
    assert all(plan.tables.values())


@pytest.mark.parametrize("name", ["one.yaml", "released.yaml"])
def test_examples_of_single_runs_are_valid(name):
    assert resolve(read_yaml(Path("config", name))).defense.name == "fedredefense"


def test_the_default_grid_is_six_attacks_by_four_defenses():
    plan = make_plan(read_yaml(Path("config/config.yaml")))
    assert len(plan.runs) == 24
    assert len({(r["attack"]["name"], r["defense"]["name"]) for r in plan.runs.values()}) == 24
    assert len(plan.partitions) == len(plan.datasets) == 1


def test_paper_configuration_has_the_released_numbers():
    plan = make_plan(read_yaml(Path("config/paper.yaml")))
    of = {
        run["dataset"]["name"]: run["defense"]["reconstruction"]
        for run in plan.runs.values()
        if run["defense"]["name"] == "fedredefense"
    }
    assert (of["cifar10"]["image_lr"], of["cifar10"]["first_iterations"]) == (0.1, 500)
    assert (of["cinic10"]["first_iterations"], of["cinic10"]["later_iterations"]) == (2000, 4000)
    assert of["cinic10"]["initial_step_size"] == 0.05
    assert (of["fashion_mnist"]["step_size_lr"], of["fashion_mnist"]["image_lr"]) == (5e-6, 0.5)
    assert {run["seed"] for run in plan.runs.values()} == {4, 5, 6}


def test_grid_is_the_product_and_reaches_below_methods():
    plan = make_plan(
        experiment(
            base={"defense": "fedredefense"},
            grid={"defense.threshold": [0.5, 0.7], "training.lr": [0.1, 0.2, 0.3]},
            seeds=[0, 1],
        )
    )
    points = {
        (r["defense"]["threshold"], r["training"]["lr"], r["seed"]) for r in plan.runs.values()
    }
    assert points == {(t, lr, s) for t in (0.5, 0.7) for lr in (0.1, 0.2, 0.3) for s in (0, 1)}


def test_a_path_below_a_method_meets_the_method_that_the_grid_chose():
    plan = make_plan(experiment(grid={"defense.tolerated": [1, 2], "defense": ["krum"]}))
    assert {run["defense"]["tolerated"] for run in plan.runs.values()} == {1, 2}


def test_experiments_share_runs_of_equal_settings():
    shared = {"base": {"attack": "mpaf", "malicious": 5}}
    plan = make_plan({"experiments": {"one": shared, "two": {**shared, "seeds": [0, 1]}}})
    assert len(plan.runs) == 2
    assert plan.experiments["one"][0] in plan.experiments["two"]


def test_run_id_depends_on_every_setting_and_not_on_the_order_of_keys():
    one = resolve({"rounds": 5, "attack": {"name": "scaling", "factor": 2.0}, "malicious": 1})
    other = resolve({"malicious": 1, "attack": {"factor": 2.0, "name": "scaling"}, "rounds": 5})
    assert one.run_id == other.run_id
    for change in ("rounds=6", "attack.factor=2.5", "seed=1", "training.momentum=0.5"):
        assert resolve(one.model_dump(), [change]).run_id != one.run_id


def test_without_an_attack_the_number_of_malicious_clients_is_no_setting():
    assert resolve({"malicious": 5}).run_id == resolve({}).run_id


def test_resolved_settings_resolve_to_themselves():
    for run in make_plan(read_yaml(Path("config/config.yaml"))).runs.values():
        assert Settings.model_validate(run).model_dump() == run


def test_a_new_name_drops_the_options_of_the_old_method():
    base = {"attack": {"name": "scaling", "factor": 9.0}, "malicious": 1}
    assert resolve(base, ["attack.name=min_max"]).attack.direction == "deviation"
    assert resolve(base, ["attack.name=scaling"]).attack.factor == 9.0
    assert override({"attack": "scaling"}, "attack.factor", 2)["attack"] == {
        "name": "scaling",
        "factor": 2,
    }


# --- options of a method that is not named ---


def another(value, hint, bounds):
    """A legal value of an option that is not its default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next(word for word in get_args(hint) if word != value)
    if value is None:
        return 2
    return value + 1 if isinstance(value, int) else value / 2


def places():
    """Path of each method that is a default, with what must be set for it to be there, and itself."""
    for family, name in DEFAULTS.items():
        yield family, {}, name, FAMILIES[family][name]
    for family, methods in FAMILIES.items():
        for owner, method in methods.items():
            hints = get_type_hints(method)
            for part in declared_options(method):
                if hints[part.name] in COMPOSABLE:
                    inner = type(part.default)
                    yield f"{family}.{part.name}", {family: owner}, name_of(inner), inner


NAMELESS = [
    pytest.param(place, settings, name, option, hint, id=f"{place} {name}.{option.name}")
    for place, settings, name, method in places()
    for option in declared_options(method)
    for hint in [get_type_hints(method)[option.name]]
]


@pytest.mark.parametrize(("place", "settings", "name", "option", "hint"), NAMELESS)
def test_an_option_of_a_default_method_needs_no_name(place, settings, name, option, hint):
    value = another(option.default, hint, option.metadata["bounds"])
    named = override(settings, place, {"name": name, option.name: value})
    nameless = override(settings, place, {option.name: value})
    whole = resolve(named).model_dump()
    assert resolve(nameless).model_dump() == whole
    assert resolve(settings, [f"{place}.{option.name}={json.dumps(value)}"]).model_dump() == whole
    plan = make_plan(experiment(base=settings, grid={f"{place}.{option.name}": [value]}))
    assert list(plan.runs.values()) == [whole]


def test_the_defaults_of_all_places_have_the_defaults_of_their_options():
    for methods in FAMILIES.values():
        for method in methods.values():
            for part in declared_options(method):
                if is_dataclass(part.default):
                    assert part.default == type(part.default)()


@pytest.mark.parametrize(
    ("settings", "change", "sentence"),
    [
        ({"attack": {"scale": 2}}, [], "attack: none has no option 'scale', nor any other"),
        ({}, ["attack.scale=2"], "attack: none has no option 'scale', nor any other"),
        (
            {"defense": "fedredefense"},
            ["defense.aggregator.tolerated=1"],
            "defense.aggregator: fedavg has no option 'tolerated': allowed are by_samples; ",
        ),
    ],
)
def test_what_the_default_method_has_not_is_refused_with_its_name(settings, change, sentence):
    with pytest.raises(UserError) as refused:
        resolve(settings, change)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_option_of_another_method_is_told_with_all_that_have_it(family):
    options = {
        name: [option.name for option in declared_options(method)]
        for name, method in FAMILIES[family].items()
    }
    for name, own in options.items():
        for option in {key for keys in options.values() for key in keys if key not in own}:
            with pytest.raises(UserError) as refused:
                resolve({family: {"name": name, option: 1}})
            *_, told = str(refused.value).split("; ")
            having, verb = re.fullmatch(r"(.*) (has|have) it", told).groups()
            methods = re.split(", | and ", having)
            assert methods == [other for other, keys in options.items() if option in keys]
            assert (verb, " and " in having) == (
                ("has", "have")[len(methods) > 1],
                len(methods) > 1,
            )


@pytest.mark.parametrize("first", range(9))
def test_of_several_unknown_keys_the_first_in_the_file_is_told(first):
    keys = [f"odd{(first + place) % 9}" for place in range(9)]
    unknown = dict.fromkeys(keys, 1)
    for settings in ({"attack": {"name": "mpaf", **unknown}}, {"attack": unknown}, unknown):
        with pytest.raises(UserError, match=f"(no option|unknown key) 'odd{first}'"):
            resolve(settings)


def test_naming_the_default_keeps_its_options_and_naming_another_does_not():
    base = {"partition": {"clients": 10}}
    assert resolve(base, ["partition.name=balanced_dirichlet"]).partition.clients == 10
    assert resolve(base, ["partition.name=iid"]).partition.clients == 100
    nested = {"defense": {"name": "nnm", "aggregator": {"tolerated": 1}}}
    same = resolve(nested, ["defense.aggregator.name=trimmed_mean"])
    assert same.defense.aggregator.tolerated == 1


@pytest.mark.parametrize("empty", [None, 3, [], True])
def test_a_method_that_is_none_is_told_how_to_be_named(empty):
    with pytest.raises(UserError) as refused:
        resolve({"attack": empty})
    told = str(refused.value)
    assert told.startswith("attack is ")
    assert "name one attack of none, label_flip" in told
    assert told.endswith("or give {name: ..., option: ...}")


@pytest.mark.parametrize("value", ["3", "0.5", "1e-3"])
def test_a_number_in_quotes_is_told_to_leave_them(value):
    with pytest.raises(UserError) as refused:
        resolve({"rounds": value})
    assert str(refused.value) == f"rounds is the text '{value}': write it without quotes"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001"])
def test_numbers_that_yaml_takes_for_text_are_numbers(text):
    assert resolve(parse_yaml(f"training: {{lr: {text}}}", "x")).training.lr == 0.001


def test_a_change_that_is_no_yaml_is_refused():
    with pytest.raises(UserError, match="the value of 'rounds' is not valid YAML"):
        resolve({}, ["rounds=[1"])


@pytest.mark.parametrize("change", ["rounds", "=5", ""])
def test_a_change_without_path_or_value_is_refused(change):
    with pytest.raises(UserError, match="not of the form path=value"):
        resolve({}, [change])


def test_partitions_are_shared_by_data_options_and_seed_alone():
    one = resolve({"attack": "mpaf", "malicious": 2, "rounds": 3}).model_dump()
    assert partition_id(one) == partition_id(resolve({}).model_dump())
    assert partition_id(one) != partition_id({**one, "seed": 1})


def test_tables_and_figures_have_the_names_that_the_reports_know():
    assert tuple(MADE | OFFLINE_TABLES) == TABLES
    assert set(DRAWN | OFFLINE_FIGURES) == set(FIGURES)
    assert {*OFFLINE_TABLES, *OFFLINE_FIGURES} == {*JUDGED_OFFLINE}


RECORDED = {"record": [1, 3], "rounds": 3, "malicious": 5, "attack": "mpaf"}


def test_recorded_rounds_feed_tables_and_figures_of_their_own():
    raw = {"base": RECORDED, "grid": {"defense": ["fedavg", "fedredefense"]}, "seeds": [0, 1]}
    plan = make_plan({"experiments": {"one": raw, "two": {**raw, "grid": {}}}})
    assert {"roc", "curves"} <= {*plan.figures["one"]}
    assert "threshold" in plan.tables["one"]
    for name in ("threshold", "roc", "curves"):
        files = plan.sources("one", name)
        assert len(files) == len(set(files)) == 2 * 2 * 2
        assert all(file.startswith("results/reconstructions/one/digits-mpaf-") for file in files)
        assert {Path(file).name for file in files} == {"round-0001.parquet", "round-0003.parquet"}
    assert "images" in plan.figures["one"]
    of_first_seed = plan.sources("one", "images")
    assert len(of_first_seed) == 2
    assert all("-s0-" in file for file in of_first_seed)
    assert {Path(file).name for file in of_first_seed} == {"round-0001.safetensors"}
    assert plan.judges["one"]["name"] == "fedredefense"
    assert "two" not in plan.judges  # nothing there reconstructs
    assert not {*JUDGED_OFFLINE} & {*plan.figures["two"], *plan.tables["two"]}


def test_an_experiment_may_name_what_judges():
    judge = {"name": "fedredefense", "threshold": 0.5}
    plan = make_plan({"experiments": {"one": {"base": RECORDED, "judge": judge}}})
    assert plan.judges["one"]["threshold"] == 0.5
    assert "roc" in plan.figures["one"]
    assert make_plan({"experiments": {"one": {"judge": judge}}}).judges == {}  # nothing recorded


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ({"judge": "krum"}, "unknown defense 'krum'"),
        ({"judge": {"name": "fedredefense", "threshhold": 1}}, "did you mean 'threshold'"),
        ({"judge": "fedredefense", "figures": ["roc"]}, "'roc' needs runs that record rounds"),
        ({"base": RECORDED, "tables": ["threshold"]}, "'threshold' needs runs that record rounds"),
    ],
)
def test_what_cannot_be_judged_is_refused(experiment, sentence):
    with pytest.raises(UserError) as told:
        make_plan({"experiments": {"one": experiment}})
    assert sentence in str(told.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"\xff\xfe\xfa", "is no text in UTF-8"),
    ],
)
def test_files_that_hold_no_settings_are_refused(tmp_path, content, sentence):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nothing\.yaml"):
        read_yaml(tmp_path / "nothing.yaml")


def test_no_two_configurations_write_the_same_tables():
    """Tables and figures are named by their experiment alone."""
    names = [
        name
        for path in sorted(Path("config").glob("*.yaml"))
        for name in read_yaml(path).get("experiments", {})
    ]
    assert len(names) == len(set(names)) > 20
