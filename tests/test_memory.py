"""The memory of a round and of many rounds: one matrix of updates, and nothing that grows."""

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from small import DEFENSE, federation

from benchmarks.aggregation_memory import can_forget
from benchmarks.measure import forget_peak_memory, peak_memory
from benchmarks.units import ReconstructUnit
from fedred.allocation import keep_freed_memory
from fedred.attacks.sign_flip import SignFlip
from fedred.defenses.median import Median
from fedred.execution import IMAGES_HELD, VALUES_HELD, Execution, activations
from fedred.local_training import LocalTraining
from fedred.models import MLP, ConvNet, flat_model
from fedred.reconstruction import Reconstruction
from fedred.simulation import Federation, initial_state, play_round, simulate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_forget(), reason="only Linux starts the measurement of a peak anew"),
]


def as_any_program():
    """Leave the C library's default."""


BOTH = pytest.mark.parametrize("allocate", [keep_freed_memory, as_any_program])
CPU = torch.device("cpu")
MEBIBYTE = 2**20
CLIENTS, WIDTH = 200, 3200


def wide(defense, attack):
    """Many clients with one image each of a network with many parameters."""
    images = torch.from_numpy(
        np.random.default_rng(0).standard_normal((CLIENTS, 1, 1, 9, 9), "float32")
    )
    malicious = torch.arange(CLIENTS) >= CLIENTS - 20
    return Federation(
        model=flat_model(MLP(width=WIDTH), (1, 9, 9), 10),
        clients=tuple((image, torch.tensor([i % 10])) for i, image in enumerate(images)),
        test_images=images[:2, 0],
        test_labels=torch.tensor([0, 1]),
        malicious=malicious,
        attack=attack,
        defense=defense,
        training=LocalTraining(lr=0.01),
        rounds=1,
        clients_per_chunk=2,
    )


def growth_of_a_round(allocate):
    """Return the bytes of a round's matrix of updates, and by how much the round raises the peak."""
    torch.set_num_threads(1)
    allocate()
    fed = wide(Median(), SignFlip())
    state = initial_state(fed)
    few = replace(fed, clients=fed.clients[:24], malicious=fed.malicious[-24:])
    play_round(few, initial_state(few))
    forget_peak_memory(CPU)
    before = peak_memory(CPU)
    play_round(fed, state)
    return CLIENTS * fed.model.size * 4, peak_memory(CPU) - before


def in_a_fresh_process(function, *arguments):
    """Return what a function returns where nothing was held before, and no allocation chosen."""
    with get_context("spawn").Pool(1) as fresh:
        return fresh.apply(function, arguments)


def held_by_a_client(clients):
    """Return how many numbers an activation of a client's images takes in a reconstruction."""
    torch.set_num_threads(1)
    network, shape = ConvNet(width=32), (3, 32, 32)
    unit = ReconstructUnit("", network, shape, Reconstruction(), clients, clients, 2)
    prepared = unit.prepare(CPU, clients, Execution(clients, "off"))
    forget_peak_memory(CPU)
    before = peak_memory(CPU)
    prepared.ours()
    numbers = 4 * clients * IMAGES_HELD * activations(flat_model(network, shape, 10))
    return (peak_memory(CPU) - before) / numbers


@pytest.mark.parametrize("clients", [1, 4])
def test_a_client_holds_no_more_than_the_choice_of_the_chunk_counts_on(clients):
    held = in_a_fresh_process(held_by_a_client, clients)
    assert 1 < held < VALUES_HELD


@BOTH
def test_a_round_holds_one_matrix_of_updates_and_little_else(allocate):
    matrix, growth = in_a_fresh_process(growth_of_a_round, allocate)
    assert matrix > 200 * MEBIBYTE
    assert matrix < growth < 1.5 * matrix


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def growth_over_200_rounds(allocate):
    """Return by how many bytes resident memory grows from round 40 to round 200."""
    allocate()
    brief = {**DEFENSE["reconstruction"], "first_iterations": 4, "later_iterations": 4}
    defense = {**DEFENSE, "exclusion": "round", "reconstruction": brief}
    fed = federation(attack="min_max", defense=defense, rounds=200)
    for state, _ in simulate(fed, initial_state(fed)):
        if state.round == 40:
            early = resident()
    assert state.round == 200
    return resident() - early


@BOTH
def test_nothing_grows_over_200_rounds(allocate):
    assert in_a_fresh_process(growth_over_200_rounds, allocate) < 8 * MEBIBYTE
