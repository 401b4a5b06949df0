"""Batched local training against the slow, obvious twin: one torch.optim.SGD loop per client."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedred.local_training import LocalTraining, batch_schedule, train_clients
from fedred.models import MLP, ConvNet, ResNet, flat_model, initial_parameters
from fedred.parameters import FlatModel

SHAPE, CLASSES = (1, 8, 8), 4
SIZES = (11, 8, 3, 16)


def plain_loop(
    model: FlatModel,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    schedule: np.ndarray,
    training: LocalTraining,
) -> Tensor:
    """Train one client with the module's own parameters and PyTorch's own optimiser."""
    module = model.module
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    for row in schedule:
        batch = torch.from_numpy(row[row >= 0])
        optimiser.zero_grad()
        F.cross_entropy(module(images[batch]), labels[batch]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def clients_of(sizes, dtype=torch.float64):
    source = np.random.default_rng(7)
    return [
        (
            torch.from_numpy(source.standard_normal((size, *SHAPE))).to(dtype),
            torch.from_numpy(source.integers(0, CLASSES, size)),
        )
        for size in sizes
    ]


@pytest.mark.parametrize("clients_per_chunk", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "network", [ConvNet(width=4, depth=2), MLP(width=8), ResNet(width=4, stages=2)]
)
@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(lr=0.1, batch_size=4),
        LocalTraining(lr=0.05, batch_size=5, epochs=3, momentum=0.9, weight_decay=0.01),
    ],
)
def test_batched_training_equals_plain_loop(network, training, clients_per_chunk):
    model = flat_model(network, SHAPE, CLASSES)
    model.module.double()
    data = clients_of(SIZES)
    schedules = [
        batch_schedule(len(labels), training, np.random.default_rng(client))
        for client, (_, labels) in enumerate(data)
    ]
    starts = torch.stack(
        [
            initial_parameters(model, np.random.default_rng(10 + c)).double()
            for c in range(len(data))
        ]
    )
    trained = train_clients(model, starts, data, schedules, training, clients_per_chunk)
    for client, (images, labels) in enumerate(data):
        expected = plain_loop(model, starts[client], images, labels, schedules[client], training)
        torch.testing.assert_close(trained[client], expected, rtol=1e-9, atol=1e-10)


def test_float32_differs_by_rounding_only():
    training = LocalTraining(lr=0.05, batch_size=8)
    model = flat_model(ConvNet(width=16, depth=2), SHAPE, CLASSES)
    data = clients_of((40, 33), torch.float32)
    schedules = [batch_schedule(len(y), training, np.random.default_rng(0)) for _, y in data]
    starts = initial_parameters(model, np.random.default_rng(1)).repeat(2, 1)
    together = train_clients(model, starts, data, schedules, training, 2)
    alone = train_clients(model, starts, data, schedules, training, 1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_schedule_holds_each_sample_once_an_epoch_and_keeps_the_last_batch():
    training = LocalTraining(batch_size=4, epochs=3)
    schedule = batch_schedule(10, training, np.random.default_rng(0))
    assert schedule.shape == (9, 4)
    assert len(schedule) == training.steps(10)
    for epoch in schedule.reshape(3, -1):
        assert sorted(epoch[epoch >= 0]) == list(range(10))
    assert (schedule[2::3, 2:] == -1).all()
    assert not np.array_equal(schedule[:3], schedule[3:6])


def test_a_clients_result_does_not_depend_on_the_others():
    training = LocalTraining(lr=0.1, batch_size=4, momentum=0.5)
    model = flat_model(MLP(width=8), SHAPE, CLASSES)
    data = clients_of(SIZES, torch.float32)
    schedules = [batch_schedule(len(y), training, np.random.default_rng(0)) for _, y in data]
    starts = initial_parameters(model, np.random.default_rng(1)).repeat(len(data), 1)
    forward = train_clients(model, starts, data, schedules, training, 4)
    broken = [
        (images * torch.nan, labels) if c == 2 else (images, labels)
        for c, (images, labels) in enumerate(data)
    ]
    beside_nan = train_clients(model, starts, broken, schedules, training, 4)
    assert beside_nan[2].isnan().any()
    torch.testing.assert_close(beside_nan[[0, 1, 3]], forward[[0, 1, 3]])
