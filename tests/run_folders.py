"""Run folders as the simulation leaves them, made up: for tests of the tables and figures."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

ATTACKS = ("none", "label_flip", "fang_trim", "min_max", "mpaf", "scaling")
DEFENSES = ("fedavg", "median", "krum", "fedredefense")
SELECTING = ("krum", "fedredefense")
CLIENTS, MALICIOUS, ROUNDS = 20, 5, 20

# Accuracy reached under each attack, in the order of ATTACKS.
REACHED = {
    "fedavg": (0.95, 0.88, 0.15, 0.55, 0.10, 0.92),
    "median": (0.93, 0.86, 0.62, 0.70, 0.78, 0.90),
    "krum": (0.84, 0.80, 0.79, 0.45, 0.82, 0.83),
    "fedredefense": (0.95, 0.93, 0.94, 0.94, 0.94, 0.94),
}


def settings(
    attack: str = "none", defense: str = "fedavg", seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """Return settings of a run; changes are given by dotted names with `__` for the dot."""
    whole: dict[str, Any] = {
        "dataset": {"name": "digits", "samples": None},
        "partition": {"name": "balanced_dirichlet", "alpha": 0.1, "clients": CLIENTS},
        "model": {"name": "mlp", "width": 64, "depth": 1},
        "training": {"lr": 0.1, "batch_size": 32, "epochs": 1},
        "attack": {"name": attack} | ({"factor": 3.0} if attack == "scaling" else {}),
        "defense": {"name": defense},
        "malicious": 0 if attack == "none" else MALICIOUS,
        "participation": 1.0,
        "rounds": ROUNDS,
        "evaluate_every": 1,
        "seed": seed,
    }
    if defense == "fedredefense":
        whole["defense"] |= {"threshold": 0.6, "aggregator": {"name": "mean"}}
    for name, value in changes.items():
        *path, last = name.split("__")
        part = whole
        for key in path:
            part = part.setdefault(key, {})
        part[last] = value
    return whole


def write_run(
    folder: Path,
    settings: dict[str, Any],
    final: dict[str, float | None] | None = None,
    accuracy: Sequence[float] | None = None,
    selects: bool | None = None,
) -> Path:
    """Write a run's folder; numbers that are not given are made up from the seed."""
    folder.mkdir(parents=True)
    attack, defense = settings["attack"]["name"], settings["defense"]["name"]
    selects = defense in SELECTING if selects is None else selects
    random = np.random.default_rng([settings["seed"], *f"{attack} {defense}".encode()])
    clients = _clients(settings, random)
    rounds = _rounds(settings, clients, selects, random)
    if accuracy is not None:
        rounds["accuracy"] = accuracy
    content = {
        "run": folder.name,
        "settings": deepcopy(settings),
        "versions": {"fedred": "0.1.0"},
        "timings": {"training": 4.0, "attack": 0.5, "defense": 1.5, "evaluation": 2.0},
        "memory": {"peak": 300 * 2**20, "defense": settings["partition"]["clients"] * 2**19},
        "selects": selects,
        "final": _final(rounds, selects) | (final or {}),
    }
    (folder / "run.json").write_text(json.dumps(content, indent=2))
    rounds.to_csv(folder / "rounds.csv", index=False)
    clients.to_parquet(folder / "clients.parquet", index=False)
    return folder


def write_grid(root: Path, seeds: Sequence[int] = (0,), **changes: Any) -> list[Path]:
    """Write the runs of all ATTACKS x DEFENSES x seeds and return their folders."""
    return [
        write_run(root / f"{attack}-{defense}-{seed}", settings(attack, defense, seed, **changes))
        for attack in ATTACKS
        for defense in DEFENSES
        for seed in seeds
    ]


def write_partition(path: Path, clients: int = CLIENTS, classes: int = 10) -> np.ndarray:
    """Write a partition file and return its counts [clients, classes]."""
    random = np.random.default_rng(0)
    shares = random.dirichlet([0.1] * clients, classes).T
    for _ in range(200):
        shares /= shares.sum(0, keepdims=True) * classes
        shares /= shares.sum(1, keepdims=True) * clients
    counts = np.round(shares * 70 * clients).astype(np.int64)
    # safetensors writes memory as it lies: a transposed array would come back permuted.
    counts = np.ascontiguousarray(counts)
    save_file({"counts": counts}, path)
    return counts


def _clients(settings: dict[str, Any], random: np.random.Generator) -> pd.DataFrame:
    defense, attack = settings["defense"]["name"], settings["attack"]["name"]
    threshold = settings["defense"].get("threshold", np.nan)
    banned: set[int] = set()
    rows = []
    for number in range(1, settings["rounds"] + 1):
        for client in range(CLIENTS):
            malicious = client >= CLIENTS - settings["malicious"]
            score, iterations = _judgement(defense, attack, malicious, threshold, random)
            if client in banned:
                score, iterations = np.nan, 0
            flagged = defense == "fedredefense" and (client in banned or score >= threshold)
            rows.append(
                {
                    "round": number,
                    "client": client,
                    "malicious": malicious,
                    "participated": client not in banned,
                    "score": np.float32(score),
                    "trusted": not flagged and (defense != "krum" or client == number % CLIENTS),
                    "excluded": flagged,
                    "iterations": np.int32(iterations),
                }
            )
            banned |= {client} if flagged else set()
    return pd.DataFrame(rows)


def _judgement(
    defense: str, attack: str, malicious: bool, threshold: float, random: np.random.Generator
) -> tuple[float, int]:
    """Return score and iterations: an honest error stops just under the threshold."""
    if defense == "krum":
        return random.gamma(4.0) * (3 if malicious else 1), 0
    if defense != "fedredefense":
        return np.nan, 0
    if malicious and attack != "label_flip":
        centre = {"fang_trim": 0.98, "min_max": 0.95, "mpaf": 0.9}.get(attack, 0.81)
        return centre + 0.02 * random.standard_normal(), 500
    return threshold - 0.01 * random.exponential(), int(random.gamma(6, 18)) + 5


def _rounds(
    settings: dict[str, Any], clients: pd.DataFrame, selects: bool, random: np.random.Generator
) -> pd.DataFrame:
    attack, defense = settings["attack"]["name"], settings["defense"]["name"]
    number = np.arange(1, settings["rounds"] + 1)
    top = dict(zip(ATTACKS, REACHED.get(defense, ()), strict=False)).get(attack, 0.7)
    accuracy = 0.1 + (top - 0.1) * (1 - np.exp(-number / 4))
    accuracy += 0.015 * random.standard_normal(len(number))
    asr = 0.9 if defense == "fedavg" else 0.02
    frame = pd.DataFrame({"round": number, "accuracy": accuracy.clip(0, 1)})
    frame["attack_success_rate"] = asr if attack == "scaling" else np.nan
    frame["participants"] = clients.groupby("round")["participated"].sum().to_numpy()
    frame["trusted"] = clients.groupby("round")["trusted"].sum().to_numpy()
    frame["excluded"] = clients.groupby("round")["excluded"].sum().to_numpy()
    rates = pd.DataFrame([_rates(part) for _, part in clients.groupby("round")])
    for name in rates:
        frame[name] = rates[name] if selects else np.nan
    return frame.assign(auroc=np.nan)


def _rates(clients: pd.DataFrame) -> dict[str, float]:
    flagged, malicious = ~clients["trusted"], clients["malicious"]
    return {
        "DACC": (flagged == malicious).mean(),
        "FPR": flagged[~malicious].mean(),
        "FNR": (~flagged)[malicious].mean() if malicious.any() else np.nan,
    }


def _final(rounds: pd.DataFrame, selects: bool) -> dict[str, float | None]:
    last, mean = rounds.iloc[-1], rounds[["DACC", "FPR", "FNR"]].mean()
    values = {
        "accuracy": last["accuracy"],
        "attack_success_rate": last["attack_success_rate"],
        "ADACC": mean["DACC"],
        "AFPR": mean["FPR"],
        "AFNR": mean["FNR"],
        "AAR": mean["FNR"] * len(rounds),
        "DACC": last["DACC"],
        "FPR": last["FPR"],
        "FNR": last["FNR"],
    }
    return {key: None if np.isnan(value) else float(value) for key, value in values.items()}
