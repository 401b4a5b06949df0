"""What a run reads and writes: checkpoints to resume from, results at the end."""

import csv
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fedred.defenses.interface import ServerView
from fedred.errors import UserError, printable
from fedred.files import (
    Tensors,
    Texts,
    checksum_of,
    opened_whole,
    read_tensors,
    remove_unfinished,
    require_checksum,
    told,
    write_tensors,
)
from fedred.paths import opened, shown
from fedred.provenance import code_fingerprint
from fedred.recording import Recording, write_recording
from fedred.simulation import Observer, Record, State

log = logging.getLogger(__name__)

RESULTS = ("model.safetensors", "rounds.csv", "clients.parquet")
"""Files of a finished run beside SUMMARY, which is written last."""
SUMMARY = "run.json"


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN becomes null."""
    text = json.dumps(_without_nan(value), indent=2, allow_nan=False)
    with opened_whole(path) as file:
        file.write(f"{text}\n".encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run with these settings, made from this data.

    Args:
        path: the folder; made when something is written.
        settings: resolved settings of the run, as plain values.
        inputs: checksums of what the run is made from (data set, partition), by name.
    """

    path: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of settings, inputs and code: a checkpoint of another one is never used."""
        key = json.dumps([self.settings, self.inputs, code_fingerprint()], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.path / "checkpoint.safetensors"

    @property
    def results(self) -> list[Path]:
        """All files of the finished run, those of recorded rounds with them."""
        recorded = self.recordings(self.settings.get("rounds", 0))
        return [*(self.path / name for name in (*RESULTS, SUMMARY)), *recorded]

    @property
    def files(self) -> list[Path]:
        """All files that the run ever writes, but its lock."""
        return [self.checkpoint, *self.results]

    def is_summed_up(self) -> bool:
        """Tell whether finished results are here, of whatever settings."""
        return os.path.exists(self.path / SUMMARY)

    def is_complete(self) -> bool:
        """Tell whether the finished results of these settings are here, all of them.

        Raises:
            UserError: when finished results of other settings are here; they are never overwritten.
        """
        if not self.is_summed_up():
            return False
        summary = self.path / SUMMARY
        with opened(summary) as file:
            content = file.read()
        try:
            found = json.loads(content)["fingerprint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{shown(summary)} is not the summary of a run: remove it first"
            ) from None
        if found != self.fingerprint:
            raise UserError(
                f"{shown(self.path)} holds a finished run of other settings, data or code: "
                "choose another folder with --out, or remove it first"
            )
        return all(path.exists() for path in self.results)

    def recordings(self, last: int) -> list[Path]:
        """Return the files of the recorded rounds up to round `last`."""
        rounds = self.settings.get("record", ())
        return [self._recording(round) for round in rounds if round <= last]

    def _recording(self, round: int) -> Path:
        return self.path / "updates" / f"round-{round:04}.safetensors"

    def recorder(self, malicious: Tensor) -> Observer:
        """Return what writes the updates of the rounds to be recorded.

        Args:
            malicious: ground truth, bool [clients].
        """

        def observe(updates: Tensor, view: ServerView) -> None:
            if view.round in self.settings.get("record", ()):
                recording = Recording.of(updates, view, malicious, self.settings)
                write_recording(recording, self._recording(view.round))

        return observe

    def tidy(self) -> None:
        """Remove what killed processes left and is of no use; only for who owns the folder."""
        if self.is_complete() and self._is_own_checkpoint():
            self.checkpoint.unlink(missing_ok=True)
        remove_unfinished(self.files)

    def _is_own_checkpoint(self) -> bool:
        """Tell whether what has the name of the checkpoint is one of this run, and no file of a user."""
        try:
            _, marks = read_tensors(self.checkpoint, "checkpoint")
        except UserError:
            return False
        return marks.get("fingerprint") == self.fingerprint

    def save_checkpoint(self, state: State, records: Sequence[Record], computed: str) -> None:
        """Write the state and the history of all rounds so far, whole or not at all.

        Args:
            state: after the last round.
            records: of all rounds.
            computed: what decides the last bits besides settings, data and code.
        """
        marks = {
            "kind": "checkpoint",
            "fingerprint": self.fingerprint,
            "round": str(state.round),
            "columns": json.dumps(_columns(records)),
            "computed": computed,
        }
        tensors = {**_pack_state(state), **_pack_records(records)}
        marks["checksum"] = checksum_of(tensors, marks)
        write_tensors(tensors, marks, self.checkpoint)

    def load_checkpoint(self, first: State, computed: str) -> tuple[State, list[Record]] | None:
        """Return where to resume, or None; a torn or foreign checkpoint is set aside with one line.

        Args:
            first: the state before the first round, on the device where to compute.
            computed: as in `save_checkpoint`.
        """
        if not self.checkpoint.exists():
            return None
        try:
            with told("whatever is wrong in it"):
                tensors, marks = self._read_checkpoint()
                reason = self._misfit(marks, computed)
                resumed = None if reason else _unpack(tensors, marks, first)
        except UserError:
            reason, resumed = "is torn", None
        if reason:
            self._set_aside(reason)
        return resumed

    def _read_checkpoint(self) -> tuple[Tensors, Texts]:
        tensors, marks = read_tensors(self.checkpoint, "checkpoint")
        written = {"checksum": marks.pop("checksum", "")}
        require_checksum(self.checkpoint, checksum_of(tensors, marks), written)
        return tensors, marks

    def _misfit(self, marks: Mapping[str, str], computed: str) -> str:
        """Return why a whole checkpoint must not be used, or nothing."""
        if marks["fingerprint"] != self.fingerprint:
            return "belongs to other settings, data or code"
        if marks["computed"] != computed:
            return f"was computed otherwise ({marks['computed']}, now {computed})"
        if not all(path.exists() for path in self.recordings(int(marks["round"]))):
            return "is later than updates that were recorded and are gone"
        return ""

    def _set_aside(self, reason: str) -> None:
        aside = self.checkpoint.with_suffix(f".unusable-{time.time_ns()}")
        os.replace(self.checkpoint, aside)
        log.warning("%s %s: kept as %s, starting afresh", self.checkpoint, reason, aside.name)

    def write_results(
        self, state: State, records: Sequence[Record], summary: dict[str, Any]
    ) -> None:
        """Write the files of a finished run, `run.json` last, and remove the checkpoint."""
        model, rounds, clients = (self.path / name for name in RESULTS)
        write_tensors({"weights": state.weights}, {"kind": "model"}, model)
        _write_rounds(rounds, records)
        _write_clients(clients, records)
        name = printable(Path(os.path.abspath(self.path)).name)
        head = {"run": name, "settings": self.settings, "seed": self.settings["seed"]}
        marks = {"fingerprint": self.fingerprint, "inputs": dict(self.inputs)}
        write_json(self.path / SUMMARY, {**head, **summary, **marks})
        self.checkpoint.unlink(missing_ok=True)


STATE_TENSORS = ("weights", "previous_weights", "initial_weights", "excluded")


def _pack_state(state: State) -> dict[str, Tensor]:
    tensors = {f"state/{name}": getattr(state, name) for name in STATE_TENSORS}
    tensors |= {f"defense/{name}": tensor for name, tensor in state.defense.items()}
    tensors |= {f"attack/{name}": tensor for name, tensor in state.attack.items()}
    return tensors


def _unpack(
    tensors: Mapping[str, Tensor], marks: Mapping[str, str], first: State
) -> tuple[State, list[Record]]:
    state = _unpack_state(tensors, int(marks["round"]), first.weights.device)
    records = _unpack_records(tensors, json.loads(marks["columns"]))
    for name in STATE_TENSORS:
        found, wanted = getattr(state, name), getattr(first, name)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"its {name} is that of another run")
    if state.round != len(records):
        raise ValueError("its round is not the number of its records")
    return state, records


def _unpack_state(tensors: Mapping[str, Tensor], round: int, device: torch.device) -> State:
    own = {name: tensors[f"state/{name}"].to(device) for name in STATE_TENSORS}
    return State(
        round=round,
        weights=own["weights"],
        previous_weights=own["previous_weights"],
        initial_weights=own["initial_weights"],
        excluded=own["excluded"].cpu(),
        defense=_below(tensors, "defense/", device),
        attack=_below(tensors, "attack/", device),
    )


def _below(tensors: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


RECORD_PARTS = ("summary", "seconds", "clients")


def _columns(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the names in each part of a record, in order: a tensor file does not keep the order."""
    return {part: list(getattr(records[0], part)) for part in RECORD_PARTS}


def _pack_records(records: Sequence[Record]) -> dict[str, Tensor]:
    """Stack the rounds: one float64 column a number, one matrix [rounds, clients] a client column."""
    packed = {}
    for part, names in _columns(records).items():
        for name in names:
            values = [getattr(record, part)[name] for record in records]
            packed[f"{part}/{name}"] = (
                torch.stack(values)
                if part == "clients"
                else torch.tensor(values, dtype=torch.float64)
            )
    return packed


def _unpack_records(
    tensors: Mapping[str, Tensor], columns: Mapping[str, Sequence[str]]
) -> list[Record]:
    rounds = len(tensors["summary/round"])

    def part(name: str, row: int) -> dict[str, Tensor]:
        return {column: tensors[f"{name}/{column}"][row] for column in columns[name]}

    return [
        Record(
            summary={column: float(value) for column, value in part("summary", row).items()},
            clients=part("clients", row),
            seconds={column: float(value) for column, value in part("seconds", row).items()},
        )
        for row in range(rounds)
    ]


WHOLE_NUMBERS = (
    "round",
    "participants",
    "trusted",
    "excluded",
    "broken",
    "diverged",
    "model_stayed",
    "model_finite",
)


def _write_rounds(path: Path, records: Sequence[Record]) -> None:
    """Write a row a round; an empty cell stands for a value that is undefined or not measured."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(records[0].summary)
    for record in records:
        writer.writerow([_cell(name, value) for name, value in record.summary.items()])
    with opened_whole(path) as file:
        file.write(rows.getvalue().encode())


def _cell(name: str, value: float) -> str:
    if value != value:
        return ""
    return str(int(value)) if name in WHOLE_NUMBERS else repr(float(value))


def _write_clients(path: Path, records: Sequence[Record]) -> None:
    """Write a row per round and client."""
    clients = len(records[0].clients["malicious"])
    rounds = torch.tensor([int(record.summary["round"]) for record in records], dtype=torch.int32)
    columns = {
        "round": rounds.repeat_interleave(clients),
        "client": torch.arange(clients, dtype=torch.int32).repeat(len(records)),
    }
    for name in records[0].clients:
        columns[name] = torch.cat([record.clients[name] for record in records])
    table = pa.table({name: pa.array(column.numpy()) for name, column in columns.items()})
    with opened_whole(path) as file:
        pq.write_table(table, file)
