"""LIE lies so little that honest updates beyond it make up the majority."""

import numpy as np
import pytest
import torch
from attack_support import POINTS, forged, forged_with_full_knowledge, honest, normal, points
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedred.attacks.lie import LIE, hidden_deviations


def supporters_needed(participants, attackers):
    """The fewest honest updates that together with the attackers are more than half of all."""
    return next(s for s in range(participants) if 2 * (s + attackers) > participants)


def test_z_by_hand():
    """s = 26 - 10 = 16, (40 - 16) / 40 = 0.6: Phi^-1(0.6), where some take Phi(0.6) = 0.7257."""
    assert hidden_deviations(50, 10) == pytest.approx(0.2533471, abs=1e-7)
    assert norm.cdf(0.6) == pytest.approx(0.7257, abs=1e-4)


@given(st.integers(3, 200), st.data())
def test_z_leaves_as_many_honest_updates_beyond_as_a_majority_needs(n, data):
    m = data.draw(st.integers(1, (n - 1) // 2))
    expected_beyond = (n - m) * norm.sf(hidden_deviations(n, m))
    assert expected_beyond == pytest.approx(supporters_needed(n, m), rel=1e-9)


def test_z_splits_many_normal_honest_updates_where_the_majority_ends():
    """n = 5001 of which 1000 attack: the updates at or below mu - z sigma are just over half."""
    n, m = 5001, 1000
    known = normal(0, n - m, 50)
    sent = forged_with_full_knowledge(LIE(knowledge="full"), known[:m], known)
    siding = (known <= sent[0]).sum(0) + m
    assert (siding.double().mean() / n) == pytest.approx(0.5, abs=0.005)


@given(st.integers(1, 60), st.data())
def test_z_is_finite_for_any_number_of_attackers(n, data):
    m = data.draw(st.integers(1, n))
    assert np.isfinite(hidden_deviations(n, m))


@pytest.mark.parametrize(("n", "m"), [(10, 5), (10, 6), (10, 8), (100, 60)])
def test_a_majority_of_attackers_keeps_one_supporter(n, m):
    assert (n - m) * norm.sf(hidden_deviations(n, m)) == pytest.approx(1)


@pytest.mark.parametrize(("n", "m"), [(10, 9), (10, 10), (1, 1), (2, 1)])
def test_fewer_than_two_honest_updates_have_no_quantile_and_the_mean_is_sent(n, m):
    assert hidden_deviations(n, m) == 0.0


@given(POINTS, st.floats(-3, 3))
def test_what_is_sent_in_closed_form(shape, z):
    own = points(*shape)
    rows = own.numpy()
    expected = rows.mean(0) - z * rows.std(0, ddof=1)
    slack = 1e-12 * np.abs(rows).max()
    for row in forged(LIE(z), own).numpy():
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=slack)


@given(POINTS, st.integers(0, 40))
def test_the_formulas_z_is_used_by_default(shape, others):
    own = points(*shape)
    n = len(own) + others
    z = hidden_deviations(n, len(own))
    assert torch.equal(forged(LIE(), own, participants=n), forged(LIE(z), own))


@given(POINTS, st.floats(-3, 3))
def test_lie_equals_byzfl(shape, z):
    """byzfl adds tau sigma where the paper takes z sigma away."""
    byzfl = pytest.importorskip("byzfl")
    known = points(*shape)
    expected = byzfl.ALittleIsEnough(-z)(known.numpy())
    slack = 1e-12 * float(known.abs().max())
    sent = forged(LIE(z), known)[0].numpy()
    np.testing.assert_allclose(sent, expected, rtol=1e-9, atol=slack)
    full = forged_with_full_knowledge(LIE(z, "full"), 3 * known[:2], known)[0].numpy()
    np.testing.assert_allclose(full, expected, rtol=1e-9, atol=slack)


def test_more_participants_need_more_supporters_and_a_smaller_lie():
    own = honest(4)
    lengths = [(forged(LIE(), own, participants=n) - own.mean(0)).norm() for n in (9, 12, 20)]
    assert lengths[0] > lengths[1] > lengths[2]
