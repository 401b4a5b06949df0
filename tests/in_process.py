"""The command `fedred` called in this process, which spares the seconds in which libraries load."""

import signal
import sys
from unittest import mock

from fedred.cli import log, main


def called(*arguments):
    """Run the command to its end and return its exit code.

    PyTorch's own settings, the log's level and the handler of Ctrl-C are as before, for other tests.
    """
    before, level = signal.getsignal(signal.SIGINT), log.level
    words = ["fedred", *map(str, arguments)]
    try:
        with mock.patch.object(sys, "argv", words), mock.patch("fedred.cli._prepare_torch"):
            main()
    except SystemExit as end:
        return end.code
    finally:
        signal.signal(signal.SIGINT, before)
        log.setLevel(level)
    raise AssertionError("main always ends with an exit code")
