"""Finished runs, read from their folders."""

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow.parquet as pq

from fedred.errors import UserError, shortened
from fedred.files import told
from fedred.paths import opened, shown

ROUND_COLUMNS = dict.fromkeys(
    ("round", "accuracy", "attack_success_rate", "DACC", "FPR", "FNR"), "iuf"
)
CLIENT_COLUMNS = {
    "round": "iu",
    "client": "iu",
    "malicious": "b",
    "participated": "b",
    "score": "f",
    "iterations": "iu",
}
"""Columns with the kinds of numbers that they may hold, by NumPy's letters."""
DEEPEST = 64
LARGEST = 1e15
"""Metric; shares are at most 1, counts at most the rounds of a run."""


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run; the tables of its rounds and clients are read when first asked for."""

    folder: Path
    name: str
    settings: dict[str, Any]
    """Resolved settings, nested as in run.json."""
    selects: bool
    """Whether the defense accepts or rejects clients."""
    final: dict[str, float | None]
    """Metrics at the end, rates in [0, 1]; None where a metric is not defined."""
    timings: dict[str, Any] = field(default_factory=dict)
    """Seconds of all rounds by part, as found: `seconds_per_round` checks them."""
    memory: dict[str, Any] = field(default_factory=dict)
    """Bytes of the process and of what the defense keeps, as found: `mebibytes` checks them."""
    computed: str = "unknown"
    """PyTorch, device and threads, in words."""
    warnings: dict[str, str] = field(default_factory=dict)
    """What makes its numbers doubtful: kind -> sentence (see fedred/run_warnings.py)."""

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """rounds.csv: a row a round, empty cells as NaN."""
        path = self.folder / "rounds.csv"
        with _readable(path) as file:
            content = file.read()
            frame = pd.read_csv(io.BytesIO(content))
            torn = not content.endswith(b"\n") or len(frame) != self.settings["rounds"]
        if torn:
            raise UserError(f"{path} is torn: it does not hold all rounds of the run")
        return _with_columns(frame, ROUND_COLUMNS, path)

    @cached_property
    def clients(self) -> pd.DataFrame:
        """clients.parquet: a row a round and client."""
        path = self.folder / "clients.parquet"
        with _readable(path) as file:
            table = pq.ParquetFile(file)
            torn = table.metadata.num_rows % self.settings["rounds"] != 0
            frame = table.read().replace_schema_metadata().to_pandas()  # pandas' notes unread
        if torn:
            raise UserError(f"{path} is torn: it does not hold all rounds of the run")
        return _with_columns(frame, CLIENT_COLUMNS, path)

    def seconds_per_round(self, part: str) -> float:
        """Return the mean seconds that a part of a round took.

        Args:
            part: training, attack, defense or evaluation.

        Raises:
            UserError: when run.json does not tell them.
        """
        seconds = self.timings.get(part)
        if seconds is None or not _is_metric(seconds) or seconds < 0:
            raise UserError(f"{self.folder / 'run.json'} does not tell the seconds of its {part}")
        return float(seconds) / int(self.settings["rounds"])

    def mebibytes(self, part: str) -> float:
        """Return how much memory a part took; NaN where run.json does not tell.

        Args:
            part: peak (of the process, or of the tensors on a GPU) or defense (kept between rounds).

        Raises:
            UserError: when run.json tells something that is no number of bytes.
        """
        held = self.memory.get(part)
        if held is None:
            return math.nan
        if not _is_metric(held) or held < 0:
            raise UserError(f"{self.folder / 'run.json'} does not tell the bytes of its {part}")
        return float(held) / 2**20


def load_runs(folders: Iterable[Path | str]) -> list[Run]:
    """Read runs in the order given: tables and figures list methods as they first appear.

    Raises:
        UserError: for a folder whose run.json is missing, torn or lacks an entry.
    """
    return [_load_run(_run_folder(Path(folder))) for folder in folders]


def _run_folder(path: Path) -> Path:
    """Return the folder of a run, which may be named by its run.json."""
    return path.parent if path.name == "run.json" and not os.path.isdir(path) else path


def _load_run(folder: Path) -> Run:
    path = folder / "run.json"
    with _readable(path) as file:
        content = json.loads(file.read(), parse_constant=_refuse_constant)
    _require(isinstance(content, dict) and _is_plain(content), path, "the summary of a run")
    for entry, kind in ENTRIES.items():
        value = _entry(content, entry, path)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(
                f"{path}: {entry} is {shortened(repr(value))}: it must be {kind.__name__}"
            )
    settings, final = content["settings"], content["final"]
    _require(settings["rounds"] >= 1, path, "a run of one round or more")
    _require(all(map(_is_metric, final.values())), path, "one whose final metrics are numbers")
    timings = content.get("timings", {})
    memory, computed = content.get("memory", {}), str(content.get("computed", "unknown"))
    for group in (timings, memory):
        _require(isinstance(group, dict), path, "one whose timings and memory are groups")
    warnings = content.get("warnings", {})
    told = isinstance(warnings, dict) and all(
        kind.isidentifier() and isinstance(text, str) for kind, text in warnings.items()
    )
    _require(told, path, "one whose warnings are sentences, each of a kind")
    return Run(
        folder,
        content["run"],
        settings,
        content["selects"],
        final,
        timings,
        memory,
        computed,
        warnings,
    )


ENTRIES: dict[str, type] = {
    "run": str,
    "settings": dict,
    "settings.dataset": dict,
    "settings.dataset.name": str,
    "settings.partition": dict,
    "settings.partition.clients": int,
    "settings.attack": dict,
    "settings.attack.name": str,
    "settings.defense": dict,
    "settings.defense.name": str,
    "settings.seed": int,
    "settings.rounds": int,
    "selects": bool,
    "final": dict,
}
"""What run.json must hold, with its type."""


def _entry(content: dict[str, Any], entry: str, path: Path) -> Any:
    value: Any = content
    for key in entry.split("."):
        if key not in value:
            raise UserError(f"{path} has no entry '{key}': '{entry}' is needed")
        value = value[key]
    return value


def _is_plain(value: object, depth: int = 0) -> bool:
    """Tell whether names can be printed on a terminal, and groups end."""
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return depth < DEEPEST and all(_is_plain(part, depth + 1) for part in value)
    return True


def _is_metric(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= LARGEST)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _require(sound: bool, path: Path, what: str) -> None:
    if not sound:
        raise UserError(f"{path} is not {what}: make the run again")


def _with_columns(frame: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    for column, kinds in columns.items():
        kind = frame[column].dtype
        if kind.kind not in kinds:
            raise UserError(
                f"{path}: the column {column} holds {kind}, not what a run writes there"
            )
    return frame


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    absent = f"{shown(path)} is missing: has the run finished?"
    with told(f"{shown(path)} cannot be read"), opened(path, absent) as file:
        yield file
