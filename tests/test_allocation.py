"""Freed memory stays with the process: its pages are not asked for twice."""

import platform
import subprocess
import sys

import pytest

from fedred.allocation import keep_freed_memory

MEGABYTES, TIMES = 64, 10
CODE = f"""
import resource
import torch
from fedred.allocation import keep_freed_memory

if {{keep}}:
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3 * {TIMES}):  # neighbours that were freed merge: the first few do not find room
    torch.ones({MEGABYTES} * 2**18)
before = faults()
for _ in range({TIMES}):
    torch.ones({MEGABYTES} * 2**18)
print(faults() - before)
"""


def page_faults(keep):
    """Return the page faults of allocating, filling and freeing a block TIMES, after many before."""
    code = [sys.executable, "-c", CODE.format(keep=keep)]
    return int(subprocess.run(code, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")
def test_a_block_that_was_freed_is_used_again_without_a_page_fault():
    without, kept = page_faults(keep=False), page_faults(keep=True)
    assert kept < 100
    assert without > kept  # at least a fault each time, thousands where pages are of 4 KiB


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
