"""DBA: every attacker trains one pixel of a trigger that only the test images bear whole."""

import pytest
import torch
from attack_support import CLASSES, data_of, forged, honest

from fedred.attacks.dba import DBA
from fedred.attacks.scaling import Scaling


def triggered(client, side=28, channels=3):
    images = torch.zeros(2, channels, side, side)
    (found, _), _ = DBA().poison(images, torch.tensor([1, 2]), client, CLASSES)
    return found


@pytest.mark.parametrize(
    ("client", "pixel"), [(0, (26, 26)), (1, (24, 26)), (2, (26, 24)), (3, (25, 25))]
)
def test_each_attacker_sets_its_own_pixel(client, pixel):
    for same_part in (client, client + 4, client + 72):
        changed = triggered(same_part).nonzero().tolist()
        assert changed == [[image, 0, *pixel] for image in (0, 1)]


@pytest.mark.parametrize("side", [8, 28, 32])
def test_four_attackers_make_the_whole_trigger_and_three_do_not(side):
    whole = DBA().backdoor.apply(torch.zeros(2, 3, side, side))
    parts = [triggered(client, side) for client in (72, 73, 74, 75)]
    assert torch.equal(sum(parts), whole)
    assert not torch.equal(sum(parts[1:]), whole)


def test_success_is_measured_with_the_trigger_of_scaling():
    images, _ = data_of()
    backdoor = DBA(target=2).backdoor
    assert backdoor.target == 2
    assert torch.equal(backdoor.apply(images), Scaling().backdoor.apply(images))


def test_triggered_images_bear_the_target_and_a_clean_pass_follows():
    images, labels = data_of()
    (_, targets), (clean, own_labels) = DBA(target=3).poison(images, labels, 1, CLASSES)
    assert targets.tolist() == [3] * len(labels)
    assert torch.equal(clean, images)
    assert torch.equal(own_labels, labels)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_dba_sends_exactly_factor_times_the_trained_update(factor):
    own = honest(4)
    assert torch.equal(forged(DBA(factor), own), own * factor)
