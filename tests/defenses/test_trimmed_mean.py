"""The trimmed mean equals scipy's, and stays between the extremes of the honest."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from fedred.defenses.trimmed_mean import TrimmedMean
from fedred.errors import UserError


@st.composite
def trimmed_cases(draw):
    n = draw(st.integers(1, 15))
    return normal(draw(st.integers(0, 10**6)), n, 4), draw(st.integers(0, (n - 1) // 2))


@given(trimmed_cases())
def test_trimmed_mean_equals_scipy(case):
    updates, f = case
    n = len(updates)
    expected = trim_mean(updates.numpy(), (f + 0.5) / n, axis=0)
    aggregate = TrimmedMean(f)(updates, view_of(n)).aggregate
    np.testing.assert_allclose(aggregate, expected, rtol=1e-12, atol=1e-15)


@given(trimmed_cases())
def test_trimmed_mean_equals_byzfl(case):
    byzfl = pytest.importorskip("byzfl")
    updates, f = case
    aggregate = TrimmedMean(f)(updates, view_of(len(updates))).aggregate
    np.testing.assert_allclose(aggregate, byzfl.TrMean(f)(updates.numpy().copy()), atol=1e-14)


def test_trimmed_mean_by_hand():
    updates = torch.tensor([[9.0, 0.0], [1.0, 5.0], [2.0, -5.0], [6.0, 1.0]])
    assert TrimmedMean(1)(updates, view_of(4)).aggregate.tolist() == [4.0, 0.5]
    assert TrimmedMean(0)(updates, view_of(4)).aggregate.tolist() == [4.5, 0.25]


@given(trimmed_cases(), st.sampled_from([1e9, -1e9]))
def test_huge_updates_up_to_the_tolerated_leave_it_between_the_honest_extremes(case, value):
    updates, f = case
    attacked = with_row(updates, slice(0, f), value)
    aggregate = TrimmedMean(f)(attacked, view_of(len(updates))).aggregate
    honest = updates[f:]
    assert (aggregate >= honest.min(0).values - 1e-12).all()
    assert (aggregate <= honest.max(0).values + 1e-12).all()


def test_one_huge_update_more_than_the_tolerated_breaks_it():
    attacked = with_row(normal(0, 9, 4), slice(0, 3), 1e9)
    assert (TrimmedMean(2)(attacked, view_of(9)).aggregate > 1e6).all()


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 100])
def test_trimmed_mean_drops_a_third_at_each_end_by_default(n):
    updates = normal(1, n, 4)
    default, told = (TrimmedMean(f)(updates, view_of(n)).aggregate for f in (None, n // 3))
    assert torch.equal(default, told)


def test_trimmed_mean_needs_one_value_that_is_left():
    updates = normal(2, 7, 4)
    assert torch.equal(TrimmedMean(3)(updates, view_of(7)).aggregate, updates.median(0).values)
    with pytest.raises(UserError, match=r"^TrimmedMean\(tolerated=3\) needs at least 7 part.* 6$"):
        TrimmedMean(3)(updates[:6], view_of(6))


def test_trimmed_mean_counts_a_broken_update_among_the_tolerated():
    updates = normal(3, 7, 4)
    verdict = TrimmedMean(2)(with_row(updates, 0, torch.nan), view_of(7))
    assert torch.equal(verdict.aggregate, TrimmedMean(1)(updates[1:], view_of(6)).aggregate)
