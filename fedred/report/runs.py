"""Finished runs, read from their folders."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedred.errors import UserError

ROUND_COLUMNS = ["round", "accuracy", "attack_success_rate", "DACC", "FPR", "FNR"]
CLIENT_COLUMNS = ["round", "client", "malicious", "participated", "score", "iterations"]


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

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """rounds.csv: a row a round, empty cells as NaN."""
        path = self.folder / "rounds.csv"
        try:
            frame = pd.read_csv(path)
            torn = not path.read_bytes().endswith(b"\n") or len(frame) != self.settings["rounds"]
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        if torn:
            raise UserError(f"{path} is torn: it does not hold all rounds of the run")
        return _with_columns(frame, ROUND_COLUMNS, path)

    @cached_property
    def clients(self) -> pd.DataFrame:
        """clients.parquet: a row a round and client."""
        path = self.folder / "clients.parquet"
        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        return _with_columns(frame, CLIENT_COLUMNS, path)


def load_runs(folders: Iterable[Path | str]) -> list[Run]:
    """Read runs in the order given: tables and figures list methods as they first appear.

    Raises:
        UserError: for a folder whose run.json is missing, torn or lacks an entry.
    """
    return [_load_run(Path(folder)) for folder in folders]


def _load_run(folder: Path) -> Run:
    path = folder / "run.json"
    try:
        content = json.loads(path.read_bytes())
        settings = content["settings"]
        _ = [settings[part]["name"] for part in ("dataset", "attack", "defense")]
        _ = settings["seed"], settings["rounds"]
        return Run(folder, content["run"], settings, content["selects"], dict(content["final"]))
    except KeyError as error:
        raise UserError(f"{path} has no entry {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _with_columns(frame: pd.DataFrame, columns: list[str], path: Path) -> pd.DataFrame:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    return frame


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing: has the run finished?")
    return UserError(f"{path} cannot be read: {str(error).splitlines()[0]}")
