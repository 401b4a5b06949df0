"""One thread a process: tests run side by side, and small tensors gain nothing from more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil

import pytest
import torch
from hypothesis import settings
from workflow_support import finished_project

from fedred.execution import compiler_failure

torch.set_num_threads(1)
settings.register_profile("fedred", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fedred")


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
