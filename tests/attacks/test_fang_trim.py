"""Fang's attack on trimmed mean fills its interval, beyond the spread, against the mean."""

import numpy as np
import pytest
import torch
from attack_support import (
    POINTS,
    forged,
    forged_with_full_knowledge,
    honest,
    kolmogorov_distance_allowed,
    points,
)
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.fang_trim import FangTrim


def distance_from_uniform(shares):
    """The largest difference between the distribution of some numbers and that of U[0, 1]."""
    ordered = shares.flatten().double().sort().values
    return float((ordered - torch.linspace(0, 1, len(ordered), dtype=torch.float64)).abs().max())


def full_interval(column, reach):
    """The paper's interval of one coordinate, from the honest values that stand in it."""
    lowest, highest = min(column), max(column)
    if sum(column) > 0:
        return (lowest / reach if lowest > 0 else reach * lowest), lowest
    return highest, (reach * highest if highest > 0 else highest / reach)


@given(POINTS, st.floats(0, 5), st.floats(0, 5))
def test_every_coordinate_lies_inside_its_interval(shape, near, width):
    updates = points(*shape)
    far = near + width
    sent = forged(FangTrim(near, far), updates).numpy()
    mean, deviation = updates.numpy().mean(0), updates.numpy().std(0, ddof=1)
    low = np.where(mean > 0, mean - far * deviation, mean + near * deviation)
    high = np.where(mean > 0, mean - near * deviation, mean + far * deviation)
    slack = 1e-9 * (np.abs(mean) + (far + 1) * deviation)
    assert ((low - slack <= sent) & (sent <= high + slack)).all()


def test_the_interval_is_filled_uniformly_and_each_attacker_draws_for_itself():
    own = honest(5)
    depth = (forged(FangTrim(), own) - own.mean(0)).abs() / own.std(0)
    for row in depth:
        assert distance_from_uniform(row - 3) < kolmogorov_distance_allowed(len(row))
    assert torch.corrcoef(depth).fill_diagonal_(0).abs().max() < 0.25


def test_draws_are_made_anew_in_each_round_and_from_each_seed():
    own = honest(3)
    first = forged(FangTrim(), own)
    assert not torch.equal(forged(FangTrim(), own, round=2), first)
    assert not torch.equal(forged(FangTrim(), own, seed=1), first)


def test_every_coordinate_moves_against_the_sign_of_its_mean():
    own = honest(4)
    shift = forged(FangTrim(), own) - own.mean(0)
    assert torch.equal(shift.sign(), torch.where(own.mean(0) > 0, -1.0, 1.0).expand(4, -1))


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        ([1, 3, 5], 0.5, 1),
        ([-1, 3, 4], -2, -1),
        ([-1, -3, -5], -1, -0.5),
        ([1, -3, -4], 1, 2),
    ],
)
def test_full_knowledge_by_hand(column, low, high):
    known = torch.tensor(column, dtype=torch.float64)[:, None].repeat(1, 500)
    own = torch.zeros(2, 500, dtype=torch.float64)
    sent = forged_with_full_knowledge(FangTrim(knowledge="full"), own, known)
    shares = (sent - low) / (high - low)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert distance_from_uniform(shares) < kolmogorov_distance_allowed(shares.numel())


@given(POINTS, st.floats(1.01, 10))
def test_full_knowledge_lies_between_the_extreme_value_and_its_reach(shape, reach):
    known = points(*shape)
    sent = forged_with_full_knowledge(FangTrim(reach=reach, knowledge="full"), known[:2], known)
    for column, drawn in zip(known.T.tolist(), sent.T.tolist(), strict=True):
        low, high = full_interval(column, reach)
        slack = 1e-9 * max(map(abs, column)) * reach
        assert all(low - slack <= value <= high + slack for value in drawn)


@given(POINTS)
def test_full_knowledge_leaves_the_honest_values_all_on_one_side(shape):
    known = points(*shape)
    sent = forged_with_full_knowledge(FangTrim(knowledge="full"), known[:2], known)
    downward = known.mean(0) > 0
    beyond = torch.where(downward, sent <= known.min(0).values, sent >= known.max(0).values)
    assert beyond.all()


def test_deviations_do_not_decide_with_full_knowledge_nor_reach_without_it():
    own = honest(4)
    full = [FangTrim(near, near + 1, knowledge="full") for near in (1.0, 3.0)]
    one, other = (forged_with_full_knowledge(attack, own, own) for attack in full)
    assert torch.equal(one, other)
    assert torch.equal(forged(FangTrim(reach=2.0), own), forged(FangTrim(reach=9.0), own))
