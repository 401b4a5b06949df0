"""How a run is computed: counted operations, and the choices made from them."""

from types import SimpleNamespace

import pytest
import torch
from small import federation

from fedred.errors import UserError
from fedred.execution import (
    CHUNK,
    REPAYS_COMPILING,
    Execution,
    activations,
    choose_clients_per_chunk,
    choose_to_compile,
    compiler_failure,
    forward_operations,
)
from fedred.models import MLP, ConvNet, flat_model
from fedred.run import how_computed, training_operations

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("network", "shape", "operations"),
    [
        (MLP(depth=0), (1, 8, 8), 2 * 64 * 10),
        (MLP(width=7, depth=2), (3, 4, 4), 2 * (48 * 7 + 7 * 7 + 7 * 10)),
        (ConvNet(width=4, depth=1), (3, 8, 8), 2 * (64 * 4 * 27 + 4 * 16 * 10)),
    ],
)
def test_operations_are_two_for_each_multiplication(network, shape, operations):
    assert forward_operations(flat_model(network, shape, 10)) == operations


def test_only_large_networks_on_a_cpu_run_one_by_one():
    small, large = flat_model(MLP(), (1, 8, 8), 10), flat_model(ConvNet(), (3, 32, 32), 10)
    assert choose_clients_per_chunk(large, CPU, 100) == 1
    assert choose_clients_per_chunk(small, CPU, 100) == 100


def test_a_gpu_computes_as_many_clients_at_once_as_it_holds(monkeypatch):
    large = flat_model(ConvNet(), (3, 32, 32), 10)
    for gibibytes, expected in ((80, 100), (40, 50), (2, 4), (0.1, 1)):
        properties = SimpleNamespace(total_memory=int(gibibytes * 2**30))
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _, found=properties: found)
        assert choose_clients_per_chunk(large, GPU, 100) == expected


def test_jobs_that_share_a_gpu_share_its_memory(monkeypatch):
    large = flat_model(ConvNet(), (3, 32, 32), 10)
    properties = SimpleNamespace(total_memory=40 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: properties)
    alone, shared = (choose_clients_per_chunk(large, GPU, 1000, jobs) for jobs in (1, 4))
    assert 3 * shared < alone <= 4 * shared + 4


def test_activations_are_counted_layer_by_layer():
    model = flat_model(ConvNet(width=4, depth=1), (3, 8, 8), 10)
    padded, convolved, pooled = 3 * 64, 4 * 64, 4 * 16
    assert activations(model) == padded + 3 * convolved + 2 * pooled + 10


@pytest.mark.parametrize("participants", [1, 100, 128, 129, 1000])
def test_chunks_are_nearly_equal(participants):
    chunk = choose_clients_per_chunk(flat_model(MLP(), (1, 8, 8), 10), CPU, participants)
    chunks = -(-participants // chunk)
    assert 1 <= chunk <= CHUNK
    assert chunks == -(-participants // CHUNK)
    assert chunk * chunks - participants < chunks


def test_counting_leaves_the_network_as_it_is():
    model = flat_model(ConvNet(width=4, depth=1), (1, 8, 8), 3)
    before = model.flatten().clone()
    forward_operations(model)
    assert torch.equal(model.flatten(), before)
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_long_runs_on_a_cpu_are_compiled_and_short_ones_are_not(monkeypatch):
    monkeypatch.setattr("fedred.execution.compiler_failure", lambda device: None)
    assert choose_to_compile("auto", CPU, REPAYS_COMPILING)
    assert not choose_to_compile("auto", CPU, REPAYS_COMPILING - 1)
    assert not choose_to_compile("auto", GPU, 1e20)
    assert choose_to_compile("on", GPU, 0)
    assert not choose_to_compile("off", CPU, 1e20)


def test_without_a_compiler_a_run_goes_on_and_says_so(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("fedred.execution.compiler_failure", lambda device: "no C++ compiler")
    assert not choose_to_compile("auto", CPU, 1e20)
    assert "not compiled" in caplog.text
    assert "no C++ compiler" in caplog.text
    with pytest.raises(UserError, match=r"--compile on: torch\.compile does not work here"):
        choose_to_compile("on", CPU, 1e20)


def test_a_failure_of_the_compiler_is_told_in_one_line(monkeypatch):
    def broken(function):
        raise RuntimeError("g++ not found\nand much more")

    monkeypatch.setattr("torch.compile", broken)
    compiler_failure.cache_clear()
    assert compiler_failure("cpu") == "g++ not found"
    compiler_failure.cache_clear()


def test_operations_of_a_run_by_hand():
    fed = federation(participation=0.5, training={"epochs": 3}, rounds=4)
    samples = sum(len(labels) for _, labels in fed.clients)
    expected = 4 * 0.5 * 3 * samples * 3 * 2 * (64 * 16 + 16 * 10)
    assert training_operations(fed) == expected


def test_the_user_decides_how_many_clients_are_computed_at_once_and_the_run_says_so():
    fed = federation(Execution(3, "off"))
    assert fed.clients_per_chunk == 3
    assert "3 clients at once, not compiled" in how_computed(fed)
    assert federation().clients_per_chunk == 8
