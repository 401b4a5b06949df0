"""SignGuard filters norms, then clusters of sign statistics, and clips what is left."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of

from fedred.defenses.signguard import SignGuard, sign_statistics
from fedred.errors import UserError


def honest(n=9, size=400, seed=0):
    """Rows of one length with three positive entries for a negative one."""
    rows = normal(seed, n, size).abs()
    rows[:, ::4] *= -1
    return rows / rows.norm(dim=1, keepdim=True)


def test_sign_statistics_by_hand():
    updates = torch.tensor([[1.0, -2.0, 0.0, 5.0], [0.0, 0.0, 0.0, -1.0]])
    assert sign_statistics(updates).tolist() == [[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]]


def test_norms_outside_the_interval_are_rejected():
    updates = honest()
    lengths = torch.tensor([1, 1, 1, 1, 1, 0.09, 0.11, 2.9, 3.1], dtype=torch.float64)
    verdict = SignGuard(share=1.0)(updates * lengths[:, None], view_of(9))
    assert verdict.trusted.tolist() == [True] * 5 + [False, True, True, False]


def test_flipped_signs_are_rejected_whatever_their_norm():
    updates = honest()
    updates[6:] *= -1
    verdict = SignGuard(share=1.0)(updates, view_of(9))
    assert verdict.trusted.tolist() == [True] * 6 + [False] * 3


def test_the_trusted_are_clipped_to_the_median_norm_of_all():
    updates = honest()
    updates[0] *= 2.5
    updates[1] *= 0.5
    verdict = SignGuard(share=1.0)(updates, view_of(9))
    assert verdict.trusted.all()
    clipped = updates.clone()
    clipped[0] /= 2.5
    torch.testing.assert_close(verdict.aggregate, clipped.mean(0))


def signs(n=9, size=400):
    rows = torch.ones(n, size, dtype=torch.float64)
    rows[:, ::4] *= -1
    return rows


@pytest.mark.parametrize("share", [0.1, 0.0001])
def test_signs_outside_the_share_are_not_seen(share):
    updates = signs()
    count = max(1, round(share * 400))
    chosen = torch.from_numpy(np.random.default_rng(5).choice(400, count, replace=False))
    flipped = -updates[6:]
    flipped[:, chosen] *= -1
    updates[6:] = flipped
    assert SignGuard(share=share)(updates, view_of(9)).trusted.all()
    assert not SignGuard(share=1.0)(updates, view_of(9)).trusted[6:].any()


def test_a_tenth_of_the_coordinates_is_counted_by_default():
    updates = normal(7, 9, 400) + 0.5
    default, told, other = (
        rule(updates, view_of(9)).trusted
        for rule in (SignGuard(), SignGuard(share=0.1), SignGuard(share=0.5))
    )
    assert torch.equal(default, told)
    assert not torch.equal(default, other)


def test_fewer_than_four_clients_have_no_clusters():
    """MeanShift's bandwidth would be zero: every client would be a cluster of its own."""
    with pytest.raises(UserError, match=r"SignGuard.* needs at least 4 participants"):
        SignGuard()(honest(3), view_of(3))
    updates = honest(4)
    updates[3] *= -1
    assert SignGuard(share=1.0)(updates, view_of(4)).trusted.tolist() == [True] * 3 + [False]


def test_it_fails_against_an_attack_that_keeps_signs_and_norm():
    """The same numbers in another order of the coordinates of one sign."""
    updates = honest()
    order = torch.arange(400).reshape(-1, 4).flip(0).reshape(-1)
    updates[6:] = updates[6:, order]
    verdict = SignGuard(share=1.0)(updates, view_of(9))
    assert verdict.trusted[6:].all()


def test_it_fails_when_the_flipped_are_the_larger_cluster():
    updates = honest()
    updates[:6] *= -1
    assert SignGuard(share=1.0)(updates, view_of(9)).trusted.tolist() == [True] * 6 + [False] * 3
