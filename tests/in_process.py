"""The command `fedred` called in this process: as a process of its own, without its two seconds."""

import signal
import sys
from unittest import mock

from fedred.cli import main


def called(*arguments):
    """Run the command to its end and return its exit code."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with mock.patch.object(sys, "argv", ["fedred", *map(str, arguments)]):
            main()
    except SystemExit as end:
        return end.code
    finally:
        signal.signal(signal.SIGINT, before)
    raise AssertionError("main always ends with an exit code")
