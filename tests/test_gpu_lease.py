"""A GPU belongs to one job at a time, or to as many as all its jobs allow, however they end."""

import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from command import wait_for
from small import SETTINGS

from fedred.errors import UserError
from fedred.gpu_lease import leased, visible_devices

pytestmark = pytest.mark.slow

FIRST, SECOND = DEVICES = ("GPU-1a2b-first", "GPU-1a3c-second")

JOB = """
import os, sys, time
from fedred import gpu_lease

def note(*words):
    with open(sys.argv[1], "a") as file:
        print(*words, file=file)

gpu_lease.SECONDS_BETWEEN_TRIES = 0.02
name, count, jobs = sys.argv[2:]
with gpu_lease.leased(int(count), int(jobs)) as devices:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(devices)
    note(name, "starts", *devices)
    sys.stdin.read()
    time.sleep(0.05)  # jobs that may not meet have time to do so
    note(name, "ends")
assert "torch" not in sys.modules and "pydantic" not in sys.modules
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs, as nvidia-smi shows them, and with locks of its own."""
    write_nvidia_smi(tmp_path, f"echo {FIRST}; echo {SECOND}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FEDRED_LOCKS", str(tmp_path / "locks"))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "FEDRED_JOBS_PER_GPU"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    while Job.started:
        Job.started.pop().kill()


def write_nvidia_smi(folder, script):
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)


@dataclass
class Job:
    """A process that holds GPUs until it is let go."""

    started: ClassVar[list[subprocess.Popen]] = []
    machine: Path
    name: str
    count: int = 1
    jobs_per_gpu: int = 1

    def __post_init__(self):
        words = (self.machine / "log", self.name, self.count, self.jobs_per_gpu)
        command = [sys.executable, "-c", JOB, *map(str, words)]
        self.killed = False
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.started.append(self.process)

    def kill(self):
        if not self.killed:
            self.killed = True
            with (self.machine / "log").open("a") as log:
                log.write(f"{self.name} ends\n")
        self.process.kill()
        self.process.wait()

    def starts(self):
        """Wait until it has its GPUs."""
        wait_for(lambda: self.held())
        return self

    def let_go(self):
        """Let it end as soon as it has had its GPUs."""
        self.process.stdin.close()
        return self

    def ends(self):
        """Let it end, and tell whether it ended well."""
        return self.let_go().process.wait() == 0

    def held(self):
        """Return the devices that it held; none if it was killed before."""
        began = [self.name, "starts"]
        return next((line[2:] for line in logged(self.machine) if line[:2] == began), [])


def logged(machine):
    """Return what jobs have done, in this order: they note it while they hold their GPUs."""
    log = machine / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def queue(machine):
    """Return how many jobs wait."""
    return len(list((machine / "locks").glob("waiting.*")))


def wait_for_queue(machine, length):
    wait_for(lambda: queue(machine) == length)


def crowded(machine, jobs):
    """Return the devices that held more jobs at one moment than one of these jobs allows."""
    limits, there, found = {job.name: job.jobs_per_gpu for job in jobs}, {}, set()
    for name, what, *devices in logged(machine):
        # Who was killed while he waited may still note that he starts.
        there[name] = devices if what == "starts" and name not in there else ()
        for device in devices:
            sharing = [limits[other] for other, held in there.items() if device in held]
            if sharing and len(sharing) > min(sharing):
                found.add(device)
    return found


SINGLE, SHARED = [(1, 1)] * 8, [(1, 2)] * 8
MIXED = [(1, 1), (1, 2), (2, 1), (1, 2), (2, 2), (1, 2), (1, 1), (1, 3)]


@pytest.mark.parametrize("wanted", [SINGLE, SHARED, MIXED], ids=["single", "shared", "mixed"])
def test_eight_jobs_on_two_gpus_never_meet_and_all_survivors_finish(machine, wanted):
    draw = random.Random(8)
    jobs = [Job(machine, str(number), *numbers) for number, numbers in enumerate(wanted)]
    holding, anywhere = draw.sample(jobs, 2), draw.choice(jobs)
    wait_for(lambda: sum(bool(job.held()) for job in jobs) + queue(machine) == 8)
    for job in jobs:
        if job not in holding:
            job.let_go()
    while left := [job for job in holding if not job.killed]:
        wait_for(lambda: next((job for job in left if job.held()), None)).kill()
    time.sleep(draw.uniform(0, 0.2))
    anywhere.kill()
    survivors = [job for job in jobs if not job.killed]
    assert len(survivors) >= 5
    assert all(job.ends() for job in survivors)
    assert all(len(job.held()) == job.count for job in survivors)
    assert not crowded(machine, jobs)
    assert {device for job in jobs for device in job.held()} == set(DEVICES)


def test_small_jobs_share_gpus_and_spread_over_them(machine):
    jobs = [Job(machine, str(number), 1, 2).starts() for number in range(4)]
    held = [job.held()[0] for job in jobs]
    assert sorted(held[:2]) == sorted(held[2:]) == sorted(DEVICES)
    last = Job(machine, "last", 1, 2)
    wait_for_queue(machine, 1)
    assert not last.held()
    jobs[2].kill()
    assert last.starts().held() == [held[2]]


def test_a_killed_holder_and_a_killed_waiter_leave_nothing_behind(machine):
    holder = Job(machine, "holder", count=2).starts()
    waiter = Job(machine, "waiter", count=2)
    wait_for_queue(machine, 1)
    waiter.kill()
    holder.kill()
    assert Job(machine, "next", count=2).ends()


def test_who_asks_for_several_is_not_overtaken_by_those_who_ask_for_one(machine):
    first = Job(machine, "first").starts()
    both = Job(machine, "both", count=2).let_go()
    wait_for_queue(machine, 1)
    later = [Job(machine, f"later-{number}").let_go() for number in range(3)]
    wait_for_queue(machine, 4)
    assert all(job.ends() for job in [first, both, *later])
    assert sorted(both.held()) == sorted(DEVICES)
    order = [(name, what) for name, what, *_ in logged(machine)]
    assert order[2:4] == [("both", "starts"), ("both", "ends")]
    assert not crowded(machine, [first, both, *later])


def test_a_queue_for_one_gpu_does_not_hold_up_the_other(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", FIRST)
    Job(machine, "holder").starts()
    Job(machine, "waiter")
    wait_for_queue(machine, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    free = Job(machine, "free")
    assert free.ends()
    assert free.held() == [SECOND]


def test_jobs_are_served_in_the_order_in_which_they_came(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", SECOND)
    holder = Job(machine, "0").starts()
    jobs = [holder]
    for place in range(1, 4):
        jobs.append(Job(machine, str(place)).let_go())
        wait_for_queue(machine, place)
    assert all(job.ends() for job in jobs)
    order = [(name, what) for name, what, *_ in logged(machine)]
    assert order == [(job.name, what) for job in jobs for what in ("starts", "ends")]


HURRIED_JOBS = """
import sys
from pathlib import Path
from fedred import gpu_lease

gpu_lease.SECONDS_BETWEEN_TRIES = 0.0005
for number in range(60):
    with gpu_lease.leased(1 + (number % 7 == 0)) as devices:
        taken = [Path(sys.argv[1], device) for device in devices]
        for device in taken:
            device.mkdir()  # fails where another job is
        for device in taken:
            device.rmdir()
"""


def test_jobs_that_come_and_go_at_once_never_meet(machine):
    command = [sys.executable, "-c", HURRIED_JOBS, machine]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0


def test_what_was_held_is_free_afterwards_while_the_process_lives(machine):
    with leased(2) as devices:
        assert sorted(devices) == sorted(DEVICES)
    assert Job(machine, "next", count=2).ends()


def test_files_that_are_no_tickets_are_left_alone(machine):
    notes = machine / "locks" / "waiting.notes"
    notes.parent.mkdir()
    notes.write_text("mine")
    with leased():
        assert notes.read_text() == "mine"
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, [FIRST, SECOND]),
        ("0", [FIRST]),
        ("1,0", [SECOND, FIRST]),
        (SECOND, [SECOND]),
        ("GPU-1a3", [SECOND]),
        ("GPU-1a", []),  # both begin so
        (f" {SECOND} , 1", [SECOND]),
        ("", []),
        ("-1", []),
        ("1,-1,0", [SECOND]),
        ("2,0", []),
        ("MIG-5/1/0", ["MIG-5/1/0"]),
    ],
)
def test_an_incoming_variable_is_the_pool(asked, seen, monkeypatch):
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert visible_devices() == seen
    with leased() as devices:
        assert devices == seen[:1]
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == (seen[0] if seen else asked)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == asked


def test_slurm_deals_out_its_gpus_itself(machine, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with leased() as devices:
        assert devices == []
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not (machine / "locks").exists()


def test_without_nvidia_smi_nothing_is_leased(machine, monkeypatch):
    monkeypatch.setenv("PATH", str(machine / "nowhere"))
    with leased() as devices:
        assert devices == []


def test_an_nvidia_smi_that_fails_is_told(machine, caplog):
    write_nvidia_smi(machine, "echo driver mismatch; exit 9")
    with leased() as devices, caplog.at_level(logging.WARNING):
        assert devices == []
    assert "nvidia-smi does not work" in caplog.text


def test_more_gpus_than_there_are_is_a_mistake():
    with pytest.raises(UserError, match="3 GPUs are asked for at once, but 2 are to be seen"):
        leased(3).__enter__()


def test_locks_that_cannot_be_used_are_a_mistake(machine):
    (machine / "locks").touch()
    with pytest.raises(UserError, match="name another folder, the same for all jobs"):
        leased().__enter__()


def test_all_users_of_a_machine_may_use_the_locks(machine):
    before = os.umask(0o077)
    try:
        with leased():
            files = list((machine / "locks").iterdir())
    finally:
        os.umask(before)
    assert stat.S_IMODE((machine / "locks").stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666}


CUDA = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int none(void) { return 100; }  /* CUDA_ERROR_NO_DEVICE */
static int version(int *number) { *number = 20000; return 0; }
int cuInit(unsigned flags) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    FILE *file = fopen(getenv("STARTED"), "a");
    fprintf(file, "%s\\n", visible ? visible : "everything");
    fclose(file);
    return 100;
}
int cuGetProcAddress_v2(const char *name, void **found, int number, unsigned long flags, void *s) {
    *found = !strcmp(name, "cuInit") ? (void *)cuInit
        : !strcmp(name, "cuDriverGetVersion") ? (void *)version
        : !strcmp(name, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2 : (void *)none;
    return 0;
}
int cuGetProcAddress(const char *name, void **found, int number, unsigned long flags) {
    return cuGetProcAddress_v2(name, found, number, flags, 0);
}
int cuDriverGetVersion(int *number) { return version(number); }
"""


@pytest.mark.skipif(
    not (sys.platform == "linux" and torch.backends.cuda.is_built() and shutil.which("cc")),
    reason="needs PyTorch with CUDA, and a compiler for a driver that notes when it is started",
)
def test_a_run_waits_for_its_gpu_before_it_starts_cuda(machine):
    compiler = ("cc", "-x", "c", "-shared", "-fPIC", "-o", machine / "libcuda.so.1", "-")
    subprocess.run(compiler, input=CUDA, text=True, check=True)
    (machine / "one.yaml").write_text(yaml.safe_dump({**SETTINGS, "rounds": 1}))
    command = "from fedred.cli import main; main()"
    holder = Job(machine, "holder", count=2).starts()
    run = subprocess.Popen(
        [sys.executable, "-c", command, "run", machine / "one.yaml", "--out", machine / "out"],
        env=os.environ | {"LD_LIBRARY_PATH": str(machine), "STARTED": str(machine / "started")},
        stderr=subprocess.PIPE,
        text=True,
    )
    waits = next(line for line in run.stderr if "waiting for a GPU" in line)
    assert not (machine / "started").exists()
    holder.kill()
    said = waits + run.communicate()[1]
    assert run.returncode == 0, said
    assert f"waiting for a GPU: {FIRST} is held by process {holder.process.pid} on" in said
    assert f"computing on {FIRST}" in said
    assert set((machine / "started").read_text().split()) == {FIRST}
