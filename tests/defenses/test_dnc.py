"""DnC drops the updates that lean most along the direction of largest variance."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.dnc import DnC, outlier_scores, whole_part
from fedred.errors import UserError


def plain_scores(updates):
    """Algorithm 2 of the paper: centre, top right singular vector, squared projections."""
    centred = updates.numpy() - updates.numpy().mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    return torch.from_numpy((centred @ direction) ** 2)


def planted(honest=9, malicious=3, size=40, shift=5.0):
    """Honest rows of noise, and malicious ones moved along one direction."""
    updates = normal(0, honest + malicious, size)
    updates[honest:] += shift * normal(1, size).sign()
    return updates


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 12))
def test_scores_are_the_squared_projections_of_the_paper(seed, n, size):
    updates = normal(seed, n, size)
    torch.testing.assert_close(outlier_scores(updates), plain_scores(updates), rtol=1e-6, atol=1e-9)


def test_a_planted_direction_is_found():
    updates = planted()
    verdict = DnC(3)(updates, view_of(12))
    assert verdict.trusted.tolist() == [True] * 9 + [False] * 3
    assert verdict.scores[9:].min() > verdict.scores[:9].max()
    torch.testing.assert_close(verdict.aggregate, updates[:9].mean(0))


@pytest.mark.parametrize(("f", "filtered", "dropped"), [(3, 1.0, 3), (3, 0.5, 1), (2, 1.5, 3)])
def test_c_times_f_updates_are_dropped(f, filtered, dropped):
    verdict = DnC(f, filtered=filtered)(normal(2, 9, 20), view_of(9))
    assert int((~verdict.trusted).sum()) == dropped


def test_no_product_of_c_and_f_loses_one_to_floating_point():
    lost = 0
    for hundredths in range(201):
        for f in range(41):
            assert whole_part(hundredths / 100, f) == hundredths * f // 100
            lost += int(hundredths / 100 * f) != hundredths * f // 100
    assert lost == 1  # 1.16 times 25, which is 29
    verdict = DnC(25, filtered=1.16)(normal(2, 51, 20), view_of(51, all_clients=51))
    assert int((~verdict.trusted).sum()) == 29


def test_a_third_is_tolerated_by_default_and_one_always_stays():
    assert int((~DnC()(normal(3, 10, 8), view_of(10)).trusted).sum()) == 3
    assert int(DnC(2, filtered=100.0)(normal(3, 7, 8), view_of(7)).trusted.sum()) == 1


def test_coordinates_outside_the_subset_are_not_seen():
    updates = normal(4, 12, 50)
    updates[9:] *= 0.1  # not conspicuous where they are seen
    chosen = np.sort(np.random.default_rng(5).choice(50, 10, replace=False))
    unseen = np.setdiff1d(np.arange(50), chosen)
    updates[9:, torch.from_numpy(unseen)] += 100
    assert DnC(3, coordinates=10)(updates, view_of(12)).trusted[9:].all()
    assert not DnC(3)(updates, view_of(12)).trusted[9:].any()


def test_whoever_is_dropped_in_one_iteration_is_out():
    """Twenty iterations on one coordinate each; the outliers of the two coordinates differ."""
    updates = torch.zeros(9, 2, dtype=torch.float64)
    updates[7, 0], updates[8, 1] = 10.0, 10.0
    many = DnC(1, iterations=20, coordinates=1)(updates, view_of(9))
    assert not many.trusted[7:].any()
    assert int((~DnC(1, coordinates=1)(updates, view_of(9)).trusted).sum()) == 1


def test_dnc_refuses_a_minority_of_honest_clients():
    with pytest.raises(UserError, match=r"DnC.* needs at least 7 participants"):
        DnC(3)(normal(0, 6, 3), view_of(6))


def test_it_fails_when_attackers_are_more_than_it_drops():
    assert DnC(1)(planted(malicious=3), view_of(12)).trusted[9:].sum() == 2


def test_it_fails_when_attackers_lean_in_different_directions():
    """One loud attacker takes the top direction; the others, across it, hide among the honest."""
    updates = normal(5, 12, 40)
    for attacker, strength in zip((9, 10, 11), (60.0, 20.0, 20.0), strict=True):
        updates[attacker] = 0
        updates[attacker, attacker] = strength
    verdict = DnC(3)(updates, view_of(12))
    lengths = (updates - updates[:9].mean(0)).norm(dim=1)
    assert lengths[9:].min() > 2 * lengths[:9].max(), "each is an outlier"
    assert verdict.trusted[9:].any()
    assert not verdict.trusted[:9].all()


def test_the_suspicion_is_the_mean_over_iterations():
    updates = normal(6, 9, 30)
    source = np.random.default_rng(5)
    drawn = [np.sort(source.choice(30, 8, replace=False)) for _ in range(3)]
    expected = torch.stack([outlier_scores(updates[:, torch.from_numpy(d)]) for d in drawn]).mean(0)
    verdict = DnC(2, iterations=3, coordinates=8)(updates, view_of(9))
    torch.testing.assert_close(verdict.scores, expected)
