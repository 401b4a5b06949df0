"""The command `fedred` called in this process, which spares the seconds in which libraries load."""

import signal
import sys
from unittest import mock

from fedred.cli import main


def called(*arguments):
    """Run the command to its end and return its exit code; PyTorch's own settings stay as they are."""
    before = signal.getsignal(signal.SIGINT)
    words = ["fedred", *map(str, arguments)]
    try:
        with mock.patch.object(sys, "argv", words), mock.patch("fedred.cli._prepare_torch"):
            main()
    except SystemExit as end:
        return end.code
    finally:
        signal.signal(signal.SIGINT, before)
    raise AssertionError("main always ends with an exit code")
