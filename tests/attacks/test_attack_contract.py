"""What every member of ATTACKS promises: a new attack is tested by being listed.

An attack that rightly does otherwise stands in a table below, with the reason.
"""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from attack_support import (
    CLASSES,
    MODEL,
    attack_of,
    data_of,
    forged,
    forged_with_full_knowledge,
    full_view_of,
    honest,
    normal,
    view_of,
)

from fedred.attacks import ATTACKS
from fedred.attacks.interface import AttackerView, Knowledge
from fedred.papers import Paper

LOOKS_INTO_THE_NETWORK = {"adaptive_reconstruction": "trains the network"}
"""Attacks for which a vector of any length will not do."""
WITHOUT_PAPER = {"none": "the reference is nobody's method"}


def without(exempt):
    assert exempt.keys() <= ATTACKS.keys()
    return [name for name in ATTACKS if name not in exempt]


def having(option):
    return [name for name, attack in ATTACKS.items() if option in {f.name for f in fields(attack)}]


def backdoors():
    return [name for name in ATTACKS if attack_of(name).backdoor]


def copies(state):
    return {name: value.clone() for name, value in state.items()}


def same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("round", [1, 2])
@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_forged_updates_are_finite_and_have_the_shape_of_the_own(name, m, round):
    sent = attack_of(name).forge(honest(m), view_of(range(m), round))
    assert sent.updates.shape == (m, MODEL.size)
    assert sent.updates.dtype == torch.float32
    assert sent.updates.isfinite().all()
    assert all(isinstance(value, torch.Tensor) for value in sent.state.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_float64_stays_float64_and_float32_differs_by_rounding(name):
    own = honest(4)
    exact = forged(attack_of(name), own.double(), round=2, dtype=torch.float64)
    assert exact.dtype == torch.float64
    fast = forged(attack_of(name), own, round=2)
    torch.testing.assert_close(fast.double(), exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_function_of_its_arguments(name):
    own, attack = honest(4), attack_of(name)
    memory = attack.forge(own, view_of(range(4), round=2)).state
    view = view_of(range(4), round=3, state=memory)
    first, second = attack.forge(own, view), attack_of(name).forge(own, view)
    assert torch.equal(first.updates, second.updates)
    assert same_state(first.state, second.state)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_none_of_its_arguments(name):
    own, attack = honest(4), attack_of(name)
    memory = attack.forge(own, view_of(range(4), round=2)).state
    view = view_of(range(4), round=3, state=memory)
    parts = (own, view.weights, view.previous_weights, view.initial_weights, view.samples)
    before, memory_before = [part.clone() for part in parts], copies(memory)
    attack.forge(own, view)
    assert all(torch.equal(*pair) for pair in zip(parts, before, strict=True))
    assert same_state(memory, memory_before)


@pytest.mark.parametrize("name", ATTACKS)
def test_writing_to_what_was_sent_does_not_reach_the_memory(name):
    attack = attack_of(name)
    sent = attack.forge(honest(2), view_of(range(2), round=2))
    memory = copies(sent.state)
    sent.updates.add_(1)
    assert same_state(sent.state, memory)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_attackers_does_not_matter(name):
    own, clients, order = honest(4), [5, 6, 7, 9], [2, 0, 3, 1]
    sent = attack_of(name).forge(own, view_of(clients, round=2)).updates
    shuffled_view = view_of([clients[i] for i in order], round=2)
    shuffled = attack_of(name).forge(own[order], shuffled_view).updates
    torch.testing.assert_close(shuffled, sent[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", having("lone"))
def test_a_lone_attacker_without_spread_sends_its_honest_update(name):
    own = honest(1)
    for round in (1, 2):
        assert torch.equal(forged(attack_of(name), own, round=round), own)
    several = honest(3)
    assert not torch.equal(forged(attack_of(name), several), several)


@pytest.mark.parametrize("name", having("lone"))
def test_a_lone_attacker_may_send_a_zero_update_as_in_the_released_code(name):
    own = honest(1)
    assert torch.equal(forged(attack_of(name, lone="zero"), own), torch.zeros_like(own))
    several = honest(3)
    zero, default = attack_of(name, lone="zero"), attack_of(name)
    assert torch.equal(forged(zero, several), forged(default, several))


@pytest.mark.parametrize("name", ATTACKS)
def test_equal_and_zero_updates_give_finite_forgeries(name):
    for own in (honest(1).repeat(3, 1), torch.zeros(3, MODEL.size)):
        for round in (1, 2):
            assert forged(attack_of(name), own, round=round).isfinite().all()


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_participants_who_are_all_malicious_forge_finite_updates(name, m):
    assert forged(attack_of(name), honest(m), round=2, participants=m).isfinite().all()


@pytest.mark.parametrize("name", having("knowledge"))
def test_an_attacker_who_would_see_the_honest_forges_where_nobody_is_honest(name):
    attack = attack_of(name, knowledge="full")
    assert forged(attack, honest(3), participants=3).isfinite().all()


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("name", without(LOOKS_INTO_THE_NETWORK))
def test_a_vector_of_one_parameter_is_forged(name, m):
    sent = forged(attack_of(name), normal(0, m, 1).float(), round=2, size=1)
    assert sent.shape == (m, 1)
    assert sent.isfinite().all()


@pytest.mark.parametrize("name", ATTACKS)
def test_huge_updates_overflow_nothing(name):
    """1e30 squared is no float32."""
    own = (1e30 * normal(0, 4, MODEL.size)).float()
    sent = forged(attack_of(name), own, round=2)
    exact = forged(attack_of(name), own.double(), round=2, dtype=torch.float64)
    assert sent.isfinite().all()
    assert (sent - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("name", ATTACKS)
def test_small_differences_between_large_float32_updates_are_not_lost(name):
    own = (100 + 1e-3 * normal(2, 4, MODEL.size)).float()
    exact = forged(attack_of(name), own.double(), round=2, dtype=torch.float64)
    fast = forged(attack_of(name), own, round=2)
    torch.testing.assert_close(fast.double(), exact, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_poisoned_data_is_trainable(name):
    images, labels = data_of()
    passes = attack_of(name).poison(images, labels, 3, CLASSES)
    assert passes
    for new_images, new_labels in passes:
        assert new_images.shape[1:] == images.shape[1:]
        assert new_images.dtype == images.dtype
        assert new_images.isfinite().all()
        assert len(new_images) == len(new_labels) > 0
        assert new_labels.dtype == torch.int64
        assert new_labels.min() >= 0
        assert new_labels.max() < CLASSES


@pytest.mark.parametrize("name", ATTACKS)
def test_poisoning_leaves_the_clients_own_data(name):
    images, labels = data_of()
    images_before, labels_before = images.clone(), labels.clone()
    attack_of(name).poison(images, labels, 3, CLASSES)
    assert torch.equal(images, images_before)
    assert torch.equal(labels, labels_before)


@pytest.mark.parametrize("name", backdoors())
def test_a_backdoor_copies_and_is_set_but_once(name):
    backdoor, (images, _) = attack_of(name).backdoor, data_of()
    before = images.clone()
    triggered = backdoor.apply(images)
    assert triggered.data_ptr() != images.data_ptr()
    assert torch.equal(images, before)
    assert torch.equal(backdoor.apply(triggered), triggered)


@pytest.mark.parametrize("name", backdoors())
def test_a_backdoor_sets_a_trigger_or_names_the_class_it_wants_mistaken(name):
    backdoor, (images, _) = attack_of(name).backdoor, data_of()
    assert backdoor.target >= 0
    assert torch.equal(backdoor.apply(images), images) == (backdoor.source is not None)
    assert backdoor.source != backdoor.target


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_tells_its_papers_its_tests_and_what_it_does(name):
    attack = ATTACKS[name]
    assert all(isinstance(paper, Paper) for paper in attack.papers)
    assert bool(attack.papers) == (name not in WITHOUT_PAPER)
    assert attack.tested.strip()
    assert isinstance(attack.elsewhere, str)
    assert attack.__doc__
    assert not attack.__doc__.startswith(attack.__name__ + "("), "made by dataclass"


@pytest.mark.parametrize("name", ATTACKS)
def test_attackers_know_their_own_clients_alone_unless_told_otherwise(name):
    attack = attack_of(name)
    assert attack.knowledge == "own"
    assert view_of([1]).honest_updates is None
    for knowledge in get_args(Knowledge) if name in having("knowledge") else []:
        assert attack_of(name, knowledge=knowledge).knowledge == knowledge


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", having("knowledge"))
def test_full_knowledge_depends_on_the_honest_updates_alone(name, m):
    attack, known = attack_of(name, knowledge="full"), honest(6, seed=4)
    one, other = (
        forged_with_full_knowledge(attack, honest(m, seed), known, round=2) for seed in (0, 1)
    )
    assert torch.equal(one, other)
    elsewhere = forged_with_full_knowledge(attack, honest(m, 0), honest(6, seed=5), round=2)
    assert not torch.equal(elsewhere, one)


@pytest.mark.parametrize("name", sorted({*having("knowledge")} & {*having("lone")}))
def test_full_knowledge_of_one_honest_update_shows_no_spread(name):
    own, known = honest(3), honest(1, seed=4)
    for lone, expected in {"honest": own, "zero": torch.zeros_like(own)}.items():
        attack = attack_of(name, knowledge="full", lone=lone)
        assert torch.equal(forged_with_full_knowledge(attack, own, known), expected)


@pytest.mark.parametrize("name", sorted({*having("knowledge")} & {*having("lone")}))
def test_full_knowledge_shows_a_lone_attacker_the_spread_of_the_honest(name):
    own, known = honest(1), honest(6, seed=4)
    attack = attack_of(name, knowledge="full", lone="zero")
    sent = forged_with_full_knowledge(attack, own, known)
    assert sent.any()
    assert not torch.equal(sent, own)


def test_known_updates_are_the_honest_ones_where_they_are_seen_else_the_own():
    own, known = honest(2), honest(5, seed=4)
    assert torch.equal(view_of(range(2)).known_updates(own), own)
    assert torch.equal(full_view_of(range(2), known).known_updates(own), known)


def test_a_view_has_no_place_for_the_ground_truth_or_other_clients_data():
    seen = set(AttackerView.__dataclass_fields__)
    assert seen.isdisjoint({"malicious", "labels", "images", "data", "federation", "defense"})
