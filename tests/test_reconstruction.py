"""The reconstruction by its known answers, by finite differences, and against a plain twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedred.local_training import LocalTraining
from fedred.models import MLP, ConvNet, flat_model, initial_parameters
from fedred.reconstruction import (
    Knowledge,
    Reconstruction,
    hopeless,
    probe,
    reconstruct,
    reconstruction_error,
    synthetic_update,
)

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


BOUNDED = Reconstruction(
    step_size="bounded", optimizer="adam", budget=0.45, image_lr=0.1, label_lr=0.3
)


def drawn(*shape, seed=7):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, "float32"))


def network_and_weights():
    model = flat_model(ConvNet(width=4, depth=2), SHAPE, CLASSES)
    return model, initial_parameters(model, np.random.default_rng(0))


def bounded_case(clients, spread):
    """Random updates of many lengths, and the pace and longest path of their reconstruction."""
    model, weights = network_and_weights()
    source = np.random.default_rng(5)
    training, samples = LocalTraining(lr=0.05, batch_size=8), torch.full((clients,), 40)
    noise = BOUNDED.initial_images(model, np.random.default_rng(5))
    longest = BOUNDED.budget * probe(model, weights, noise, training, 5)[0][-1]
    directions = torch.from_numpy(source.standard_normal((clients, model.size), "float32"))
    lengths = longest * torch.logspace(-spread, spread, clients)[:, None]
    updates = lengths * directions / directions.norm(dim=1, keepdim=True)
    pace = BOUNDED.pace(model, weights, updates, samples, training, np.random.default_rng(5))
    return model, weights, updates, pace, longest


def test_a_bounded_path_is_never_longer_than_the_noise_got_whatever_was_learned():
    model, weights, updates, pace, longest = bounded_case(7, 2)
    for update, step_size in zip(updates, pace.step_sizes, strict=True):
        for loud in (1.0, 30.0):
            images = loud * drawn(IMAGES, *SHAPE)
            labels = loud * drawn(IMAGES, CLASSES)
            knowledge = Knowledge(images, labels, step_size)
            found = synthetic_update(model, weights, knowledge, K, pace.longest_slope)
            assert found.norm() <= 1.0001 * torch.minimum(longest, BOUNDED.path * update.norm())


def test_a_long_update_is_never_below_the_threshold_when_bounded():
    """Error >= (1 - L / ||x||)^2, L the longest path."""
    model, weights, updates, pace, longest = bounded_case(5, 1)
    images = drawn(1, IMAGES, *SHAPE).repeat(5, 1, 1, 1, 1)
    start = Knowledge(images, torch.zeros(5, IMAGES, CLASSES), pace.step_sizes)
    budgets = torch.full((5,), 30)
    case = (model, weights, updates, start, budgets, None, BOUNDED, 5, pace.longest_slope)
    errors = reconstruct(*case).errors
    floor = (1 - longest / updates.norm(dim=1)).clamp(min=0).square()
    assert (errors >= 0.999 * floor).all()
    assert floor[-1] > 0.6
    assert floor[0] == 0


def test_short_updates_get_steps_of_their_own_length_and_long_ones_of_the_longest_path():
    _, _, updates, pace, longest = bounded_case(9, 3)
    expected = updates.norm(dim=1).clamp(max=longest) / (K * pace.longest_slope)
    torch.testing.assert_close(pace.step_sizes, expected)
    assert pace.step_sizes[0] < pace.step_sizes[-1] == pace.step_sizes[-2]


@pytest.mark.parametrize(
    "training",
    [LocalTraining(lr=0.1), LocalTraining(lr=0.1, momentum=0.9, weight_decay=0.01)],
)
def test_the_probe_is_training_on_noise_by_torch_optim(training):
    model, weights = network_and_weights()
    images = drawn(6, *SHAPE)
    distances, slope = probe(model, weights, images, training, 4)
    expected, slopes = [], []
    for classes in (1, 2, CLASSES):
        vector = weights.clone().requires_grad_()
        optimiser = torch.optim.SGD(
            [vector],
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        path = []
        for step in range(4):
            optimiser.zero_grad()
            F.cross_entropy(model(vector, images), torch.arange(6) % classes).backward()
            if step == 0:
                slopes.append(vector.grad.norm() / CLASSES)
            optimiser.step()
            path.append((vector.detach() - weights).norm())
        expected.append(torch.stack(path))
    torch.testing.assert_close(distances, torch.stack(expected).amax(0))
    torch.testing.assert_close(slope, max(slopes))


def test_adam_steps_are_those_of_torch_optim():
    options = replace(BOUNDED, step_size="calibrated", step_size_lr=0.01)
    source = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=source)  # noqa: E731
    current = Knowledge(draw(1, 4, 1, 2, 2), draw(1, 4, 3), draw(1))
    plain = [part.clone().requires_grad_() for part in current]
    groups = [
        {"params": [part], "lr": lr} for part, lr in zip(plain, (0.1, 0.3, 0.01), strict=True)
    ]
    optimiser = torch.optim.Adam(groups, betas=(options.momentum, 0.9), eps=1e-12)
    moments = [Knowledge(*map(torch.zeros_like, current)) for _ in range(2)]
    for made in range(1, 6):
        slopes = Knowledge(*(draw(*part.shape) for part in current))
        for part, slope in zip(plain, slopes, strict=True):
            part.grad = slope
        optimiser.step()
        current, moments = options.learn(current, slopes, moments, made)
    for part, expected in zip(current, plain, strict=True):
        torch.testing.assert_close(part, expected.detach())


def test_a_bounded_step_size_is_not_learned():
    model, weights, updates, pace, _ = bounded_case(2, 0.1)
    start = Knowledge(drawn(2, IMAGES, *SHAPE), torch.zeros(2, IMAGES, CLASSES), pace.step_sizes)
    budgets = torch.full((2,), 4)
    case = (model, weights, updates, start, budgets, None, BOUNDED, 2, pace.longest_slope)
    learned = reconstruct(*case).knowledge
    assert torch.equal(learned.step_size, start.step_size)
    assert not torch.equal(learned.images, start.images)


def test_who_is_hopeless_by_hand():
    curves = torch.tensor([[1.0, 0.9, 0.85, 0.83], [1.0, 0.99, 0.98, 0.97], [0.7, 0.8, 0.9, 1.0]])
    left = torch.tensor([3, 10, 10])
    falls = hopeless(list(curves.T), left, 0.6, 1.0)
    assert falls.tolist() == [False, True, True]  # 0.83 - 3 * 0.1, 0.97 - 10 * 0.01, never fell
    assert hopeless(list(curves.T), left, 0.6, 4.0).tolist() == [False, False, True]
    assert not hopeless(list(curves.T), left, 0.6, 0.0).any()
    assert not hopeless(list(curves.T)[1:], left, 0.6, 1.0).any()


def test_giving_up_saves_iterations_and_changes_no_client_that_passes():
    model, weights, known, updates = setting(clients=4)
    noise = np.random.default_rng(0).standard_normal(updates[2:].shape)
    updates[2:] = torch.from_numpy(noise)
    start = known._replace(labels=torch.zeros_like(known.labels))
    options = Reconstruction(image_lr=0.2, label_lr=5.0)
    case = (model, weights, updates, start, torch.full((4,), 40), 0.6)
    patient, hasty = (
        reconstruct(*case, replace(options, give_up=give_up), 4) for give_up in (0.0, 2.0)
    )
    passes = patient.errors < 0.6
    assert passes.any()
    assert torch.equal(passes, hasty.errors < 0.6)
    assert torch.equal(patient.iterations[passes], hasty.iterations[passes])
    assert (hasty.iterations[~passes] < patient.iterations[~passes]).all()
    assert hasty.iterations[2:].tolist() == [4, 4]
