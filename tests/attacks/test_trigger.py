"""The trigger sets four pixels of channel 0, in an image of any size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.trigger import PixelTrigger


def test_trigger_pixels_on_28x28_are_those_of_the_released_code():
    images = torch.zeros(2, 3, 28, 28)
    changed = PixelTrigger(0).apply(images).nonzero()
    expected = {(i, 0, *p) for i in (0, 1) for p in ((26, 26), (24, 26), (26, 24), (25, 25))}
    assert {tuple(position) for position in changed.tolist()} == expected


@pytest.mark.parametrize("value", [-2.5, 0.0, 3.0])
def test_trigger_sets_its_pixels_to_one_whatever_they_were(value):
    images = torch.full((1, 1, 28, 28), value)
    triggered = PixelTrigger(0).apply(images)
    assert triggered[triggered != images].tolist() == [1.0] * 4


@given(st.integers(4, 64), st.integers(4, 64))
def test_trigger_keeps_four_distinct_pixels_inside_every_image_from_4x4_on(height, width):
    pixels = PixelTrigger(0).pixels(height, width)
    assert all(0 <= row < height and 0 <= column < width for row, column in pixels)
    assert len(set(pixels)) == 4


@pytest.mark.parametrize("side", range(4, 65))
def test_trigger_changes_four_pixels_of_a_square_image_and_nothing_else(side):
    images = torch.full((1, 3, side, side), 0.25)
    triggered = PixelTrigger(0).apply(images)
    assert int((triggered != images).sum()) == 4
    assert torch.equal(triggered[:, 1:], images[:, 1:])


@pytest.mark.parametrize("side", [8, 32, 64, 224])
def test_trigger_stays_in_the_same_corner(side):
    """On 28x28 it lies within the last four rows and columns of 28."""
    for row, column in PixelTrigger(0).pixels(side, side):
        assert row >= side * 24 / 28 - 1.5
        assert column >= side * 24 / 28 - 1.5


@given(st.integers(0, 1000))
def test_a_part_is_one_pixel_of_the_trigger_and_has_its_target(number):
    whole = PixelTrigger(3)
    part = whole.part(number)
    assert part.pixels(28, 28) == [whole.pixels(28, 28)[number % 4]]
    assert part.target == 3
