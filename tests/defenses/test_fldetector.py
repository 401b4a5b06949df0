"""FLDetector's Hessian, clusters and rounds equal their definitions; it starts late."""

from functools import cache

import numpy as np
import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.fldetector import FLDetector, hessian_product, suspicious, two_means

SIZE, HONEST, NOISY, WINDOW = 40, 7, 3, 3
CLIENTS = HONEST + NOISY
ONLY_NOISY = [False] * HONEST + [True] * NOISY


def generator(seed=0):
    return np.random.default_rng(seed)


def convex(seed, size):
    """A symmetric matrix with eigenvalues from 1/2 on."""
    root = normal(seed, size, size)
    return root @ root.T / size + 0.5 * torch.eye(size, dtype=torch.float64)


def pairs_of(seed, count, size):
    """Movements and the changes of the gradient of a convex quadratic, and a vector."""
    drawn = normal(seed, count + 1, size)
    return drawn[:-1], drawn[:-1] @ convex(seed + 1, size), drawn[-1]


def dense_bfgs(movements, changes):
    """The recursion B <- B - B s s' B / (s' B s) + y y' / (y' s), oldest pair first."""
    s, y = movements[-1], changes[-1]
    matrix = (y @ s) / (s @ s) * torch.eye(len(s), dtype=torch.float64)
    for s, y in zip(movements, changes, strict=True):
        turned = matrix @ s
        matrix = matrix - torch.outer(turned, turned) / (s @ turned) + torch.outer(y, y) / (y @ s)
    return matrix


@given(st.integers(1, 5), st.integers(5, 12), st.sampled_from([-0.1, 1.0]), st.integers(0, 10**6))
def test_the_hessian_equals_the_dense_recursion(count, size, sign, seed):
    movements, changes, vector = pairs_of(seed, count, size)
    found = hessian_product(movements, sign * changes, vector)
    torch.testing.assert_close(
        found, sign * dense_bfgs(movements, changes) @ vector, rtol=1e-6, atol=1e-7
    )


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_the_secant_equation_holds_for_the_newest_pair(count, seed):
    movements, changes, _ = pairs_of(seed, count, 20)
    found = hessian_product(movements, changes, movements[-1])
    torch.testing.assert_close(found, changes[-1], rtol=1e-6, atol=1e-7)


def test_the_hessian_by_hand_of_one_pair():
    """s = e_0, y = 3 e_0 + e_1: B = 3 I - 3 e_0 e_0' + y y' / 3, so B e_1 = e_0 + 10/3 e_1."""
    s, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]])
    found = hessian_product(s, y, torch.tensor([0.0, 1.0]))
    assert found.tolist() == pytest.approx([1.0, 10 / 3])


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=9).map(sorted))
def test_two_means_equals_all_divisions(values):
    values = np.array(values)
    costs = []
    for members in range(1, 2 ** len(values) - 1):
        inside = np.array([bool(members >> i & 1) for i in range(len(values))])
        parts = values[inside], values[~inside]
        costs.append(sum(((part - part.mean()) ** 2).sum() for part in parts))
    size, dispersion = two_means(values)
    parts = values[:size], values[size:]
    assert dispersion == pytest.approx(min(costs), abs=1e-12)
    assert sum(((part - part.mean()) ** 2).sum() for part in parts) == pytest.approx(dispersion)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("malicious", [1, 3, 9])
def test_two_tight_groups_are_divided_exactly(seed, malicious):
    high = torch.zeros(20, dtype=torch.bool)
    high[torch.from_numpy(generator(seed).permutation(20)[:malicious])] = True
    values = 0.04 + 0.05 * high + 0.002 * normal(seed, 20)
    assert suspicious(values, generator(seed)).tolist() == high.tolist()


@pytest.mark.parametrize("values", [[], [0.3], [0.1, 0.9], [0.2] * 8])
def test_equal_or_fewer_than_three_scores_suspect_nobody(values):
    assert not suspicious(torch.tensor(values), generator()).any()


def test_a_uniform_sample_is_one_cluster_in_most_seeds():
    divided = [
        bool(suspicious(torch.from_numpy(generator(seed).random(30)), generator(100 + seed)).any())
        for seed in range(100)
    ]
    assert sum(divided) < 30


@cache
def quadratic():
    """Hessian A of the clients' loss and each client's constant offset of its gradient."""
    return convex(7, SIZE), 0.02 * normal(8, HONEST, SIZE)


def honest_updates(weights):
    """Steps of gradient descent on the quadratic."""
    hessian, offsets = quadratic()
    return -0.1 * (weights @ hessian + offsets)


def updates_at(weights, number):
    """Honest updates, then noise that is fresh in every round."""
    return torch.cat([honest_updates(weights), 0.3 * normal(1000 + number, NOISY, SIZE)])


def play(rule, rounds, updates_at=updates_at, absent=None):
    """Verdicts of rounds 1, 2, ... with the server's model moving; `absent`: clients by round."""
    weights, state, verdicts = normal(9, SIZE), {}, []
    for number in range(1, rounds + 1):
        here = [i for i in range(CLIENTS) if i not in (absent or {}).get(number, [])]
        view = view_of(len(here), clients=here, state=state, round=number, weights=weights)
        verdict = rule(updates_at(weights, number)[here], view)
        weights, state = weights + verdict.aggregate, verdict.state
        verdicts.append(verdict)
    return verdicts


def test_clients_that_send_noise_are_flagged_and_excluded_for_ever():
    verdict = play(FLDetector(WINDOW), WINDOW + 2)[-1]
    assert verdict.trusted.tolist() == [not noisy for noisy in ONLY_NOISY]
    assert verdict.excluded.tolist() == ONLY_NOISY


def test_clients_flagged_for_a_round_are_not_excluded():
    verdict = play(FLDetector(WINDOW, exclusion="round"), WINDOW + 2)[-1]
    assert (~verdict.trusted).tolist() == ONLY_NOISY
    assert not verdict.excluded.any()


def test_the_aggregate_is_the_mean_of_those_not_flagged():
    weights = []

    def recorded(now, number):
        weights.append(now)
        return updates_at(now, number)

    verdict = play(FLDetector(WINDOW), WINDOW + 2, recorded)[-1]
    honest = updates_at(weights[-1], WINDOW + 2)[:HONEST]
    torch.testing.assert_close(verdict.aggregate, honest.mean(0))


def test_suspicions_equal_the_definition_over_rounds():
    """Distances of all predicted rounds, divided by their sum and averaged over the last `window`."""
    rule, trace = FLDetector(WINDOW, exclusion="round"), []

    def recorded(now, number):
        trace.append((now, updates_at(now, number)))
        return trace[-1][1]

    verdicts = play(rule, WINDOW + 6, recorded)
    weights = torch.stack([now for now, _ in trace])
    aggregates = torch.stack([verdict.aggregate for verdict in verdicts])
    shares = []
    for t in range(WINDOW + 1, WINDOW + 6):
        movements = weights[t - WINDOW : t] - weights[t - WINDOW - 1 : t - 1]
        changes = aggregates[t - WINDOW : t] - aggregates[t - WINDOW - 1 : t - 1]
        turn = dense_bfgs(movements, changes) @ (weights[t] - weights[t - 1])
        distances = (trace[t][1] - trace[t - 1][1] - turn).norm(dim=1)
        shares.append(distances / distances.sum())
        expected = torch.stack(shares[-WINDOW:]).mean(0)
        torch.testing.assert_close(verdicts[t].scores, expected, rtol=1e-6, atol=1e-9)


def test_a_client_that_was_absent_in_the_round_before_is_not_predicted():
    """Client 0 is away in the last round but one: its distances stay, those of others move on."""
    rounds = WINDOW + 4
    verdicts = play(FLDetector(WINDOW), rounds, absent={rounds - 1: [0]})
    before, after = (verdict.state["distances"] for verdict in verdicts[-2:])
    assert torch.equal(after[0], before[0])
    assert (after[1:CLIENTS] != before[1:CLIENTS]).any(1).all()
    assert float(before[0].count_nonzero()) == 1


def test_a_round_in_which_the_model_stays_is_no_pair():
    rule = FLDetector(WINDOW)
    still = play(rule, 4, lambda weights, number: torch.zeros(CLIENTS, SIZE, dtype=torch.float64))
    assert int(still[-1].state["pairs"]) == 0
    assert int(play(rule, 4)[-1].state["pairs"]) == 3


def test_it_fails_in_the_first_rounds_everybody_is_trusted_until_the_history_is_full():
    verdicts = play(FLDetector(WINDOW), WINDOW + 2)
    for verdict in verdicts[:-1]:
        assert verdict.trusted.all()
        assert not verdict.excluded.any()
        assert verdict.scores is None
    assert not verdicts[-1].trusted.all()


def test_it_fails_against_attackers_that_are_consistent():
    """A constant push, the same in every round, is as easy to predict as an honest update."""

    def consistent(weights, number):
        honest = honest_updates(weights)
        return torch.cat([honest, honest[:NOISY] + 5])

    for verdict in play(FLDetector(WINDOW), WINDOW + 6, consistent):
        assert verdict.trusted[HONEST:].all()


def plain_gap_says_more_than_one(values, source):
    """Tibshirani et al.: gap(k) = mean log W_k of references - log W_k; more than one unless
    gap(1) >= gap(2) - s(2). W by trying every division."""

    def log_dispersions(row):
        row = sorted(row)

        def around_mean(part):
            return sum((x - sum(part) / len(part)) ** 2 for x in part)

        two = min(around_mean(row[:k]) + around_mean(row[k:]) for k in range(1, len(row)))
        return np.log(around_mean(row)), np.log(two)

    span = max(values) - min(values)
    one, two = log_dispersions([(value - min(values)) / span for value in values])
    drawn = np.array([log_dispersions(row) for row in source.random((20, len(values)))])
    spread = drawn[:, 1].std() * (1 + 1 / 20) ** 0.5
    return not drawn[:, 0].mean() - one >= drawn[:, 1].mean() - two - spread


def test_the_gap_statistic_decides_as_its_twin():
    decisions = []
    for seed in range(60):
        values = np.random.default_rng(seed).random(12)
        values[:4] = 0.5 * values[:4] + 0.5 * (seed % 4)
        found = suspicious(torch.from_numpy(values), np.random.default_rng(1000 + seed))
        expected = plain_gap_says_more_than_one(values, np.random.default_rng(1000 + seed))
        assert bool(found.any()) == expected
        decisions.append(expected)
    assert 5 < sum(decisions) < 55
