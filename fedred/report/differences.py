"""The table of differences: final accuracy of each defense minus FedAvg's, paired by seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr

from fedred.errors import UserError
from fedred.report.frames import (
    Row,
    comparable,
    defined,
    final,
    grouped,
    named,
    records,
    tidy,
    told_n,
    warnings_of,
)
from fedred.report.labels import LabelledRun
from fedred.report.layout import Block, Cell
from fedred.report.notes import warned
from fedred.report.runs import Run
from fedred.report.statistics import FloatArray, spread
from fedred.report.style import base_name, display

BASELINE = "fedavg"
LEVEL = 0.05
"""Of the family of all comparisons of a block."""
MARK = "*"


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Return final accuracy minus that of FedAvg with the same seed, in points of percent.

    Columns: dataset, attack, defense, the settings that differ, metric, baseline, mean, std, ci95,
    n, p (paired t test, two-sided), p_holm (over all comparisons of a block), significant. With
    fewer than two pairs of seeds there is no interval and no p.

    Raises:
        UserError: when no run has a run of FedAvg with the same attack and seed beside it.
    """
    groups = grouped(runs)
    baselines: dict[object, list[LabelledRun]] = {}
    for group in groups:
        if base_name(group[0].defense) == BASELINE:
            baselines.setdefault((group[0].block, group[0].attack), group)
    rows: dict[object, list[Row]] = {}
    for group in groups:
        baseline = baselines.get((group[0].block, group[0].attack), group)
        samples = _paired(group, baseline)
        if baseline is not group and len(samples):
            row = _compared(group, baseline, samples)
            rows.setdefault(group[0].block, []).append(row)
    if not rows:
        raise UserError(
            "the table of differences needs runs defended by fedavg and by another defense, "
            "with the same attack and seed"
        )
    return tidy([row for block in rows.values() for row in _judged(block)])


def _paired(group: list[LabelledRun], baseline: list[LabelledRun]) -> FloatArray:
    """Return the differences [pairs], in percent, for the seeds that both have."""
    others = {one.seed: final(one.run, "accuracy") for one in baseline}
    pairs = [(final(one.run, "accuracy"), others.get(one.seed)) for one in group]
    return 100 * np.array(
        [mine - other for mine, other in pairs if mine is not None and other is not None],
        dtype=float,
    )


def _compared(group: list[LabelledRun], baseline: list[LabelledRun], samples: FloatArray) -> Row:
    mean, std, ci95 = (float(part) for part in spread(samples))
    return {
        **named(group[0]),
        "metric": "accuracy",
        "baseline": baseline[0].defense,
        "mean": mean,
        "std": std,
        "ci95": ci95,
        "n": len(samples),
        "p": _p_value(mean, std, len(samples)),
        "warnings": warned([*group, *baseline]),
    }


def _p_value(mean: float, std: float, n: int) -> float:
    """Return p of the two-sided t test of mean 0: 2 P(T_{n-1} < -|mean| sqrt(n) / std)."""
    if n < 2:
        return float("nan")
    if std == 0:
        return float(mean == 0)
    return 2 * float(stdtr(n - 1, -abs(mean) * np.sqrt(n) / std))


def _judged(rows: list[Row]) -> list[Row]:
    """Add the p values corrected for the number of comparisons, and what is significant."""
    p = holm(np.array([row["p"] for row in rows], dtype=float))
    return [
        row | {"p_holm": float(mine), "significant": bool(mine < LEVEL)}
        for row, mine in zip(rows, p, strict=True)
    ]


def holm(p: FloatArray) -> FloatArray:
    """Return p values corrected after Holm (Scand. J. Statistics 6, 1979), NaN where they are NaN.

    p_(i) becomes max over j <= i of min(1, (m - j + 1) p_(j)), the m defined ones in rising order.

    Args:
        p: p values [comparisons].
    """
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(1, factors * p[order]))
    return corrected


def difference_blocks(frame: pd.DataFrame) -> list[Block]:
    """One block a data set: attacks as rows, defenses as columns, significant ones marked."""
    defenses = list(frame["defense"].unique())
    blocks = []
    for title, part in comparable(frame):
        rows = [
            ([display(str(attack))], _cells(values, defenses))
            for attack, values in part.groupby("attack", sort=False)
        ]
        baselines = " or ".join(display(name) for name in part["baseline"].unique())
        heading = f"{title}: Accuracy minus that of {baselines} (points), {told_n(part, 'pair')}"
        header = [display(defense) for defense in defenses]
        blocks.append(Block(heading, ["Attack"], header, rows))
    return blocks


def _cells(values: pd.DataFrame, defenses: list[str]) -> list[Cell]:
    rows = {row["defense"]: row for row in records(values)}
    cells = []
    for defense in defenses:
        row = rows.get(defense)
        cells.append(_cell(row) if row else Cell())
    return cells


def _cell(row: Row) -> Cell:
    mark = MARK if row["significant"] else ""
    return Cell(defined(row["mean"]), row["ci95"], mark=mark, warnings=warnings_of(row))
