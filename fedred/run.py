"""One run from settings to results: assemble, resume, play the rounds, stop cleanly, write."""

import logging
import math
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fedred import rng
from fedred.datasets import Dataset
from fedred.errors import UserError, printable
from fedred.execution import (
    Execution,
    choose_clients_per_chunk,
    choose_to_compile,
    forward_operations,
)
from fedred.metrics import average_detection
from fedred.models import flat_model
from fedred.partition import ClientIndices, description
from fedred.provenance import versions
from fedred.run_folder import RunFolder
from fedred.run_warnings import (
    Warnings,
    data_warnings,
    doubtful_settings,
    history_warnings,
    round_warnings,
)
from fedred.simulation import (
    Federation,
    Record,
    State,
    initial_state,
    participants_of,
    simulate,
)

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Something that shows how far a run is."""

    def update(self, state: State, record: Record) -> None: ...


@dataclass(frozen=True)
class Limits:
    """When to save and when to stop: rounds between two checkpoints, a moment of time.monotonic()."""

    checkpoint_every: int = 5
    deadline: float = math.inf


RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
ECHO_SECONDS = 2.0
"""At a time limit SLURM sends SIGTERM twice within some milliseconds: to the job, and to its step."""


@dataclass
class StopRequest(AbstractContextManager["StopRequest"]):
    """Notes SIGTERM, SIGINT and SIGHUP while it is entered; the round in progress is finished first.

    A terminal that is closed sends SIGHUP, except to what ignores it, as nohup arranges.

    A signal that comes later than ECHO_SECONDS after the first has its usual effect.
    """

    signal: int | None = None
    _since: float = 0.0
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *[signal.SIGHUP] * hangup):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif now - self._since > ECHO_SECONDS:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

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
    settings: Any,
    dataset: Dataset,
    clients: ClientIndices,
) -> Federation:
    """Build the federation that the settings describe, in main memory.

    Args:
        settings: checked settings (`fedred.config.Settings`).
        dataset: training and test images.
        clients: who holds which training images.

    Raises:
        UserError: when the partition was made from another data set, or an option does not fit the data.
    """
    if clients.dataset_checksum != dataset.checksum:
        raise UserError("the partition was made from another data set: make it anew")
    if max(int(index.max()) for index in clients.indices) >= len(dataset.train_labels):
        raise UserError("the partition deals samples that the data set does not hold: make it anew")
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
    return Federation(
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
        class_names=dataset.classes,
    )


def executed(federation: Federation, device: torch.device, execution: Execution) -> Federation:
    """Return a federation on a device, with the choices of speed and memory made for its size.

    Args:
        federation: as `assemble` builds it.
        device: where to compute.
        execution: what the user chose.
    """
    federation = federation.to(device)
    model = federation.model
    participants = participants_of(federation.participation, len(federation.clients))
    chunk = execution.clients_per_chunk or choose_clients_per_chunk(
        model, device, participants, execution.jobs_per_gpu
    )
    compiled = choose_to_compile(execution.compile, device, training_operations(federation))
    return replace(federation, model=replace(model, compiled=compiled), clients_per_chunk=chunk)


def training_operations(federation: Federation) -> float:
    """Return the floating-point operations of all local training of a run; backward costs two forward."""
    samples = sum(len(labels) for _, labels in federation.clients)
    passes = federation.rounds * federation.participation * federation.training.epochs
    return 3.0 * forward_operations(federation.model) * samples * passes


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
        Stopped: when asked to stop by a signal or by `limits.deadline`; a checkpoint is written.
    """
    made_by = versions()
    for end, attacked in attacked_classes(federation).items():
        log.info("attack %s: class %d, '%s'", end, attacked["class"], attacked["name"])
    computed = how_computed(federation)
    first, observe = initial_state(federation), folder.recorder(federation.malicious)
    state, records = folder.load_checkpoint(first, computed) or (first, [])
    if records:
        log.info("resuming after round %d of %d", state.round, federation.rounds)
    beforehand = doubtful_settings(folder.settings) | data_warnings(federation)
    log_warnings(beforehand)
    told = round_warnings(records[-1]) if records else {}
    with StopRequest() as stop:
        for state, record in simulate(federation, state, observe):  # noqa: B020
            records.append(record)
            told = log_round(record, told)
            if progress:
                progress.update(state, record)
            if state.round == federation.rounds:
                break
            ends = stop.signal is not None or time.monotonic() >= limits.deadline
            if ends or state.round % limits.checkpoint_every == 0:
                folder.save_checkpoint(state, records, computed)
            if ends:
                raise Stopped(state.round, stop.signal)
        found = history_warnings(folder.settings, records)
        log_warnings(found)
        summary = {
            **summarise_run(federation, records),
            "warnings": beforehand | found,
            "memory": memory_of(federation, state),
            "versions": made_by,
        }
        folder.write_results(state, records, summary)


def log_round(record: Record, before: Warnings) -> Warnings:
    """Log what a round tells unless the round before told of the same kinds; return it."""
    now = round_warnings(record)
    if now.keys() - before.keys():
        log.warning("round %d: %s", record.summary["round"], "; ".join(now.values()))
    return now


def log_warnings(warnings: Warnings) -> None:
    """Log each sentence on a line of its own."""
    for sentence in warnings.values():
        log.warning("warning: %s", sentence)


def how_computed(federation: Federation) -> str:
    """Return what decides the last bits of a run besides its settings, data and code."""
    parts = [
        f"PyTorch {torch.__version__} on {federation.device.type}",
        f"{torch.get_num_threads()} threads",
        f"{federation.clients_per_chunk} clients at once",
        "compiled" if federation.model.compiled else "not compiled",
    ]
    if federation.device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        parts.append("TF32")
    return ", ".join(parts)


def memory_of(federation: Federation, state: State) -> dict[str, int]:
    """Return bytes: the peak of this process (on a GPU that of its tensors), and what the defense keeps.

    The peak is that of the process that finished the run; it depends on the machine.
    """
    if federation.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(federation.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT
    return {"peak": peak, "defense": sum(kept.nbytes for kept in state.defense.values())}


def attacked_classes(federation: Federation) -> dict[str, dict[str, Any]]:
    """Return number and name of the target of an attack, and of its source if it has one of its own.

    Names are those of folders: what is not printable in them stands as escapes.
    """
    backdoor = federation.attack.backdoor
    ends = {"target": backdoor.target, "source": backdoor.source} if backdoor else {}
    names = dict(enumerate(map(printable, federation.class_names)))
    return {
        end: {"class": number, "name": names.get(number)}
        for end, number in ends.items()
        if number is not None
    }


def summarise_run(federation: Federation, records: Sequence[Record]) -> dict[str, Any]:
    """Return what `run.json` says about a finished run besides its settings."""
    last: Mapping[str, float] = records[-1].summary
    rates = ("accuracy", "attack_success_rate", "DACC", "FPR", "FNR")
    summaries = [record.summary for record in records]
    seconds = {part: sum(r.seconds[part] for r in records) for part in records[-1].seconds}
    return {
        "device": str(federation.device),
        "computed": how_computed(federation),
        "timings": {part: round(total, 3) for part, total in seconds.items()},
        "selects": federation.defense.traits.selects,
        "attacked_classes": attacked_classes(federation),
        "final": {**{name: last[name] for name in rates}, **average_detection(summaries)},
    }
