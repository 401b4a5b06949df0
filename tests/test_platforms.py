"""What is promised of systems and of versions of Python."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import newest_python

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT_FLOCK = "import sys; sys.modules['fcntl'] = None; from fedred.cli import main; main()"


@pytest.mark.parametrize("command", [("list",), ("run", "config/one.yaml", "--out", "run")])
def test_windows_is_refused_in_one_sentence(tmp_path, command):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLOCK, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fedred: this system has no flock")
    assert done.stderr.endswith("on Windows use its Linux, WSL\n")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_versions_of_python_are_the_same_wherever_they_are_named():
    oldest, beyond = map(
        int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    )
    assert newest_python.supported() == [f"3.{minor}" for minor in reversed(range(oldest, beyond))]
    refusal = (ROOT / "tools/check_python.py").read_text()
    assert f"(3, {oldest}) <= sys.version_info[:2] <= (3, {beyond - 1})" in refusal
    assert f"3.{oldest} to 3.{beyond - 1}" in (ROOT / "README.md").read_text()


def interpreter(folder, version, script):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_newest_python_is_the_newest_that_can_be_run(tmp_path, monkeypatch):
    newest, middle, oldest = newest_python.supported()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert newest_python.found() is None
    last = interpreter(tmp_path / "bin", oldest, "exit 0")
    assert newest_python.found() == str(last)
    interpreter(tmp_path / "bin", newest, "echo not selected; exit 127")  # as a shim of pyenv does
    assert newest_python.found() == str(last)
    between = interpreter(tmp_path / "bin", middle, "exit 0")
    assert newest_python.found() == str(between)
    real = interpreter(tmp_path / f"pyenv/versions/{newest}.0/bin", newest, "exit 0")
    assert newest_python.found() == str(real)
