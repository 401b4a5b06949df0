"""Accuracy, attack success rate and detection rates; all are shares in [0, 1]."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from fedred.attacks.interface import Backdoor
from fedred.parameters import FlatModel

EVALUATION_BATCH = {"cpu": 32, "cuda": 2048}  # more leaves a CPU's cache: docs/decisions/pooling.md


@torch.inference_mode()
def predictions(model: FlatModel, weights: Tensor, images: Tensor) -> Tensor:
    """Return the predicted class of normalised images [samples, ...] -> int64 [samples].

    -1, which is no class, where a logit is not finite: a diverged model knows nothing.
    """
    batches = torch.split(images, EVALUATION_BATCH[images.device.type])
    logits = torch.cat([model(weights, batch) for batch in batches])
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def accuracy(model: FlatModel, weights: Tensor, images: Tensor, labels: Tensor) -> float:
    """Return the share of test samples that are classified correctly (ACC)."""
    return float((predictions(model, weights, images) == labels).float().mean())


def attack_success_rate(
    model: FlatModel, weights: Tensor, images: Tensor, labels: Tensor, backdoor: Backdoor | None
) -> float:
    """Return the share of the backdoor's source images that become its target (ASR).

    Those are the test samples not of the target class, or those of the source class where it names
    one. NaN for an attack without a backdoor, or when there are no such samples.
    """
    if backdoor is None:
        return float("nan")
    others = labels != backdoor.target if backdoor.source is None else labels == backdoor.source
    if not others.any():
        return float("nan")
    hits = predictions(model, weights, backdoor.apply(images[others])) == backdoor.target
    return float(hits.float().mean())


def detection_rates(flagged: Tensor, malicious: Tensor) -> dict[str, float]:
    """Return DACC, FPR and FNR of one round, over all clients.

    DACC: clients judged rightly / clients; FPR: honest flagged / honest; FNR: malicious not flagged /
    malicious. A rate over nobody is NaN.

    Args:
        flagged: distrusted in this round or excluded before, bool [clients].
        malicious: ground truth, bool [clients].

    Source: Xie, Fang, Gong, ICML 2024, section 5.
    """
    return {
        "DACC": _share(flagged == malicious),
        "FPR": _share(flagged[~malicious]),
        "FNR": _share(~flagged[malicious]),
    }


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else float("nan")


def average_detection(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return ADACC, AFPR, AFNR (means over rounds) and AAR = AFNR x rounds.

    AAR is the number of rounds in which a malicious client got in, on average over malicious clients.

    Args:
        rounds: DACC, FPR and FNR of each round (see `detection_rates`), at least one.

    Source: Xie, Fang, Gong, ICML 2024, section 5.
    """
    rows = [[row[name] for name in ("DACC", "FPR", "FNR")] for row in rounds]
    dacc, fpr, fnr = (float(mean) for mean in np.mean(rows, axis=0))
    return {"ADACC": dacc, "AFPR": fpr, "AFNR": fnr, "AAR": fnr * len(rows)}


def auroc(scores: Tensor, malicious: Tensor) -> float:
    """Return the probability that a malicious client scores above an honest one (ties count half).

    NaN when one of the two groups is empty. NaN ranks as high as infinity.

    Args:
        scores: suspicion [n].
        malicious: ground truth, bool [n].

    Source: Mann and Whitney, 1947.
    """
    if malicious.all() or not malicious.any():
        return float("nan")
    values = scores.double().nan_to_num(nan=torch.inf, posinf=torch.inf)
    lead = values[malicious][:, None] - values[~malicious]
    lead = lead.nan_to_num(nan=0.0)
    return float((lead.sign() / 2 + 0.5).mean())
