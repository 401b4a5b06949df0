"""Krum's scores and winner are those of the paper, written as loops."""

import numpy as np
import pytest
import torch
from defense_support import normal, plain_krum, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.krum import Krum, krum_scores
from fedred.errors import UserError


@given(st.integers(3, 9), st.integers(0, 6), st.booleans(), st.integers(0, 10**6))
def test_krum_equals_the_definition(n, tolerated, squared, seed):
    tolerated = min(tolerated, n - 3)
    updates = normal(seed, n, 4)
    verdict = Krum(tolerated, squared)(updates, view_of(n))
    expected = plain_krum(updates, tolerated, squared)
    torch.testing.assert_close(verdict.scores, expected)
    winner = int(verdict.trusted.nonzero())
    assert expected[winner] == pytest.approx(float(expected.min()))
    assert torch.equal(verdict.aggregate, updates[winner])


def test_krum_by_hand_and_the_square_matters():
    """n = 4, f = 0: two neighbours. At 5: 4 + 5 and 16 + 25; at 9: 4 + 1 and 16 + 1."""
    updates = torch.tensor([[0.0], [5.0], [9.0], [10.0]])
    assert Krum(0)(updates, view_of(4)).scores.tolist() == [106.0, 41.0, 17.0, 26.0]
    assert Krum(0, squared=False)(updates, view_of(4)).scores.tolist() == [14.0, 9.0, 5.0, 6.0]
    between = torch.tensor([[0.0], [0.0], [6.5], [3.0], [10.0]])
    assert Krum(0)(between, view_of(5)).aggregate == 3.0
    assert Krum(0, squared=False)(between, view_of(5)).aggregate == 0.0


@pytest.mark.parametrize(("n", "most"), [(3, 0), (4, 0), (5, 1), (6, 1), (100, 48)])
def test_krum_tolerates_by_default_the_most_the_theorem_allows(n, most):
    """Proposition 4.2 needs 2 f + 2 < n."""
    assert 2 * most + 2 < n <= 2 * (most + 1) + 2
    updates = normal(0, n, 3)
    assert torch.equal(krum_scores(updates, None), krum_scores(updates, most))


@pytest.mark.parametrize("tolerated", [0, 1, 4, 30, None])
def test_krum_refuses_too_few_participants(tolerated):
    fewest = (tolerated or 0) + 3
    with pytest.raises(UserError, match=f"^Krum.* needs at least {fewest} participants, but"):
        Krum(tolerated)(normal(0, fewest - 1, 3), view_of(fewest - 1))
    assert Krum(tolerated)(normal(0, fewest, 3), view_of(fewest)).trusted.sum() == 1


def test_krum_counts_broken_updates_among_the_tolerated():
    updates = normal(0, 7, 4)
    broken = with_row(with_row(updates, 0, torch.nan), 3, torch.inf)
    verdict = Krum(2)(broken, view_of(7))
    finite = [1, 2, 4, 5, 6]
    assert int(verdict.trusted.nonzero()) == finite[int(plain_krum(updates[finite], 0).argmin())]
    assert verdict.scores[[0, 3]].isinf().all()


def test_krum_trusts_nobody_when_too_few_are_finite():
    updates = torch.tensor([[0.0], [1.0], [torch.nan], [torch.nan], [torch.nan]])
    verdict = Krum(1)(updates, view_of(5, weights=torch.zeros(1)))
    assert not verdict.trusted.any()
    assert not verdict.aggregate.any()


@given(st.integers(5, 10), st.integers(0, 10**6))
def test_krum_equals_byzfl_which_counts_one_neighbour_more(n, seed):
    byzfl = pytest.importorskip("byzfl")
    updates, tolerated = normal(seed, n, 4), (n - 3) // 2 - (n % 2 == 0)
    expected = byzfl.Krum(tolerated + 1)(updates.numpy().copy())
    np.testing.assert_array_equal(Krum(tolerated)(updates, view_of(n)).aggregate, expected)


@pytest.mark.parametrize("row", [0, 6])
def test_krum_never_picks_an_update_whose_distance_overflows(row):
    updates = with_row(normal(1, 7, 50).float(), row, 1e30)
    verdict = Krum(2)(updates, view_of(7))
    assert not verdict.trusted[row]
    assert verdict.scores.argmax() == row
