"""Gradients for many clients: mapped, one by one, and compiled give the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedred.gradients import PADDING_FACTOR, padded_size, value_and_pull

needs_compiler = pytest.mark.usefixtures("compiler")


def wave(parts, shift):
    """A function whose gradient is known: a sin(b) + shift . a."""
    a, b = parts
    return (a * b.sin()).sum() + (a * shift).sum()


def clients(size, seed=0):
    source = np.random.default_rng(seed)
    return torch.from_numpy(source.standard_normal((3, size, 4)))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_the_formula(size, compiled, request):
    if compiled:
        request.getfixturevalue("compiler")
    a, b, shift = clients(size)
    values, pull = value_and_pull(wave, size, compiled, largest=5)((a, b), shift)
    torch.testing.assert_close(values, (a * b.sin() + a * shift).sum(1))
    slopes = pull()
    torch.testing.assert_close(slopes[0], b.sin() + shift)
    torch.testing.assert_close(slopes[1], a * b.cos())


@needs_compiler
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_client_does_not_depend_on_those_beside_it_when_compiled(size):
    ours, others = clients(size), clients(size, seed=1)
    others[:, 0] = ours[:, 0]
    results = []
    for a, b, shift in (ours, others):
        values, pull = value_and_pull(wave, size, True, largest=5)((a, b), shift)
        results.append([values[0], *(slope[0] for slope in pull())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@needs_compiler
def test_compiled_images_keep_their_layout_outside():
    images = torch.arange(96.0).reshape(1, 2, 3, 4, 4)
    _, pull = value_and_pull(lambda x: x.square().sum(), 1, True)(images)
    torch.testing.assert_close(pull(), 2 * images)
    assert pull().is_contiguous()


@given(st.integers(1, 300), st.integers(1, 300))
def test_few_sizes_are_compiled_and_padding_is_bounded(size, largest):
    size = min(size, largest)
    padded = padded_size(size, largest)
    assert size <= padded <= largest
    assert padded < PADDING_FACTOR * size + PADDING_FACTOR
    sizes = {padded_size(some, largest) for some in range(1, largest + 1)}
    assert len(sizes) <= 6
    assert padded_size(largest, largest) == largest
