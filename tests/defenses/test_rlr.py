"""RLR reverses the coordinates on whose sign too few clients agree."""

import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.krum import Krum
from fedred.defenses.median import Median
from fedred.defenses.rlr import RLR
from fedred.errors import UserError


def test_signs_by_hand():
    """Surplus of signs: 3, 1, 1 (a zero has none), 0."""
    updates = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, -1.0, -1.0, 0.0], [2.0, 5.0, 0.0, 0.0]])
    assert RLR(2)(updates, view_of(3)).aggregate.tolist() == pytest.approx([2.0, -2.0, 1 / 3, 0.0])


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9))
def test_rlr_equals_a_loop_over_coordinates(seed, n, agreement):
    agreement = min(agreement, n)
    updates = normal(seed, n, 6)
    expected = []
    for column in updates.T.tolist():
        surplus = abs(sum((value > 0) - (value < 0) for value in column))
        expected.append(sum(column) / n * (1 if surplus >= agreement else -1))
    aggregate = RLR(agreement)(updates, view_of(n)).aggregate
    torch.testing.assert_close(aggregate, torch.tensor(expected, dtype=torch.float64))


def test_without_agreement_nothing_is_reversed():
    updates = normal(0, 8, 20)
    torch.testing.assert_close(RLR(0)(updates, view_of(8)).aggregate, updates.mean(0))


def test_one_more_than_a_third_must_agree_by_default():
    updates = normal(1, 9, 50)
    default, told = (RLR(needed)(updates, view_of(9)).aggregate for needed in (None, 4))
    assert torch.equal(default, told)
    assert not torch.equal(default, RLR(6)(updates, view_of(9)).aggregate)


def test_more_agreement_than_there_are_participants_is_refused():
    with pytest.raises(UserError, match=r"RLR.* needs at least 9 participants"):
        RLR(9)(normal(0, 8, 3), view_of(8))
    updates = normal(2, 9, 3).abs()
    torch.testing.assert_close(RLR(9)(updates, view_of(9)).aggregate, updates.mean(0))


def test_another_rule_inside_differs_by_signs_alone():
    updates = normal(3, 9, 50)
    plain, reversed_ = (
        rule(updates, view_of(9)).aggregate for rule in (Median(), RLR(5, Median()))
    )
    assert torch.equal(plain.abs(), reversed_.abs())
    assert not torch.equal(plain, reversed_)


def test_rlr_selects_when_the_rule_inside_does():
    updates = normal(4, 9, 5)
    assert RLR(aggregator=Krum(2)).traits.selects
    assert not RLR().traits.selects
    inside = Krum(2)(updates, view_of(9))
    assert torch.equal(RLR(aggregator=Krum(2))(updates, view_of(9)).trusted, inside.trusted)


def test_it_fails_when_the_attackers_reach_the_agreement():
    updates = torch.zeros(9, 4, dtype=torch.float64)
    updates[5:] = -1.0
    assert (RLR()(updates, view_of(9)).aggregate < 0).all()
    updates[5] = 0.0
    assert (RLR()(updates, view_of(9)).aggregate > 0).all()


def test_it_fails_where_honest_clients_disagree():
    """Four up, three down, nobody malicious: the mean is reversed."""
    updates = torch.tensor([[1.0]] * 4 + [[-1.0]] * 3, dtype=torch.float64)
    assert RLR()(updates, view_of(7)).aggregate < 0 < updates.mean()


def test_rlr_needs_what_the_inner_rule_needs():
    assert RLR(2, Krum(4)).traits.fewest_participants == Krum(4).traits.fewest_participants == 7
    assert RLR(9, Krum(1)).traits.fewest_participants == 9
