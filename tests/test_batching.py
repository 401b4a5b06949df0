"""How many clients are computed at once: counted operations, and the choice made from them."""

import pytest
import torch

from fedred.batching import choose_clients_per_chunk, forward_operations
from fedred.models import MLP, ConvNet, flat_model

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
    assert choose_clients_per_chunk(large, CPU) == 1
    assert choose_clients_per_chunk(small, CPU) > 1
    assert choose_clients_per_chunk(large, GPU) > 1
    assert choose_clients_per_chunk(small, GPU) >= choose_clients_per_chunk(small, CPU)


def test_counting_leaves_the_network_as_it_is():
    model = flat_model(ConvNet(width=4, depth=1), (1, 8, 8), 3)
    before = model.flatten().clone()
    forward_operations(model)
    assert torch.equal(model.flatten(), before)
    assert all(parameter.requires_grad for parameter in model.module.parameters())
