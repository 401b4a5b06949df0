"""No attack is the identity."""

import torch
from attack_support import data_of, forged, honest

from fedred.attacks.none import NoAttack


def test_no_attack_is_the_identity_on_updates():
    own = honest(3)
    assert torch.equal(forged(NoAttack(), own), own)


def test_no_attack_is_the_identity_on_data():
    images, labels = data_of()
    ((same_images, same_labels),) = NoAttack().poison(images, labels, 0, 4)
    assert torch.equal(same_images, images)
    assert torch.equal(same_labels, labels)
