"""Norm bound shortens what is longer than M, turns nothing, and averages."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.norm_bound import NormBound
from fedred.errors import UserError


@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(0.1, 5))
def test_the_aggregate_is_the_mean_of_rows_shortened_to_the_bound(n, seed, bound):
    updates = normal(seed, n, 4)
    rows = []
    for row in updates.numpy():
        length = np.linalg.norm(row)
        rows.append(row if length <= bound else row / length * bound)
    aggregate = NormBound(bound)(updates, view_of(n)).aggregate
    np.testing.assert_allclose(aggregate, np.mean(rows, axis=0), rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10**6), st.sampled_from([1e-20, 1.0, 1e20]))
def test_one_update_alone_keeps_its_direction_and_is_no_longer_than_the_bound(seed, scale):
    updates = (normal(seed, 1, 5) * scale).float()
    aggregate = NormBound(2.0)(updates, view_of(1)).aggregate.double()
    expected = min(2.0, float(updates.double().norm()))
    assert float(aggregate.norm()) == pytest.approx(expected, rel=1e-5)
    cosine = aggregate @ updates[0].double() / aggregate.norm() / updates.double().norm()
    assert float(cosine) == pytest.approx(1, abs=1e-6)


def test_the_default_bound_is_the_median_length_by_hand():
    updates = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    assert NormBound()(updates, view_of(3)).aggregate.tolist() == pytest.approx([2.0, 3.0])


def test_the_default_bound_of_an_even_number_is_the_middle_of_two():
    updates = torch.diag(torch.tensor([1.0, 2.0, 3.0, 100.0]))
    expected = [0.25, 0.5, 0.625, 0.625]
    assert NormBound()(updates, view_of(4)).aggregate.tolist() == pytest.approx(expected)


def test_a_bound_longer_than_all_updates_is_the_mean():
    updates = normal(1, 6, 4)
    torch.testing.assert_close(NormBound(1e6)(updates, view_of(6)).aggregate, updates.mean(0))


def test_an_attacker_moves_the_aggregate_by_at_most_its_share_of_the_bound():
    updates = normal(2, 9, 4)
    rest = NormBound(1.5)(with_row(updates, 3, 0.0), view_of(9)).aggregate
    for value in (1e9, -1e30):
        verdict = NormBound(1.5)(with_row(updates, 3, value), view_of(9))
        assert float((verdict.aggregate - rest).norm()) == pytest.approx(1.5 / 9)
        assert verdict.trusted.all()


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf")])
def test_a_bound_that_bounds_nothing_is_refused(bound):
    with pytest.raises(UserError, match=r"^NormBound\.bound is"):
        NormBound(bound)
