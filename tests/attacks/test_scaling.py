"""Scaling trains a backdoor for real and enlarges it."""

import pytest
import torch
from attack_support import data_of, forged, honest

from fedred.attacks.scaling import Scaling
from fedred.attacks.trigger import PixelTrigger


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("m", [1, 4])
def test_scaling_sends_exactly_factor_times_the_trained_update(factor, m):
    own = honest(m)
    assert torch.equal(forged(Scaling(factor), own), own * factor)


def test_scaling_takes_the_released_factor_and_target_by_default():
    """3 whatever the number of attackers; n / m, which replaces the model, is another choice."""
    own = honest(2)
    assert torch.equal(forged(Scaling(), own, participants=50), 3 * own)
    assert Scaling().backdoor.target == 0


@pytest.mark.parametrize("participants", [5, 40])
def test_scaling_by_n_over_m_replaces_the_model(participants):
    """Where honest updates are zero, the mean of all is then the backdoor itself."""
    own = honest(1).double().repeat(4, 1)
    sent = forged(Scaling(participants / 4), own)
    torch.testing.assert_close(sent.sum(0) / participants, own[0])


def test_scaling_trains_on_triggered_images_of_the_target_and_then_on_clean_ones():
    images, labels = data_of()
    (triggered, targets), (clean, own_labels) = Scaling(target=2).poison(images, labels, 0, 4)
    assert torch.equal(triggered, PixelTrigger(2).apply(images))
    assert torch.equal(targets, torch.full_like(labels, 2))
    assert torch.equal(clean, images)
    assert torch.equal(own_labels, labels)


def test_success_is_measured_with_the_trigger_that_was_trained():
    images, labels = data_of()
    attack = Scaling(target=2)
    assert attack.backdoor.target == 2
    assert attack.backdoor.source is None
    trained, _ = attack.poison(images, labels, 0, 4)[0]
    assert torch.equal(attack.backdoor.apply(images), trained)
