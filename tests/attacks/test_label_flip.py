"""Label flip replaces every label by a map, and sends what was trained."""

import pytest
import torch
from attack_support import data_of, forged, honest
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.label_flip import LabelFlip

CLASSES_AND_LABELS = (st.integers(2, 20), st.lists(st.integers(0, 19), min_size=1))


def flip(map, labels, classes):
    images = torch.zeros(len(labels), 1, 2, 2)
    ((_, flipped),) = LabelFlip(map).poison(images, labels, 0, classes)
    return flipped


@pytest.mark.parametrize(("map", "expected"), [("next", [1, 2, 3, 0]), ("reverse", [3, 2, 1, 0])])
def test_label_flip_by_hand(map, expected):
    images, labels = data_of(4)
    ((same, flipped),) = LabelFlip(map).poison(images, labels, 0, 4)
    assert flipped.tolist() == expected
    assert torch.equal(same, images)


def test_label_flip_takes_the_released_map_by_default():
    """The paper's experiments know both; the released code has y -> (y + 1) mod C."""
    labels = torch.arange(10)
    images = torch.zeros(10, 1, 2, 2)
    ((_, default),) = LabelFlip().poison(images, labels, 0, 10)
    assert torch.equal(default, flip("next", labels, 10))
    assert not torch.equal(default, flip("reverse", labels, 10))


@given(*CLASSES_AND_LABELS)
def test_label_flip_next_moves_every_label_and_returns_after_c_steps(classes, values):
    labels = torch.tensor(values) % classes
    turned = labels
    for step in range(classes):
        assert step == 0 or (turned != labels).all()
        turned = flip("next", turned, classes)
    assert torch.equal(turned, labels)


@given(*CLASSES_AND_LABELS)
def test_label_flip_reverse_twice_is_nothing_and_keeps_the_middle_class_alone(classes, values):
    labels = torch.tensor(values) % classes
    once = flip("reverse", labels, classes)
    assert torch.equal(flip("reverse", once, classes), labels)
    assert torch.equal(once == labels, 2 * labels + 1 == classes)


@pytest.mark.parametrize("map", ["next", "reverse"])
def test_label_flip_sends_what_was_trained(map):
    own = honest(3)
    assert torch.equal(forged(LabelFlip(map), own), own)
