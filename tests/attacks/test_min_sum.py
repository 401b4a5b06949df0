"""Min-Sum goes exactly as far from all honest updates together as one of them may be."""

import pytest
import torch
from attack_support import (
    POINTS,
    bisected,
    forged,
    forged_with_full_knowledge,
    honest,
    points,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedred.attacks.min_max import perturbation
from fedred.attacks.min_sum import MinSum, largest_factor

DIRECTIONS = ["deviation", "unit", "sign"]
BOUNDS = {"max": max, "min": min}
DIRECTION_AND_BOUND = (st.sampled_from(DIRECTIONS), st.sampled_from(list(BOUNDS)))


def sum_of_squares(updates, vector):
    return sum(float((vector - update) @ (vector - update)) for update in updates)


def limit_of(updates, bound):
    return BOUNDS[bound](sum_of_squares(updates, update) for update in updates)


@settings(max_examples=100)
@given(POINTS, *DIRECTION_AND_BOUND)
def test_min_sum_constraint_holds_at_gamma_and_fails_beyond(shape, direction, bound):
    updates = points(*shape)
    mean, push = updates.mean(0), perturbation(updates, direction)
    gamma, limit = largest_factor(updates, push, bound), limit_of(updates, bound)
    assert sum_of_squares(updates, mean + gamma * push) <= limit * (1 + 1e-9)
    assert sum_of_squares(updates, mean + (gamma + 1e-3 * step(push, limit)) * push) > limit


def step(push, limit):
    """A factor of the push that leads about as far as the limit."""
    return (limit / float(push @ push)) ** 0.5


@settings(max_examples=60)
@given(POINTS, *DIRECTION_AND_BOUND)
def test_min_sum_factor_equals_bisection(shape, direction, bound):
    updates = points(*shape)
    mean, push = updates.mean(0), perturbation(updates, direction)
    limit = limit_of(updates, bound)
    expected = bisected(lambda gamma: sum_of_squares(updates, mean + gamma * push) <= limit)
    found = largest_factor(updates, push, bound)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * step(push, limit))


def test_min_sum_by_hand_where_the_paper_and_its_code_differ():
    """At 0, 0, 3: honest sums 9, 9, 18; -1 has 1 + 1 + 16 = 18, and 0 has 9."""
    own = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    for direction in DIRECTIONS:
        for bound, expected in {"max": -1.0, "min": 0.0}.items():
            sent = forged(MinSum(direction, bound), own)
            torch.testing.assert_close(sent, torch.full_like(own, expected), rtol=0, atol=1e-12)


def test_min_sum_takes_the_papers_bound_by_default_and_the_released_one_is_tighter():
    own = honest(6).double()
    lengths = {
        attack: float((forged(attack, own)[0] - own.mean(0)).norm())
        for attack in (MinSum(), MinSum(bound="max"), MinSum(bound="min"))
    }
    assert lengths[MinSum()] == lengths[MinSum(bound="max")] > 1.001 * lengths[MinSum(bound="min")]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_sum_sends_one_vector_on_the_edge(direction, bound):
    own = honest(6).double()
    sent = forged(MinSum(direction, bound), own)
    assert (sent == sent[0]).all()
    assert sum_of_squares(own, sent[0]) == pytest.approx(limit_of(own, bound))


def test_min_sum_with_full_knowledge_hides_among_the_honest():
    own, known = 50 * honest(3).double(), honest(7, seed=4).double()
    sent = forged_with_full_knowledge(MinSum(knowledge="full"), own, known)
    assert sent.shape == own.shape
    assert sum_of_squares(known, sent[0]) == pytest.approx(limit_of(known, "max"))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_sum_of_updates_with_mean_zero_is_finite(direction):
    own = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    sent = forged(MinSum(direction), own)
    assert sent.isfinite().all()
    assert sum_of_squares(own, sent[0]) <= limit_of(own, "max") * (1 + 1e-6)
