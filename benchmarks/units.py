"""The units of work: each is computed by FedRED (`ours`) and by plain loops (`twin`)."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import twins
from fedred import rng
from fedred.attacks.fang_trim import FangTrim
from fedred.datasets import Dataset, Digits
from fedred.defenses.fedredefense import FedREDefense
from fedred.execution import Execution, choose_clients_per_chunk, choose_to_compile
from fedred.local_training import LocalTraining, batch_schedule, train_clients
from fedred.models import ConvNet, Model, flat_model, initial_parameters
from fedred.parameters import FlatModel
from fedred.partition import BalancedDirichlet, partition
from fedred.reconstruction import (
    Knowledge,
    Reconstructed,
    Reconstruction,
    reconstruct,
    synthetic_update,
)
from fedred.simulation import Federation, State, initial_state, play_round

CLASSES = 10
SEED = 0
GPU_TWIN_CLIENTS = 10
TYPICAL_TOLERANCE = 1e-3
UPDATE_TOLERANCE = (
    1e-2  # of the worst client: a ReLU that rounding switches moves one by 1e-3 (README)
)
ERROR_TOLERANCE = 1e-2

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Deviation:
    """How far the twin's result is from ours, and how far it may be."""

    of: str
    value: float
    tolerance: float

    @property
    def allowed(self) -> bool:
        """Whether both sides agree; what is not a number does not."""
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Facts:
    """What a prepared unit is.

    Args:
        clients: how many clients are computed.
        work: what one call computes, in words.
        chunk: how many clients ours computes at once.
        compiled: whether ours is.
        twin_clients: how many of the clients the twin computes, whose seconds count for all.
    """

    clients: int
    work: str
    chunk: int
    compiled: bool
    twin_clients: int


@dataclass(frozen=True)
class Prepared:
    """A unit with its data in place, ready to be timed.

    Args:
        facts: what it is.
        ours, twin: compute it and return the result.
        compare: deviations of two results.
    """

    facts: Facts
    ours: Callable[[], Any]
    twin: Callable[[], Any]
    compare: Callable[[Any, Any], list[Deviation]]


class Unit(Protocol):
    """What a member of UNITS is: sizes at construction, `prepare` makes the data."""

    summary: str

    def clients(self, device: torch.device) -> tuple[int, int]:
        """Return how many clients are computed on this device by default, and of how many."""

    def prepare(self, device: torch.device, clients: int, execution: Execution) -> Prepared:
        """Make data and starting points for some clients, for ours to be computed in this way."""


def relative_differences(ours: Tensor, twin: Tensor) -> Tensor:
    """Return ||ours - twin|| / ||twin|| [n] of the rows of two tensors [n, P]."""
    distance, length = (ours - twin).norm(dim=1), twin.norm(dim=1)
    return torch.where(distance == 0, 0.0, distance / length)


def difference_of_errors(ours: Tensor, twin: Tensor) -> Deviation:
    """Return the largest |ours - twin| / twin of reconstruction errors [n]."""
    value = float(relative_differences(ours[:, None], twin[:, None]).max())
    return Deviation("error", value, ERROR_TOLERANCE)


def random_dataset(shape: Shape, samples: int, test_samples: int = CLASSES) -> Dataset:
    """Return random images [samples, *shape] that resemble those of their class a little."""
    source = rng.generator(SEED, "subset")
    patterns = source.integers(0, 128, (CLASSES, *shape))

    def draw(size: int) -> tuple[Tensor, Tensor]:
        labels = source.permutation(np.arange(size) % CLASSES)
        pixels = patterns[labels] + source.integers(0, 128, (size, *shape))
        return torch.from_numpy(pixels.astype("uint8")), torch.from_numpy(labels)

    names = tuple(map(str, range(CLASSES)))
    numbers = (0.5,) * shape[0], (0.2,) * shape[0]
    return Dataset("random images", *draw(samples), *draw(test_samples), names, 255.0, *numbers)


def fashion_like() -> Dataset:
    """Return random images of the shape of Fashion-MNIST's, as many as the laptop's clients hold."""
    return random_dataset((1, 28, 28), 6000, 1000)


def cifar_like() -> Dataset:
    """Return random images of the shape and number of CIFAR-10's training images."""
    return random_dataset((3, 32, 32), 50_000, 1000)


def digits_or_random() -> Dataset:
    """Return the demo's digits, or random images of their shape where scikit-learn is missing."""
    try:
        return Digits().load(Path(), download=False)
    except ImportError:
        return random_dataset((1, 8, 8), 1437, 360)


def client_images(dataset: Dataset, indices: Sequence[Tensor]) -> list[twins.ClientImages]:
    """Return the samples of each client as the twins hold them, on the CPU."""
    return [
        twins.ClientImages(
            dataset.train_images[index],
            dataset.train_labels[index],
            dataset.scale,
            dataset.mean,
            dataset.std,
        )
        for index in indices
    ]


def network_and_start(
    network: Model, shape: Shape, device: torch.device
) -> tuple[FlatModel, Tensor]:
    """Return a network on a device, and its first parameters [P]."""
    model = flat_model(network, shape, CLASSES)
    return model.to(device), initial_parameters(model, rng.generator(SEED, "model")).to(device)


def of_device(unit: "TrainUnit | ReconstructUnit", device: torch.device) -> tuple[int, int]:
    """Return how many clients of a unit are computed on a device, and of how many."""
    on_cpu = (unit.cpu_clients, unit.all_clients)
    return on_cpu if device.type == "cpu" else (unit.gpu_clients, unit.gpu_clients)


def twin_clients(clients: int, device: torch.device) -> int:
    """Return how many clients the twin computes: on a GPU a few, or it would take many minutes."""
    return clients if device.type == "cpu" else min(clients, GPU_TWIN_CLIENTS)


def in_this_way(
    model: FlatModel, device: torch.device, clients: int, execution: Execution
) -> tuple[FlatModel, int]:
    """Return the network, compiled if asked for, and how many clients ours computes at once."""
    chunk = execution.clients_per_chunk or choose_clients_per_chunk(model, device, clients)
    return replace(model, compiled=choose_to_compile(execution.compile, device, 0.0)), chunk


def plain_network(model: FlatModel) -> Callable[[], nn.Module]:
    """Return what makes a fresh copy of a network with PyTorch's own layers only."""
    return partial(deepcopy, twins.with_stock_layers(model.module))


def on_normal(source: np.random.Generator, device: torch.device, *shape: int) -> Tensor:
    """Draw from N(0, 1) [*shape] on a device."""
    return torch.from_numpy(source.standard_normal(shape, "float32")).to(device)


@dataclass(frozen=True)
class TrainUnit:
    """Local training of clients from uint8 images to parameters [n, P], on the same batches."""

    summary: str
    network: Model
    shape: Shape
    samples: int
    training: LocalTraining
    all_clients: int
    cpu_clients: int
    gpu_clients: int = 100

    def clients(self, device: torch.device) -> tuple[int, int]:
        return of_device(self, device)

    def prepare(self, device: torch.device, clients: int, execution: Execution) -> Prepared:
        model, start = network_and_start(self.network, self.shape, device)
        model, chunk = in_this_way(model, device, clients, execution)
        dataset = random_dataset(self.shape, clients * self.samples)
        data = client_images(dataset, torch.arange(clients * self.samples).split(self.samples))
        schedules = [
            batch_schedule(self.samples, self.training, rng.generator(SEED, "batches", 1, client))
            for client in range(clients)
        ]

        def ours() -> Tensor:
            there = [(dataset.normalise(c.images.to(device)), c.labels.to(device)) for c in data]
            return train_clients(model, start, there, schedules, self.training, chunk)

        few = twin_clients(clients, device)

        def twin() -> Tensor:
            own = data[:few], schedules[:few], self.training
            return twins.train_clients(plain_network(model), start, *own)

        def compare(ours: Tensor, twin: Tensor) -> list[Deviation]:
            differences = relative_differences(ours[:few] - start, twin - start)
            return [
                Deviation("update, median client", float(differences.median()), TYPICAL_TOLERANCE),
                Deviation("update, worst client", float(differences.max()), UPDATE_TOLERANCE),
            ]

        facts = Facts(clients, self.work, chunk, model.compiled, few)
        return Prepared(facts, ours, twin, compare)

    @property
    def work(self) -> str:
        """What is computed for one client."""
        size = "x".join(map(str, self.shape))
        batches = f"batch {self.training.batch_size}, epochs {self.training.epochs}"
        return f"{self.network}, {self.samples} images of {size} a client, {batches}"


@dataclass(frozen=True)
class ReconstructUnit:
    """Reconstruction without early stop, of updates that a known synthetic training made."""

    summary: str
    network: Model
    shape: Shape
    options: Reconstruction
    all_clients: int
    cpu_clients: int
    cpu_iterations: int
    step_size: float = 0.05
    gpu_clients: int = 100
    gpu_iterations: int = 20

    def clients(self, device: torch.device) -> tuple[int, int]:
        return of_device(self, device)

    def prepare(self, device: torch.device, clients: int, execution: Execution) -> Prepared:
        model, weights = network_and_start(self.network, self.shape, device)
        model, chunk = in_this_way(model, device, clients, execution)
        updates, start = self.updates_and_start(model, weights, clients)
        iterations = self.cpu_iterations if device.type == "cpu" else self.gpu_iterations
        budgets = torch.full((clients,), iterations, device=device)
        few = twin_clients(clients, device)
        case = (model, weights, updates, start, budgets, None, self.options)
        part = (updates[:few], start.take(torch.arange(few, device=device)), budgets[:few])

        plain = replace(model, module=plain_network(model)())

        def compare(ours: Reconstructed, twin: Reconstructed) -> list[Deviation]:
            return [difference_of_errors(ours.errors[:few], twin.errors)]

        work = f"{self.work}, {iterations} iterations"
        return Prepared(
            Facts(clients, work, chunk, model.compiled, few),
            lambda: reconstruct(*case, chunk),
            lambda: twins.reconstruct(plain, weights, *part, None, self.options),
            compare,
        )

    def updates_and_start(
        self, model: FlatModel, weights: Tensor, clients: int
    ) -> tuple[Tensor, Knowledge]:
        """Return updates x [n, P] and other knowledge, to start from, which can approach them."""
        source, device = rng.generator(SEED, "defense"), weights.device
        images = self.options.images(CLASSES)
        step_size = torch.full((clients,), self.step_size, device=device)
        known, start = (
            Knowledge(
                on_normal(source, device, clients, images, *self.shape),
                spread * on_normal(source, device, clients, images, CLASSES),
                step_size,
            )
            for spread in (3.0, 0.0)
        )
        updates = [
            synthetic_update(model, weights, Knowledge(*parts), self.options.steps)
            for parts in zip(*known, strict=True)
        ]
        return torch.stack(updates), start

    @property
    def work(self) -> str:
        """What is computed for one client."""
        size = "x".join(map(str, self.shape))
        images = self.options.images(CLASSES)
        return f"{self.network}, {images} images of {size}, K = {self.options.steps}"


@dataclass(frozen=True)
class RoundUnit:
    """The first round of a federation: training, attack, reconstruction, aggregation, evaluation."""

    summary: str
    network: Model
    load: Callable[[], Dataset]
    training: LocalTraining
    reconstruction: Reconstruction
    rounds: int
    evaluate_every: int = 1
    samples_per_client: int | None = None
    all_clients: int = 20
    cpu_clients: int = 20
    alpha: float = 0.1
    malicious_share: float = 0.25

    def clients(self, device: torch.device) -> tuple[int, int]:
        return (self.cpu_clients if device.type == "cpu" else self.all_clients), self.all_clients

    def prepare(self, device: torch.device, clients: int, execution: Execution) -> Prepared:
        dataset = self.load()
        method = BalancedDirichlet(clients, self.samples_per_client, self.alpha)
        held = partition(method, dataset.train_labels, CLASSES, SEED, dataset.checksum).indices
        data = client_images(dataset, held)
        federation = self.federation(dataset, data, device)
        state = initial_state(federation)
        model, chunk = in_this_way(federation.model, device, clients, execution)
        ours = replace(federation, model=model, clients_per_chunk=chunk)
        plain = replace(model, module=plain_network(model)(), compiled=False)

        def twin() -> Played:
            with twins.plain_round(plain_network(model), data):
                return played(replace(federation, model=plain), state)

        work = (
            f"{self.network}, {dataset.name} {'x'.join(map(str, dataset.input_shape))}, "
            f"{int(federation.malicious.sum())} malicious, "
            f"at most {self.reconstruction.first_iterations} iterations"
        )
        return Prepared(
            Facts(clients, work, chunk, model.compiled, clients),
            lambda: played(ours, state),
            twin,
            lambda ours, twin: compare_rounds(state.weights, ours, twin),
        )

    def federation(
        self, dataset: Dataset, data: Sequence[twins.ClientImages], device: torch.device
    ) -> Federation:
        """Return the federation that holds these samples; its last clients are malicious."""
        malicious = torch.zeros(len(data), dtype=torch.bool)
        malicious[len(data) - int(self.malicious_share * len(data)) :] = True
        return Federation(
            model=flat_model(self.network, dataset.input_shape, CLASSES),
            clients=tuple((dataset.normalise(c.images), c.labels) for c in data),
            test_images=dataset.normalise(dataset.test_images),
            test_labels=dataset.test_labels,
            malicious=malicious,
            attack=FangTrim(),
            defense=FedREDefense(reconstruction=self.reconstruction),
            training=self.training,
            rounds=self.rounds,
            evaluate_every=self.evaluate_every,
            seed=SEED,
        ).to(device)


class Played(NamedTuple):
    """What is compared of a round: weights [P] after it, and each client's error and verdict [n]."""

    weights: Tensor
    errors: Tensor
    trusted: Tensor


def played(federation: Federation, state: State) -> Played:
    """Play a round from a state."""
    after, record = play_round(federation, state)
    return Played(after.weights, record.clients["score"], record.clients["trusted"])


def compare_rounds(before: Tensor, ours: Played, twin: Played) -> list[Deviation]:
    """Return how two rounds from the same weights differ: global update, errors, who is trusted."""
    value = float(relative_differences(*((side.weights - before)[None] for side in (ours, twin))))
    differently = float((ours.trusted != twin.trusted).sum())
    return [
        Deviation("global update", value, UPDATE_TOLERANCE),
        difference_of_errors(ours.errors, twin.errors),
        Deviation("clients judged differently", differently, 0.0),
    ]


SMALL = ConvNet(width=16, depth=2)
SMALL_TRAINING = LocalTraining(lr=0.05, batch_size=8)
DEMO = Reconstruction(
    step_size="calibrated",
    image_lr=20.0,
    label_lr=5.0,
    first_iterations=30,
    later_iterations=30,
)
CALIBRATED = Reconstruction(step_size="calibrated", image_lr=50.0, label_lr=10.0)
LAPTOP = Reconstruction(
    step_size="bounded",
    optimizer="adam",
    budget=0.45,
    image_lr=0.1,
    label_lr=0.3,
    first_iterations=18,
    later_iterations=18,
    give_up=2.0,
)

UNITS: dict[str, Unit] = {
    "train-128": TrainUnit(
        "local training, the paper's ConvNet of width 128",
        ConvNet(),
        (3, 32, 32),
        samples=500,
        training=LocalTraining(),
        all_clients=20,
        cpu_clients=4,
    ),
    "train-32": TrainUnit(
        "local training, ConvNet of width 32",
        ConvNet(width=32),
        (3, 32, 32),
        samples=500,
        training=LocalTraining(),
        all_clients=20,
        cpu_clients=10,
    ),
    "train-small": TrainUnit(
        "local training, the demo's network",
        SMALL,
        (1, 8, 8),
        samples=72,
        training=SMALL_TRAINING,
        all_clients=100,
        cpu_clients=100,
    ),
    "reconstruct-128": ReconstructUnit(
        "reconstruction, the paper's ConvNet of width 128",
        ConvNet(),
        (3, 32, 32),
        options=Reconstruction(),
        all_clients=4,
        cpu_clients=4,
        cpu_iterations=5,
    ),
    "reconstruct-32": ReconstructUnit(
        "reconstruction, ConvNet of width 32",
        ConvNet(width=32),
        (3, 32, 32),
        options=CALIBRATED,
        all_clients=20,
        cpu_clients=8,
        cpu_iterations=10,
    ),
    "reconstruct-small": ReconstructUnit(
        "reconstruction, the demo's network",
        SMALL,
        (1, 8, 8),
        options=DEMO,
        all_clients=20,
        cpu_clients=20,
        cpu_iterations=10,
    ),
    "round-demo": RoundUnit(
        "one round of config/config.yaml: fang_trim against fedredefense",
        SMALL,
        digits_or_random,
        training=SMALL_TRAINING,
        reconstruction=DEMO,
        rounds=20,
    ),
    "round-laptop": RoundUnit(
        "one round of config/laptop.yaml on random images: fang_trim against fedredefense",
        ConvNet(width=16),
        fashion_like,
        training=LocalTraining(lr=0.01),
        reconstruction=LAPTOP,
        rounds=40,
        evaluate_every=5,
        samples_per_client=300,
        malicious_share=0.3,
    ),
    "round-paper": RoundUnit(
        "one warm round of the paper's protocol on random images: fang_trim against fedredefense",
        ConvNet(),
        cifar_like,
        training=LocalTraining(),
        reconstruction=Reconstruction(first_iterations=5),
        rounds=500,
        samples_per_client=500,
        all_clients=100,
        cpu_clients=4,
        malicious_share=0.28,
    ),
}
