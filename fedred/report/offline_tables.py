"""Tables of updates judged offline: AUROC, and what thresholds, budgets and exclusion rules decide."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from fedred.report.frames import Row, defined, records, tidy, told_n
from fedred.report.judged import Judged, by_attack
from fedred.report.layout import Block, Cell
from fedred.report.statistics import spread
from fedred.report.style import DISPLAY_NAMES, display

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BUDGETS = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))
"""Iterations; those below the recorded number are shown, and that number."""
DECISIONS = ("FPR", "FNR", "honest_iterations", "malicious_iterations")
SUMMARY = ("metric", "mean", "std", "ci95", "n", "rounds")
ROUND_ALONE = "flag of the last round"

Rule = Callable[[pd.DataFrame], pd.Series]
"""Tells who is excluded, from flags [clients, rounds] that are 0, 1 or NaN for one that was not asked."""


def threshold(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return what each threshold would decide with all iterations that were made.

    FPR and FNR are the shares, in percent, of honest clients that never get below it and of malicious
    clients that do; iterations are those until a client is below it, all where it never is. A value of
    a seed is that of all its recorded rounds.

    Returns:
        Columns attack, threshold, metric (a member of DECISIONS), mean, std, ci95, n (seeds), rounds.

    Raises:
        UserError: when there is nothing to report.
    """
    return _decisions(
        judged, "threshold", [(level, partial(_decide, threshold=level)) for level in THRESHOLDS]
    )


def budget(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return what fewer iterations would decide, at the threshold of the defense that judged.

    Columns as in `threshold`, with budget in place of it.

    Raises:
        UserError: when there is nothing to report.
    """
    made = max((one.curves()[0].shape[1] for one in judged), default=0)
    levels = [*(level for level in BUDGETS if level < made), made]
    return _decisions(
        judged, "budget", [(level, partial(_decide, budget=level)) for level in levels]
    )


def exclusion(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return who would be excluded after the last recorded round, by the flags of all of them.

    A client is excluded once it was flagged in so many recorded rounds (1: FedREDefense's permanent
    exclusion), or for the flag of the last one alone. The rounds are those that were played: had
    somebody been excluded, later ones would be others.

    Columns attack, excluded by, metric (FPR, FNR in percent), mean, std, ci95, n (seeds), rounds.

    Raises:
        UserError: when there is nothing to report.
    """
    groups = by_attack(judged)
    counts = [len(rounds) for group in groups.values() for rounds in _seeds(group)]
    rules: dict[str, Rule] = {ROUND_ALONE: lambda flags: flags.ffill(axis=1).iloc[:, -1] == 1}
    for count in range(1, max(counts, default=0) + 1):
        rules[f"{count} flag" + "s" * (count > 1)] = partial(_flagged_often, count)
    rows = []
    for attack, group in groups.items():
        decided = [pd.concat(map(_decide, rounds)) for rounds in _seeds(group)]
        for name, rule in rules.items():
            found = [_rates(_after(rule, part)) for part in decided]
            rows += _summaries({"attack": attack, "excluded by": name}, found, group, DECISIONS[:2])
    return tidy(rows)


def _flagged_often(least: int, flags: pd.DataFrame) -> pd.Series:
    return flags.sum(axis=1) >= least


def _after(rule: Rule, decided: pd.DataFrame) -> pd.DataFrame:
    """Return each client once, flagged if the rule excludes it after the last recorded round."""
    flags = decided.pivot(index="client", columns="round", values="flagged").astype(float)
    once = decided.groupby("client").last()
    return once.assign(flagged=rule(flags))


def auroc(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return the area under the ROC curve of every rule that scores a single round.

    It is the share of pairs of a malicious and an honest client that the scores put in order, ties
    half, in percent. A value of a seed is the mean of its recorded rounds.

    Columns attack, rule, metric, mean, std, ci95, n (seeds), rounds.

    Raises:
        UserError: when there is nothing to report.
    """
    rows = []
    for attack, group in by_attack(judged).items():
        for rule in dict.fromkeys(name for one in group for name in one.frame["rule"].unique()):
            areas = [_areas(part, rule) for part in _seeds(group)]
            means = [{"auroc": 100 * float(np.mean(found))} for found in areas if found]
            rows += _summaries({"attack": attack, "rule": rule}, means, group, ["auroc"])
    return pd.DataFrame(rows, columns=["attack", "rule", *SUMMARY])


def _areas(rounds: Sequence[Judged], rule: str) -> list[float]:
    from sklearn.metrics import roc_auc_score  # loads slowly

    found = (one.scores(rule) for one in rounds)
    return [float(roc_auc_score(pair[1], pair[0])) for pair in found if pair]


def _decisions(
    judged: Sequence[Judged],
    column: str,
    levels: Sequence[tuple[float, Callable[[Judged], pd.DataFrame]]],
) -> pd.DataFrame:
    rows = []
    for attack, group in by_attack(judged).items():
        for level, decide in levels:
            found = [_rates(pd.concat(map(decide, rounds))) for rounds in _seeds(group)]
            rows += _summaries({"attack": attack, column: level}, found, group, DECISIONS)
    return tidy(rows)


def _seeds(group: Sequence[Judged]) -> list[list[Judged]]:
    """Return the recorded rounds of each seed in which somebody took part, in the order of rounds."""
    by_seed: dict[int, list[Judged]] = {}
    attended = (one for one in group if len(one.frame))
    for one in sorted(attended, key=lambda one: one.round):
        by_seed.setdefault(int(one.settings["seed"]), []).append(one)
    return list(by_seed.values())


def _decide(one: Judged, threshold: float | None = None, budget: int | None = None) -> pd.DataFrame:
    """Return what a threshold (else the defense's own) decides in so many iterations (else in all).

    Returns:
        A row a client: client, round, malicious, flagged, made (iterations until then).
    """
    errors, malicious = one.curves()
    below = errors[:, :budget] < (one.threshold if threshold is None else threshold)
    ends = np.pad(below, ((0, 0), (0, 1)), constant_values=True)
    return pd.DataFrame(
        {
            "client": np.unique(one.frame["client"]),
            "round": one.round,
            "malicious": malicious,
            "flagged": ~below.any(1),
            "made": np.minimum(ends.argmax(1) + 1.0, below.shape[1]),
        }
    )


def _rates(decided: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of a seed, NaN without clients of the kind."""
    bad = decided["malicious"].to_numpy(bool)
    flagged, made = decided["flagged"].to_numpy(bool), decided["made"].to_numpy(float)
    return {
        "FPR": 100 * _mean(flagged[~bad]),
        "FNR": 100 * _mean(~flagged[bad]),
        "honest_iterations": _mean(made[~bad]),
        "malicious_iterations": _mean(made[bad]),
    }


def _summaries(
    names: Row, seeds: Sequence[dict[str, float]], group: Sequence[Judged], metrics: Iterable[str]
) -> list[Row]:
    rounds = len({one.round for one in group if len(one.frame)})
    rows = []
    for metric in metrics:
        values = np.array([one[metric] for one in seeds if not np.isnan(one[metric])])
        found = map(float, spread(values)) if len(values) else (np.nan,) * 3
        numbers = (metric, *found, len(values), rounds)
        rows.append({**names, **dict(zip(SUMMARY, numbers, strict=True))})
    return rows


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def decision_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block an attack: what was varied as rows, what it decides as columns."""
    column = str(frame.columns[1])
    return [
        Block(
            f"{attack}: {TITLES[column]}, {told_n(part)}, {_told_rounds(part)}",
            [column.capitalize()],
            [HEADINGS[metric] for metric in part["metric"].unique()],
            [([_word(level)], _spreads(rows)) for level, rows in part.groupby(column, sort=False)],
        )
        for attack, part in frame.groupby("attack", sort=False)
    ]


TITLES = {
    "threshold": "what a threshold decides",
    "budget": "what so many iterations decide",
    "excluded by": "who is excluded in the end",
}
HEADINGS = {
    "FPR": "FPR (%)",
    "FNR": "FNR (%)",
    "honest_iterations": "Iterations, honest",
    "malicious_iterations": "Iterations, malicious",
}


def auroc_blocks(frame: pd.DataFrame) -> list[Block]:
    """Rules as rows, attacks as columns; nothing where nobody took part."""
    if not len(frame):
        return []
    attacks = list(frame["attack"].unique())
    rows = []
    for rule, part in frame.groupby("rule", sort=False):
        found = {row["attack"]: row for row in records(part)}
        cells = [_spread_cell(found[name]) if name in found else Cell() for name in attacks]
        rows.append(([display(str(rule))], cells))
    title = f"{DISPLAY_NAMES['auroc']}, {told_n(frame)}, {_told_rounds(frame)}"
    return [Block(title, ["Rule"], attacks, rows)]


def _word(level: object) -> str:
    return level if isinstance(level, str) else f"{level:g}"


def _spreads(rows: pd.DataFrame) -> list[Cell]:
    return [_spread_cell(row) for row in records(rows)]


def _spread_cell(row: Row) -> Cell:
    return Cell(defined(row["mean"]), defined(row["ci95"]))


def _told_rounds(part: pd.DataFrame) -> str:
    count = int(part["rounds"].max())
    return f"{count} recorded round" + "s" * (count > 1)
