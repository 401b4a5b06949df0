"""The command `fedred`, run in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

HUNG = 3600
"""Seconds after which a test, or the fixtures that it makes, are taken to hang, on any machine."""
FEDRED = [sys.executable, "-c", "from fedred.cli import main; main()"]
PAUSING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pausing import pause_after_checkpoints
pause_after_checkpoints({{!r}})
from fedred.cli import main
main()
"""


def pausing(file):
    """Return the command of a `fedred` that stands still after each checkpoint while a file is there."""
    return [sys.executable, "-c", PAUSING.format(str(file))]


def fedred(*arguments, **options):
    """Run the command to its end; its output is kept."""
    command = [*FEDRED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def wait_for(condition, process=None):
    """Return what a condition gives once it is true; fail when a process ends before."""
    while True:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        assert not ended, "the process has ended before"
        time.sleep(0.01)


def wait_for_checkpoint(process, out, changed_since=None):
    """Return when a run has written its checkpoint, or written it again; its time of writing."""
    checkpoint = out / "checkpoint.safetensors"

    def written():
        time = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        return None if time == changed_since else time

    return wait_for(written, process)
