"""Targeted label flip moves one class into another, and is measured on that class alone."""

import pytest
import torch
from attack_support import data_of, forged, honest, normal
from hypothesis import assume, given
from hypothesis import strategies as st

from fedred.attacks.targeted_label_flip import TargetedLabelFlip
from fedred.errors import UserError
from fedred.metrics import attack_success_rate
from fedred.models import MLP, flat_model

LABELS = st.lists(st.integers(0, 9), min_size=1)


def model_that_reads_the_class():
    """A linear model on 2x2 images: pixel c is the logit of class c."""
    model = flat_model(MLP(depth=0), (1, 2, 2), 4)
    return model, torch.cat([torch.eye(4).reshape(-1), torch.zeros(4)])


def images_taken_for(classes):
    return torch.eye(4)[classes].view(-1, 1, 2, 2)


def success_rate(attack, labels, taken_for):
    model, weights = model_that_reads_the_class()
    images = images_taken_for(taken_for)
    return attack_success_rate(model, weights, images, torch.tensor(labels), attack.backdoor)


@given(LABELS, st.integers(0, 9), st.integers(0, 9))
def test_labels_of_the_source_class_change_and_no_others(values, source, target):
    assume(source != target)
    labels = torch.tensor(values)
    images = normal(0, len(values), 1, 2, 2)
    ((same, flipped),) = TargetedLabelFlip(source, target).poison(images, labels, 0, 10)
    assert flipped.tolist() == [target if value == source else value for value in values]
    assert torch.equal(same, images)


def test_the_default_moves_class_0_into_class_2():
    images, labels = data_of(8)
    ((_, flipped),) = TargetedLabelFlip().poison(images, labels, 0, 4)
    assert flipped.tolist() == [2, 1, 2, 3, 2, 1, 2, 3]


def test_success_is_measured_on_the_source_class_alone():
    """Of four images of class 1 two are taken for class 2; the others would add three more."""
    labels, taken_for = [1, 1, 1, 1, 0, 3, 2, 3], [2, 1, 2, 0, 2, 2, 2, 3]
    assert success_rate(TargetedLabelFlip(1, 2), labels, taken_for) == 0.5
    assert success_rate(TargetedLabelFlip(3, 2), labels, taken_for) == 0.5
    assert success_rate(TargetedLabelFlip(0, 2), labels, taken_for) == 1.0
    assert success_rate(TargetedLabelFlip(1, 0), labels, taken_for) == 0.25


def test_success_without_a_test_image_of_the_source_class_is_undefined():
    rate = success_rate(TargetedLabelFlip(3, 2), [0, 1, 2], [2, 2, 2])
    assert rate != rate


def test_images_are_left_as_they_are():
    images, _ = data_of()
    assert torch.equal(TargetedLabelFlip().backdoor.apply(images), images)


def test_it_sends_what_was_trained():
    own = honest(3)
    assert torch.equal(forged(TargetedLabelFlip(), own), own)


def test_one_class_cannot_be_flipped_into_itself():
    with pytest.raises(UserError, match="source must be different from target"):
        TargetedLabelFlip(3, 3)
