"""Lengths, angles and distances hold for updates of any size."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from defense_support import normal
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fedred.defenses import geometry
from fedred.defenses.geometry import (
    by_columns,
    by_rows,
    clip_factors,
    cosine_distances,
    gram_matrix,
    group_means,
    norms,
    pairwise_distances,
    unit_rows,
)

SHAPES = st.tuples(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 20))


@given(SHAPES, st.sampled_from([1e-30, 1.0, 1e30]))
def test_norms_are_those_of_float64_at_any_scale(shape, scale):
    rows = (normal(*shape) * scale).float()
    np.testing.assert_allclose(norms(rows), np.linalg.norm(rows.double().numpy(), axis=1))


@given(SHAPES, st.floats(0.1, 3))
def test_clipping_shortens_what_is_too_long_and_touches_nothing_else(shape, limit):
    rows = normal(*shape)
    clipped = rows * clip_factors(norms(rows), limit)[:, None]
    expected = rows.norm(dim=1).clamp(max=limit)
    torch.testing.assert_close(clipped.norm(dim=1), expected)
    torch.testing.assert_close(unit_rows(clipped), unit_rows(rows))
    short = rows.norm(dim=1) <= limit
    assert torch.equal(clipped[short], rows[short])


def test_a_limit_may_be_given_for_every_row():
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]])
    factors = clip_factors(norms(rows), torch.tensor([1.0, 20.0, 1.0]))
    expected = torch.tensor([[0.6, 0.8], [6.0, 8.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(rows * factors[:, None], expected)


def test_cosine_distances_of_huge_tiny_and_zero_updates():
    rows = torch.tensor([[1e30, 0.0], [1e-30, 1e-30], [-3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    near, far = 1 - 0.5**0.5, 1 + 0.5**0.5
    expected = [[0, near, 2, 1], [near, 0, far, 1], [2, far, 0, 1], [1, 1, 1, 0]]
    found = cosine_distances(rows)
    torch.testing.assert_close(found[:4, :4], torch.tensor(expected, dtype=torch.float64))
    assert found[3, 4] == 1


DRAWS = st.tuples(
    st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([1, 2, 15, 300, 349, 9_610, 20_000])
)


def groups_of(seed, n):
    """Which of n clients send the same [n]: a large group, and smaller ones."""
    return torch.from_numpy(np.random.default_rng(seed).geometric(0.5, n).clip(max=n))


@given(DRAWS, st.sampled_from([None, 1.0, 1e3]))
def test_equal_updates_are_at_no_distance_and_equally_far_from_all_others(shape, length):
    """From zero or from a center, in a model of which the update is a large or a small part."""
    seed, n, size = shape
    groups = groups_of(seed, n)
    rows = normal(seed, n + 1, size).float()[groups]
    center = 0.0 if length is None else length * normal(seed + 1, size)
    found = cosine_distances(rows, center)
    same = groups[:, None] == groups
    assert not found[same].any()
    assert torch.equal(found, found.T)
    for one in groups.unique():
        assert len(found[groups == one].unique(dim=0)) == 1


@given(DRAWS)
def test_updates_of_one_direction_are_at_no_distance_whatever_their_lengths(shape):
    seed, n, size = shape
    direction = torch.from_numpy(np.random.default_rng(seed).integers(-999, 999, size))
    assume(direction.any())
    lengths = torch.from_numpy(np.random.default_rng(seed + 1).integers(1, 999, n))
    assert not cosine_distances((lengths[:, None] * direction).float()).any()


def exact_distances(rows):
    """1 - cos with sixty digits, as float64 [n, n]."""
    exact = [[Decimal(float(entry)) for entry in row] for row in rows]

    def inner(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True))

    with localcontext(prec=60):
        cosines = [[inner(a, b) / (inner(a, a) * inner(b, b)).sqrt() for b in exact] for a in exact]
        return torch.tensor([[float(1 - one) for one in row] for row in cosines]).double()


EXPONENTS = st.integers(-13, 0)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 9), EXPONENTS, EXPONENTS)
@example(0, 5, 9, -3, -6)
@example(0, 5, 9, -5, -7)
@example(0, 5, 9, -5, -11)
def test_angles_of_any_size_are_those_of_exact_arithmetic(seed, pairs, size, outer, inner):
    """Pairs around one direction; at 1e-8 of it 1 - cos of float64 is 0 or 1.1e-16.

    Beside half of the digits, a coordinate of a unit row keeps an error of some 1e-16.
    """
    around = normal(seed, size) + 10.0**outer * normal(seed + 1, pairs, size)
    rows = (around + 10.0**inner * normal(seed + 2, 2, pairs, size)).flatten(0, 1)
    found, expected = cosine_distances(rows), exact_distances(rows)
    wrong = 1e-6 * expected + 2e-15 * expected.sqrt() + 1e-28
    assert ((found - expected).abs() <= wrong).all()


@pytest.mark.parametrize("step", [1e-7, 3e-6, 7e-5, 1e-3])
def test_on_an_arc_every_angle_is_told_though_its_ends_are_far_apart(step):
    angles = step * torch.arange(400).double()
    found = cosine_distances(torch.stack([angles.cos(), angles.sin()], 1))
    expected = 2 * ((angles[:, None] - angles) / 2).sin().square()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@given(SHAPES)
def test_distances_are_those_of_a_loop_and_infinite_to_oneself(shape):
    rows = normal(*shape)
    found = pairwise_distances(rows)
    for i, one in enumerate(rows.numpy()):
        for j, other in enumerate(rows.numpy()):
            expected = np.inf if i == j else np.linalg.norm(one - other)
            np.testing.assert_allclose(found[i, j], expected)


def test_small_distances_between_large_float32_updates_are_exact():
    rows = (100 + 1e-3 * normal(0, 5, 50)).float()
    torch.testing.assert_close(
        pairwise_distances(rows).double(), pairwise_distances(rows.double()), rtol=1e-5, atol=0
    )


def test_a_distance_that_overflows_is_infinite_and_never_nan():
    rows = torch.tensor([[1e30], [-1e30], [0.0]]).repeat(1, 4)
    assert pairwise_distances(rows * 1e8).isinf().all()
    assert not pairwise_distances(rows).isnan().any()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 columns, or of one row."""
    monkeypatch.setattr(geometry, "ENTRIES", 1)


@pytest.mark.usefixtures("small_blocks")
def test_inner_products_are_summed_over_blocks():
    rows, center = normal(1, 4, 200).float(), normal(2, 200).float()
    centred = (rows - center).double()
    torch.testing.assert_close(gram_matrix(rows), rows.double() @ rows.double().T)
    torch.testing.assert_close(gram_matrix(rows, center), centred @ centred.T)


@pytest.mark.usefixtures("small_blocks")
def test_lengths_and_angles_are_seen_from_a_center():
    rows, center = normal(1, 4, 200).float(), normal(2, 200).float()
    assert torch.equal(norms(rows, center), norms(rows - center))
    assert torch.equal(cosine_distances(rows, center), cosine_distances(rows - center))


@pytest.mark.usefixtures("small_blocks")
def test_sums_over_clients_keep_every_bit_in_blocks_of_columns():
    rows, vector = normal(1, 9, 1000).float(), normal(2, 1000).float()
    assert torch.equal(by_columns(lambda block: block.mean(0), rows), rows.mean(0))
    moved = by_columns(lambda block, part: (block - part).sum(0), rows, vector)
    assert torch.equal(moved, (rows - vector).sum(0))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n", [0, 1, 9])
def test_a_function_of_every_client_in_blocks_of_rows(n):
    rows, others = normal(1, n, 30), normal(2, n, 2)
    found = by_rows(lambda block, other: block[:, :2] + other, rows, others)
    assert torch.equal(found, rows[:, :2] + others)
    assert by_rows(lambda block: block.isfinite().all(1), rows).dtype == torch.bool


@pytest.mark.usefixtures("small_blocks")
def test_means_of_groups_by_hand():
    rows = normal(1, 4, 200).float()
    found = group_means(rows, (torch.tensor([2]), torch.tensor([0, 3])))
    assert torch.equal(found, torch.stack([rows[2], rows[[0, 3]].mean(0)]))
