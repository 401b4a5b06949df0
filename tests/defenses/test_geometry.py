"""Lengths, angles and distances hold for updates of any size."""

import numpy as np
import torch
from defense_support import normal
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses import geometry
from fedred.defenses.geometry import (
    clip_norms,
    cosine_similarities,
    gram_matrix,
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
    clipped = clip_norms(rows, limit)
    expected = rows.norm(dim=1).clamp(max=limit)
    torch.testing.assert_close(clipped.norm(dim=1), expected)
    torch.testing.assert_close(unit_rows(clipped), unit_rows(rows))
    short = rows.norm(dim=1) <= limit
    assert torch.equal(clipped[short], rows[short])


def test_a_limit_may_be_given_for_every_row():
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]])
    clipped = clip_norms(rows, torch.tensor([1.0, 20.0, 1.0]))
    torch.testing.assert_close(clipped, torch.tensor([[0.6, 0.8], [6.0, 8.0], [0.0, 0.0]]))


def test_cosines_of_huge_tiny_and_zero_updates():
    rows = torch.tensor([[1e30, 0.0], [1e-30, 1e-30], [-3.0, 0.0], [0.0, 0.0]])
    half = 0.5**0.5
    expected = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(
        cosine_similarities(rows), torch.tensor(expected, dtype=torch.float64)
    )


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


def test_inner_products_are_summed_over_blocks(monkeypatch):
    monkeypatch.setattr(geometry, "COORDINATES", 7)
    rows = normal(1, 4, 30).float()
    torch.testing.assert_close(gram_matrix(rows), rows.double() @ rows.double().T)
