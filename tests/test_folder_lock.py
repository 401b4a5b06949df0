"""A folder belongs to one process at a time, and to nobody once that has ended in whatever way."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from fedred import folder_lock
from fedred.errors import BusyError, WriteError
from fedred.folder_lock import NAME, owned

HOLD = """
import sys
from pathlib import Path
from fedred.folder_lock import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
assert "torch" not in sys.modules
"""
COUNT = """
import sys
from pathlib import Path
from fedred import folder_lock
folder_lock.SECONDS_BETWEEN_TRIES = 0.001
file = Path(sys.argv[1]) / "number"
for _ in range(50):
    with folder_lock.owned(Path(sys.argv[1])):
        number = int(file.read_text())
        file.write_text(str(number + 1))
"""


def hold(folder):
    """Start a process that works in a folder until its input is closed."""
    command = [sys.executable, "-c", HOLD, folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_second_waits_and_says_for_whom(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    holder = hold(tmp_path)
    waiting = logging.Handler()
    waiting.emit = lambda record: holder.stdin.close()
    monkeypatch.setattr(folder_lock.log, "handlers", [waiting])
    with owned(tmp_path):
        assert holder.wait() == 0
    owner = f"process {holder.pid} on {socket.gethostname()}"
    assert f"{tmp_path} is in use by {owner}: waiting for it to end" in caplog.text
    assert not list(tmp_path.iterdir())


def test_who_cannot_wait_is_told_by_whom_it_is_held(tmp_path):
    holder = hold(tmp_path)
    expected = f"{tmp_path} is still in use by process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(BusyError, match=expected), owned(tmp_path, time.monotonic()):
        pass
    holder.kill()
    holder.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_left_by_a_dead_process_is_recognised(tmp_path, caplog, number):
    caplog.set_level(logging.INFO)
    holder = hold(tmp_path)
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with owned(tmp_path, time.monotonic()):
        assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert f"was left by process {holder.pid} on" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_lock_of_which_the_file_was_removed_does_not_remove_the_next_one(tmp_path):
    with owned(tmp_path):
        (tmp_path / NAME).unlink()
        holder = hold(tmp_path)
    assert (tmp_path / NAME).exists()
    holder.kill()
    holder.wait()


def test_four_processes_never_work_at_once(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNT, tmp_path]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "200"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(WriteError, match=f"{folder} could not be locked: [A-Z]"), owned(folder):
        pass


def test_a_file_of_the_user_is_not_taken_for_the_lock(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with owned(tmp_path):
        assert (tmp_path / ".lock").read_text() == "mine"
    assert (tmp_path / ".lock").read_text() == "mine"
