"""Min-Max goes exactly as far as the honest updates' diameter allows."""

import numpy as np
import pytest
import torch
from attack_support import (
    POINTS,
    bisected,
    diameter,
    farthest,
    forged,
    forged_with_full_knowledge,
    honest,
    points,
)
from hypothesis import given, settings

from fedred.attacks.min_max import MinMax, largest_factor, perturbation

DIRECTIONS = ["deviation", "unit", "sign"]


def released_search(holds):
    """Search gamma as the released code does: start at 30, halve the step."""
    gamma, step, found = 30.0, 15.0, 0.0
    while step > 1e-6:
        if holds(gamma):
            found = gamma
            gamma += step
        else:
            gamma -= step
        step /= 2
    return found


def constraint(updates, push):
    """Whether mu + gamma p is no farther from any update than two of them are from each other."""
    mean, limit = updates.mean(0), diameter(updates)
    return lambda gamma: farthest(updates, mean + gamma * push) <= limit


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=100)
@given(POINTS)
def test_min_max_constraint_holds_at_gamma_and_fails_beyond(direction, shape):
    updates = points(*shape)
    mean, push = updates.mean(0), perturbation(updates, direction)
    gamma, limit = largest_factor(updates, mean, push), diameter(updates)
    assert gamma > 0
    assert farthest(updates, mean + gamma * push) <= limit * (1 + 1e-9)
    assert farthest(updates, mean + gamma * (1 + 1e-4) * push) > limit


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=30)
@given(POINTS)
def test_min_max_factor_equals_bisection(direction, shape):
    updates = points(*shape)
    push = perturbation(updates, direction)
    expected = bisected(constraint(updates, push))
    assert largest_factor(updates, updates.mean(0), push) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(POINTS)
def test_min_max_up_to_60_equals_the_released_search(direction, shape):
    updates = points(*shape)
    push = perturbation(updates, direction)
    expected = updates.mean(0) + released_search(constraint(updates, push)) * push
    for row in forged(MinMax(direction, 60.0), updates):
        tolerance = 1e-5 * float(push.abs().max())
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=tolerance)


def test_min_max_without_a_limit_goes_on_where_the_released_search_ends():
    """Along a unit vector gamma is a length: here far more than 60."""
    updates = points(0, 5, 10, 3.0, 0.5)
    push = perturbation(updates, "unit")
    lengths = {
        limit: float((forged(MinMax("unit", limit), updates)[0] - updates.mean(0)).norm())
        for limit in (None, 60.0)
    }
    assert released_search(constraint(updates, push)) == pytest.approx(60, abs=1e-5)
    assert lengths[60.0] == pytest.approx(60)
    assert lengths[None] == pytest.approx(bisected(constraint(updates, push)), rel=1e-6)
    assert lengths[None] > 600


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_sends_one_vector_on_the_edge_of_the_honest_diameter(direction):
    own = honest(6)
    sent = forged(MinMax(direction), own)
    assert (sent == sent[0]).all()
    assert farthest(own.double(), sent[0].double()) == pytest.approx(diameter(own), rel=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_with_full_knowledge_hides_among_the_honest(direction):
    own, known = 50 * honest(3), honest(7, seed=4)
    sent = forged_with_full_knowledge(MinMax(direction, knowledge="full"), own, known)
    assert sent.shape == own.shape
    assert farthest(known.double(), sent[0].double()) == pytest.approx(diameter(known), rel=1e-5)


def test_min_max_by_hand():
    """On a line at 0, 0, 3: mu 1, sigma sqrt(3), diameter 3; -sigma ends at 0 + 3 - 3 = 0."""
    own = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    for direction in DIRECTIONS:
        sent = forged(MinMax(direction), own)
        torch.testing.assert_close(sent, torch.zeros_like(own), atol=1e-12, rtol=0)
    push = perturbation(own, "deviation")
    assert push.item() == pytest.approx(-(3**0.5))
    assert largest_factor(own, own.mean(0), push) == pytest.approx(1 / 3**0.5)


def test_min_max_directions_by_definition():
    own = honest(5)
    mean = own.numpy().mean(0)
    for direction, expected in {
        "deviation": -own.numpy().std(0, ddof=1),
        "unit": -mean / np.linalg.norm(mean),
        "sign": -np.sign(mean),
    }.items():
        np.testing.assert_allclose(perturbation(own, direction), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_of_updates_with_mean_zero_is_finite(direction):
    own = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    sent = forged(MinMax(direction), own)
    assert sent.isfinite().all()
    assert farthest(own, sent[0]) <= diameter(own) * (1 + 1e-6)
