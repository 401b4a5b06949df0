"""What makes the numbers of a run doubtful: told in one place, for run.json, the log, tables and figures.

A warning is a kind, by which tables and figures mark a run, and a sentence with the run's own figures.
Imports no PyTorch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from fedred.simulation import Federation, Record

Warnings = dict[str, str]
"""Kind -> sentence."""

KINDS = {
    "no_attackers": "no client is malicious",
    "attackers_never_sampled": "no malicious client took part",
    "one_class": "all images that clients hold, or all to test on, are of one class",
    "threshold_not_below_one": "the threshold is 1 or above: what is not reconstructed at all passes",
    "defense_never_starts": "the defense would start after the last round",
    "threshold_never_reached": "no reconstruction reached the threshold",
    "budget_never_reached": "rejected clients were given up before their last iteration",
    "reconstructions_diverged": "reconstructions diverged",
    "updates_not_finite": "updates were not finite",
    "all_excluded": "all clients were excluded before the last round",
    "model_stayed": "the model stayed as it was in at least one round",
    "model_not_finite": "the model was not finite, which counts as accuracy 0",
}
"""What a footnote says of a kind."""

Settings = Mapping[str, Any]
"""Resolved settings of a run, as plain values."""

Clients = Mapping[str, NDArray[Any]]
"""Columns of `clients.parquet` as [rounds, clients]."""


def doubtful_settings(settings: Settings) -> Warnings:
    """Return kind -> sentence of what is doubtful in the settings of a run.

    `no_attackers`: an attack without malicious clients. `threshold_not_below_one`: an update that is
    not reconstructed at all has error 1, and passes. `defense_never_starts`: the run is shorter than
    what the defense must see first.
    """
    found: Warnings = {}
    attack, rounds = settings["attack"]["name"], settings["rounds"]
    if attack != "none" and not settings["malicious"]:
        found["no_attackers"] = f"the attack {attack} has no attackers: malicious is 0"
    for defense in _defenses(settings["defense"]):
        if defense["name"] == "fedredefense" and defense["threshold"] >= 1:
            found["threshold_not_below_one"] = (
                f"the threshold of fedredefense is {defense['threshold']:g}: an update that is not "
                "reconstructed at all has error 1 and is trusted"
            )
        if defense["name"] == "fldetector" and rounds < first_judged_round(defense["window"]):
            first = first_judged_round(defense["window"])
            found["defense_never_starts"] = (
                f"fldetector with window {defense['window']} judges nobody before round {first}: "
                f"the run has {rounds}"
            )
    return found


def first_judged_round(window: int) -> int:
    """Return the first round in which FLDetector can predict an update.

    The model moves for the first time between rounds 1 and 2; `window` such pairs come before.
    """
    return window + 2


def _defenses(defense: Settings) -> Iterable[Settings]:
    """Yield a defense and those inside it."""
    yield defense
    for option in defense.values():
        if isinstance(option, Mapping) and "name" in option:
            yield from _defenses(option)


def doubts(experiments: Mapping[str, Sequence[Settings]]) -> Iterator[str]:
    """Yield what is doubtful in the runs of each experiment, each sentence once, with their number.

    Args:
        experiments: name -> resolved settings of its runs, as plain values.
    """
    for name, runs in experiments.items():
        counts = Counter(sentence for run in runs for sentence in doubtful_settings(run).values())
        for sentence, count in counts.items():
            yield f"experiments.{name}: {sentence} ({count} of {len(runs)} runs)"


def data_warnings(federation: "Federation") -> Warnings:
    """Return what the data alone tell before the first round."""
    held = {
        "that clients hold": [labels for _, labels in federation.clients],
        "to test on": [federation.test_labels],
    }
    alone = [where for where, labels in held.items() if len(_classes(labels)) == 1]
    told = f"all images {' and all '.join(alone)} are of one class: accuracy says nothing"
    return {"one_class": told} if alone else {}


def _classes(labels: Sequence[Any]) -> set[int]:
    return {label for part in labels for label in np.unique(part.cpu()).tolist()}


def round_warnings(record: "Record") -> Warnings:
    """Return what one round tells."""
    found = {key: int(value) for key, value in record.summary.items() if key in _COUNTED}
    n = found["participants"]
    told: Warnings = {}
    if found["broken"]:
        told["updates_not_finite"] = f"{found['broken']} of {n} updates are not finite"
    if found["diverged"]:
        told["reconstructions_diverged"] = (
            f"the reconstruction diverged for {found['diverged']} of {n} clients"
        )
    if not n:
        told["all_excluded"] = "all clients are excluded"
    if found["model_stayed"]:
        nothing = f"{found['trusted']} of {n} updates are trusted" + (
            " and change nothing" if found["trusted"] else ""
        )
        told["model_stayed"] = "the model stays" if told else f"{nothing}; the model stays"
    if not found["model_finite"]:
        told["model_not_finite"] = "the model is not finite"
    return told


_COUNTED = ("participants", "trusted", "broken", "diverged", "model_stayed", "model_finite")


def history_warnings(settings: Settings, records: Sequence["Record"]) -> Warnings:
    """Return what all rounds of a run tell.

    Args:
        settings: resolved settings of the run, as plain values.
        records: of all rounds, at least one.
    """
    rounds = {name: [r.summary[name] for r in records] for name in records[0].summary}
    clients = {
        name: np.stack([record.clients[name].numpy() for record in records])
        for name in records[0].clients
    }
    found = {
        "attackers_never_sampled": _never_sampled(clients),
        "updates_not_finite": _broken_updates(clients),
        "reconstructions_diverged": _diverged_reconstructions(clients),
        "threshold_never_reached": _nobody_passed(settings["defense"], clients),
        "budget_never_reached": _given_up(settings["defense"], clients),
        "all_excluded": _in_rounds(
            "all clients were excluded", [count == 0 for count in rounds["participants"]]
        ),
        "model_stayed": _in_rounds(
            "the model stayed as it was", [stayed == 1 for stayed in rounds["model_stayed"]]
        ),
        "model_not_finite": _in_rounds(
            "the model was not finite, which counts as accuracy 0,",
            [finite == 0 for finite in rounds["model_finite"]],
        ),
    }
    return {kind: sentence for kind, sentence in found.items() if sentence}


def _in_rounds(what: str, chosen: ArrayLike) -> str:
    """Return WHAT `in 2 of 10 rounds, first in round 3`; nothing when it was in none."""
    rounds = np.flatnonzero(chosen) + 1
    if not len(rounds):
        return ""
    return f"{what} in {len(rounds)} of {np.size(chosen)} rounds, first in round {rounds[0]}"


def _never_sampled(clients: Clients) -> str:
    attackers = clients["malicious"]
    never = attackers.any() and not (attackers & clients["participated"]).any()
    return "no malicious client ever took part" if never else ""


def _broken_updates(clients: Clients) -> str:
    broken, sent = int(clients["broken"].sum()), int(clients["participated"].sum())
    return _in_rounds(f"{broken} of {sent} updates were not finite,", clients["broken"].any(axis=1))


def _diverged_reconstructions(clients: Clients) -> str:
    diverged = clients["diverged"]
    honest = int((diverged & ~clients["malicious"]).sum())
    what = (
        f"{int(diverged.sum())} of {int((clients['iterations'] > 0).sum())} reconstructions diverged, "
        f"{honest} of them of honest clients, who are flagged although nothing was measured,"
    )
    return _in_rounds(what, diverged.any(axis=1))


def _rejected(clients: Clients) -> NDArray[np.bool_]:
    """Return whose reconstruction ended with an error above the threshold, bool [rounds, clients]."""
    judged = clients["participated"] & np.isfinite(clients["score"])
    rejected: NDArray[np.bool_] = judged & ~clients["trusted"]
    return rejected


def _nobody_passed(defense: Mapping[str, Any], clients: Clients) -> str:
    rejected = int(_rejected(clients).sum())
    if defense["name"] != "fedredefense" or clients["trusted"].any() or not rejected:
        return ""
    return (
        f"none of {rejected} reconstructions reached the threshold {defense['threshold']:g}: their "
        "settings do not fit the local training"
    )


def _given_up(defense: Mapping[str, Any], clients: Clients) -> str:
    rejected = _rejected(clients)
    if defense["name"] != "fedredefense" or not rejected.any():
        return ""
    how, made = defense["reconstruction"], clients["iterations"][rejected]
    budget = min(how["first_iterations"], how["later_iterations"])
    if int(made.max()) >= budget:
        return ""
    return (
        f"none of {len(made)} rejected reconstructions used its {budget} iterations: they were given "
        f"up after {int(made.max())} at most, and their errors are those of that moment"
    )
