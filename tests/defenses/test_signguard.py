"""SignGuard filters norms, then clusters of sign statistics, and clips what is left."""

import torch
from defense_support import normal, view_of

from fedred.defenses.signguard import SignGuard, sign_statistics


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


def test_signs_are_counted_on_a_share_of_the_coordinates():
    """Flipped on half of the coordinates: seen when all are counted, and by chance on a few."""
    updates = honest(size=1000)
    updates[6:, :500] *= -1
    assert not SignGuard(share=1.0)(updates, view_of(9)).trusted[6:].any()
    few = SignGuard(share=0.001)
    one, other = few(updates, view_of(9)), few(updates, view_of(9))
    assert torch.equal(one.trusted, other.trusted)
    statistics = sign_statistics(updates[:, :1])
    assert statistics.unique(dim=0).shape[0] == 2, "one coordinate has one sign or the other"


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
