"""One thread a process: tests run side by side, and small tensors gain nothing from more.

The only time limit of the tests is here, and it only ends what hangs.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal

import pytest
import torch
from command import HUNG
from hypothesis import HealthCheck, settings
from workflow_support import finished_project

from fedred.execution import compiler_failure

torch.set_num_threads(1)
settings.register_profile(
    "fedred",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    max_examples=50,
)
settings.load_profile("fedred")


def give_up(*_):
    pytest.fail(f"hangs: no end after {HUNG} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Fail what hangs: a fixture, a test, or the end of a fixture."""
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HUNG, HUNG)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Write what a test has printed so that any process can be sent it: names may be no UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def compiler():
    """Skip where nothing can be compiled."""
    if failure := compiler_failure("cpu"):
        pytest.skip(f"no compiler: {failure}")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project in which the tiny configuration has run to its end, once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    own = tmp_path_factory.mktemp("finished") / "project"
    return shutil.copytree(finished_project(shared / "finished_by_all"), own, symlinks=True)
