"""Standard streams that are closed or take nothing: one sentence and its code, never a traceback."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command import FEDRED
from in_process import called
from run_folders import settings, write_run
from small import SETTINGS

from fedred.datasets import load_dataset
from fedred.streams import CLOSED_PIPE, guarded

ROOT = Path(__file__).parent.parent
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
PRINTING = {
    "list": ("list",),
    "list --json": ("list", "--json"),
    "list --page": ("list", "--page"),
    "schema": ("schema",),
    "cite": ("cite", "one.yaml"),
    "plan": ("plan", ROOT / "config/config.yaml"),
    "table": ("table", "performance", "run"),
    "help": ("--help",),
    "help of a command": ("run", "--help"),
    "no command": (),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_run(Path("run"), settings("min_max", "krum"))
    return tmp_path


@needs_full
@pytest.mark.parametrize("buffering", [-1, 1])
@pytest.mark.parametrize("words", PRINTING.values(), ids=PRINTING)
def test_standard_output_that_takes_nothing_is_one_sentence(
    words, buffering, here, monkeypatch, capsys
):
    with FULL.open("w", buffering) as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert called(*words) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "fedred: standard output could not be written: No space left on device"


@pytest.mark.parametrize("words", PRINTING.values(), ids=PRINTING)
def test_a_closed_pipe_ends_without_a_word(words, here, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert called(*words) == CLOSED_PIPE == 141
    assert capsys.readouterr().err == ""


def shell(line, **options):
    """Run a line of the shell in which F is the command."""
    command = f'F() {{ {sys.executable} -c "$CODE" "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"CODE": FEDRED[-1]},
        capture_output=True,
        text=True,
        **options,
    )


@needs_full
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("F list > /dev/full", 74, "No space left on device"),
        ("F list >&-", 74, "Bad file descriptor"),
        ("set -o pipefail; F list | true", 141, ""),
        ("F list --bogus 2> /dev/full", 2, ""),
        ("F run - --out x <&-", 2, "standard input holds no settings"),
        ("printf '\\xff' | F run - --out x", 2, "standard input is no text in UTF-8"),
    ],
)
def test_a_process_ends_as_is_told(line, code, said, tmp_path):
    done = shell(line, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert not list(tmp_path.iterdir())


def test_a_command_with_all_streams_closed_does_its_work(tmp_path):
    assert shell("F data digits --out digits <&- >&- 2>&-", cwd=tmp_path).returncode == 0
    assert load_dataset(tmp_path / "digits").name == "digits"


def test_no_file_gets_the_number_of_a_closed_stream():
    code = (
        "import os, sys\n"
        "from fedred.streams import guarded\n"
        "with guarded():\n"
        "    sys.exit(os.open('/', os.O_RDONLY) <= 2)\n"
    )
    command = f'exec {sys.executable} -c "$CODE" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", command], env=os.environ | {"CODE": code}).returncode == 0


@needs_full
def test_a_log_that_takes_nothing_changes_nothing(monkeypatch, capsys):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with guarded():
            handler = logging.StreamHandler()
            handler.emit(logging.makeLogRecord({"msg": "lost"}))
            print("lost", file=sys.stderr, flush=True)
            print("kept")
    assert capsys.readouterr().out == "kept\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [*PRINTING.values(), ("table", "performance", "run", "other")])
def test_what_an_encoding_lacks_is_escaped_and_the_rest_is_as_it_was(
    words, encoding, here, monkeypatch
):
    write_run(Path("other"), settings("min_max", "krum", seed=1))  # the table has a ±
    whole = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    limited = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    for stream in (whole, limited):
        monkeypatch.setattr(sys, "stdout", stream)
        code = 2 if not words else 0
        assert called(*words) == code
        stream.flush()
    text = whole.buffer.getvalue().decode()
    assert ("±" in text) == ("other" in words)
    expected = without_lines(text).encode(encoding, "backslashreplace")
    assert without_lines(limited.buffer.getvalue().decode(encoding)).encode(encoding) == expected


def without_lines(text):
    """Return a text without the lines of tables and boxes, which look otherwise in simple encodings."""
    return "".join(c for c in text if not ("\u2500" <= c <= "\u257f" or c in "+-| \n"))


@pytest.mark.parametrize("name", ["COLUMNS", "LINES", "TERMINAL_WIDTH"])
@pytest.mark.parametrize("size", ["0", "1", "-5", "99999999", "9" * 5000, "²", "wide", ""])
@pytest.mark.parametrize(
    "words", [("list",), ("run", "--help"), ("cite", "missing"), ("list", "-x")]
)
def test_a_size_in_which_nothing_can_be_printed_is_that_of_no_terminal(
    words, size, name, monkeypatch, capsys
):
    monkeypatch.delenv(name, raising=False)
    usual = called(*words), capsys.readouterr()
    monkeypatch.setenv(name, size)
    assert (called(*words), capsys.readouterr()) == usual
    assert name not in os.environ  # some libraries read it as they load
    assert usual[1].out + usual[1].err


def test_a_size_that_is_possible_is_kept(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "50")
    assert called("list") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50
