"""What stands without quotes: read as YAML 1.2 says, refused where YAML 1.1 says something else."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command import fedred
from hypothesis import example, given
from hypothesis import strategies as st

from fedred.config import resolve
from fedred.errors import UserError
from fedred.plan import as_written, make_plan
from fedred.yaml_reading import parse_settings, parse_yaml, read_texts, read_yaml, written_yaml

SHIPPED = sorted([*Path("config").glob("*.yaml"), *Path("results/published").glob("*/*.yaml")])
DISPUTED = {
    "010": ("8", "10"),
    "-010": ("-8", "-10"),
    "08": ("a text", "8"),
    "000": ("0",),
    "0x10": ("16",),
    "-0x10": ("-16", "a text"),
    "0o10": ("a text", "8"),
    "0b11": ("3", "a text"),
    "1_000": ("1000", "a text"),
    "1_0.5": ("10.5", "a text"),
    "1:00": ("60", "a text"),
    "1:30.5": ("90.5", "a text"),
    "yes": ("true", "a text"),
    "No": ("false", "a text"),
    "on": ("true", "a text"),
    "OFF": ("false", "a text"),
    "2026-11-26": ("a date", "a text"),
    "2020-99-99": ("a date", "a text"),
}
"""A spelling and what it is in YAML 1.1 and in YAML 1.2, once where they agree."""


@pytest.mark.parametrize("spelling", DISPUTED)
def test_a_spelling_that_is_read_in_two_ways_is_refused_with_both_and_how_to_write_them(spelling):
    with pytest.raises(UserError) as refused:
        parse_yaml(f"rounds: 3\nseed: {spelling}", "one.yaml")
    told, _, write = str(refused.value).partition(": write ")
    assert told.startswith(f"one.yaml: line 2: {spelling} is ")
    named = re.findall(r" (a text|a date|\S+) in YAML", told)
    assert tuple(named) == DISPUTED[spelling]
    choices = re.split(", | or ", write)
    values = [parse_yaml(choice, "x") for choice in choices]
    assert values[-1] == spelling
    assert [str(value).lower() for value in values[:-1]] == [
        name for name in named if not name.startswith("a ")
    ]


@pytest.mark.parametrize("spelling", DISPUTED)
def test_it_is_refused_wherever_settings_are_read(spelling, tmp_path):
    text = f"{{rounds: {spelling}}}"
    (tmp_path / "one.yaml").write_text(text)
    for read in (
        lambda: read_yaml(tmp_path / "one.yaml"),
        lambda: parse_settings(text, "standard input"),
        lambda: parse_yaml(f"{{{spelling}: 1}}", "the dataset"),
        lambda: resolve({}, [f"rounds={spelling}"]),
        lambda: read_texts({"a": [{"rounds": spelling}]}, "--config"),
    ):
        with pytest.raises(UserError, match=f"{re.escape(spelling)} is .* in YAML"):
            read()


def test_the_command_refuses_it_in_the_options_of_a_method(tmp_path):
    for arguments in (
        ("data", "{name: image_folder, folder: 010}", "--out", tmp_path / "o"),
        ("run", "config/one.yaml", "--set", "seed=010", "--out", tmp_path / "o"),
    ):
        done = fedred(*arguments)
        assert done.returncode == 2
        assert "010 is 8 in YAML 1.1 and 10 in YAML 1.2: write 8, 10 or '010'" in done.stderr
    assert not (tmp_path / "o").exists()


def test_what_stands_in_quotes_is_a_text():
    for spelling in [*DISPUTED, "1", "1e3", "true", "null", "~", "", ".inf"]:
        assert parse_yaml(f"'{spelling}'", "x") == parse_yaml(f'"{spelling}"', "x") == spelling


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", 5), ("+5", 5), ("-0", 0), ("0", 0), ("1e3", 1000.0), ("1.e3", 1000.0)),
        *(("1E-3", 0.001), ("+.5", 0.5), ("-.5e1", -5.0), ("00.5", 0.5), ("5.", 5.0)),
        *(("~", None), ("null", None), ("Null", None), ("", None), ("true", True)),
        *(("False", False), (".inf", math.inf), ("-.INF", -math.inf), ("y", "y"), ("n", "n")),
        *(("e3", "e3"), ("1e", "1e"), ("0x", "0x"), ("inf", "inf"), ("1,000", "1,000")),
    ],
)
def test_the_core_schema(text, value):
    read = parse_yaml(f"a: {text}", "x")["a"]
    assert read == value
    assert type(read) is type(value)


def by_core_schema(text):
    """The rules of YAML 1.2.2, section 10.3.2, in Python's own readers of numbers."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false") and text in (text.lower(), text.title(), text.upper()):
        return text.lower() == "true"
    if text.isascii() and "_" not in text and not text[:1].isspace() and not text[-1:].isspace():
        for read in (int, float):
            if text.lower().lstrip("+-") in ("inf", "infinity", "nan"):
                break
            try:
                return read(text)
            except ValueError:
                pass
    return int(text, 0) if re.fullmatch("0o[0-7]+|0x[0-9a-fA-F]+", text) else text


SCALARS = st.text("0123456789+-.eExXoObB_:aAfFtTnNyYsSrRuUlL~", min_size=1, max_size=6)


@given(SCALARS)
@example("0.1")
@example("1e3")
@example("017")
def test_what_is_accepted_is_what_the_core_schema_says_and_what_yaml_1_1_says(text):
    try:
        (read,) = parse_yaml(f"[{text}]", "x")
        (old,) = yaml.safe_load(f"[{text}]")
    except (UserError, ValueError, yaml.YAMLError):
        return
    if isinstance(read, str | dict):
        assert read == old
    else:
        assert read == by_core_schema(text) or read != read
        assert read == old or old == text or read != read


@given(st.integers(-(2**62), 2**62), st.sampled_from(["{:#x}", "{:#b}", "{:_}", "0{}"]))
def test_a_whole_number_is_read_in_decimal_digits_alone(number, form):
    assert parse_yaml(str(number), "x") == number
    spelled = form.format(abs(number))
    if spelled != str(number):
        if abs(number) < 1000 and form == "{:_}":
            return
        with pytest.raises(UserError, match=f" {abs(number)}[ ,:]|a text"):
            parse_yaml(spelled, "x")


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_every_shipped_file_is_read_the_same_by_both_versions(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text())


@given(st.one_of(SCALARS, st.sampled_from([*DISPUTED, "1e3", "null"]), st.text(max_size=5)))
def test_what_is_written_is_read_back_by_both_versions(text):
    if not text.isprintable():
        return
    values = {"a": text, "b": [1, 0.001, None, True], "c": {"1e-3": text}}
    assert parse_yaml(written_yaml(values), "x") == yaml.safe_load(written_yaml(values)) == values


# --- Snakemake has read the configuration before ---

FLOW = "{a: {base: {rounds: 3, training: {lr: 1e-2}, attack: mpaf}, seeds: [0, 1], tables: null}}"


def workflow(files=(), config=None, module=False, replace=False):
    """What Snakemake tells of itself, with files of the workflow and then of the command line."""
    return SimpleNamespace(
        modifier=SimpleNamespace(skip_configfile=module),
        configfiles=list(files),
        config_settings=SimpleNamespace(
            configfiles=list(files)[1:], config=config or {}, replace_workflow_config=replace
        ),
    )


def test_texts_of_the_command_line_mean_what_they_mean_in_a_file():
    texts = yaml.load(FLOW, yaml.BaseLoader)
    assert as_written(workflow(config={"experiments": texts}), {}) == {
        "experiments": parse_yaml(FLOW, "x")
    }
    assert make_plan(as_written(workflow(config={"experiments": texts}), {})).runs


def test_files_are_read_as_they_are_written_and_merged_in_their_order(tmp_path):
    files = [tmp_path / name for name in ("default.yaml", "own.yaml")]
    files[0].write_text("a: {x: 1e3, y: 1}\nb: [1, 2]\n")
    files[1].write_text("a: {y: 2}\nb: [3]\n")
    given = {"a": {"z": "5"}}
    assert as_written(workflow(files, given), {}) == {"a": {"x": 1000.0, "y": 2, "z": 5}, "b": [3]}
    assert as_written(workflow(files, given, replace=True), {}) == {
        "a": {"y": 2, "z": 5},
        "b": [3],
    }
    files[1].write_text("a: {y: 010}\n")
    with pytest.raises(UserError, match=r"own\.yaml: line 1: 010 is 8"):
        as_written(workflow(files), {"a": {"y": 8}})


def handed_over(value):
    """What a module takes a value for that another workflow hands over."""
    taken = as_written(
        workflow(["not/there.yaml"], module=True), {"a": {"b": [value, {"c": value}]}}
    )
    assert taken["a"]["b"][1]["c"] == taken["a"]["b"][0] or value != value
    return taken["a"]["b"][0]


@given(st.one_of(SCALARS, st.sampled_from([*DISPUTED, "2024", "null", "true", ""])))
@example("1e-3")
@example("-.5")
@example("1.5e3")
def test_a_module_keeps_the_texts_in_quotes_and_reads_only_floats_that_yaml_1_1_takes_for_texts(
    text,
):
    taken = handed_over(text)
    try:
        (old,) = yaml.safe_load(f"[{text}]")
    except (ValueError, yaml.YAMLError):
        old = None
    meant = by_core_schema(text) if old == text else text
    assert taken == (meant if isinstance(meant, float) else text)
    assert type(taken) is (float if isinstance(meant, float) else str)


@pytest.mark.parametrize("value", [2024, 0.5, True, None, math.inf])
def test_a_module_takes_values_as_they_are(value):
    assert handed_over(value) is value


SETTINGS_TEXT = "# a comment: ü\nrounds: 3\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_is_utf8_with_or_without_a_mark_of_byte_order(encoding, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(SETTINGS_TEXT.encode(encoding))
    assert read_yaml(path) == {"rounds": 3}


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1", "cp1252"]
)
def test_a_file_in_another_encoding_is_told_by_what_to_do(encoding, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(SETTINGS_TEXT.encode(encoding))
    with pytest.raises(UserError) as told:
        read_yaml(path)
    assert str(told.value) == f"{path} is no text in UTF-8 (line 1): save it in UTF-8"
    path.write_bytes(b"rounds: 3\nx: " + "ü".encode(encoding))
    with pytest.raises(UserError, match=r"\(line 2\): save it in UTF-8"):
        read_yaml(path)


def test_a_large_file_is_told_by_its_size_wherever_its_characters_are_cut(tmp_path):
    path = tmp_path / "x.yaml"
    for before in ("", "a", "ab"):
        path.write_text("# " + before + "€" * 400_000, encoding="utf-8")
        with pytest.raises(UserError, match="is too large for settings"):
            read_yaml(path)


@pytest.mark.parametrize("text", ["rounds: 2\x1a", "a: \x1b[31m"])
def test_a_character_that_yaml_forbids_is_named(text, tmp_path):
    code = f"{ord(next(c for c in text if not c.isprintable())):04x}"
    with pytest.raises(UserError, match=rf"^x is not valid YAML: the character #x{code} is not"):
        parse_yaml(text, "x")


@pytest.mark.parametrize("text", ["\udcff", "a: \udcff", "'\ud800'", "{name: x, >\udcff[` }"])
def test_arguments_that_are_no_text_are_refused_in_one_sentence(text):
    with pytest.raises(UserError, match=r"^x is no text in UTF-8$"):
        parse_yaml(text, "x")
    with pytest.raises(UserError, match=r"^the value of 'rounds' is no text in UTF-8$"):
        resolve({}, [f"rounds={text}"])
