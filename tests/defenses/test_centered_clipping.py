"""Centered clipping moves from the last aggregate, by clipped differences."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.centered_clipping import CenteredClipping


def played(rule, rounds):
    """Return the aggregates of rounds [n, P], the memory handed on."""
    state, aggregates = {}, []
    for updates in rounds:
        verdict = rule(updates, view_of(len(updates), state=state))
        state = verdict.state
        aggregates.append(verdict.aggregate)
    return aggregates


def test_two_rounds_and_two_iterations_by_hand():
    """From 0: (3, 4) is clipped to (0.6, 0.8). From (0.3, 0.4) the other pulls by (-0.3, -0.4)."""
    updates = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    first, second = played(CenteredClipping(1.0), [updates, updates])
    assert first.tolist() == pytest.approx([0.3, 0.4])
    assert second.tolist() == pytest.approx([0.45, 0.6])
    twice = CenteredClipping(1.0, iterations=2)(updates, view_of(2))
    assert twice.aggregate.tolist() == pytest.approx([0.45, 0.6])


@given(st.integers(2, 9), st.integers(0, 10**6), st.floats(0.1, 5), st.integers(1, 4))
def test_centered_clipping_equals_byzfl_over_rounds(n, seed, radius, iterations):
    byzfl = pytest.importorskip("byzfl")
    rounds = normal(seed, 3, n, 4)
    oracle = byzfl.CenteredClipping(L=iterations, tau=radius)
    expected = [oracle(updates.numpy().copy()) for updates in rounds]
    found = played(CenteredClipping(radius, iterations), rounds)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10**6), st.floats(0.1, 5), st.sampled_from([1.0, 1e9, 1e30]))
def test_a_step_is_no_longer_than_the_radius(seed, radius, scale):
    start = normal(seed, 4)
    updates = normal(seed + 1, 5, 4) * scale
    verdict = CenteredClipping(radius)(updates, view_of(5, state={"center": start}))
    assert (verdict.aggregate - start).norm() <= radius * (1 + 1e-9)


def test_one_attacker_moves_it_by_at_most_its_share_of_the_radius():
    updates = normal(0, 9, 4)
    rest = CenteredClipping(1.5)(with_row(updates, 2, 0.0), view_of(9)).aggregate
    moved = CenteredClipping(1.5)(with_row(updates, 2, -1e30), view_of(9)).aggregate
    assert float((moved - rest).norm()) == pytest.approx(1.5 / 9)


def test_a_large_radius_is_the_mean_whatever_came_before():
    updates, start = normal(1, 7, 4), normal(2, 4)
    verdict = CenteredClipping(1e6)(updates, view_of(7, state={"center": start}))
    torch.testing.assert_close(verdict.aggregate, updates.mean(0))


def test_the_default_radius_is_the_median_distance_from_the_last_aggregate():
    """Distances from (1, 0): 1, 4 and 9; the last is shortened to 4."""
    updates = torch.tensor([[2.0, 0.0], [1.0, 4.0], [-8.0, 0.0]])
    verdict = CenteredClipping()(updates, view_of(3, state={"center": torch.tensor([1.0, 0.0])}))
    assert verdict.aggregate.tolist() == pytest.approx([0.0, 4 / 3])


def test_the_aggregate_is_remembered():
    verdict = CenteredClipping(0.5)(normal(3, 5, 4), view_of(5))
    assert torch.equal(verdict.state["center"], verdict.aggregate)
    assert verdict.trusted.all()


def test_repeated_steps_reach_what_they_converge_to():
    """The fixed point: clipped differences that sum to zero."""
    updates = normal(4, 6, 3)
    center = CenteredClipping(0.5, iterations=2000)(updates, view_of(6)).aggregate
    offsets = updates - center
    pulls = offsets * (0.5 / offsets.norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(pulls.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_default_radius_of_an_even_number_is_the_middle_of_two():
    updates = torch.diag(torch.tensor([1.0, 2.0, 3.0, 100.0]))
    expected = [0.25, 0.5, 0.625, 0.625]
    assert CenteredClipping()(updates, view_of(4)).aggregate.tolist() == pytest.approx(expected)
