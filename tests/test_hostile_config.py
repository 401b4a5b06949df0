"""Hostile settings: whatever stands in them, they are a plan or one clear sentence, and no great effort.

The corpus is derived from the registries: a new method or option is attacked by being listed.
"""

import json
import re
import subprocess
import sys
from collections.abc import Hashable
from copy import deepcopy
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import yaml
from bounded import few_calls, small_effort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedred.config import (
    DEFAULTS,
    FAMILIES,
    MOST_RUNS,
    options_model,
    override,
    resolve,
    resolve_method,
)
from fedred.errors import UserError
from fedred.models import MODELS, flat_model
from fedred.options import declared_options
from fedred.plan import make_plan
from fedred.yaml_reading import (
    DEEPEST,
    LOADER,
    MOST_VALUES,
    parse_yaml,
    read_yaml,
    within_limits,
)

METHODS = [(family, name) for family, methods in FAMILIES.items() for name in methods]
EXPERIMENT = {
    "base": resolve({"attack": "mpaf", "malicious": 2}).model_dump(exclude={"seed"}),
    "grid": {"defense.tolerated": [1, 2], "defense": ["krum"]},
    "seeds": [0, 1],
    "tables": ["performance"],
    "figures": ["partition"],
}
ENDLESS = "x" * 1_000_000
NESTED = [[[[[["deep"]]]]]]
HOSTILE = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "negative": -1,
    "most_negative": -(2**63),
    "fraction": 0.5,
    "negative_fraction": -0.5,
    "2^31": 2**31,
    "2^63-1": 2**63 - 1,
    "2^63": 2**63,
    "10^400": 10**400,
    "-10^400": -(10**400),
    "10^5000": 10**5000,  # more digits than Python writes
    "1e308": 1e308,
    "-1e308": -1e308,
    "denormal": 5e-324,
    "nan": float("nan"),
    "inf": float("inf"),
    "minus_inf": float("-inf"),
    "scientific_text": "1e999",
    "empty_text": "",
    "blank": " ",
    "text": "text",
    "number_in_text": "1",
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469",
    "right_to_left": "\u202egnp.exe\u202c",
    "combining": "a\u0301" * 50,
    "control": "\x00\x07\x1b[31mred\x7f",
    "lines": "one\ntwo\r\nthree\u2028four",
    "surrogate": "\ud800",
    "braces": "{sentence} %s {0}",
    "markup": "[bold red]x[/]",
    "path": "../../etc/passwd",
    "endless": ENDLESS,
    "date": date(2020, 1, 1),
    "bytes": b"\xff\x00",
    "set": {1},
    "tuple": (1, 2),
    "list": [1, "two", None],
    "empty_list": [],
    "nested_list": NESTED,
    "mapping": {"a": 1},
    "empty_mapping": {},
    "unnamed": {"name": None},
    "numbered_key": {1: 2, None: 3},
    "hostile_key": {"\x1b[31m\n\ud800": 1, ENDLESS: 2},
    "huge_key": {10**5000: 1},
}


FOREIGN = re.compile(
    r"\b([Dd]ictionary|[Oo]bject|(?<!for )[Ii]nstance|[Ee]xtract|[Ii]nput|[Dd]iscriminator|[Ll]iteral"
    r"|[Pp]ydantic|[Vv]alidation|valid (number|boolean|list)|[Ii]nteger|[Ss]tring|None|True|False)\b"
)
"""Words of libraries and of Python."""
OWN_WORDS = re.compile(
    r"^\S+|'[^']*'|\{.*(\}|\.\.\.)|\[.*(\]|\.\.\.)|\(.*(\)|\.\.\.)|b'.*|datetime\S*"
    r"|not valid YAML.*|has the tag.*"
)
"""What is quoted: of the user, of what is allowed, and what a parser says of a text."""


def sentences(check, effort=small_effort):
    """Run a check; return the sentences of its refusal, each clear, or none if it is accepted."""
    with effort():
        try:
            check()
        except UserError as error:
            lines = str(error).split("\n")
            assert all(line.isprintable() and 10 < len(line) < 1000 for line in lines)
            assert len(lines) <= 21
            assert not [line for line in lines if FOREIGN.search(OWN_WORDS.sub("", line))]
            return lines
    return []


def planned(raw):
    """Resolve settings, and whoever accepts them must be able to plan and to name their run."""
    run = resolve(raw)
    assert len(run.run_id) < 200
    assert resolve(run.model_dump()).run_id == run.run_id
    assert json.loads(json.dumps(run.model_dump(), allow_nan=False)) == run.model_dump()


def key_paths(settings, prefix=()):
    for key, value in settings.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from key_paths(value, (*prefix, key))


def changed(settings, path, change):
    """Return a copy in which `change` was called with the group around a key, and the key."""
    result = deepcopy(settings)
    group = result
    for key in path[:-1]:
        group = group[key]
    change(group, path[-1])
    return result


def whole(family, name):
    """The section of a method with all its options, everything below it written out."""
    return {family: resolve_method(family, name).model_dump()}


def own_keys(family, name):
    return list(key_paths(whole(family, name)))


GENERAL = resolve({}).model_dump(include={"training", "malicious", "participation", "rounds"}) | {
    "evaluate_every": 1,
    "seed": 0,
}


def attack_every_key(section, value):
    for path in key_paths(section):
        raw = changed(section, path, lambda group, key: group.__setitem__(key, value))
        lines = sentences(lambda raw=raw: planned(raw))
        dotted, parent = ".".join(path), ".".join(path[:-1]) or "the configuration"
        at_large = "the configuration: "  # malicious clients, participants: settings together
        assert all(
            line.startswith((dotted, f"{parent}: ", f"{parent}.", at_large)) for line in lines
        ), lines


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_option_of_every_method_refuses_or_takes_a_hostile_value(kind):
    for family, name in METHODS:
        attack_every_key(whole(family, name), HOSTILE[kind])
    attack_every_key(GENERAL, HOSTILE[kind])


REFUSED_EVERYWHERE = [
    *("-10^400", "10^400", "10^5000", "2^63", "nan", "inf", "minus_inf"),
    *("control", "lines", "surrogate", "endless", "right_to_left", "date", "bytes", "set", "tuple"),
    *("list", "empty_list", "nested_list", "numbered_key", "hostile_key", "huge_key"),
]


@pytest.mark.parametrize("kind", REFUSED_EVERYWHERE)
def test_what_no_setting_can_be_is_refused_everywhere(kind):
    for family, name in METHODS:
        section = whole(family, name)
        for path in key_paths(section):
            raw = changed(section, path, lambda g, key: g.__setitem__(key, HOSTILE[kind]))
            assert sentences(lambda raw=raw: resolve(raw)), path


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_a_key_of_a_method_may_be_missing_and_the_name_where_the_default_has_these_options(
    family, name
):
    section = whole(family, name)
    for path in key_paths(section):
        lines = sentences(lambda p=path: planned(changed(section, p, lambda g, k: g.pop(k))))
        assert not lines or path[-1] == "name"
    default = DEFAULTS[family]
    unknown = section[family].keys() - whole(family, default)[family].keys()
    nameless = changed(section, (family, "name"), lambda g, k: g.pop(k))
    lines = sentences(lambda: resolve(nameless))
    assert bool(lines) == bool(unknown)
    assert all(line.startswith(f"{family}: {default} has no option '") for line in lines)


def with_doubled(settings, doubled, prefix=()):
    """Write settings as YAML, a key a line, one of them twice."""
    parts = []
    for key, value in settings.items():
        path = (*prefix, key)
        text = with_doubled(value, doubled, path) if isinstance(value, dict) else json.dumps(value)
        parts += [f"{json.dumps(key)}: {text}"] * (2 if path == doubled else 1)
    return "{" + ",\n".join(parts) + "}"


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_a_doubled_key_is_refused_with_its_lines(family, name):
    section = whole(family, name)
    assert within_limits(parse_yaml(with_doubled(section, None), "x")) == section
    for path in key_paths(section):
        (line,) = sentences(lambda p=path: parse_yaml(with_doubled(section, p), "one.yaml"))
        assert line.startswith("one.yaml: line ")
        assert f": the key '{path[-1]}' stands already in line " in line


def test_the_lines_of_a_doubled_key_are_counted_from_one():
    text = "experiments:\n  a: {}\n\n  b: {}\n  'a': {}\n"
    assert sentences(lambda: parse_yaml(text, "x")) == [
        "x: line 5: the key 'a' stands already in line 2: keep one"
    ]
    assert parse_yaml("a: {a: 1}\nb: {a: 1}", "x") == {"a": {"a": 1}, "b": {"a": 1}}


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_key_of_an_experiment_refuses_or_takes_a_hostile_value(kind):
    for path in key_paths({"experiments": {"one": EXPERIMENT}}):
        raw = changed(
            {"experiments": {"one": EXPERIMENT}}, path, lambda g, k: g.__setitem__(k, HOSTILE[kind])
        )
        lines = sentences(lambda raw=raw: make_plan(raw))
        assert all(line.startswith(("experiments", "the configuration")) for line in lines), lines


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_values_of_a_grid_and_of_its_paths(kind):
    value = HOSTILE[kind]
    for key in ("attack", "attack.name", "defense.threshold", "rounds", "training.lr", "partition"):
        raw = {"experiments": {"one": {"grid": {key: [value]}}}}
        lines = sentences(lambda raw=raw: make_plan(raw))
        assert all(line.startswith("experiments.one") for line in lines)
    key = value if isinstance(value, Hashable) else "nothing"
    assert sentences(lambda: make_plan({"experiments": {"one": {"grid": {key: [1]}}}}))


def test_a_whole_configuration_of_a_wrong_type_is_refused():
    for value in HOSTILE.values():
        assert sentences(lambda value=value: make_plan(value))
        assert sentences(lambda value=value: make_plan({"experiments": value}))


def test_many_mistakes_are_told_twenty_at_a_time():
    lines = sentences(lambda: make_plan({"experiments": {"one": {"seeds": [-1] * 50}}}))
    assert len(lines) == 21
    assert lines[-1] == "and 30 more mistakes"


# --- the size of things ---


def test_a_grid_of_more_runs_than_anybody_plays_is_refused_before_it_is_expanded():
    grid = {f"training.{i}": list(range(100)) for i in range(10)}
    (line,) = sentences(lambda: make_plan({"experiments": {"one": {"grid": grid}}}))
    assert line == (
        "the configuration: the grids and seeds ask for about 10^20 runs: at most 100000 are "
        "allowed in a configuration"
    )
    grid = {f"a{i}": [1, 2] for i in range(40_000)}  # more digits than Python writes
    assert sentences(lambda: make_plan({"experiments": {"one": {"grid": grid}}}))


def test_runs_are_counted_over_seeds_and_all_experiments():
    half = {"grid": {"attack": ["none"] * (MOST_RUNS // 100)}, "seeds": list(range(50))}
    more = {"experiments": {"one": half, "two": {**half, "seeds": list(range(51))}}}
    assert "runs" in sentences(lambda: make_plan(more))[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rounds", 10**18),
        ("evaluate_every", 10**18),
        ("partition.clients", 10**9),
        ("partition.samples_per_client", 2**62),
        ("defense.reconstruction.first_iterations", 10**18),
        ("seed", 2**63 - 1),
    ],
)
def test_numbers_that_cost_nothing_to_plan_are_planned(path, value):
    run = resolve(
        {"defense": "fedredefense", "partition": "balanced_dirichlet"}, [f"{path}={value}"]
    )
    group = run.model_dump()
    for key in path.split("."):
        group = group[key]
    assert group == value


SIZES = [
    pytest.param(model, option, id=f"{model}.{option.name}")
    for model in MODELS
    for option in declared_options(MODELS[model])
]


@pytest.mark.parametrize(("model", "option"), SIZES)
def test_a_network_that_fits_no_memory_is_refused_before_it_is_built(model, option):
    largest = option.metadata["bounds"].get("le")
    if largest is None:
        assert not isinstance(option.default, int)
        return
    network = replace(MODELS[model](width=512), **{option.name: largest})
    told = sentences(lambda: flat_model(network, (3, 32, 32), 10), few_calls)
    assert all("parameters on images of (3, 32, 32): at most 1000000000" in line for line in told)
    assert told or flat_model(network, (3, 32, 32), 10).size <= 10**9


def test_the_widest_network_is_refused():
    for model in MODELS.values():
        with pytest.raises(UserError, match="at most 1000000000 are allowed"):
            flat_model(replace(model(), width=2**16), (3, 2**12, 2**12), 10)


def test_what_takes_memory_by_its_size_is_bounded():
    """An unrolled step, a batch, an image and a layer are stored; a client or a round is not."""
    for text in (
        *("training.batch_size=1000000000", "training.epochs=1000000000", "model.width=1000000000"),
        *(
            "defense.reconstruction.steps=1000000000",
            "defense.reconstruction.images_per_class=10000",
        ),
    ):
        (line,) = sentences(
            lambda text=text: resolve({"defense": "fedredefense", "model": "mlp"}, [text])
        )
        assert "at most" in line


# --- YAML ---


def lines_of_aliases(first, line):
    return "\n".join([first, *(line(i) for i in range(1, 30))])


BOMBS = {
    "lists": lines_of_aliases(
        "a0: &a0 [x, x]", lambda i: f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]"
    ),
    "mappings": lines_of_aliases(
        "a0: &a0 {x: 1}", lambda i: f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}"
    ),
    "merges": lines_of_aliases(
        "a0: &a0 {x: 1}", lambda i: f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}"
    ),
    "itself": "a: &a [*a]",
    "itself_below": "experiments: &e {one: {base: *e}}",
    "brackets": "[" * 100_000,
    "braces": "{a: " * 100_000,
    "dashes": "- " * 100_000 + "x",
    "questions": "? " * 100_000 + "x",
    "values": "[" + "a," * 400_000 + "]",
    "base_sixty": "rounds: 1" + ":1" * 400_000,
    "base_sixty_fraction": "rounds: 1" + ":1" * 400_000 + ".0",
    "short_base_sixty_fraction": "rounds: 1" + ":1" * 400 + ".0",
    "digits": "rounds: " + "1" * 900_000,
    "hexadecimal": "rounds: 0x" + "f" * 900_000,
    "documents": "--- a\n" * 100_000,
    "size": "#" * 1_000_001,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_expanded(name):
    (line,) = sentences(lambda: parse_yaml(BOMBS[name], "bomb.yaml"))
    assert line.startswith("bomb.yaml")


def test_a_bomb_takes_no_memory():
    code = (
        "import json, resource, sys\n"
        "from fedred.config import parse_yaml\n"
        "from fedred.errors import UserError\n"
        "texts = json.load(sys.stdin)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for text in texts:\n"
        "    try: parse_yaml(text, 'x')\n"
        "    except UserError: pass\n"
        "    else: sys.exit('taken')\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sys.exit(after - before > 100_000)"
    )
    bombs = json.dumps(list(BOMBS.values()))
    done = subprocess.run([sys.executable, "-c", code], input=bombs, text=True, check=False)
    assert done.returncode == 0


def test_aliases_and_merges_that_end_are_legal():
    text = (
        "experiments:\n"
        "  one: &one\n"
        "    base: &base {attack: mpaf, malicious: 2, rounds: 7}\n"
        "  two:\n"
        "    <<: *one\n"
        "    base: &more {<<: *base, rounds: 9}\n"
        "  three: {base: {<<: [*more, *base], malicious: 1}}\n"
    )
    plan = make_plan(parse_yaml(text, "x"))
    runs = [plan.runs[plan.experiments[name][0]] for name in ("one", "two", "three")]
    assert [(run["rounds"], run["malicious"]) for run in runs] == [(7, 2), (9, 2), (9, 1)]


def test_values_and_levels_have_a_limit_that_is_reached_and_not_passed():
    assert len(parse_yaml("[" + "a," * (MOST_VALUES - 1) + "]", "x")) == MOST_VALUES - 1
    assert sentences(lambda: parse_yaml("[" + "a," * MOST_VALUES + "]", "x"))
    assert parse_yaml("[" * DEEPEST + "]" * DEEPEST, "x")
    assert sentences(lambda: parse_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x"))


TAGS = [
    "!!python/object/apply:os.system ['touch executed']",
    "!!python/object/new:os.system ['touch executed']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!binary aGVsbG8=",
    "!!bool x",
    "!!int ''",
    "!!float ''",
    "!!timestamp x",
    "!!set {a}",
    "!!omap [a: 1]",
    "!local {a: 1}",
    "!<tag:yaml.org,2002:str> a",
]


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_is_allowed(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (tag, f"rounds: {tag}", f"{{{tag.replace(':', ': ', 0)}: 1}}"):
        assert sentences(lambda text=text: parse_yaml(text, "x"))
    assert "has the tag" in sentences(lambda: parse_yaml(f"\nrounds: {tag}", "x"))[0]
    assert not list(tmp_path.iterdir())


BYTES = {
    "empty": b"",
    "blank": b" \n\n",
    "comment": b"# nothing\n",
    "nul": b"a: \0",
    "utf16": "rounds: 3".encode("utf-16"),
    "latin1": "a: \xe9".encode("latin-1"),
    "half_a_character": "a: \u20ac".encode()[:-1],
    "escape": b"a: \x1b[31m",
    "list": b"- a",
    "text": b"settings",
    "tab": b"a:\n\t- b",
    "two_documents": b"a: 1\n---\nb: 2",
    "version": b"%YAML 9.9\n---\na: 1",
    "unclosed": b'a: "b',
    "unknown_alias": b"a: *b",
    "list_as_key": b"? [a]\n: 1",
    "merge_of_a_number": b"<<: 1",
    "no_date": b"a: 2020-99-99",
    "equals": b"a: =",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "zip": b"PK\x03\x04" + b"\0" * 30,
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_settings_are_refused(name, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(BYTES[name])
    (line,) = sentences(lambda: read_yaml(path))
    assert line.startswith(str(path))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xef\xbb\xbfrounds: 3\r\n")
    assert read_yaml(path) == {"rounds": 3}


def test_what_is_no_file_of_settings_is_refused_unread(tmp_path):
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    long = tmp_path / ("x" * 300)
    for path in (large, tmp_path, Path("/dev/zero"), loop, long, tmp_path / "none" / "x.yaml"):
        assert len(sentences(lambda path=path: read_yaml(path))) == 1


# --- names that lead elsewhere ---

ELSEWHERE = [
    *(
        "..",
        ".",
        "",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:\\x",
        "~",
        "$HOME",
        "a b",
        "a.b",
        "*",
    ),
    *("a\0b", "a\n", "\n", "-a", "\u00e9", "\u0430", "\u202e", "A", "x" * 65, "%2e%2e"),
]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_experiment_cannot_be_named_after_a_place(name):
    (line,) = sentences(lambda: make_plan({"experiments": {name: {}}}))
    assert line.startswith("experiments")


def test_the_longest_name_of_an_experiment_makes_files_that_can_be_written(tmp_path):
    plan = make_plan({"experiments": {"x" * 64: {"base": {"attack": "adaptive_reconstruction"}}}})
    for output in [*plan.outputs(), *plan.runs]:
        (tmp_path / Path(output).name).touch()


@pytest.mark.parametrize(
    "folder", ["/", "/etc", "..", "../x", "a/../../b", "a/..", "x" * 300, "a\0b", "a\nb", "\u202ea"]
)
def test_a_folder_of_images_cannot_lie_elsewhere(folder):
    raw = {"dataset": {"name": "image_folder", "folder": folder}}
    (line,) = sentences(lambda: resolve(raw))
    assert line.startswith("dataset: ImageFolder.folder is '")


# --- any data at all ---

WORDS = sorted(
    {part for family, name in METHODS for path in own_keys(family, name) for part in path}
    | {name for _, name in METHODS}
    | {*GENERAL, "experiments", "base", "grid", "seeds", "tables", "figures", "one"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(WORDS)
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
MAPPINGS = st.dictionaries(st.sampled_from(WORDS), DATA, max_size=6)
DOTTED = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), min_size=1, max_size=5).map(
    ".".join
)
TEXTS = st.lists(
    st.sampled_from(
        [*"[]{}:,-?&*!|>%@`#'\" \n\t", "&a ", "*a", "<<: ", "- ", ": ", "---\n", *WORDS]
    )
    | st.text(max_size=3),
    max_size=30,
).map("".join)
FUZZED = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZED
@given(MAPPINGS)
def test_any_mapping_is_settings_or_a_sentence(raw):
    sentences(lambda: planned(raw))


@FUZZED
@given(MAPPINGS, st.dictionaries(DOTTED, DATA, max_size=3))
def test_any_experiment_is_a_plan_or_a_sentence(raw, grid):
    for experiment in (raw, {"base": raw}, {"grid": grid}, {"base": raw, "grid": grid}):
        sentences(lambda e=experiment: make_plan({"experiments": {"one": e}}))


@FUZZED
@given(MAPPINGS, st.lists(st.tuples(DOTTED, TEXTS).map("=".join) | TEXTS, max_size=3))
def test_any_changes_make_settings_or_a_sentence(raw, changes):
    sentences(lambda: resolve(raw, changes))


@FUZZED
@given(MAPPINGS, DOTTED, DATA)
def test_any_override_is_made_or_refused(raw, path, value):
    lines = sentences(lambda: override(raw, path, value))
    if not lines:
        result = override(raw, path, value)
        for key in path.split("."):
            result = result[key]
        assert result is value or result == value or value != value


@FUZZED
@given(TEXTS)
def test_any_text_is_what_yaml_says_or_a_sentence(text):
    if not sentences(lambda: parse_yaml(text, "x")):
        assert repr(parse_yaml(text, "x")) == repr(yaml.load(text, LOADER))


@FUZZED
@given(st.binary(max_size=40) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_settings_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    sentences(lambda: read_yaml(path))


# --- the command line ---

ONE = "experiments: {one: {base: %s}}"
COMMANDS = {
    "bomb": (["summary", "-"], BOMBS["lists"], "more than 100000 values"),
    "doubled": (["summary", "-"], ONE % "{rounds: 1, rounds: 2}", "stands already in line 1"),
    "nested": (["run", "-", "--out", "o"], "[" * 100_000, "nested too deep"),
    "executed": (["cite", "-"], f"rounds: {TAGS[0]}", "has the tag"),
    "traversal": (["summary", "-"], "experiments: {../../x: {}}", "experiments.../../x"),
    "grid": (
        ["summary", "-"],
        json.dumps({"experiments": {"a": {"grid": {f"{i}": list(range(99)) for i in range(9)}}}}),
        "at most 100000",
    ),
    "huge": (["run", "-", "--out", "o"], f"rounds: 0x{'f' * 900}", "in YAML: write"),
    "network": (
        ["run", "-", "--out", "o", "--set", "model={name: mlp, width: 65536, depth: 16}"],
        "rounds: 1",
        "at most 1000000000 are allowed",
    ),
    "clients": (
        ["run", "-", "--out", "o", "--set", "partition.clients=1000000000"],
        "partition: iid",
        "use 1437 at most",
    ),
    "folder": (
        ["data", "{name: image_folder, folder: ../../etc}", "--out", "o"],
        "",
        "must be a path inside the data folder",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_ends_with_one_sentence_exit_code_2_and_no_file(name, tmp_path):
    arguments, text, sentence = COMMANDS[name]
    (tmp_path / "in.yaml").write_text(text)
    arguments = ["in.yaml" if argument == "-" else argument for argument in arguments]
    code = "from fedred.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    files = [path.name for path in tmp_path.rglob("[!.]*") if path.is_file()]
    assert files == ["in.yaml"]


def test_the_corpus_reaches_every_option():
    reached = {path[-1] for family, name in METHODS for path in own_keys(family, name)}
    declared = {
        option.name
        for methods in FAMILIES.values()
        for m in methods.values()
        for option in declared_options(m)
    }
    assert declared <= reached
    assert set(options_model(FAMILIES["attack"]["scaling"], "scaling").model_fields) <= reached
