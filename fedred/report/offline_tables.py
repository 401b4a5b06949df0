"""Tables of updates judged offline: AUROC, and what thresholds, budgets and exclusion rules decide."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from fedred.report.frames import Row, defined, records, tidy, told_n, warnings_of
from fedred.report.judged import OWN, Judged, areas, by_attack, by_seed, counts
from fedred.report.layout import Block, Cell
from fedred.report.statistics import spread
from fedred.report.style import DISPLAY_NAMES, display

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BUDGETS = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))
"""Iterations; those below the recorded number are shown, and that number."""
DECISIONS = ("FPR", "FNR", "honest_iterations", "malicious_iterations")
SUMMARY = ("metric", "mean", "std", "ci95", "n", "rounds", "warnings")

Rule = Callable[[pd.DataFrame], pd.Series]
"""Tells who is excluded, from flags [clients, rounds] that are 0, 1 or NaN for one that was not asked."""


def threshold(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return what each threshold would decide with all iterations that were made.

    FPR and FNR are the shares, in percent, of honest clients that never get below it and of malicious
    clients that do; iterations are those until a client is below it, all where it never is. A value of
    a seed is that of all its recorded rounds.

    Returns:
        Columns attack, threshold, metric (a member of DECISIONS), mean, std, ci95, n (seeds), rounds,
        warnings.

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
    levels = [(level, partial(_decide, budget=level)) for level in _budgets(judged)]
    return _decisions(judged, "budget", levels)


def _budgets(judged: Sequence[Judged]) -> list[int]:
    made = max((one.curves()[0].shape[1] for one in judged), default=0)
    return [*(level for level in BUDGETS if level < made), made]


def exclusion(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return who would be excluded after the last recorded round, by the flags of all of them.

    A client is excluded once it was flagged in so many recorded rounds (1: FedREDefense's permanent
    exclusion), or by its latest flag alone, at the threshold of the defense that judged and with so many
    iterations. The rounds are those that were played: had somebody been excluded, later ones would be
    others. Clients in none of them do not count.

    Returns:
        Columns attack, budget, excluded by, metric (FPR or FNR in percent), mean, std, ci95, n (seeds),
        rounds, warnings.

    Raises:
        UserError: when there is nothing to report.
    """
    groups = by_attack(judged)
    rules = _rules(max(counts(group)[1] for group in groups.values()))
    rows = []
    for attack, group in groups.items():
        for level in _budgets(judged):
            decided = [
                pd.concat(_decide(one, budget=level) for one in part) for part in by_seed(group)
            ]
            for name, rule in rules.items():
                names = {"attack": attack, "budget": level, "excluded by": name}
                found = [_rates(_after(rule, part)) for part in decided]
                rows += _summaries(names, found, group, DECISIONS[:2])
    return tidy(rows)


def _rules(most: int) -> dict[str, Rule]:
    """Return the rules of exclusion by name: the latest flag, and so many flags up to the most."""
    rules: dict[str, Rule] = {"latest flag": lambda flags: flags.ffill(axis=1).iloc[:, -1] == 1}
    for least in range(1, most + 1):
        rules[f"{least} flag" + "s" * (least > 1)] = partial(_flagged_often, least)
    return rules


def _flagged_often(least: int, flags: pd.DataFrame) -> pd.Series:
    return flags.sum(axis=1) >= least


def _after(rule: Rule, decided: pd.DataFrame) -> pd.DataFrame:
    """Return each client once, flagged if the rule excludes it after the last recorded round."""
    flags = decided.pivot(index="client", columns="round", values="flagged").astype(float)
    once = decided.groupby("client").last()
    return once.assign(flagged=rule(flags))


def auroc(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return the area under the ROC curve of every rule that scores a single round, in percent.

    A value of a seed is the mean of its recorded rounds (see `judged.areas`).

    Returns:
        Columns attack, rule, metric, mean, std, ci95, n (seeds), rounds,
        warnings.

    Raises:
        UserError: when there is nothing to report.
    """
    rows = []
    for attack, group in by_attack(judged).items():
        for rule in dict.fromkeys(
            [OWN, *(name for one in group for name in one.frame["rule"].unique())]
        ):
            values = [{"auroc": 100 * area} for area in areas(group, rule)]
            rows += _summaries({"attack": attack, "rule": rule}, values, group, ["auroc"])
    return tidy(rows)


def _decisions(
    judged: Sequence[Judged],
    column: str,
    levels: Sequence[tuple[float, Callable[[Judged], pd.DataFrame]]],
) -> pd.DataFrame:
    rows = []
    for attack, group in by_attack(judged).items():
        for level, decide in levels:
            found = [_rates(pd.concat(map(decide, rounds))) for rounds in by_seed(group)]
            rows += _summaries({"attack": attack, column: level}, found, group, DECISIONS)
    return tidy(rows)


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
    rounds = counts(group)[1]
    rows = []
    for metric in metrics:
        values = np.array([one[metric] for one in seeds if not np.isnan(one[metric])])
        found = map(float, spread(values)) if len(values) else (np.nan,) * 3
        numbers = (metric, *found, len(values), rounds, _warned(names, group))
        rows.append({**names, **dict(zip(SUMMARY, numbers, strict=True))})
    return rows


def _warned(names: Row, group: Sequence[Judged]) -> str:
    """Return the kinds of warnings of recorded rounds; they concern the reconstruction alone."""
    kinds = {kind for one in group for kind in one.warnings}
    return " ".join(sorted(kinds)) if names.get("rule", OWN) == OWN else ""


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def decision_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block an attack: thresholds or budgets as rows, what they decide as columns."""
    column = str(frame.columns[1])
    return [
        Block(
            f"{attack}: {TITLES[column]}, {told_n(part)}, {_told_rounds(part)}",
            [column.capitalize()],
            [HEADINGS[metric] for metric in part["metric"].unique()],
            [([f"{level:g}"], _spreads(rows)) for level, rows in part.groupby(column, sort=False)],
        )
        for attack, part in frame.groupby("attack", sort=False)
    ]


TITLES = {
    "threshold": "what a threshold decides",
    "budget": "what so many iterations decide",
}
HEADINGS = {
    "FPR": "FPR (%)",
    "FNR": "FNR (%)",
    "honest_iterations": "Iterations, honest",
    "malicious_iterations": "Iterations, malicious",
}


def exclusion_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block an attack: budgets as rows, rates of each rule of exclusion as columns."""
    return [
        Block(
            f"{attack}: excluded in the end, {told_n(part)}, {_told_rounds(part)}",
            ["Budget"],
            [
                f"{HEADINGS[metric]}, {rule}"
                for rule in part["excluded by"].unique()
                for metric in part["metric"].unique()
            ],
            [
                ([f"{level:g}"], _spreads(rows))
                for level, rows in part.groupby("budget", sort=False)
            ],
        )
        for attack, part in frame.groupby("attack", sort=False)
    ]


def auroc_blocks(frame: pd.DataFrame) -> list[Block]:
    """Rules as rows, attacks as columns."""
    attacks = list(frame["attack"].unique())
    rows = []
    for rule, part in frame.groupby("rule", sort=False):
        found = {row["attack"]: row for row in records(part)}
        cells = [_spread_cell(found[name]) if name in found else Cell() for name in attacks]
        rows.append(([display(str(rule))], cells))
    title = f"{DISPLAY_NAMES['auroc']}, {told_n(frame)}, {_told_rounds(frame)}"
    return [Block(title, ["Rule"], attacks, rows)]


def _spreads(rows: pd.DataFrame) -> list[Cell]:
    return [_spread_cell(row) for row in records(rows)]


def _spread_cell(row: Row) -> Cell:
    return Cell(defined(row["mean"]), defined(row["ci95"]), warnings=warnings_of(row))


def _told_rounds(part: pd.DataFrame) -> str:
    count = int(part["rounds"].max())
    return f"{count} recorded round" + "s" * (count != 1)
