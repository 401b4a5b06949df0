"""The plain twins: the same results as FedRED's, written as most research code writes them.

One client after the other, a DataLoader, a transform for every image, torch.optim.SGD, the textbook
unrolled loop, PyTorch's own layers. They are what FedRED is measured against and, in the tests, an
oracle.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import fedred.defenses.fedredefense
import fedred.simulation
from fedred import rng
from fedred.local_training import LocalTraining, batch_schedule
from fedred.models import AveragePool
from fedred.parameters import FlatModel
from fedred.reconstruction import (
    ADAM_DECAY,
    ADAM_EPSILON,
    FALLS,
    Knowledge,
    Reconstructed,
    Reconstruction,
)
from fedred.simulation import Federation


def with_stock_layers(module: nn.Module) -> nn.Module:
    """Return a copy of a network with nn.AvgPool2d in place of FedRED's own average pooling."""
    copy = deepcopy(module)
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, AveragePool):
                setattr(parent, name, nn.AvgPool2d(2))
    return copy


class ClientImages(Dataset[tuple[Tensor, Tensor]]):
    """The samples of one client; an image is made a float and normalised each time it is read.

    Args:
        images: uint8 [samples, channels, height, width].
        labels: int64 [samples].
        scale: largest possible pixel value.
        mean, std: of pixel / scale, one number a channel.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.images, self.labels, self.scale = images, labels, scale
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one normalised image [channels, height, width] and its label."""
        image = self.images[index].float().div(self.scale)
        return (image - self.mean) / self.std, self.labels[index]


def loader(data: ClientImages, schedule: np.ndarray) -> DataLoader:
    """Return a DataLoader over given batches.

    Args:
        data: the samples of one client.
        schedule: indices int64 [steps, batch size], rows filled up with negative numbers (see
            `fedred.local_training.batch_schedule`).
    """
    batches = [row[row >= 0].tolist() for row in schedule]
    source = torch.Generator()  # never used for batches, but else a loader advances the global one
    return DataLoader(data, batch_sampler=batches, num_workers=0, generator=source)


def train_client(
    module: nn.Module, data: ClientImages, schedule: np.ndarray, training: LocalTraining
) -> None:
    """Train a network in place on the batches of one client."""
    device = next(module.parameters()).device
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    for images, labels in loader(data, schedule):
        optimiser.zero_grad()
        F.cross_entropy(module(images.to(device)), labels.to(device)).backward()
        optimiser.step()


def train_clients(
    build: Callable[[], nn.Module],
    start: Tensor,
    data: Sequence[ClientImages],
    schedules: Sequence[np.ndarray],
    training: LocalTraining,
) -> Tensor:
    """Train every client from the same start, each in a fresh network.

    Args:
        build: makes a network.
        start: parameters before training [P].
        data: of each client.
        schedules: batches of each client.
        training: the protocol.

    Returns:
        Parameters after training [n, P].
    """
    trained = []
    for client, schedule in zip(data, schedules, strict=True):
        module = build().to(start.device)
        nn.utils.vector_to_parameters(start.clone(), module.parameters())
        train_client(module, client, schedule, training)
        trained.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    return torch.stack(trained)


def network_output(module: nn.Module, vector: Tensor, images: Tensor) -> Tensor:
    """Return logits [images, C] of a network whose parameters are cut from a vector [P]."""
    parameters, first = {}, 0
    for name, parameter in module.named_parameters():
        last = first + parameter.numel()
        parameters[name] = vector[first:last].view(parameter.shape)
        first = last
    return functional_call(module, parameters, (images,))


def unrolled_error(
    module: nn.Module,
    weights: Tensor,
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    update: Tensor,
    options: Reconstruction,
    longest_slope: Tensor | None = None,
) -> Tensor:
    """Return the reconstruction error of one client, in weights as the paper writes it.

    Args:
        module: the network.
        weights: global weights w [P].
        images: X [images, channels, height, width].
        labels: Y [images, C].
        step_size: eta, a scalar.
        update: x [P].
        options: K and epsilon.
        longest_slope: slopes are cut to this length; None: never.
    """
    target = weights + update
    theta = weights.clone().requires_grad_()
    for _ in range(options.steps):
        log_probabilities = F.log_softmax(network_output(module, theta, images), 1)
        loss = -(labels.softmax(1) * log_probabilities).mean()
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        if longest_slope is not None:
            slope = slope * (longest_slope / slope.norm()).clamp(max=1)
        theta = theta - step_size * slope
    distance = (theta - target).square().sum()
    return (distance + options.epsilon) / (update.square().sum() + options.epsilon)


def reconstruct_client(
    module: nn.Module,
    weights: Tensor,
    update: Tensor,
    start: Sequence[Tensor],
    iterations: int,
    threshold: float,
    options: Reconstruction,
    longest_slope: Tensor | None = None,
) -> tuple[Tensor, int, Sequence[Tensor]]:
    """Learn X, Y and eta of one client by an optimiser of PyTorch, with early stop and giving up.

    Args:
        module: the network.
        weights: global weights w [P].
        update: x [P].
        start: X, Y and eta before.
        iterations: the most iterations.
        threshold: early stop.
        options: learning rates, momentum, K.
        longest_slope: slopes are cut to this length; None: never.

    Returns:
        The last error, the iterations made, and X, Y and eta as they were for that error.
    """
    parts = [part.detach().clone().requires_grad_() for part in start]
    optimiser, errors = optimiser_of(parts, options), []
    for iteration in range(1, iterations + 1):
        error = unrolled_error(module, weights, *parts, update, options, longest_slope)
        errors.append(float(error.detach()))
        if not error.isfinite() or error < threshold or iteration == iterations:
            break
        if is_given_up(errors, iterations - iteration, threshold, options.give_up):
            break
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return error.detach(), iteration, [part.detach() for part in parts]


def optimiser_of(parts: Sequence[Tensor], options: Reconstruction) -> torch.optim.Optimizer:
    """Return what learns X, Y and eta; a bounded eta is not learned."""
    rates = (options.image_lr, options.label_lr, options.step_size_lr)
    if options.step_size == "bounded":
        rates = (*rates[:2], 0.0)
    groups = [{"params": [part], "lr": lr} for part, lr in zip(parts, rates, strict=True)]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum)
    return torch.optim.Adam(groups, betas=(options.momentum, ADAM_DECAY), eps=ADAM_EPSILON)


def is_given_up(errors: Sequence[float], left: int, threshold: float, times: float) -> bool:
    """Tell whether an error, falling `times` as fast as lately, stays above the threshold."""
    if not times or len(errors) <= FALLS:
        return False
    last = errors[-FALLS - 1 :]
    fastest = max(before - after for before, after in itertools.pairwise(last))
    return errors[-1] - times * max(fastest, 0.0) * left >= threshold


def reconstruct(
    model: FlatModel,
    weights: Tensor,
    updates: Tensor,
    knowledge: Knowledge,
    iterations: Tensor,
    threshold: float | None,
    options: Reconstruction,
    clients_per_chunk: int = 1,
    longest_slope: Tensor | None = None,
) -> Reconstructed:
    """Reconstruct one client after the other, as `fedred.reconstruction.reconstruct` does."""
    if threshold is None:
        threshold, options = -1.0, replace(options, give_up=0.0)
    errors, made, learned = zip(
        *(
            reconstruct_client(
                model.module, weights, update, start, int(budget), threshold, options, longest_slope
            )
            for update, budget, *start in zip(updates, iterations, *knowledge, strict=True)
        ),
        strict=True,
    )
    parts = (torch.stack(part) for part in zip(*learned, strict=True))
    return Reconstructed(torch.stack(errors), iterations.new_tensor(made), Knowledge(*parts))


def local_updates_of(
    build: Callable[[], nn.Module], data: Sequence[ClientImages]
) -> Callable[[Federation, Tensor, Tensor, int], Tensor]:
    """Return a plain twin of `fedred.simulation.local_updates` for attackers that train honestly.

    Args:
        build: makes a network.
        data: of each client of the federation.
    """

    def local_updates(
        federation: Federation, weights: Tensor, participants: Tensor, round: int
    ) -> Tensor:
        training, clients = federation.training, participants.tolist()
        schedules = [
            batch_schedule(
                len(data[client]),
                training,
                rng.generator(federation.seed, "batches", round, client),
            )
            for client in clients
        ]
        own = [data[client] for client in clients]
        return train_clients(build, weights, own, schedules, training) - weights

    return local_updates


@contextmanager
def plain_round(build: Callable[[], nn.Module], data: Sequence[ClientImages]) -> Iterator[None]:
    """While entered, a round of the simulation trains and reconstructs by the plain twins."""
    local_updates = local_updates_of(build, data)
    with (
        patch.object(fedred.simulation, "local_updates", local_updates),
        patch.object(fedred.defenses.fedredefense, "reconstruct", reconstruct),
    ):
        yield
