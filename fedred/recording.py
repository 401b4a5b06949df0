"""What a server received in one round, written down: record once, judge many times."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedred.defenses.interface import ServerView
from fedred.files import checksum_of, read_tensors, require_checksum, told, write_tensors

TENSORS = ("weights", "updates", "clients", "samples", "malicious")
ABOUT = ("settings", "round", "all_clients", "input_shape", "classes")


@dataclass(frozen=True)
class Recording:
    """One round as the server saw it, and the ground truth that it did not see.

    Args:
        weights: global model w before the round [P].
        updates: as received, forged ones included [n, P].
        clients: ids of the participants int64 [n], ascending.
        samples: what each of them announced int64 [n].
        malicious: ground truth of each of them, bool [n].
        settings: resolved settings of the run, as plain values.
        round: its number, from 1.
        all_clients: number of clients of the federation.
        input_shape: (channels, height, width) of an image.
        classes: C.
    """

    weights: Tensor
    updates: Tensor
    clients: Tensor
    samples: Tensor
    malicious: Tensor
    settings: Mapping[str, Any]
    round: int
    all_clients: int
    input_shape: tuple[int, int, int]
    classes: int

    @classmethod
    def of(
        cls, updates: Tensor, view: ServerView, malicious: Tensor, settings: Mapping[str, Any]
    ) -> "Recording":
        """Return the recording of a round.

        Args:
            updates: as received [n, P].
            view: what the server knew.
            malicious: ground truth, bool [all clients].
            settings: resolved settings of the run, as plain values.
        """
        return cls(
            weights=view.weights,
            updates=updates,
            clients=view.clients,
            samples=view.samples,
            malicious=malicious[view.clients],
            settings=settings,
            round=view.round,
            all_clients=view.all_clients,
            input_shape=view.model.input_shape,
            classes=view.model.classes,
        )


def write_recording(recording: Recording, path: Path) -> None:
    """Write a recording, whole or not at all.

    Raises:
        WriteError: when the file cannot be written.
    """
    tensors = {name: getattr(recording, name) for name in TENSORS}
    about = {name: getattr(recording, name) for name in ABOUT}
    texts = {"kind": "recording", "about": json.dumps(about, sort_keys=True)}
    texts["checksum"] = checksum_of(tensors, texts)
    write_tensors(tensors, texts, path)


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        UserError: for a file that is missing, torn, changed or of another kind.
    """
    tensors, texts = read_tensors(path, "recording")
    written = {"checksum": texts.pop("checksum", "")}
    require_checksum(path, checksum_of(tensors, texts), written)
    with told(f"{path} is not a whole recording: make the run again"):
        about = json.loads(texts["about"])
        about["input_shape"] = tuple(about["input_shape"])
        return Recording(**{name: tensors[name] for name in TENSORS} | about)
