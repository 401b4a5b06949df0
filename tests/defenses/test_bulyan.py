"""Bulyan's selection and aggregate are those of the paper, written as loops."""

import math

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.bulyan import Bulyan
from fedred.errors import UserError


def krum_key(rows, one, left, f):
    """Krum's score of a row among those left; of equal ones the closer to all comes first."""
    squares = sorted(math.dist(rows[one], rows[other]) ** 2 for other in left - {one})
    return sum(squares[: max(1, len(left) - f - 2)]), sum(square**0.5 for square in squares)


def plain_bulyan(updates, f):
    """El Mhamdi et al., section 4: the selected ids and the aggregate."""
    rows, n = updates.tolist(), len(updates)
    left, selected = set(range(n)), []
    for _ in range(n - 2 * f):
        winner = min(left, key=lambda one: krum_key(rows, one, left, f))
        left.remove(winner)
        selected.append(winner)
    aggregate = []
    for values in zip(*(rows[one] for one in selected), strict=True):
        middle = np.median(values)
        nearest = sorted(values, key=lambda value, middle=middle: abs(value - middle))
        aggregate.append(np.mean(nearest[: n - 4 * f]))
    return sorted(selected), aggregate


@given(st.integers(3, 13), st.integers(0, 10**6), st.data())
def test_bulyan_equals_the_definition(n, seed, data):
    f = data.draw(st.integers(0, (n - 3) // 4))
    updates = normal(seed, n, 4)
    verdict = Bulyan(f)(updates, view_of(n))
    selected, aggregate = plain_bulyan(updates, f)
    assert verdict.trusted.nonzero().flatten().tolist() == selected
    np.testing.assert_allclose(verdict.aggregate, aggregate, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "f"), [(7, 1), (11, 2), (12, 2), (20, 4)])
def test_no_client_is_selected_twice(n, f):
    for updates in (normal(0, n, 3), torch.zeros(n, 3), normal(1, 1, 3).repeat(n, 1)):
        assert Bulyan(f)(updates, view_of(n)).trusted.sum() == n - 2 * f


def test_bulyan_without_tolerance_is_the_mean():
    updates = normal(2, 6, 4)
    torch.testing.assert_close(Bulyan(0)(updates, view_of(6)).aggregate, updates.mean(0))


@pytest.mark.parametrize("value", [1e9, -1e30])
@pytest.mark.parametrize("rows", [slice(0, 2), slice(9, 11)])
def test_huge_colluding_updates_leave_it_between_the_honest_extremes(value, rows):
    updates = normal(3, 11, 6).float()
    attacked = with_row(updates, rows, value)
    aggregate = Bulyan(2)(attacked, view_of(11)).aggregate
    honest = torch.cat([updates[: rows.start], updates[rows.stop :]])
    assert (aggregate >= honest.min(0).values).all()
    assert (aggregate <= honest.max(0).values).all()


@pytest.mark.parametrize("row", [0, 4, 6])
def test_an_update_whose_distance_overflows_is_not_selected(row):
    updates = with_row(normal(4, 7, 6).float(), row, -1e30)
    assert not Bulyan(1)(updates, view_of(7)).trusted[row]


def test_bulyan_gives_no_single_coordinate_to_an_attacker():
    """The hidden vulnerability: a row like the others, but for one coordinate within Krum's reach."""
    updates = normal(5, 11, 400)
    updates[0] = updates[1:].mean(0)
    updates[0, 7] += 15
    verdict = Bulyan(2)(updates, view_of(11))
    assert verdict.trusted[0]
    assert updates[1:, 7].min() <= verdict.aggregate[7] <= updates[1:, 7].max()


@pytest.mark.parametrize("f", [0, 1, 3])
def test_bulyan_refuses_fewer_than_its_theorem_needs(f):
    fewest = 4 * f + 3
    assert Bulyan(f)(normal(0, fewest, 3), view_of(fewest)).trusted.any()
    with pytest.raises(UserError, match=rf"^Bulyan.* needs at least {fewest} participants, but"):
        Bulyan(f)(normal(0, fewest - 1, 3), view_of(fewest - 1))


@pytest.mark.parametrize(("n", "most"), [(3, 0), (6, 0), (7, 1), (10, 1), (11, 2)])
def test_bulyan_tolerates_the_most_it_can_by_default(n, most):
    updates = normal(6, n, 4)
    default, told = (Bulyan(f)(updates, view_of(n)) for f in (None, most))
    assert torch.equal(default.aggregate, told.aggregate)
    assert torch.equal(default.trusted, told.trusted)


def test_bulyan_by_hand():
    """f = 1 of 7: the five in the middle are selected; 0, 1 and 2 are nearest their median 2."""
    updates = torch.tensor([[-100.0], [0.0], [1.0], [2.0], [5.0], [8.0], [100.0]])
    verdict = Bulyan(1)(updates, view_of(7))
    assert verdict.trusted.tolist() == [False, True, True, True, True, True, False]
    assert verdict.aggregate == 1.0
