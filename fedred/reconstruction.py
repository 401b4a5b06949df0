"""The heart: reconstruct model updates by unrolled training on a few learned synthetic images.

For one client with update x around the global weights w, with synthetic images X, soft labels Y and
step size eta:

    d_0 = 0,   d_{k+1} = d_k - eta * grad L(w + d_k; X, Y),   k = 0 .. K-1
    L = mean over images and classes of  - softmax(Y) * log_softmax(model(X))
    error = ||d_K - x||^2 / ||x||^2

X, Y and eta are learned by SGD with momentum on the error, through the unrolled training. The error is
written in displacements d from w, not in weights: a small update of large weights loses no digits.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from fedred.chunks import in_chunks
from fedred.gradients import value_and_pull
from fedred.local_training import LocalTraining
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
    `bounded`: the server trains noise of its own by the same protocol (see `probe`), which gets a
    distance D far and has slopes up to G. Then eta is fixed at

        min(budget * D, path * ||x||) / (steps * G)

    and synthetic gradients are cut to length G. So the path is at most budget * D long, whatever is
    learned, and an update longer than budget * D / (1 - sqrt(threshold)) never passes.

    With `give_up`, a client is given up as soon as its error, falling from here on `give_up` times as
    fast as in the fastest of the last three iterations, would not reach the threshold in time.

    Source: Xie, Fang, Gong, ICML 2024, section 4 and its released code; `calibrated`, `bounded`, `adam`
    and `give_up` are ours (docs/calibration.md).
    """

    steps: int = option(5, "unrolled training steps K", ge=1, le=1_000)
    images_per_class: int = option(1, "synthetic images per class", ge=1, le=1_000)
    image_lr: float = option(0.1, "learning rate of the images X", ge=0)
    label_lr: float = option(0.05, "learning rate of the soft labels Y", ge=0)
    step_size_lr: float = option(5e-5, "learning rate of the step size eta", ge=0)
    momentum: float = option(0.5, "momentum of all three; of Adam, its first decay", ge=0, lt=1)
    optimizer: Literal["sgd", "adam"] = option("sgd", "what learns X, Y and eta")
    step_size: Literal["released", "calibrated", "bounded"] = option(
        "released", "how eta is chosen"
    )
    initial_step_size: float = option(0.05, "eta at the start, when released", gt=0)
    budget: float = option(1.5, "synthetic over local path length, or over the noise's", gt=0)
    path: float = option(1.0, "longest path over the update's length, when bounded", gt=0)
    first_iterations: int = option(500, "most iterations in a client's first round", ge=1)
    later_iterations: int = option(1500, "most iterations in its later rounds", ge=1)
    give_up: float = option(
        0.0,
        "stop where falling so many times as fast as lately would not reach the threshold; 0: never",
        ge=0,
    )
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
        """Return eta [n], released or calibrated, for clients with these sample counts int64 [n]."""
        if self.step_size == "released":
            return torch.full((len(samples),), self.initial_step_size)
        local_steps = torch.tensor([training.steps(int(count)) for count in samples])
        return self.budget * training.lr * local_steps * classes / self.steps

    def learn(
        self, current: "Knowledge", slopes: "Knowledge", moments: Sequence["Knowledge"], made: int
    ) -> tuple["Knowledge", list["Knowledge"]]:
        """Make one step on X, Y and eta as torch.optim.SGD or torch.optim.Adam makes it.

        Args:
            current: of n clients.
            slopes: gradients of their errors.
            moments: the optimiser's memory of them: of slopes, and of squared slopes (Adam).
            made: steps made, this one included.

        Returns:
            What is learned, and the memory after.
        """
        eta_lr = 0.0 if self.step_size == "bounded" else self.step_size_lr
        rates = (self.image_lr, self.label_lr, eta_lr)
        direction: Callable[..., Direction] = OPTIMIZERS[self.optimizer]
        found = [
            direction(*part, self.momentum, made) for part in zip(slopes, *moments, strict=True)
        ]
        ways, first, second = (Knowledge(*part) for part in zip(*found, strict=True))
        moved = (part - lr * way for part, lr, way in zip(current, rates, ways, strict=True))
        return Knowledge(*moved), [first, second]

    def pace(
        self,
        model: FlatModel,
        weights: Tensor,
        updates: Tensor,
        samples: Tensor,
        training: LocalTraining,
        generator: np.random.Generator,
    ) -> "Pace":
        """Return the step sizes of clients at the start, and what their gradients are cut to.

        Args:
            model: the network as a function of its parameters.
            weights: global weights w [P].
            updates: x of each client [n, P].
            samples: what each client announces, int64 [n].
            training: the protocol that the server announces.
            generator: of the random images, when bounded.
        """
        if self.step_size != "bounded":
            return Pace(self.initial_step_sizes(training, samples, model.classes).to(updates))
        noise = self.initial_images(model, generator).to(weights)
        steps = [training.steps(int(count)) for count in samples]
        distances, slope = probe(model, weights, noise, training, max(steps))
        farthest = self.budget * distances[[step - 1 for step in steps]]
        wanted = self.path * updates.norm(dim=1)
        # fmin: an update whose length is not a number gets the longest path, and is judged by it
        return Pace(torch.fmin(farthest, wanted) / (self.steps * slope), slope)


Direction = tuple[Tensor, Tensor, Tensor]  # to go, and the memory of slopes and of their squares


def _sgd(slope: Tensor, first: Tensor, second: Tensor, momentum: float, made: int) -> Direction:
    velocity = momentum * first + slope
    return velocity, velocity, second


ADAM_DECAY, ADAM_EPSILON = 0.9, 1e-12  # of squares: tens of steps are made, not thousands


def _adam(slope: Tensor, first: Tensor, second: Tensor, momentum: float, made: int) -> Direction:
    first = momentum * first + (1 - momentum) * slope
    second = ADAM_DECAY * second + (1 - ADAM_DECAY) * slope.square()
    size = (second / (1 - ADAM_DECAY**made)).sqrt() + ADAM_EPSILON
    return first / (1 - momentum**made) / size, first, second


OPTIMIZERS = {"sgd": _sgd, "adam": _adam}


class Pace(NamedTuple):
    """step_sizes eta [n], and the longest synthetic gradient, a scalar (None: any length)."""

    step_sizes: Tensor
    longest_slope: Tensor | None = None


def probe(
    model: FlatModel, weights: Tensor, images: Tensor, training: LocalTraining, steps: int
) -> tuple[Tensor, Tensor]:
    """Train noise by the clients' protocol: how far can training get, and how steep is its start?

    The images are one batch with labels of one class, of two in turn, and of all; each is trained on.

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        images: noise [images, channels, height, width].
        training: the protocol that the server announces.
        steps: SGD steps.

    Returns:
        The longest distance from w after 1, 2, ... steps [steps], and the longest || grad L(w) ||.
    """
    found = [
        _training_path(model, weights, images, torch.arange(len(images)) % classes, training, steps)
        for classes in (1, 2, model.classes)
    ]
    distances, slopes = (torch.stack(parts).amax(0) for parts in zip(*found, strict=True))
    return distances, slopes / model.classes


def _training_path(
    model: FlatModel,
    weights: Tensor,
    images: Tensor,
    labels: Tensor,
    training: LocalTraining,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Return the distance from w after each step of SGD [steps], and the first slope's length."""
    labels = labels.to(images.device)
    slope = grad(lambda vector: F.cross_entropy(model(vector, images), labels))
    vector, velocity, distances = weights, torch.zeros_like(weights), []
    for _ in range(steps):
        velocity = training.momentum * velocity + slope(vector) + training.weight_decay * vector
        vector = vector - training.lr * velocity
        distances.append((vector - weights).norm())
    return torch.stack(distances), slope(weights).norm()


def soft_loss(model: FlatModel, vector: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return L: soft-label cross entropy, mean over images and classes.

    Args:
        model: the network as a function of its parameters.
        vector: parameters [P].
        images: X [images, channels, height, width].
        targets: probabilities [images, C].
    """
    return -(targets * F.log_softmax(model(vector, images), -1)).mean()


def synthetic_update(
    model: FlatModel,
    weights: Tensor,
    knowledge: Knowledge,
    steps: int,
    longest_slope: Tensor | None = None,
) -> Tensor:
    """Return d_K [P], the update that training on the knowledge of one client makes (see above).

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        knowledge: X, Y and eta of one client, without the leading axis.
        steps: K.
        longest_slope: gradients are cut to this length, a scalar; None: never.
    """
    images, labels, step_size = knowledge
    targets = labels.softmax(-1)

    def loss(displacement: Tensor) -> Tensor:
        return soft_loss(model, weights + displacement, images, targets)

    displacement = torch.zeros_like(weights)
    for _ in range(steps):
        slope = grad(loss)(displacement)
        if longest_slope is not None:
            slope = slope * (longest_slope / torch.maximum(slope.norm(), longest_slope))
        displacement = displacement - step_size * slope
    return displacement


def reconstruction_error(
    model: FlatModel,
    weights: Tensor,
    knowledge: Knowledge,
    update: Tensor,
    steps: int,
    epsilon: float = 0.0,
    longest_slope: Tensor | None = None,
) -> Tensor:
    """Return ||d_K - x||^2 / ||x||^2 of one client (see the head of this file).

    Args:
        model: the network as a function of its parameters.
        weights: global weights w [P].
        knowledge: X, Y and eta of one client, without the leading axis.
        update: the client's update x [P].
        steps: K.
        epsilon: added to numerator and denominator.
        longest_slope: gradients are cut to this length, a scalar; None: never.

    Returns:
        The error, a scalar; not finite when x is zero (and epsilon is) or not finite.
    """
    displacement = synthetic_update(model, weights, knowledge, steps, longest_slope)
    distance = (displacement - update).square().sum()
    return (distance + epsilon) / (update.square().sum() + epsilon)


Watch = Callable[[Tensor, int, Tensor], None]
"""Is told after each iteration: which clients int64 [m], iterations made, their errors [m]."""


def reconstruct(
    model: FlatModel,
    weights: Tensor,
    updates: Tensor,
    knowledge: Knowledge,
    iterations: Tensor,
    threshold: float | None,
    options: Reconstruction,
    clients_per_chunk: int,
    longest_slope: Tensor | None = None,
    watch: Watch | None = None,
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
        threshold: early stop, or None to spend all iterations, without giving up.
        options: learning rates, momentum, K.
        clients_per_chunk: how many clients are reconstructed at once; 1 is a loop. Changes results
            only by rounding.
        longest_slope: of `options.pace`.
        watch: is told the errors of every iteration.

    Returns:
        Errors as seen in each client's last iteration, iterations made, knowledge learned.
    """
    if threshold is None:
        options = replace(options, give_up=0.0)
    result = Reconstructed(
        updates.new_empty(len(updates)),
        torch.empty_like(iterations),
        Knowledge(*(part.clone() for part in knowledge)),
    )

    def learn(places: range, most: int) -> None:
        chunk = torch.arange(places.start, places.stop, device=updates.device)
        errors, made, learned = _reconstruct_chunk(
            model,
            weights,
            updates[places.start : places.stop],
            knowledge.take(chunk),
            iterations[chunk],
            -1.0 if threshold is None else threshold,
            options,
            most,
            longest_slope,
            watch and (lambda rows, made, now: watch(chunk[rows], made, now)),
        )
        result.errors[chunk], result.iterations[chunk] = errors, made
        result.knowledge.put(chunk, learned)

    in_chunks(len(updates), clients_per_chunk, learn)
    return result


def _reconstruct_chunk(
    model: FlatModel,
    weights: Tensor,
    updates: Tensor,
    knowledge: Knowledge,
    budgets: Tensor,
    threshold: float,
    options: Reconstruction,
    most: int,
    longest_slope: Tensor | None,
    watch: Watch | None,
) -> Reconstructed:
    def error(parts: Knowledge, update: Tensor) -> Tensor:
        how = (options.steps, options.epsilon, longest_slope)
        return reconstruction_error(model, weights, parts, update, *how)

    learned = Knowledge(*(part.clone() for part in knowledge))
    errors, iterations = updates.new_zeros(len(updates)), torch.zeros_like(budgets)
    moments = [Knowledge(*map(torch.zeros_like, knowledge)) for _ in range(2)]
    places = torch.arange(len(updates), device=updates.device)
    batch = _Batch(places, updates, budgets, knowledge, moments, [])
    program = value_and_pull(error, len(places), model.compiled, most)
    for made in itertools.count(1):
        now, pull = program(batch.current, batch.updates)
        errors[batch.places], iterations[batch.places] = now, made
        if watch:
            watch(batch.places, made, now)
        batch = batch._replace(recent=[*batch.recent[-FALLS:], now])
        stays = batch.staying(made, threshold, options.give_up)
        if stays.all():  # the usual case: nothing is copied, and a GPU waits once
            slopes = pull()
        else:
            gone, kept = (~stays).nonzero().flatten(), stays.nonzero().flatten()
            learned.put(batch.places[gone], batch.current.take(gone))
            if not len(kept):
                break
            batch, slopes = batch.take(kept), pull().take(kept)
            program = value_and_pull(error, len(kept), model.compiled, most)
        current, moments = options.learn(batch.current, slopes, batch.moments, made)
        batch = batch._replace(current=current, moments=moments)
    return Reconstructed(errors, iterations, learned)


class _Batch(NamedTuple):
    """The m clients of a chunk that are still reconstructed, and their places in it, int64 [m]."""

    places: Tensor
    updates: Tensor
    budgets: Tensor
    current: Knowledge
    moments: list[Knowledge]
    recent: list[Tensor]
    """Errors [m] of the last iterations, the latest last."""

    def take(self, index: Tensor) -> "_Batch":
        return _Batch(
            self.places[index],
            self.updates[index],
            self.budgets[index],
            self.current.take(index),
            [part.take(index) for part in self.moments],
            [part[index] for part in self.recent],
        )

    def staying(self, made: int, threshold: float, give_up: float) -> Tensor:
        """Return who goes on after so many iterations, bool [m]."""
        now = self.recent[-1]
        stays = now.isfinite() & ~(now < threshold) & (made < self.budgets)
        return stays & ~hopeless(self.recent, self.budgets - made, threshold, give_up)


FALLS = 3
"""An error falls slowly at first: so many falls are awaited, and the fastest counts."""


def hopeless(recent: Sequence[Tensor], left: Tensor, threshold: float, give_up: float) -> Tensor:
    """Return whose error will not reach the threshold, bool [n].

    Args:
        recent: errors [n] of the last iterations, the latest last.
        left: iterations that are left, int64 [n].
        threshold: to be reached.
        give_up: how many times as fast as in the fastest of the last falls an error may go on falling;
            0: nobody is hopeless.
    """
    if not give_up or len(recent) <= FALLS:
        return torch.zeros_like(left, dtype=torch.bool)
    falls = torch.stack([before - after for before, after in itertools.pairwise(recent)])
    return recent[-1] - give_up * falls.amax(0).clamp(min=0) * left >= threshold
