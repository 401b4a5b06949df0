"""The median equals NumPy's, its lower form PyTorch's."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.median import Median


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_median_equals_numpy_and_its_lower_form_equals_torch(n, seed):
    updates = normal(seed, n, 5)
    middle = Median()(updates, view_of(n)).aggregate
    np.testing.assert_allclose(middle, np.median(updates.numpy(), axis=0), rtol=1e-12, atol=1e-15)
    lower = Median("lower")(updates, view_of(n)).aggregate
    assert torch.equal(lower, updates.median(0).values)
    assert n % 2 == 0 or torch.equal(lower, middle)


def test_median_by_hand():
    updates = torch.tensor([[4.0, -1.0], [1.0, 0.0], [9.0, 5.0], [2.0, 1.0]])
    assert Median()(updates, view_of(4)).aggregate.tolist() == [3.0, 0.5]
    assert Median("lower")(updates, view_of(4)).aggregate.tolist() == [2.0, 0.0]
    assert Median()(updates[:3], view_of(3)).aggregate.tolist() == [4.0, 0.0]


@pytest.mark.parametrize("even", ["middle", "lower"])
def test_median_leaves_broken_updates_out_of_the_count(even):
    updates = normal(0, 6, 5)
    broken = with_row(with_row(updates, 1, torch.inf), 4, torch.nan)
    whole = Median(even)(updates[[0, 2, 3, 5]], view_of(4)).aggregate
    verdict = Median(even)(broken, view_of(6))
    assert torch.equal(verdict.aggregate, whole)
    assert verdict.trusted.tolist() == [True, False, True, True, False, True]


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_median_equals_byzfl(n, seed):
    byzfl = pytest.importorskip("byzfl")
    updates = normal(seed, n, 5)
    expected = byzfl.Median()(updates.numpy().copy())
    np.testing.assert_allclose(Median()(updates, view_of(n)).aggregate, expected, atol=1e-14)


@pytest.mark.parametrize("even", ["middle", "lower"])
@pytest.mark.parametrize("n", [7, 8])
def test_fewer_than_half_leave_the_median_between_the_honest_and_more_do_not(n, even):
    updates, most = normal(2, n, 5), (n - 1) // 2
    found = Median(even)(with_row(updates, slice(0, most), 1e9), view_of(n)).aggregate
    honest = updates[most:]
    assert ((found >= honest.min(0).values) & (found <= honest.max(0).values)).all()
    broken = Median(even)(with_row(updates, slice(0, n // 2 + 1), 1e9), view_of(n)).aggregate
    assert (broken == 1e9).all()
