"""A run killed at many random moments, also inside its writing, ends with the bytes of one left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count

import pytest
import yaml
from run_results import same_results
from small import DEFENSE, SETTINGS

from fedred.files import TEMPORARY
from fedred.run_folder import RESULTS

pytestmark = pytest.mark.slow

SERVER = """
import os, signal, sys
import pyarrow.parquet, safetensors.torch, torch
import fedred.config, fedred.run_folder
from fedred.cli import main

torch.set_num_threads(1)
rename = os.replace

writes = 0

def rename_or_die(source, target):
    global writes
    writes += 1
    if victim in (os.path.basename(target), str(writes)):
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

while line := sys.stdin.readline():
    victim, *arguments = line.split()
    child = os.fork()
    if not child:
        os.replace, sys.argv = rename_or_die, ["fedred", *arguments]
        main()
    print(child, flush=True)
    sys.stdin.readline()  # until then the process id is not another's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KILLS = 30
STOPS = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT, 130}
LONG = {
    **SETTINGS,
    "attack": {"name": "mpaf", "base": "random"},
    "defense": {**DEFENSE, "exclusion": "round"},
    "participation": 0.6,
    "rounds": 20,
}


class Server:
    """Starts runs in forked processes: no imports between two of them."""

    def __init__(self, folder):
        (folder / "one.yaml").write_text(yaml.safe_dump(LONG))
        self.config, self.log = folder / "one.yaml", (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def start(self, out, victim="nothing"):
        """Start or go on with the run in a folder; return its process id.

        It kills itself, with the file half written, where it would give the file `victim` its
        final name; or the n-th file, where `victim` is n.
        """
        words = (victim, "run", self.config, "--out", out, "--checkpoint-every 1")
        print(*words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def ends(self):
        """Wait for the run and return its exit code."""
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def said(self):
        self.log.seek(0)
        return self.log.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.stdin.close()
    server.process.wait()


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    server.start(out)
    assert server.ends() == 0, server.said()
    return out


@pytest.fixture(scope="module")
def seconds(server, undisturbed, tmp_path_factory):
    """How long a run takes."""
    begin = time.monotonic()
    server.start(tmp_path_factory.mktemp("timed") / "run")
    assert server.ends() == 0
    return time.monotonic() - begin


def unfinished(out):
    """Return the temporary files in a folder."""
    return list(out.glob(f".*{TEMPORARY}"))


def test_thirty_kills_at_random_moments_change_no_byte(server, undisturbed, seconds, tmp_path):
    draw, ends, inside = random.Random(30), Counter(), 0
    folders = (tmp_path / str(number) / "run" for number in count())
    out = next(folders)
    while ends.total() < KILLS:
        inside_a_write = ends.total() % 3 == 0
        process = server.start(out, str(draw.randint(1, 5)) if inside_a_write else "nothing")
        if not inside_a_write:
            time.sleep(draw.uniform(0, seconds / 10))
            os.kill(process, draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        code = server.ends()
        inside += bool(unfinished(out))
        if code == 0:  # it was about to end
            same_results(out, undisturbed)
            out = next(folders)
        else:
            ends[code] += 1
    assert ends.keys() <= STOPS, server.said()
    assert ends[-signal.SIGKILL] >= KILLS / 3
    assert inside >= KILLS / 3
    server.start(out)
    assert server.ends() == 0
    assert "Traceback" not in server.said()
    same_results(out, undisturbed)


def test_a_kill_inside_the_writing_of_every_file_changes_no_byte(server, undisturbed, tmp_path):
    out = tmp_path / "run"
    for victim in ("checkpoint.safetensors", *RESULTS, "run.json"):
        server.start(out, victim)
        assert server.ends() == -signal.SIGKILL
        assert [file.name.startswith(f".{victim}") for file in unfinished(out)] == [True]
        assert not (out / victim).exists()
    server.start(out)
    assert server.ends() == 0
    same_results(out, undisturbed)


def test_a_kill_after_the_results_leaves_nothing_to_compute(server, undisturbed, tmp_path):
    """As if killed between the last result and the removal of the checkpoint."""
    out = tmp_path / "run"
    server.start(out, "run.json")
    assert server.ends() == -signal.SIGKILL
    assert (out / "checkpoint.safetensors").exists()
    (out / "run.json").write_bytes((undisturbed / "run.json").read_bytes())
    server.start(out)
    assert server.ends() == 0
    assert f"{out} is complete" in server.said()
    same_results(out, undisturbed)


def test_results_of_which_a_file_is_missing_are_made_again(server, undisturbed, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text((undisturbed / "run.json").read_text())
    server.start(out)
    assert server.ends() == 0
    same_results(out, undisturbed)
