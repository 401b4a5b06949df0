"""The geometric median fulfils its first-order condition, and no other point is better."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.geometric_median import GeometricMedian


def cost(point, updates, shares=None):
    distances = (updates - point).norm(dim=1)
    return float(distances.mean() if shares is None else shares @ distances)


def aggregate(updates, samples=None, **options):
    return GeometricMedian(**options)(updates, view_of(len(updates), samples)).aggregate


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10**6))
def test_the_unit_vectors_to_the_updates_sum_to_zero_or_less_than_the_weight_of_one_met(n, P, seed):
    updates = normal(seed, n, P)
    offsets = updates - aggregate(updates)
    lengths = offsets.norm(dim=1)
    met = lengths <= 1e-4 * lengths.median().clamp(min=1e-9)
    pull = (offsets[~met] / lengths[~met, None]).sum(0).norm()
    assert pull <= int(met.sum()) + 1e-4


@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(-4, 0))
def test_no_other_point_is_better(n, seed, exponent):
    updates = normal(seed, n, 3)
    found = aggregate(updates)
    best = cost(found, updates)
    others = found + 10**exponent * normal(seed + 1, 50, 3)
    assert all(cost(point, updates) >= best - 1e-6 for point in [*others, *updates])


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_in_one_dimension_it_is_a_median(n, seed):
    updates = normal(seed, n, 1)
    values = updates.flatten().sort().values
    slack = 1e-4
    assert values[(n - 1) // 2] - slack <= float(aggregate(updates)) <= values[n // 2] + slack


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_it_turns_and_moves_with_the_updates(n, seed):
    updates, shift = normal(seed, n, 3), normal(seed + 1, 3)
    turn = torch.linalg.qr(normal(seed + 2, 3, 3)).Q
    moved = aggregate(updates @ turn + shift)
    expected = aggregate(updates) @ turn + shift
    assert cost(moved, updates @ turn + shift) == pytest.approx(
        cost(expected, updates @ turn + shift), abs=1e-6
    )
    if n > 2:  # of two, every point between them is a median
        torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=3, max_size=6))
def test_by_samples_is_the_median_of_repeated_updates(seed, samples):
    updates = normal(seed, len(samples), 3)
    repeated = updates.repeat_interleave(torch.tensor(samples), 0)
    found = aggregate(updates, samples, by_samples=True)
    assert cost(found, repeated) == pytest.approx(cost(aggregate(repeated), repeated), abs=1e-6)


def test_the_pulls_of_samples_cancel_to_the_last_digits():
    """The first-order condition with weights n_i, of which float32 would keep seven digits."""
    updates, samples = normal(2, 7, 3), [3, 5, 9, 11, 20, 7, 1]
    offsets = updates - aggregate(updates, samples, by_samples=True, smoothing=1e-12)
    counts = torch.tensor(samples).double()
    pull = counts / counts.sum() @ (offsets / offsets.norm(dim=1, keepdim=True))
    assert pull.norm() < 1e-10


def test_samples_count_only_when_told():
    updates, samples = normal(0, 5, 3), [1, 2, 3, 4, 50]
    assert torch.equal(aggregate(updates, samples), aggregate(updates))
    assert not torch.allclose(aggregate(updates, samples, by_samples=True), aggregate(updates))


@given(st.integers(3, 9), st.integers(0, 10**6))
def test_it_is_as_good_as_what_byzfl_finds(n, seed):
    byzfl = pytest.importorskip("byzfl")
    updates = normal(seed, n, 4)
    oracle = byzfl.GeometricMedian(nu=1e-9, T=500)(updates.numpy().copy())
    found = aggregate(updates)
    assert cost(found, updates) <= cost(torch.from_numpy(oracle), updates) + 1e-6
    np.testing.assert_allclose(found, oracle, atol=1e-2)


def test_the_fermat_point_of_an_equilateral_triangle_and_of_a_blunt_one():
    """In a triangle with an angle of 120 degrees or more it is that corner."""
    height = 3**0.5
    triangle = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, height]], dtype=torch.float64)
    np.testing.assert_allclose(aggregate(triangle), [0, height / 3], atol=1e-6)
    blunt = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    np.testing.assert_allclose(aggregate(blunt), [0, 0.5], atol=1e-4)


@pytest.mark.parametrize("value", [1e9, -1e30])
def test_fewer_than_half_cannot_move_it_far_and_half_can(value):
    """With m < n / 2 far updates it stays within 2 r n / (n - 2 m), r the honest radius."""
    honest = normal(1, 5, 4).float()
    attacked = torch.cat([honest, torch.full((4, 4), value)])
    radius = honest.norm(dim=1).max()
    assert aggregate(attacked).norm() <= 2 * radius * 9 / (9 - 2 * 4)
    assert aggregate(with_row(attacked, 4, value)).norm() > 1e6


def test_fewer_iterations_are_worse():
    updates = torch.cat([normal(2, 5, 4), 20 + normal(3, 3, 4)])
    few, many = (aggregate(updates, iterations=count) for count in (2, 10_000))
    assert cost(few, updates) > cost(many, updates) + 1e-3
