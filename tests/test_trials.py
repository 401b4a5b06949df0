"""Drawn commands: each is done, or refused in one sentence that leaves all files as they were.

Commands, options and settings come from the program's own description: a new one is tried too.
"""

import io
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from in_process import called
from PIL import Image
from run_folders import settings as run_settings
from run_folders import write_run
from small import DEFENSE, SETTINGS

from fedred import cli
from fedred.config import FAMILIES, resolve
from fedred.errors import UserError, printable
from fedred.files import write_tensors
from fedred.report.figures import FIGURES
from fedred.report.offline import OFFLINE_FIGURES
from fedred.report.tables import OFFLINE_TABLES, TABLES

COMMANDS = typer.main.get_command(cli.app).commands
CODES = {0, 2, 74, 75}
"""How a command may end that is neither stopped nor read by a closed pipe (docs/reliability.md)."""
MOST_ITERATIONS = 5
"""Made by a trial of `reconstruct`."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

PARTITION = "{name: iid, clients: 3, samples_per_client: 20}"
ONE = {**SETTINGS, "partition": yaml.safe_load(PARTITION), "malicious": 1, "rounds": 1}
STUDY = {"e": {"base": ONE, "grid": {"attack": ["none", "mpaf"]}, "tables": ["performance"]}}


# --- the folder of a trial ---


def build(root):
    """Make the folders and files that drawn commands name."""
    work = root / "deep" / "home" / "here"
    for folder in ("folder", "images/train/a", "images/test/a", "results"):
        (work / folder).mkdir(parents=True)
    for part in ("train", "test"):
        for shade in (0, 255):
            Image.new("L", (8, 8), shade).save(work / f"images/{part}/a/{shade}.png")
    os.chdir(work)
    Path("one.yaml").write_text(yaml.safe_dump(ONE))
    Path("recorded.yaml").write_text(
        yaml.safe_dump({**ONE, "attack": "min_max", "defense": DEFENSE, "record": [1]})
    )
    Path("study.yaml").write_text(yaml.safe_dump({"experiments": STUDY}))
    Path("list.yaml").write_text("[1, 2]")
    Path("torn.yaml").write_text("a: [")
    Path("ünï 日本.yaml").write_text(yaml.safe_dump(ONE))
    Path("empty").touch()
    Path("bytes").write_bytes(bytes(range(256)))
    os.mkfifo("pipe")
    for name, target in LINKS.items():
        os.symlink(target, name)
    shutil.copy("one.yaml", os.fsdecode(b"\xff.yaml"))
    write_tensors({}, {"kind": "data set"}, Path("hollow"))
    write_run(Path("run"), run_settings("min_max", "krum"))
    write_run(Path("run2"), run_settings("none", "fedredefense"))
    for words in (
        ("data", "digits", "--out=data"),
        ("partition", PARTITION, "--dataset=data", "--out=part.safetensors"),
        ("run", "one.yaml", "--out=done"),
        ("run", "recorded.yaml", "--out=recorded"),
        ("reconstruct", RECORDING, "--out=judged", "--images=learned", "--iterations=2"),
        ("figure", "accuracy_over_rounds", "run", "--out=a.png"),
    ):
        assert called(*words) == 0, words
    shutil.copy(RECORDING, "recording")
    return work


LINKS = {
    "loop": "loop",
    "gone": "nowhere",
    "full": "/dev/full",
    "null": "/dev/null",
    "zero": "/dev/zero",
    "alias.yaml": "one.yaml",
    "up": "..",
}
RECORDING = "recorded/updates/round-0001.safetensors"


def snapshot(folder):
    """Return everything below a folder: its kind, rights and content, links as where they lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = None
        if stat.S_ISLNK(state.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(state.st_mode):
            content = path.read_bytes()
        found[path] = (state.st_mode, content)
    return found


def restore(before, root):
    """Put back what a trial has changed below a folder."""
    for path in sorted(snapshot(root), reverse=True):
        if path not in before:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    now = snapshot(root)
    for path, (mode, content) in before.items():
        if now.get(path) == (mode, content):
            continue
        path.unlink(missing_ok=True)
        if stat.S_ISLNK(mode):
            os.symlink(content, path)
        else:
            path.write_bytes(content)
            path.chmod(stat.S_IMODE(mode))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Build the folder once, with a home and a folder of temporary files of its own; work in it."""
    root, before = tmp_path_factory.mktemp("trials"), Path.cwd()
    work = build(root)
    (root / "temporary").mkdir()
    variables = {"HOME": str(work.parent), "TMPDIR": str(root / "temporary"), "COLUMNS": "80"}
    with mock.patch.dict(os.environ, variables):
        os.environ.pop("FEDRED_DATA", None)
        watch(root)
        yield root, snapshot(root)
    os.chdir(before)


# --- drawn commands ---

NAMES = [
    *("one.yaml", "recorded.yaml", "study.yaml", "list.yaml", "torn.yaml", "ünï 日本.yaml"),
    *("empty", "bytes", "pipe", os.fsdecode(b"\xff.yaml"), "hollow", "run", "run2", "data"),
    *("part.safetensors", "part.png", "done", "recorded", "judged", "learned", "a.png"),
    *("recording", "folder", "images", "results", *LINKS, "run/run.json", "run/rounds.csv"),
    *("one.yaml/x", "run/", "./data", "../here/data", "up/here/data", "folder/../run", "missing"),
    *("missing/x", "-", ".", "..", "", " ", "~", "~/x", "~nobody", "new", "new/x.csv", "x.tex"),
    *("new.safetensors", "data.safetensors", "n" * 255, "n" * 300, "run*", "s3://x", "lr:0.1"),
]
ODD_TEXTS = st.text(
    st.sampled_from("ab.0-=:,{}[]'\"\\$%~*&!|>#@`? \t\n\x00\x1b/\u202e\u2028ü日😀\udcff"),
    max_size=12,
)
NUMBERS = [
    *("0", "1", "2", "3", "-1", "007", "1e3", "1.5", "nan", "inf", "-inf", "1_000", "0x10", "1:00"),
    *(
        "",
        " ",
        "\uff11",
        "9" * 30,
        str(2**63),
        str(-(2**63)),
        "1e400",
        "1e-400",
        "true",
        "~",
        "\u0663",
    ),
]
VALUES = [
    *NUMBERS,
    *("null", "{}", "[]", "[1, 2]", "{name: x}", "{name: }", "{name: [1]}", "{a: 1, a: 2}", "'a"),
    *("&a [*a]", "!!python/name:os.system", "? x", "- - -", "a: b: c", "%x", "'1'", '"\\ud800"'),
]


def flat(group, path=()):
    """Yield the dotted paths of nested settings, those of groups too."""
    for key, value in group.items():
        yield ".".join((*path, key))
        if isinstance(value, Mapping):
            yield from flat(value, (*path, key))


METHODS = [name for members in FAMILIES.values() for name in members]
KEYS = sorted(
    {
        key
        for raw in ({}, ONE, {**ONE, "defense": DEFENSE})
        for key in flat(resolve(raw).model_dump())
    }
)
odd_texts = ODD_TEXTS.filter(lambda text: "\x00" not in text)  # no argument can hold one
dotted_paths = st.one_of(
    st.sampled_from(KEYS),
    st.lists(st.sampled_from([*KEYS, "", "x", "name", "0"]), max_size=3).map(".".join),
    odd_texts,
)
setting_values = st.one_of(
    st.sampled_from([*VALUES, *METHODS]),
    st.sampled_from(METHODS).map("{{name: {0}}}".format),
    st.builds(
        "{{name: {0}, {1}: {2}}}".format,
        st.sampled_from(METHODS),
        dotted_paths,
        st.sampled_from(VALUES),
    ),
    odd_texts,
)
changes = st.one_of(st.builds("{}={}".format, dotted_paths, setting_values), odd_texts)


def stays_inside(text):
    """Tell whether a path that is taken literally leads to a place below the folder of the trials."""
    path = os.path.realpath(os.path.expanduser(text))
    return path.startswith((os.path.realpath("../../.."), "/dev/"))


FITTING = {
    "config": ["one.yaml", "study.yaml", "recorded.yaml"],
    "dataset": ["data"],
    "partition": ["part.safetensors"],
    "recording": ["recording", RECORDING],
    "runs": ["run", "run2", "done", "judged"],
    "inputs": ["run", "run2", "done", "judged", "part.safetensors", "learned"],
    "measured": ["run", "done"],
    "out": ["new", "new/x", "y.csv", "y.png"],
    "images": ["new-images"],
    "set": ["rounds=1", "seed=3", "attack=mpaf", "defense.name=median", "training.lr=1"],
    "settings": ["digits", PARTITION, "iid"],
    "defense": ["fedredefense", "{name: fedredefense, threshold: 0.3}"],
    "iterations": ["1", "2"],
    "family": ["attacks", "models"],
    "machine": ["a machine"],
    "device": ["auto", "cpu"],  # whether there is a GPU is asked inside the folder of the run
    "compile": ["auto", "off", "on"],
}
FITTING_NAMES = {"table": [*TABLES, *OFFLINE_TABLES], "figure": [*FIGURES, *OFFLINE_FIGURES]}


def values_of(command, parameter):
    """Return a strategy of words for a parameter: those that fit it, and all others."""
    fitting = FITTING.get(parameter.name, ["1"])
    if parameter.name == "name":
        fitting = FITTING_NAMES.get(command, ["study"])
    odd = {
        "set": changes,
        "settings": setting_values,
        "defense": setting_values,
    }.get(parameter.name, st.one_of(st.sampled_from([*NAMES, *NUMBERS]), odd_texts))
    most = st.sampled_from(fitting)
    return st.one_of(most, most, most, odd).filter(stays_inside)


@st.composite
def commands(draw):
    """Draw the words of a command: parameters in any order, missing, doubled, unknown."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    options, arguments = [], []
    for parameter in COMMANDS[command].params:
        if parameter.name in ("help", "download"):
            continue
        usual = 1 if parameter.required else 0
        times = draw(st.sampled_from([usual] * 8 + [0, 1, 1, 2]))
        for _ in range(times):
            if parameter.param_type_name == "argument":
                arguments.append(draw(values_of(command, parameter)))
            else:
                options.append(draw(written(command, parameter)))
    options += draw(
        st.sampled_from([[]] * 12 + [[["--nonsense"]], [["-x"]], [["--"]], [["--help"]]])
    )
    words = draw(st.permutations([*options, arguments]))
    offline = ["--no-download"] if command in ("data", "run") else []
    return (command, *offline, *(word for group in words for word in group))


@st.composite
def written(draw, command, parameter):
    """Draw an option with its value, in one word or in two."""
    name = draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))
    if parameter.is_flag:
        return [name]
    value = draw(values_of(command, parameter))
    return draw(st.sampled_from([[f"{name}={value}"], [name, value]]))


# --- what must hold ---


CHANGING = {
    **{"open": 1, "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2},
    **{"os.symlink": 2, "os.chmod": 1, "os.truncate": 1, "os.utime": 1},
}
"""Audit events that change files -> how many of their arguments are paths."""
OUTSIDE: list[str] = []
"""What was changed elsewhere than in the folder of the trials."""


def watch(folder):
    """Note what is opened to be written, made, renamed or removed outside a folder, from now on."""

    def hook(event, arguments):
        if event not in CHANGING or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        for path in arguments[: CHANGING[event]]:
            if isinstance(path, (str, bytes, os.PathLike)):
                whole = os.path.abspath(os.fsdecode(path))
                if not whole.startswith((str(folder), "/dev/")):
                    OUTSIDE.append(f"{event} {whole}")

    sys.addaudithook(hook)


def in_bounds(judge):
    """Return `judge_offline` that refuses more iterations than a trial has time for."""

    def judged(recorded, method, budget, tick):
        if budget > MOST_ITERATIONS:
            raise UserError("--iterations: too many for a trial")
        return judge(recorded, method, budget, tick)

    return judged


@contextmanager
def cheaply(words):
    """Leave out what takes long: networks, compilers, and rounds with settings that are drawn."""
    from fedred import offline
    from fedred import run as running

    with (
        mock.patch("fedred.execution.compiler_failure", return_value="not tried"),
        mock.patch("fedred.offline.judge_offline", in_bounds(offline.judge_offline)),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(b""))),
    ):
        if any("--set" in word for word in words):
            with mock.patch.object(running, "run"):
                yield
        else:
            yield


def played(words):
    """Return how a command ended and what it told; what it prints is not looked at."""
    told = io.StringIO()
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(told), cheaply(words):
            code = called(*words)
    finally:
        root.handlers = handlers
    return code, told.getvalue()


def named_outputs(words):
    """Return the beginnings of the paths that a command may write."""
    if words[0] == "publish":
        return [str(Path("results/published").absolute())]
    given = []
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word.startswith(("--out", "--images")):
            given.append(word.partition("=")[2] or following)
    plain = [os.path.abspath(os.path.expanduser(path)) for path in given if path]
    real = map(os.path.realpath, plain)
    return [path.removesuffix(".safetensors") for path in (*plain, *real)]


def judge(words, code, told, before, after):
    """Assert what must hold however a command was called."""
    assert code in CODES
    assert "Usage: " in told or all(line.isprintable() for line in told.split("\n"))
    if code:
        assert after == before
        assert names_something(words, told), told
        assert not re.search(r"Traceback|Errno| object at 0x", told)
        return
    outputs = named_outputs(words)
    for path in before | after:
        if before.get(path) != after.get(path):
            assert any(str(path).startswith(out) or out.startswith(str(path)) for out in outputs)


def names_something(words, told):
    """Tell whether a refusal names an option, a key or a file: what a user wrote, or follows from it."""
    parts = (part for word in words for part in re.split(r"[=/.:{},\s]+", word) if part)
    named = re.search(r"--\w|'.*'|results/|published|no file \S|it is empty|is a folder", told)
    return bool(named) or any(printable(part)[:20] in told for part in parts)


def tried(words, place):
    """Try one command; return its code."""
    root, before = place
    OUTSIDE.clear()
    code, told = played(words)
    outside = list(OUTSIDE)
    after = snapshot(root)
    try:
        note(f"{code}: {told}")
        judge(words, code, told, before, after)
        assert not outside
    finally:
        restore(before, root)
    return code


@pytest.mark.slow
@given(commands())
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_any_command_is_done_or_refused_in_one_sentence(place, words):
    tried(words, place)
