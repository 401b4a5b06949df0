"""The heart: reconstruct model updates by unrolled training on a few learned synthetic images.

For one client with update x around the global weights w, with synthetic images X, soft labels Y and
step size eta:

    d_0 = 0,   d_{k+1} = d_k - eta * grad L(w + d_k; X, Y),   k = 0 .. K-1
    L = mean over images and classes of  - softmax(Y) * log_softmax(model(X))
    error = ||d_K - x||^2 / ||x||^2

X, Y and eta are learned by SGD with momentum on the error, through the unrolled training. The error is
written in displacements d from w, not in weights: a small update of large weights loses no digits.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from fedred.local_training import LocalTraining, value_and_pull
from fedred.options import check_options, option
from fedred.parameters import FlatModel


class Knowledge(NamedTuple):
    """Distilled local knowledge of n clients: what of each of them the server has learned.

    images X [n, images, channels, height, width] (in normalised pixel units), labels Y [n, images, C]
    (logits), step_size eta [n].
    """

    images: Tensor
    labels: Tensor
    step_size: Tensor

    def take(self, index: Tensor) -> "Knowledge":
        """Return the knowledge of some clients."""
        return Knowledge(*(part[index] for part in self))

    def put(self, index: Tensor, other: "Knowledge") -> None:
        """Overwrite the knowledge of some clients in place."""
        for part, new in zip(self, other, strict=True):
            part[index] = new


class Reconstructed(NamedTuple):
    """errors [n] at the last iteration, iterations made int64 [n], and the learned knowledge."""

    errors: Tensor
    iterations: Tensor
    knowledge: Knowledge


@dataclass(frozen=True)
class Reconstruction:
    """How the server reconstructs updates; the defaults are the released CIFAR-10 numbers.

    step_size `released`: eta starts at `initial_step_size`. `calibrated`: eta starts at
    budget * lr * local_steps * C / steps, from the protocol that the server itself announces, so
    that the synthetic path is `budget` times as long as local training (the loss is divided by C).

    Source: Xie, Fang, Gong, ICML 2024, section 4 and its released code; calibration is ours.
    """

    steps: int = option(5, "unrolled training steps K", ge=1)
    images_per_class: int = option(1, "synthetic images per class", ge=1)
    image_lr: float = option(0.1, "learning rate of the images X", ge=0)
    label_lr: float = option(0.05, "learning rate of the soft labels Y", ge=0)
    step_size_lr: float = option(5e-5, "learning rate of the step size eta", ge=0)
    momentum: float = option(0.5, "momentum of all three", ge=0, lt=1)
    step_size: Literal["released", "calibrated"] = option("released", "where eta starts")
    initial_step_size: float = option(0.05, "eta at the start, when released", gt=0)
    budget: float = option(1.5, "synthetic over local path length, when calibrated", gt=0)
    first_iterations: int = option(500, "most iterations in a client's first round", ge=1)
    later_iterations: int = option(1500, "most iterations in its later rounds", ge=1)
    epsilon: float = option(0.0, "added to both norms of the error (released: 1e-9)", ge=0)

    def __post_init__(self) -> None:
        check_options(self)

    def images(self, classes: int) -> int:
        """Return the number of synthetic images of one client."""
        return self.images_per_class * classes

    def initial_images(self, model: FlatModel, generator: np.random.Generator) -> Tensor:
        """Draw X from N(0, 1) [images, channels, height, width]; one draw serves all clients."""
        shape = (self.images(model.classes), *model.input_shape)
        return torch.from_numpy(generator.standard_normal(shape, "float32"))

    def initial_step_sizes(self, training: LocalTraining, samples: Tensor, classes: int) -> Tensor:
        """Return eta at the start [n] for clients with these announced sample counts int64 [n]."""
        if self.step_size == "released":
            return torch.full((len(samples),), self.initial_step_size)
        local_steps = torch.tensor([training.steps(int(count)) for count in samples])
        return self.budget * training.lr * local_steps * classes / self.steps


def synthetic_update(model: FlatModel, weights: Tensor, knowledge: Knowledge, steps: int) -> Tensor:
    """Return d_K [P], the update that training on the knowledge of one client makes (see above).

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        knowledge: X, Y and eta of one client, without the leading axis.
        steps: K.
    """
    images, labels, step_size = knowledge
    targets = labels.softmax(-1)

    def loss(displacement: Tensor) -> Tensor:
        return -(targets * F.log_softmax(model(weights + displacement, images), -1)).mean()

    displacement = torch.zeros_like(weights)
    for _ in range(steps):
        displacement = displacement - step_size * grad(loss)(displacement)
    return displacement


def reconstruction_error(
    model: FlatModel,
    weights: Tensor,
    knowledge: Knowledge,
    update: Tensor,
    steps: int,
    epsilon: float = 0.0,
) -> Tensor:
    """Return ||d_K - x||^2 / ||x||^2 of one client (see the head of this file).

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        knowledge: X, Y and eta of one client, without the leading axis.
        update: the client's update x [P].
        steps: K.
        epsilon: added to numerator and denominator.

    Returns:
        The error, a scalar; not finite when x is zero (and epsilon is) or not finite.
    """
    displacement = synthetic_update(model, weights, knowledge, steps)
    distance = (displacement - update).square().sum()
    return (distance + epsilon) / (update.square().sum() + epsilon)


def reconstruct(
    model: FlatModel,
    weights: Tensor,
    updates: Tensor,
    knowledge: Knowledge,
    iterations: Tensor,
    threshold: float | None,
    options: Reconstruction,
    clients_per_chunk: int,
) -> Reconstructed:
    """Learn X, Y and eta of every client until its error is below the threshold.

    Clients do not touch each other. A client leaves the batch when its error is below the threshold,
    when its error is not finite (it never becomes finite again), or when its iterations are spent.

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        updates: x of each client [n, P].
        knowledge: where each client starts; not changed.
        iterations: the most iterations of each client int64 [n], at least 1.
        threshold: early stop, or None to spend all iterations.
        options: learning rates, momentum, K.
        clients_per_chunk: how many clients are reconstructed at once; 1 is a loop. Changes results
            only by rounding.

    Returns:
        Errors as seen in each client's last iteration, iterations made, knowledge learned.
    """
    chunks = torch.arange(len(updates), device=updates.device).chunk(
        -(-len(updates) // clients_per_chunk)
    )
    parts = [
        _reconstruct_chunk(
            model,
            weights,
            updates[chunk],
            knowledge.take(chunk),
            iterations[chunk],
            -1.0 if threshold is None else threshold,
            options,
        )
        for chunk in chunks
    ]
    learned = Knowledge(*map(torch.cat, zip(*(part.knowledge for part in parts), strict=True)))
    return Reconstructed(
        torch.cat([part.errors for part in parts]),
        torch.cat([part.iterations for part in parts]),
        learned,
    )


def _reconstruct_chunk(
    model: FlatModel,
    weights: Tensor,
    updates: Tensor,
    knowledge: Knowledge,
    budgets: Tensor,
    threshold: float,
    options: Reconstruction,
) -> Reconstructed:
    def error(parts: Knowledge, update: Tensor) -> Tensor:
        return reconstruction_error(model, weights, parts, update, options.steps, options.epsilon)

    rates = (options.image_lr, options.label_lr, options.step_size_lr)
    learned = Knowledge(*(part.clone() for part in knowledge))
    errors = updates.new_zeros(len(updates))
    iterations = torch.zeros_like(budgets)
    active = torch.arange(len(updates), device=updates.device)
    current, velocity = knowledge, Knowledge(*map(torch.zeros_like, knowledge))
    while True:
        now, pull = value_and_pull(error, len(active))(current, updates[active])
        errors[active] = now
        iterations[active] += 1
        stays = now.isfinite() & ~(now < threshold) & (iterations[active] < budgets[active])
        learned.put(active[~stays], current.take(~stays))
        if not stays.any():
            break
        active, slopes = active[stays], pull().take(stays)
        current, velocity = _sgd(current.take(stays), velocity.take(stays), slopes, rates, options)
    return Reconstructed(errors, iterations, learned)


def _sgd(
    current: Knowledge,
    velocity: Knowledge,
    slopes: Knowledge,
    rates: tuple[float, float, float],
    options: Reconstruction,
) -> tuple[Knowledge, Knowledge]:
    """One step of SGD with momentum, as torch.optim.SGD makes it, on X, Y and eta."""
    velocity = Knowledge(*(options.momentum * v + g for v, g in zip(velocity, slopes, strict=True)))
    moved = (p - lr * v for p, v, lr in zip(current, velocity, rates, strict=True))
    return Knowledge(*moved), velocity
