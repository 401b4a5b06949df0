"""Recorded rounds as `fedred reconstruct` judged them, read from their files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from fedred.errors import UserError
from fedred.files import told
from fedred.paths import opened, shown
from fedred.report import style
from fedred.report.labels import in_words, label_runs
from fedred.report.runs import Run
from fedred.report.statistics import FloatArray

OWN = "fedredefense"
COLUMNS = ("rule", "round", "client", "malicious", "iteration", "score")


@dataclass(frozen=True, eq=False)
class Judged:
    """What `fedred reconstruct` wrote of one recorded round."""

    frame: pd.DataFrame
    settings: dict[str, Any]
    threshold: float
    attack: str
    """The panel in which it stands: the attack, and the defense where runs differ in it."""
    warnings: tuple[str, ...] = ()
    """Kinds of what makes the errors doubtful (see fedred/run_warnings.py)."""

    @property
    def round(self) -> int:
        """The recorded round; 0 when nobody took part in it."""
        return int(self.frame["round"].max()) if len(self.frame) else 0

    def curves(self) -> tuple[FloatArray, np.ndarray]:
        """Return the errors of each client [n, iterations], and who is malicious, bool [n]."""
        own = self.frame[self.frame["rule"] == OWN]
        table = own.pivot(index="client", columns="iteration", values="score")
        malicious = own.groupby("client")["malicious"].first().loc[table.index]
        return table.to_numpy(float), malicious.to_numpy(bool)

    def scores(self, rule: str) -> tuple[FloatArray, np.ndarray] | None:
        """Return a rule's scores [n] after all iterations, and who is malicious, bool [n]."""
        rows = self.frame[self.frame["rule"] == rule]
        rows = rows[rows["iteration"] == rows["iteration"].max()]
        malicious = rows["malicious"].to_numpy(bool)
        defined = malicious.any() and not malicious.all()
        return (_finite(rows["score"].to_numpy(float)), malicious) if defined else None


def _finite(scores: FloatArray) -> FloatArray:
    """Return scores in the same order, infinite ones just above the largest finite one."""
    largest = scores[np.isfinite(scores)].max(initial=0.0)
    return np.where(np.isposinf(scores), np.nextafter(np.float64(largest), np.inf), scores)


def load_judged(paths: Iterable[Path | str]) -> list[Judged]:
    """Read what `fedred reconstruct` wrote.

    Raises:
        UserError: for a file that is missing, torn or of another kind, for two of the same round, and
            for two that were judged with another threshold or other iterations.
    """
    paths = list(paths)
    read = [_read(Path(path)) for path in paths]
    _require_one_judge(dict(zip(paths, read, strict=True)))
    seen: dict[str, Path | str] = {}
    for path, (frame, about) in zip(paths, read, strict=True):
        key = json.dumps([about["settings"], frame["round"].unique().tolist()], sort_keys=True)
        if len(frame) and key in seen:
            raise UserError(
                f"{seen[key]} and {path} are of the same recorded round: give one of them"
            )
        seen[key] = path
    panels = attack_panels([about["settings"] for _, about in read])
    return [
        Judged(frame, about["settings"], float(about["threshold"]), panel, _warnings(about))
        for (frame, about), panel in zip(read, panels, strict=True)
    ]


def _warnings(about: Mapping[str, Any]) -> tuple[str, ...]:
    return ("reconstructions_diverged",) if about.get("diverged") else ()


def _require_one_judge(read: Mapping[Path | str, tuple[pd.DataFrame, dict[str, Any]]]) -> None:
    """Refuse what would be pooled, but was not judged alike; a round of nobody fits to any."""
    first: tuple[Path | str, tuple[float, int]] | None = None
    for path, (frame, about) in read.items():
        if not len(frame):
            continue
        how = (float(about["threshold"]), int(frame["iteration"].max()))
        first = first or (path, how)
        if how != first[1]:
            told_ways = [
                f"{where} with threshold {level:g} and {made} iterations"
                for where, (level, made) in (first, (path, how))
            ]
            raise UserError(f"{' and '.join(told_ways)} were not judged alike: judge both one way")


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    with (
        told(f"{shown(path)} cannot be read as what `fedred reconstruct` writes"),
        opened(path) as file,
    ):
        table = pq.ParquetFile(file).read()
        about = json.loads((table.schema.metadata or {})[b"fedred"])
        frame = table.replace_schema_metadata().to_pandas()
        missing = {*COLUMNS} - {*frame.columns}
        if missing or {*about} - {"diverged"} != {"settings", "threshold"}:
            raise ValueError("its columns or settings are others")
    return frame, about


def by_attack(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Return recorded rounds by panel: those with an attacker, or all when there is none anywhere.

    Raises:
        UserError: when there is nothing to report.
    """
    if not judged:
        raise UserError("there are no recorded updates to report")
    return {name: [one for one in judged if one.attack == name] for name in _attacks(judged)}


def by_seed(group: Sequence[Judged]) -> list[list[Judged]]:
    """Return the recorded rounds of each seed in which somebody took part, in the order of rounds."""
    seeds: dict[int, list[Judged]] = {}
    attended = (one for one in group if len(one.frame))
    for one in sorted(attended, key=lambda one: one.round):
        seeds.setdefault(int(one.settings["seed"]), []).append(one)
    return list(seeds.values())


def counts(group: Sequence[Judged]) -> tuple[int, int]:
    """Return the number of seeds, and the most recorded rounds of one."""
    seeds = by_seed(group)
    return len(seeds), max(map(len, seeds), default=0)


def areas(group: Sequence[Judged], rule: str) -> list[float]:
    """Return the area under a rule's ROC curve for each seed that has one, mean over its rounds.

    It is the share of pairs of a malicious and an honest client that the scores put in order, ties half.
    """
    from sklearn.metrics import roc_auc_score  # loads slowly

    found = []
    for rounds in by_seed(group):
        pairs = [pair for one in rounds if (pair := one.scores(rule))]
        if pairs:
            found.append(float(np.mean([roc_auc_score(bad, scores) for scores, bad in pairs])))
    return found


def _attacks(judged: Sequence[Judged]) -> list[str]:
    """Return the panels in which there is an attacker, or all when there is none anywhere."""
    attacked = [one.attack for one in judged if one.frame["malicious"].any()]
    return list(dict.fromkeys(attacked or [one.attack for one in judged]))


def attack_panels(recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the panel of each recorded round: its attack, and what else the runs differ in.

    That is the data set, settings, and the defense that they ran under.

    Args:
        recorded: settings of the run of each; rounds of one run have the same.
    """
    texts = [json.dumps(settings, sort_keys=True) for settings in recorded]
    runs = [
        Run(Path("recorded"), text, json.loads(text), selects=True, final={}, timings={})
        for text in dict.fromkeys(texts)
    ]
    labelled = label_runs(runs)
    datasets, defenses = (
        {getattr(one, name) for one in labelled} for name in ("dataset", "defense")
    )
    panels = {
        one.run.name: ", ".join(
            [
                *[style.display(one.dataset)] * (len(datasets) > 1),
                style.display(one.attack),
                *[in_words({name: value}) for name, value in one.extra.items()],
                *[f"under {style.display(one.defense)}"] * (len(defenses) > 1),
            ]
        )
        for one in labelled
    }
    return [panels[text] for text in texts]
