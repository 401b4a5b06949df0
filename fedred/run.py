"""One run from settings to results: assemble, resume, play the rounds, stop cleanly, write."""

import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fedred import rng
from fedred.datasets import Dataset
from fedred.errors import UserError
from fedred.metrics import average_detection
from fedred.models import flat_model
from fedred.partition import ClientIndices, description
from fedred.provenance import versions
from fedred.run_folder import RunFolder
from fedred.simulation import Federation, Record, State, initial_state, simulate

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Something that shows how far a run is."""

    def update(self, state: State, record: Record) -> None: ...


@dataclass(frozen=True)
class Limits:
    """When to save and when to stop: rounds between two checkpoints, and seconds (None: no limit)."""

    checkpoint_every: int = 5
    max_seconds: float | None = None


@dataclass
class StopRequest(AbstractContextManager["StopRequest"]):
    """Notes SIGTERM and SIGINT while it is entered; the round in progress is finished first.

    A second signal of the same kind has its usual effect.
    """

    signal: int | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Stopped(Exception):  # noqa: N818 (no error)
    """A run that ended before its last round, with a checkpoint to resume from.

    Args:
        round: the last finished round.
        signal: the signal that asked for it, or None for the time limit.
    """

    def __init__(self, round: int, signal: int | None) -> None:
        super().__init__(round, signal)
        self.round, self.signal = round, signal


def assemble(
    settings: Any, dataset: Dataset, clients: ClientIndices, device: torch.device
) -> Federation:
    """Build the federation that the settings describe.

    Args:
        settings: checked settings (`fedred.config.Settings`).
        dataset: training and test images.
        clients: who holds which training images.
        device: where to compute.

    Raises:
        UserError: when the partition was made from another data set, or an option does not fit the data.
    """
    if clients.dataset_checksum != dataset.checksum:
        raise UserError("the partition was made from another data set: make it anew")
    wanted = (settings.dataset.name, description(settings.partition.build(), settings.seed))
    for found, asked in zip((dataset.name, clients.made_by), wanted, strict=True):
        if found != asked:
            raise UserError(f"the file given holds {found}, but the settings ask for {asked}")
    attack = settings.attack.build()
    classes = len(dataset.classes)
    for end in ("target", "source"):
        value = getattr(attack.backdoor, end, None)
        if value is not None and value >= classes:
            raise UserError(
                f"attack.{end} is {value}, "
                f"but {dataset.name} has only the classes 0 to {classes - 1}"
            )
    defense = settings.defense.build()
    malicious = torch.zeros(len(clients.indices), dtype=torch.bool)
    malicious[len(malicious) - settings.malicious :] = True
    federation = Federation(
        model=flat_model(settings.model.build(), dataset.input_shape, classes),
        clients=tuple(
            (dataset.normalise(dataset.train_images[index]), dataset.train_labels[index])
            for index in clients.indices
        ),
        test_images=dataset.normalise(dataset.test_images),
        test_labels=dataset.test_labels,
        malicious=malicious,
        attack=attack,
        defense=defense,
        training=settings.training.build(),
        rounds=settings.rounds,
        participation=settings.participation,
        evaluate_every=settings.evaluate_every,
        clean=clean_data(dataset, clients, defense.traits.clean_samples, settings.seed),
        seed=settings.seed,
    )
    return federation.to(device)


def clean_data(
    dataset: Dataset, clients: ClientIndices, samples: int, seed: int
) -> tuple[Tensor, Tensor] | None:
    """Draw the server's own clean images and labels from those that the clients hold.

    Source: the root data of FLTrust (Cao et al., NDSS 2021, section VI), drawn uniformly.

    Raises:
        UserError: when the clients hold fewer.
    """
    if not samples:
        return None
    pool = torch.cat(clients.indices).numpy()
    if samples > len(pool):
        raise UserError(f"the server asks for {samples} clean samples, but there are {len(pool)}")
    drawn = np.sort(rng.generator(seed, "clean").choice(pool, samples, replace=False))
    index = torch.from_numpy(drawn)
    return dataset.normalise(dataset.train_images[index]), dataset.train_labels[index]


def run(
    federation: Federation, folder: RunFolder, limits: Limits, progress: Progress | None = None
) -> None:
    """Play all rounds that are left, from the checkpoint if there is one, and write the results.

    Raises:
        Stopped: when asked to stop by a signal or by `limits.max_seconds`; a checkpoint is written.
    """
    made_by = versions()
    resumed = folder.load_checkpoint(federation.device)
    state, records = resumed or (initial_state(federation), [])
    if records:
        log.info("resuming after round %d of %d", state.round, federation.rounds)
    seconds = math.inf if limits.max_seconds is None else limits.max_seconds
    deadline = time.monotonic() + seconds
    with StopRequest() as stop:
        for state, record in simulate(federation, state):  # noqa: B020
            records.append(record)
            if progress:
                progress.update(state, record)
            if state.round == federation.rounds:
                break
            ends = stop.signal is not None or time.monotonic() >= deadline
            if ends or state.round % limits.checkpoint_every == 0:
                folder.save_checkpoint(state, records)
            if ends:
                raise Stopped(state.round, stop.signal)
        folder.write_results(
            state, records, {**summarise_run(federation, records), "versions": made_by}
        )


def summarise_run(federation: Federation, records: Sequence[Record]) -> dict[str, Any]:
    """Return what `run.json` says about a finished run besides its settings."""
    last: Mapping[str, float] = records[-1].summary
    rates = ("accuracy", "attack_success_rate", "DACC", "FPR", "FNR")
    summaries = [record.summary for record in records]
    seconds = {part: sum(r.seconds[part] for r in records) for part in records[-1].seconds}
    return {
        "device": str(federation.device),
        "timings": {part: round(total, 3) for part, total in seconds.items()},
        "selects": federation.defense.traits.selects,
        "final": {**{name: last[name] for name in rates}, **average_detection(summaries)},
    }
