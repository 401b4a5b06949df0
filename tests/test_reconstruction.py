"""The reconstruction by its known answers, by finite differences, and against a plain twin."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedred.local_training import LocalTraining
from fedred.models import MLP, ConvNet, flat_model, initial_parameters
from fedred.reconstruction import Knowledge, Reconstruction, reconstruct, reconstruction_error

SHAPE, CLASSES, IMAGES, K = (1, 4, 4), 3, 3, 5


def setting(network=None, clients=3, dtype=torch.float64, step_size=0.3):
    """A small model, and updates made by K known steps on known synthetic data of each client."""
    model = flat_model(network or ConvNet(width=4, depth=2), SHAPE, CLASSES)
    model.module.to(dtype)
    weights = initial_parameters(model, np.random.default_rng(0)).to(dtype)
    source = np.random.default_rng(1)

    def draw(*shape):
        return torch.from_numpy(source.standard_normal(shape)).to(dtype)

    known = Knowledge(
        draw(clients, IMAGES, *SHAPE),
        draw(clients, IMAGES, CLASSES),
        torch.full((clients,), step_size, dtype=dtype),
    )
    updates = torch.stack(
        [plain_path(model, weights, *(part[c] for part in known)) for c in range(clients)]
    )
    return model, weights, known, updates


def plain_path(model, weights, images, labels, step_size):
    """K textbook steps of gradient descent with autograd on a fresh leaf each time -> displacement."""
    theta = weights.clone()
    for _ in range(K):
        theta = theta.detach().requires_grad_()
        cross_entropy = F.cross_entropy(model(theta, images), labels.softmax(-1)) / CLASSES
        (slope,) = torch.autograd.grad(cross_entropy, theta)
        theta = theta - step_size * slope
    return (theta - weights).detach()


def plain_error(model, weights, images, labels, step_size, update):
    """The textbook unrolled loop with `create_graph=True`, in weights as the paper writes it."""
    theta = weights.clone().requires_grad_()
    for _ in range(K):
        log_probabilities = F.log_softmax(model(theta, images), 1)
        loss = -(labels.softmax(1) * log_probabilities).mean()
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - step_size * slope
    return (theta - (weights + update)).square().sum() / update.square().sum()


def plain_reconstruct(model, weights, update, start, iterations, threshold, options):
    """One client with torch.optim.SGD and early stop."""
    images, labels, step_size = (part.clone().requires_grad_() for part in start)
    optimiser = torch.optim.SGD(
        [
            {"params": [images], "lr": options.image_lr},
            {"params": [labels], "lr": options.label_lr},
            {"params": [step_size], "lr": options.step_size_lr},
        ],
        momentum=options.momentum,
    )
    for iteration in range(1, iterations + 1):
        error = plain_error(model, weights, images, labels, step_size, update)
        if error < threshold or iteration == iterations:
            return error.detach(), iteration, (images, labels, step_size)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()


@pytest.mark.parametrize("network", [ConvNet(width=4, depth=2), MLP(width=8)])
def test_known_synthetic_data_has_error_zero_at_once(network):
    model, weights, known, updates = setting(network)
    result = reconstruct(
        model, weights, updates, known, torch.full((3,), 9), 0.6, Reconstruction(), 3
    )
    assert (result.errors < 1e-20).all()
    assert (result.iterations == 1).all()
    for part, before in zip(result.knowledge, known, strict=True):
        assert torch.equal(part, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_size_zero_gives_error_exactly_one(dtype):
    model, weights, known, updates = setting(dtype=dtype, step_size=0.3)
    for client in range(3):
        still = Knowledge(known.images[client], known.labels[client], torch.zeros((), dtype=dtype))
        assert reconstruction_error(model, weights, still, updates[client], K) == 1.0


def test_error_equals_the_textbook_loop():
    model, weights, known, updates = setting()
    others = updates.roll(1, 0)
    for client in range(3):
        parts = [part[client] for part in known]
        expected = plain_error(model, weights, *parts, others[client])
        error = reconstruction_error(model, weights, Knowledge(*parts), others[client], K)
        torch.testing.assert_close(error, expected.detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("network", [ConvNet(width=2, depth=1), MLP(width=4)])
def test_gradients_agree_with_finite_differences(network):
    model, weights, known, updates = setting(network, clients=2)
    parts = tuple(part[0].clone().requires_grad_() for part in known)

    def error(*parts):
        return reconstruction_error(model, weights, Knowledge(*parts), updates[1], 3)

    assert torch.autograd.gradcheck(error, parts, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("clients_per_chunk", [1, 2, 4])
def test_batch_equals_plain_loop_with_torch_optimiser(clients_per_chunk):
    model, weights, known, updates = setting(clients=4)
    options = Reconstruction(image_lr=0.2, label_lr=0.2, step_size_lr=0.001)
    targets = updates.roll(1, 0)
    start = Knowledge(known.images, torch.zeros_like(known.labels), known.step_size)
    budgets = torch.tensor([50, 7, 2, 25])
    result = reconstruct(model, weights, targets, start, budgets, 0.5, options, clients_per_chunk)
    stopped_early = 0
    for client in range(4):
        error, iterations, learned = plain_reconstruct(
            model,
            weights,
            targets[client],
            [part[client] for part in start],
            int(budgets[client]),
            0.5,
            options,
        )
        stopped_early += iterations < budgets[client]
        assert result.iterations[client] == iterations
        torch.testing.assert_close(result.errors[client], error, rtol=1e-7, atol=1e-9)
        for part, expected in zip(result.knowledge, learned, strict=True):
            torch.testing.assert_close(part[client], expected.detach(), rtol=1e-6, atol=1e-9)
    assert stopped_early, "the case must show clients that leave the batch early"


def test_full_budget_without_threshold():
    model, weights, known, updates = setting()
    result = reconstruct(
        model, weights, updates, known, torch.full((3,), 4), None, Reconstruction(), 3
    )
    assert (result.iterations == 4).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e200, 0.0])
def test_broken_updates_are_not_finite_and_touch_nobody(bad):
    model, weights, known, updates = setting()
    start = Knowledge(known.images.roll(1, 0), known.labels, known.step_size)
    options = Reconstruction(image_lr=1.0)
    budgets = torch.full((3,), 6)
    alone = reconstruct(model, weights, updates, start, budgets, 0.1, options, 3)
    updates = updates.clone()
    updates[1] = bad
    together = reconstruct(model, weights, updates, start, budgets, 0.1, options, 3)
    assert not together.errors[1].isfinite()
    assert together.iterations[1] == 1
    for client in (0, 2):
        torch.testing.assert_close(together.errors[client], alone.errors[client])


def test_epsilon_makes_a_zero_update_finite_and_large():
    model, weights, known, updates = setting()
    one = Knowledge(*(part[0] for part in known))
    error = reconstruction_error(model, weights, one, torch.zeros_like(updates[0]), K, epsilon=1e-9)
    assert error.isfinite()
    assert error > 1


def test_calibrated_step_size_makes_paths_of_known_length():
    """eta * K steps of gradient / C equals budget * lr * local steps of gradient."""
    training = LocalTraining(lr=0.05, batch_size=8, epochs=2)
    options = Reconstruction(step_size="calibrated", budget=1.5)
    step_sizes = options.initial_step_sizes(training, torch.tensor([72, 8, 65]), CLASSES)
    synthetic = step_sizes * options.steps / CLASSES
    local = training.lr * torch.tensor([18, 2, 18])
    torch.testing.assert_close(synthetic, 1.5 * local)


def test_released_step_size_and_shared_initial_images():
    options = Reconstruction()
    sizes = options.initial_step_sizes(LocalTraining(), torch.tensor([1, 500]), 10)
    assert sizes.tolist() == pytest.approx([0.05, 0.05])
    model = flat_model(MLP(), SHAPE, CLASSES)
    images = options.initial_images(model, np.random.default_rng(0))
    assert images.shape == (CLASSES, *SHAPE)
    assert torch.equal(images, options.initial_images(model, np.random.default_rng(0)))
