"""FoolsGold equals its algorithm written as loops; sybils lose their weight, and so do twins."""

from decimal import Decimal, localcontext
from math import log

import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.foolsgold import FoolsGold


def cosine(one, other):
    product = sum(a * b for a, b in zip(one, other, strict=True))
    half = type(product)("0.5")
    return product / (sum(a * a for a in one) * sum(b * b for b in other)) ** half


def plain_weights(histories, confidence=1.0):
    """Algorithm 1 of the paper, written as loops: weights [n] from histories [n, P]."""
    n = len(histories)
    cs = [[cosine(a, b) for b in histories] for a in histories]
    v = [max(0.0, *(cs[i][j] for j in range(n) if j != i)) for i in range(n)]
    alpha = []
    for i in range(n):
        pardoned = []
        for j in range(n):
            if j != i:
                pardoned.append(cs[i][j] * v[i] / v[j] if v[j] > v[i] else cs[i][j])
        alpha.append(min(1.0, max(0.0, 1 - max(pardoned))))
    largest, weights = max(alpha), []
    for one in alpha:
        share = one / largest
        if share == 1:
            share = 0.99
        logit = log(share / (1 - share)) if share > 0 else -float("inf")
        weights.append(min(1.0, max(0.0, confidence * (logit + 0.5))))
    return weights


# Below a confidence of 0.2 a share of 0.99 is not yet cut to weight 1.
@given(st.integers(2, 7), st.integers(2, 4), st.sampled_from([0.2, 1.0, 3.0]), st.data())
def test_weights_and_aggregate_equal_algorithm_1(n, size, confidence, data):
    updates = normal(data.draw(st.integers(0, 10**6)), n, size).abs()
    expected = torch.tensor(plain_weights(updates.tolist(), confidence), dtype=torch.float64)
    verdict = FoolsGold(confidence)(updates, view_of(n))
    torch.testing.assert_close(1 - verdict.scores, expected, rtol=0, atol=1e-6)
    assert verdict.trusted.tolist() == (1 - verdict.scores > 0).tolist()
    torch.testing.assert_close(
        verdict.aggregate, expected @ updates / expected.sum(), rtol=0, atol=1e-5
    )


def test_pardoning_by_hand():
    """v = (0.7, 0.7, 0.6), so client 2 is pardoned to 0.6 * 6 / 7: alpha = (0.3, 0.3, 17 / 35).

    Divided by the largest 0.3 becomes 21 / 34, and its weight ln(21 / 13) + 1/2. Without the pardon
    all weights would be 1.
    """
    cosines = torch.tensor([[1.0, 0.7, 0.6], [0.7, 1.0, 0.2], [0.6, 0.2, 1.0]], dtype=torch.double)
    expected = log(21 / 13) + 0.5
    assert FoolsGold().weights(1 - cosines).tolist() == pytest.approx([expected, expected, 1.0])


def test_sybils_get_no_weight_and_different_honest_clients_all():
    honest = torch.eye(6)[:3]
    sybils = torch.eye(6)[5].repeat(4, 1) * torch.tensor([[1.0], [2.0], [5.0], [9.0]])
    verdict = FoolsGold()(torch.cat([honest, sybils]), view_of(7))
    assert verdict.trusted.tolist() == [True] * 3 + [False] * 4
    assert (1 - verdict.scores).tolist() == [1.0] * 3 + [0.0] * 4
    torch.testing.assert_close(verdict.aggregate, honest.mean(0))


def test_histories_are_summed_over_rounds():
    """Clients 0 and 1 say the same in two rounds, in another order: only the sums are alike."""
    first, second = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    one = FoolsGold()(first, view_of(3))
    two = FoolsGold()(second, view_of(3, state=one.state, round=2))
    assert one.trusted.tolist() == [True, True, True]
    assert two.trusted.tolist() == [False, False, True]
    assert torch.equal(two.state["histories"][:3], first + second)
    assert FoolsGold()(second, view_of(3)).trusted.all()


@pytest.mark.parametrize("rounds", [2, 5])
def test_weights_of_a_later_round_equal_algorithm_1_on_the_sums(rounds):
    state, updates = {}, normal(0, rounds, 5, 3).abs()
    for number, these in enumerate(updates, 1):
        verdict = FoolsGold()(these, view_of(5, state=state, round=number))
        state = verdict.state
    weights = torch.tensor(plain_weights(updates.sum(0).tolist()), dtype=torch.float64)
    torch.testing.assert_close(1 - verdict.scores, weights, rtol=0, atol=1e-6)
    assert (weights - torch.tensor(plain_weights(updates[-1].tolist()))).abs().max() > 0.1
    torch.testing.assert_close(verdict.aggregate, weights @ updates[-1] / weights.sum())


def test_a_history_belongs_to_its_client_and_waits_for_it():
    one = FoolsGold()(torch.eye(3), view_of(3, clients=[2, 7, 9]))
    two = FoolsGold()(torch.eye(3)[:2], view_of(2, clients=[4, 7], state=one.state, round=2))
    expected = torch.zeros(30, 3)
    expected[2, 0] = expected[4, 0] = 1.0
    expected[7] = torch.tensor([0.0, 2.0, 0.0])
    expected[9, 2] = 1.0
    assert torch.equal(two.state["histories"], expected)
    assert two.trusted.all()  # client 2, whom 4 resembles, is not there


def test_a_model_stays_as_it_is_when_all_clients_are_alike():
    verdict = FoolsGold()(torch.ones(4, 3), view_of(4, weights=torch.zeros(3)))
    assert not verdict.trusted.any()
    assert not verdict.aggregate.any()


@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([1, 2, 7, 300, 9_610, 20_000]))
def test_nobody_is_trusted_when_all_send_the_same(seed, n, size):
    updates = normal(seed, 1, size).float().repeat(n, 1)
    verdict = FoolsGold()(updates, view_of(n, all_clients=n, weights=torch.zeros(size)))
    assert not verdict.trusted.any()
    assert not verdict.aggregate.any()
    assert (verdict.scores == 1).all()


@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(2, 4), st.integers(-9, -2))
def test_clients_that_differ_little_get_the_weights_of_exact_arithmetic(seed, n, size, exponent):
    """Scaled by the largest, the least differences decide: none may be lost to rounding."""
    updates = normal(seed, size).abs() + 0.1 + 10.0**exponent * normal(seed + 1, n, size)
    with localcontext(prec=60):
        expected = plain_weights([[Decimal(float(x)) for x in row] for row in updates])
    verdict = FoolsGold()(updates, view_of(n))
    expected = torch.tensor([float(one) for one in expected], dtype=torch.float64)
    torch.testing.assert_close(1 - verdict.scores, expected, rtol=0, atol=1e-4)


def test_one_client_alone_resembles_nobody():
    verdict = FoolsGold()(torch.ones(1, 3), view_of(1))
    assert verdict.aggregate.tolist() == [1.0, 1.0, 1.0]


def test_it_fails_when_honest_clients_are_twins():
    """Two honest clients with the same data are taken for sybils; the lone attacker decides."""
    updates = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -5.0]])
    verdict = FoolsGold()(updates, view_of(3))
    assert verdict.trusted.tolist() == [False, False, True]
    assert verdict.aggregate.tolist() == [0.0, -5.0]


def test_it_fails_when_attackers_point_in_different_directions():
    honest, attackers = torch.eye(8)[:4], 100 * torch.eye(8)[4:]
    verdict = FoolsGold()(torch.cat([honest, attackers]), view_of(8))
    assert (1 - verdict.scores).tolist() == [1.0] * 8
    assert (verdict.aggregate[4:] > 10).all()


def test_a_client_that_is_opposed_to_all_others_resembles_nobody():
    """At 0, 80 and 220 degrees: a negative v_2 in the pardon would turn opposition into likeness."""
    angles = torch.deg2rad(torch.tensor([0.0, 80.0, 220.0], dtype=torch.float64))
    updates = torch.stack([angles.cos(), angles.sin()], 1)
    weights = (1 - FoolsGold()(updates, view_of(3)).scores).tolist()
    assert weights == plain_weights(updates.tolist()) == [1.0, 1.0, 1.0]
