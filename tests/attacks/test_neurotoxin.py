"""Neurotoxin sends zeros where the model moved most, and changes nothing elsewhere."""

import numpy as np
import pytest
import torch
from attack_support import CLASSES, MODEL, attack_of, data_of, honest, normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.dba import DBA
from fedred.attacks.mpaf import MPAF
from fedred.attacks.neurotoxin import Neurotoxin, busiest
from fedred.attacks.scaling import Scaling
from fedred.attacks.targeted_label_flip import TargetedLabelFlip


def masked_and_plain(attack, share, round=2):
    own, view = honest(3), view_of([2, 5, 9], round)
    return Neurotoxin(share, attack).forge(own, view).updates, attack.forge(own, view).updates


def movement(round=2):
    view = view_of([2], round)
    return (view.weights - view.previous_weights).abs()


@given(st.floats(0, 1))
def test_zeros_stand_on_exactly_the_k_largest_movements(share):
    sent, plain = masked_and_plain(Scaling(), share)
    zero = (sent == 0).all(0)
    assert int(zero.sum()) == round(share * MODEL.size)
    assert not sent[:, zero].any()
    assert torch.equal(sent[:, ~zero], plain[:, ~zero])
    if zero.any() and not zero.all():
        assert movement()[zero].min() >= movement()[~zero].max()


def test_the_default_leaves_five_percent_alone():
    sent, _ = masked_and_plain(Scaling(), Neurotoxin().share)
    assert int((sent[0] == 0).sum()) == round(0.05 * MODEL.size)
    assert Neurotoxin().attack == Scaling()


def test_the_busiest_coordinates_by_hand():
    moved = torch.tensor([0.1, -3.0, 0.0, 2.0, -0.5])
    assert busiest(moved, 0.4).tolist() == [False, True, False, True, False]
    assert busiest(moved, 0.0).sum() == 0
    assert busiest(moved, 1.0).all()


@given(st.integers(0, 10**6), st.integers(1, 50), st.floats(0, 1))
def test_equal_movements_still_mask_exactly_k(seed, size, share):
    moved = normal(seed, size).round() + 0.25
    assert int(busiest(moved, share).sum()) == round(share * size)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_nothing_is_masked_before_the_model_has_moved(share):
    sent, plain = masked_and_plain(Scaling(), share, round=1)
    assert not movement(round=1).any()
    assert torch.equal(sent, plain)


def test_the_movement_is_that_of_the_last_round():
    """Not the one since the start: here the two are largest on different coordinates."""
    last, since_start = torch.zeros(MODEL.size), torch.zeros(MODEL.size)
    last[3], since_start[7] = 1.0, 9.0
    weights = view_of([2]).weights
    view = view_of(
        [2], 3, previous_weights=weights - last, initial_weights=weights - last - since_start
    )
    sent = Neurotoxin(1 / MODEL.size).forge(honest(1), view).updates
    assert (sent == 0).nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("inner", [Scaling(target=2), DBA(target=3), TargetedLabelFlip(1, 2)])
def test_poison_and_backdoor_are_those_of_the_masked_attack(inner):
    attack, (images, labels) = Neurotoxin(attack=inner), data_of()
    assert attack.backdoor == inner.backdoor
    passes = zip(
        attack.poison(images, labels, 6, CLASSES),
        inner.poison(images, labels, 6, CLASSES),
        strict=True,
    )
    for mine, theirs in passes:
        assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


def test_with_dba_each_attacker_trains_its_own_pixel_and_the_whole_trigger_is_measured():
    attack, (images, labels) = Neurotoxin(attack=DBA()), data_of()
    images = torch.zeros_like(images)
    parts = [attack.poison(images, labels, client, CLASSES)[0][0] for client in range(4)]
    assert all(int(part[0].sum()) == 1 for part in parts)
    assert torch.equal(sum(parts), attack.backdoor.apply(images))
    sent, plain = masked_and_plain(DBA(), 0.2)
    assert np.unique((sent == plain).sum(1)).tolist() == [MODEL.size - round(0.2 * MODEL.size)]


def test_knowledge_and_memory_are_those_of_the_masked_attack():
    attack = Neurotoxin(attack=MPAF(base="random"))
    state = attack.forge(honest(1), view_of([2])).state
    again = attack.forge(honest(1), view_of([2], 2, state=state)).state
    assert torch.equal(again["base"], state["base"])
    for knowledge in ("own", "full"):
        assert Neurotoxin(attack=attack_of("min_max", knowledge=knowledge)).knowledge == knowledge
