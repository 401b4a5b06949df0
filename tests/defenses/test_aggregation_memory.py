"""Aggregation reads the matrix of updates in blocks: a second copy would not fit beside it."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from unittest.mock import patch

import pytest

from benchmarks.aggregation_memory import alike, can_forget, cost_of, model_of
from fedred.defenses import DEFENSES, geometry
from fedred.defenses.fedavg import FedAvg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_forget(), reason="only Linux starts the measurement of a peak anew"),
]

MODEL = model_of(320_010)
CLIENTS = 100
SHARE = 0.4
"""Of the matrix, beside what is remembered: a few blocks, and vectors [P] of 1 % or 2 % each."""
QUADRATIC = ("krum", "multi_krum", "bulyan", "nnm")
"""Rules whose distances of all pairs take seconds: a quarter of the clients, and of a block."""
MIXED = {"nnm": 1.0, "bucketing": 0.5}
"""Rules that make new updates of those received, in shares of the matrix."""
BESIDE = {"fedredefense": 0.5}
"""What unrolled training keeps of one client is many vectors [P], however many clients there are."""


class Copies(FedAvg):
    """A rule that copies the matrix, and lets go of the copy."""

    def __call__(self, updates, view):
        return super().__call__(updates.clone(), view)


@cache
def received():
    return alike(CLIENTS, MODEL.size)


def measured(name, clients, entries):
    """What a rule takes beside the updates and its memory, over the size of the updates."""
    geometry.ENTRIES = entries
    with patch.dict(DEFENSES, copies=Copies):
        updates = received()[:clients]
        cost = cost_of(name, updates, MODEL)
    return (cost.extra - cost.remembered) / updates.nbytes


@pytest.fixture(scope="module")
def share_of():
    """Measure in a process where no other test has left memory behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield lambda name, clients=CLIENTS, entries=geometry.ENTRIES: process.submit(
            measured, name, clients, entries
        ).result()


@pytest.mark.parametrize("name", [name for name in DEFENSES if name not in QUADRATIC])
def test_a_rule_takes_a_small_part_of_the_matrix_beside_what_it_remembers(name, share_of):
    assert share_of(name) < SHARE + MIXED.get(name, 0.0) + BESIDE.get(name, 0.0)


@pytest.mark.parametrize("name", QUADRATIC)
def test_so_does_a_rule_that_compares_all_pairs(name, share_of):
    share = share_of(name, CLIENTS // 4, geometry.ENTRIES // 4)
    assert share < SHARE + MIXED.get(name, 0.0)


def test_the_measurement_sees_a_copy_that_is_not_kept(share_of):
    assert share_of("copies", CLIENTS // 2) > 0.95
