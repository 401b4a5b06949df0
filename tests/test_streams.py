"""Standard streams that are closed or take nothing: one sentence and its code, never a traceback."""

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
        ("printf '\\xff' | F run - --out x", 2, "standard input cannot be read"),
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
