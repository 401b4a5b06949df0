"""The command `fedred`, run in a process of its own."""

import subprocess
import sys
import time

FEDRED = [sys.executable, "-c", "from fedred.cli import main; main()"]


def fedred(*arguments, **options):
    """Run the command to its end; its output is kept."""
    command = [*FEDRED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def wait_for_checkpoint(process, out, changed_since=None):
    """Return when a run has written its checkpoint, or written it again; its time of writing."""
    checkpoint = out / "checkpoint.safetensors"
    for _ in range(6000):
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != changed_since:
            return checkpoint.stat().st_mtime_ns
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise TimeoutError("no checkpoint")
