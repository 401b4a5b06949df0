"""The adaptive attacker sends what the server's own method makes of its distilled images."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from attack_support import CLASSES, data_of, honest
from attack_support import view_of as small_view
from defense_support import FAST, MODEL, SAMPLES, TRAINING, genuine

from fedred.attacks.adaptive_reconstruction import AdaptiveReconstruction
from fedred.attacks.dba import DBA
from fedred.attacks.min_max import MinMax
from fedred.attacks.mpaf import MPAF
from fedred.attacks.none import NoAttack
from fedred.attacks.scaling import Scaling
from fedred.attacks.targeted_label_flip import TargetedLabelFlip
from fedred.reconstruction import Knowledge, reconstruct, reconstruction_error, synthetic_update

ATTACK = AdaptiveReconstruction(MinMax(), FAST)
BRIEF = replace(FAST, first_iterations=2)
M = 3


def view_of(clients=range(M)):
    """What attackers know whose clients trained on real digits."""
    weights, clients = genuine()[0], tuple(clients)
    facts = {"model": MODEL, "training": TRAINING, "weights": weights}
    samples = torch.full((len(clients),), SAMPLES)
    return replace(small_view(clients), **facts, samples=samples)


def own():
    return genuine()[1][:M]


@cache
def sent():
    return ATTACK.forge(own(), view_of()).updates


@cache
def wanted():
    return MinMax().forge(own(), view_of()).updates


def server_errors(updates, iterations=FAST.first_iterations):
    """The errors that the server ends with, from images that are not the attackers'."""
    weights, count = genuine()[0], len(updates)
    images = FAST.initial_images(MODEL, small_view([0], seed=99).generator(0))
    start = Knowledge(
        images.repeat(count, 1, 1, 1, 1),
        torch.zeros(count, FAST.images(10), 10),
        FAST.initial_step_sizes(TRAINING, torch.full((count,), SAMPLES), 10),
    )
    budgets = torch.full((count,), iterations)
    return reconstruct(MODEL, weights, updates, start, budgets, None, FAST, 16).errors


def distilled_by(attack, updates, view):
    return attack.distil(updates, attack.pace(updates, view), view)


def test_the_servers_error_of_what_is_sent_is_zero_at_the_attackers_own_images():
    distilled = distilled_by(ATTACK, wanted(), view_of())
    for client, update in enumerate(sent()):
        own_images = distilled.take(torch.tensor(client))
        error = reconstruction_error(MODEL, genuine()[0], own_images, update, FAST.steps)
        assert float(error) < 1e-9


def test_what_is_sent_leads_towards_the_wanted_update():
    """Nearer than the zero update, and nearer the longer the attacker distils."""
    lengths = wanted().square().sum(1)
    brief = AdaptiveReconstruction(MinMax(), BRIEF).forge(own(), view_of()).updates
    errors, brief_errors = (
        (updates - wanted()).square().sum(1) / lengths for updates in (sent(), brief)
    )
    assert (errors < 0.9).all()
    assert (errors < brief_errors).all()


def test_the_server_reconstructs_it_better_than_the_attack_itself():
    assert (server_errors(sent()) < 0.9 * server_errors(wanted())).all()


def test_what_is_sent_is_training_on_the_distilled_images():
    distilled = distilled_by(ATTACK, wanted(), view_of())
    for client, update in enumerate(sent()):
        own_images = distilled.take(torch.tensor(client))
        replayed = synthetic_update(MODEL, genuine()[0], own_images, FAST.steps)
        torch.testing.assert_close(update, replayed, rtol=1e-3, atol=1e-6)


def test_attackers_distil_from_images_of_their_own():
    """Equal wanted updates are reconstructed differently."""
    assert torch.equal(wanted()[0], wanted()[1])
    assert not torch.allclose(sent()[0], sent()[1], rtol=1e-2)


def test_an_honest_update_is_sent_as_its_own_reconstruction():
    attack = AdaptiveReconstruction(NoAttack(), FAST)
    updates = attack.forge(own(), view_of()).updates
    assert ((updates - own()).square().sum(1) < 0.9 * own().square().sum(1)).all()


def test_the_announced_protocol_sets_the_step_size():
    """Calibrated: budget lr steps C / K, of each client's own number of samples."""
    view = replace(view_of(), samples=torch.tensor([16, 80, 160]))
    options = replace(BRIEF, first_iterations=1)
    start = distilled_by(AdaptiveReconstruction(MinMax(), options), wanted(), view).step_size
    expected = [1.5 * 0.05 * steps * 10 / 5 for steps in (1, 5, 10)]
    torch.testing.assert_close(start, torch.tensor(expected))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_an_update_that_cannot_be_distilled_is_replaced_by_its_start_alone(value):
    broken = own().clone()
    broken[1] = value
    attack = AdaptiveReconstruction(NoAttack(), BRIEF)
    whole, rest = (attack.forge(rows, view_of()).updates for rows in (broken, own()))
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[[0, 2]], rest[[0, 2]], rtol=1e-3, atol=1e-6)


def test_a_distillation_that_diverges_leaves_what_it_started_from():
    view = view_of()
    wild = AdaptiveReconstruction(NoAttack(), replace(FAST, image_lr=1e38, label_lr=1e38))
    unlearned = replace(FAST, image_lr=0, label_lr=0, step_size_lr=0, first_iterations=1)
    start = distilled_by(AdaptiveReconstruction(NoAttack(), unlearned), own(), view)
    for part, expected in zip(distilled_by(wild, own(), view), start, strict=True):
        assert torch.equal(part, expected)
    assert wild.forge(own(), view).updates.isfinite().all()


@pytest.mark.parametrize("inner", [Scaling(target=2), DBA(target=3), TargetedLabelFlip(1, 2)])
def test_poison_and_backdoor_are_those_of_the_distilled_attack(inner):
    attack, (images, labels) = AdaptiveReconstruction(inner), data_of()
    assert attack.backdoor == inner.backdoor
    passes = zip(
        attack.poison(images, labels, 6, CLASSES),
        inner.poison(images, labels, 6, CLASSES),
        strict=True,
    )
    for mine, theirs in passes:
        assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("knowledge", ["own", "full"])
def test_knowledge_is_that_of_the_distilled_attack(knowledge):
    assert AdaptiveReconstruction(MinMax(knowledge=knowledge)).knowledge == knowledge


def test_the_memory_is_that_of_the_distilled_attack():
    attack = AdaptiveReconstruction(MPAF(base="random"), BRIEF)
    state = attack.forge(honest(1), small_view([2])).state
    again = attack.forge(honest(1), small_view([2], 2, state=state)).state
    assert torch.equal(again["base"], state["base"])
