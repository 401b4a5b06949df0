"""The command `fedred`, run in a process of its own."""

import subprocess
import sys

FEDRED = [sys.executable, "-c", "from fedred.cli import main; main()"]


def fedred(*arguments, **options):
    """Run the command to its end; its output is kept."""
    command = [*FEDRED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
