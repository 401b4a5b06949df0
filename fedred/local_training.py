"""Local training: plain SGD of all participants, many clients at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedred.chunks import in_chunks
from fedred.gradients import Pulled, value_and_pull
from fedred.options import check_options, option
from fedred.papers import MCMAHAN, Paper
from fedred.parameters import FlatModel

PADDING = -1


@dataclass(frozen=True)
class LocalTraining:
    """The client protocol that the server announces: SGD on the client's own samples.

    v <- momentum v + (g + weight_decay theta);  theta <- theta - lr v, with v = 0 at the start of a
    round, on shuffled batches; the last, smaller batch of an epoch is kept.

    Source: McMahan et al., AISTATS 2017; defaults of FedREDefense's experiments.
    """

    lr: float = option(0.001, "learning rate", gt=0)
    momentum: float = option(0.0, "momentum", ge=0, lt=1)
    weight_decay: float = option(0.0, "weight decay (L2)", ge=0)
    batch_size: int = option(32, "samples in a batch", ge=1, le=100_000)
    epochs: int = option(1, "passes over the client's samples in a round", ge=1, le=10_000)

    papers: ClassVar[tuple[Paper, ...]] = (MCMAHAN,)

    def __post_init__(self) -> None:
        check_options(self)

    def steps(self, samples: int) -> int:
        """Return how many SGD steps a client with so many samples makes in a round."""
        return self.epochs * -(-samples // self.batch_size)


def batch_schedule(
    samples: int, training: LocalTraining, generator: np.random.Generator
) -> np.ndarray:
    """Draw the batches of one client in one round.

    Returns:
        Sample indices int64 [steps, batch size]; each epoch is a permutation, its last row filled up
        with PADDING.
    """
    width = training.batch_size
    rows = -(-samples // width)
    schedule = np.full((training.epochs, rows * width), PADDING, dtype=np.int64)
    for epoch in schedule:
        epoch[:samples] = generator.permutation(samples)
    return schedule.reshape(-1, width)


def train_clients(
    model: FlatModel,
    starts: Tensor,
    data: Sequence[tuple[Tensor, Tensor]],
    schedules: Sequence[np.ndarray],
    training: LocalTraining,
    clients_per_chunk: int,
) -> Tensor:
    """Train every client from its own start; equal to one plain loop per client.

    Args:
        model: the network as a function of its parameters.
        starts: parameters before training, [n, P], or [P] for all.
        data: each client's normalised images [samples, channels, height, width] and labels [samples].
        schedules: each client's batches (see `batch_schedule`); clients may differ in length.
        training: the protocol.
        clients_per_chunk: how many clients are trained at once; 1 is a loop. Changes speed and
            memory, and results only by rounding.

    Returns:
        Parameters after training [n, P].
    """
    starts = starts.expand(len(data), -1)
    trained = starts.new_empty(starts.shape)
    by_length = sorted(range(len(data)), key=lambda i: -len(schedules[i]))

    def train(places: range, most: int) -> None:
        chunk = by_length[places.start : places.stop]
        batches = _batches([data[i] for i in chunk], [schedules[i] for i in chunk])
        program = value_and_pull(_loss_of(model), len(chunk), model.compiled, most)
        trained[chunk] = _train_chunk(program, starts[chunk], batches, training)

    in_chunks(len(data), clients_per_chunk, train)
    return trained


def _loss_of(model: FlatModel) -> Callable[..., Tensor]:
    def loss(vector: Tensor, images: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        losses = F.cross_entropy(model(vector, images), labels, reduction="none")
        return (losses * mask).sum() / mask.sum().clamp(min=1)

    return loss


def _batches(
    data: Sequence[tuple[Tensor, Tensor]], schedules: Sequence[np.ndarray]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield step by step images [n, batch, ...], labels and mask [n, batch] of n clients.

    Padding repeats a client's sample 0 with mask 0: no layer mixes samples, so it changes nothing.
    """
    rows = np.full((max(map(len, schedules)), len(data), schedules[0].shape[1]), PADDING)
    for client, schedule in enumerate(schedules):
        rows[: len(schedule), client] = schedule
    starts = np.cumsum([0, *(len(labels) for _, labels in data[:-1])])
    images, labels = (_joined(parts) for parts in zip(*data, strict=True))
    indices = torch.from_numpy(rows.clip(min=0) + starts[:, None]).to(labels.device)
    masks = torch.from_numpy(rows != PADDING).to(images)
    for index, mask in zip(indices, masks, strict=True):
        yield images[index], labels[index], mask


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _train_chunk(
    slopes: Callable[..., Pulled],
    starts: Tensor,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    training: LocalTraining,
) -> Tensor:
    vectors, velocity = starts, torch.zeros_like(starts)
    for batch in batches:
        active = batch[2].any(1, keepdim=True)
        step = slopes(vectors, *batch)[1]() + training.weight_decay * vectors
        velocity = training.momentum * velocity + step
        vectors = torch.where(active, vectors - training.lr * velocity, vectors)
    return vectors
