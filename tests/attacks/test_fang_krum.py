"""Fang's attack on Krum takes the farthest step of its search that Krum still picks."""

import numpy as np
import pytest
import torch
from attack_support import forged, forged_with_full_knowledge, normal
from defense_support import view_of as server_view
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.fang_krum import FangKrum, upper_bound
from fedred.defenses.geometry import pairwise_distances
from fedred.defenses.krum import Krum

KNOWN = st.tuples(
    st.integers(0, 10**6), st.integers(3, 8), st.integers(2, 20), st.floats(-2, 2), st.floats(-1, 1)
)
"""Arguments of `known_of`. On a line sums of plain distances tie, and rounding would decide."""


def known_of(seed, k, size, log_scale, offset):
    return 10**log_scale * (normal(seed, k, size) + offset)


def krum_score(rows, i, neighbours, squared=True):
    """Blanchard's score, as a loop."""
    costs = [
        ((rows[i] - rows[j]) ** 2).sum() ** (1 if squared else 0.5)
        for j in range(len(rows))
        if j != i
    ]
    return sum(sorted(costs)[:neighbours])


def is_picked(known, crafted, copies, squared=True):
    """Whether Krum with f = copies picks the crafted one: n - f - 2 = k - 2 neighbours."""
    rows = np.concatenate([known, np.tile(crafted, (copies, 1))])
    k = len(known)
    scores = [krum_score(rows, i, k - 2, squared) for i in range(k + 1)]
    return scores[k] < min(scores[:k])


def bound(known, copies, squared=True):
    """Beyond it a crafted update is farther from every honest one than a winner may be.

    Where k < c + 2 the copies alone make its score, and 1 stands for k - c - 1.
    """
    k, size = len(known), max(1, np.count_nonzero(known.mean(0)))
    closest = min(krum_score(known, i, k - 2, squared) for i in range(k))
    longest = max(np.linalg.norm(row) for row in known)
    away = closest / max(1, k - copies - 1)
    return ((away**0.5 if squared else away) + longest) / size**0.5


def searched(known, copies, squared=True, smallest=1e-5):
    """Halve lambda from the bound; 0 when nothing is picked down to the smallest."""
    step, direction = bound(known, copies, squared), -np.sign(known.mean(0))
    while step >= smallest:
        if is_picked(known, step * direction, copies, squared):
            return step
        step /= 2
    return 0.0


def size_of_step(sent, known):
    """lambda, when every attacker sends -lambda sign(mu); all entries of mu are nonzero here."""
    step = float(sent.abs().max())
    torch.testing.assert_close(sent, -step * known.mean(0).sign().expand(len(sent), -1))
    return step


@given(KNOWN, st.integers(1, 5), st.booleans())
def test_full_knowledge_equals_the_search_written_as_loops(shape, m, squared):
    known = known_of(*shape)
    attack = FangKrum(squared=squared, knowledge="full")
    sent = forged_with_full_knowledge(attack, torch.zeros(m, known.shape[1]).double(), known)
    expected = searched(known.numpy(), m, squared)
    assert size_of_step(sent, known) == pytest.approx(expected, rel=1e-9)


@given(KNOWN, st.booleans())
def test_own_knowledge_crafts_one_more_after_each_failed_search(shape, squared):
    own = known_of(*shape)
    searches = (searched(own.numpy(), copies, squared) for copies in range(1, len(own) + 1))
    expected = next(step for step in searches if step)
    sent = forged(FangKrum(squared=squared), own)
    assert size_of_step(sent, own) == pytest.approx(expected, rel=1e-9)


@given(KNOWN, st.integers(1, 5))
def test_krum_picks_what_is_sent_with_full_knowledge(shape, m):
    known = known_of(*shape)
    own = torch.zeros(m, known.shape[1], dtype=torch.float64)
    sent = forged_with_full_knowledge(FangKrum(knowledge="full"), own, known)
    rows = torch.cat([known, sent])
    winner = int(Krum(tolerated=m)(rows, server_view(len(rows))).trusted.nonzero())
    assert (winner >= len(known)) == bool(sent.any())


@given(KNOWN)
def test_krum_picks_what_is_sent_among_the_known_and_a_number_of_copies(shape):
    own = known_of(*shape)
    sent = forged(FangKrum(), own)
    assert sent.any()
    picked = [
        bool(
            Krum(tolerated=copies)(torch.cat([own, sent[:copies]]), server_view(len(own) + copies))
            .trusted[len(own) :]
            .any()
        )
        for copies in range(1, len(own) + 1)
    ]
    assert any(picked)


@given(KNOWN, st.integers(1, 5))
def test_twice_lambda_is_not_picked_or_exceeds_the_bound(shape, m):
    known = known_of(*shape)
    own = torch.zeros(m, known.shape[1], dtype=torch.float64)
    sent = forged_with_full_knowledge(FangKrum(knowledge="full"), own, known)
    step, limit = size_of_step(sent, known), bound(known.numpy(), m)
    assert step <= limit * (1 + 1e-9)
    if step:
        twice = 2 * sent[0].numpy()
        assert 2 * step > limit * (1 + 1e-9) or not is_picked(known.numpy(), twice, m)


@given(KNOWN, st.floats(1.001, 100), st.booleans(), st.integers(0, 3))
def test_beyond_the_bound_krum_never_picks(shape, beyond, squared, still):
    """By brute force, for c up to k - 2, and where no honest client moves some coordinates."""
    known = known_of(*shape).numpy()
    known[:, 1 : 1 + still] = 0
    for copies in range(1, len(known) - 1):
        crafted = -beyond * bound(known, copies, squared) * np.sign(known.mean(0))
        assert not is_picked(known, crafted, copies, squared)


@pytest.mark.parametrize("squared", [True, False])
def test_the_search_starts_where_krum_no_longer_picks_also_with_many_attackers(squared):
    """300 draws, attackers up to as many as the bound is for; at twice the start none is picked."""
    for seed in range(300):
        source = np.random.default_rng(seed)
        k, size = int(source.integers(3, 30)), int(source.integers(1, 20))
        known = normal(seed, k, size) + source.normal() * torch.from_numpy(
            source.random(size) > 0.3
        )
        known[:, 1:] *= torch.from_numpy(source.random(size) > 0.3)[1:]
        m = int(source.integers(1, k - 1))
        honest, direction = pairwise_distances(known), -known.mean(0).sign()
        p = int(direction.count_nonzero())
        start = upper_bound(honest, known.norm(dim=1), m, p, squared)
        assert start == pytest.approx(bound(known.numpy(), m, squared))
        assert not is_picked(known.numpy(), 2 * start * direction.numpy(), m, squared)
        attack = FangKrum(squared=squared, knowledge="full")
        step = attack.largest_step(known, direction, m)
        assert step <= start
        if step:
            assert not is_picked(known.numpy(), 2 * step * direction.numpy(), m, squared)


def test_fang_krum_by_hand():
    """At 1, 2, 4 one copy is never as near as 1 and 2 are; two have each other: 1 + 4 = 5."""
    own = torch.tensor([[1.0], [2.0], [4.0]])
    assert forged(FangKrum(), own).tolist() == [[-5.0]] * 3


def test_a_coordinate_of_mean_zero_is_left_alone():
    own = torch.tensor([[1.0, 1.0], [2.0, 0.0], [4.0, -1.0]])
    sent = forged(FangKrum(), own)
    assert (sent[:, 0] < 0).all()
    assert not sent[:, 1].any()


def test_honest_updates_too_close_together_leave_nothing_to_send():
    """Around 100 the zero update is far from all, and one copy has no friend."""
    known = 100 + normal(0, 6, 10)
    sent = forged_with_full_knowledge(FangKrum(knowledge="full"), known[:1], known)
    assert not sent.any()


def test_the_option_squared_matters():
    steps = {
        squared: [
            float(forged(FangKrum(squared=squared), normal(seed, 7, 6)).abs().max())
            for seed in range(20)
        ]
        for squared in (True, False)
    }
    assert steps[True] != steps[False]


def test_the_smallest_lambda_ends_the_search():
    known = normal(0, 6, 10)
    own = known[:2]
    step = size_of_step(forged_with_full_knowledge(FangKrum(knowledge="full"), own, known), known)
    assert step > 0
    for smallest, expected in ((step * 0.99, step), (step * 1.01, 0.0)):
        attack = FangKrum(smallest, knowledge="full")
        sent = forged_with_full_knowledge(attack, own, known)
        assert float(sent.abs().max()) == pytest.approx(expected)
