"""A federation that plays a round in milliseconds, on real digits."""

from pathlib import Path

import torch

from fedred.config import resolve
from fedred.execution import Execution
from fedred.partition import partition
from fedred.run import assemble, executed
from fedred.simulation import Federation, Record, State, initial_state, simulate

SETTINGS = {
    "dataset": "digits",
    "partition": {"name": "balanced_dirichlet", "alpha": 0.5, "clients": 8},
    "model": {"name": "mlp", "width": 16},
    "training": {"lr": 0.1, "batch_size": 16},
    "malicious": 2,
    "rounds": 3,
}
DEFENSE = {
    "name": "fedredefense",
    "reconstruction": {
        "step_size": "calibrated",
        "image_lr": 60.0,
        "label_lr": 15.0,
        "first_iterations": 15,
        "later_iterations": 15,
    },
}


def federation(execution: Execution = Execution(), **changes: object) -> Federation:  # noqa: B008
    """Build the federation of SETTINGS with some of them replaced."""
    settings = resolve({**SETTINGS, **changes})
    dataset = settings.dataset.build().load(Path("no-data"), download=False)
    labels, classes = dataset.train_labels, len(dataset.classes)
    clients = partition(
        settings.partition.build(), labels, classes, settings.seed, dataset.checksum
    )
    return executed(assemble(settings, dataset, clients), torch.device("cpu"), execution)


def play(federation: Federation) -> tuple[State, list[Record]]:
    """Play all rounds; return the last state and all records."""
    states, records = zip(*simulate(federation, initial_state(federation)), strict=True)
    return states[-1], list(records)
