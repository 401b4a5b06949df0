"""FedREDefense trusts what can be reconstructed, learns, excludes, and hands on the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from defense_support import FAST, MODEL, SAMPLES, TRAINING, noise, view_of, with_row
from defense_support import genuine as all_genuine

from fedred.defenses.fedavg import FedAvg
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.median import Median


def genuine():
    weights, updates = all_genuine()
    return weights, updates[:6]


def attacked():
    """Genuine updates of clients 0 to 5, noise of clients 6 to 8."""
    return torch.cat([genuine()[1], noise(3)])


def fedredefense(**options):
    return FedREDefense(**{"reconstruction": FAST, **options})


def test_fedredefense_trusts_training_and_flags_noise():
    updates = attacked()
    verdict = fedredefense()(updates, view_of(9))
    assert verdict.trusted.tolist() == [True] * 6 + [False] * 3
    assert torch.equal(verdict.scores <= 0.6, verdict.trusted)
    assert (verdict.iterations[:6] < FAST.first_iterations).all()
    assert (verdict.iterations[6:] == FAST.first_iterations).all()
    torch.testing.assert_close(verdict.aggregate, updates[:6].mean(0))


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.7, 0.99])
def test_fedredefense_trusts_exactly_the_errors_up_to_the_threshold(threshold):
    verdict = fedredefense(threshold=threshold)(attacked(), view_of(9))
    assert torch.equal(verdict.trusted, verdict.scores <= threshold)


def test_fedredefense_judges_the_others_as_always_beside_a_broken_update():
    updates = attacked()
    rest = [0, 1, 3, 4, 5, 6, 7, 8]
    without = fedredefense()(updates[rest], view_of(8, clients=rest))
    for value in (torch.nan, torch.inf, 0.0):
        verdict = fedredefense()(with_row(updates, 2, value), view_of(9))
        assert not verdict.trusted[2]
        assert verdict.excluded[2]
        assert verdict.scores[2] == torch.inf
        assert torch.equal(verdict.trusted[rest], without.trusted)
        torch.testing.assert_close(verdict.scores[rest], without.scores, rtol=1e-3, atol=0)
        torch.testing.assert_close(verdict.aggregate, without.aggregate, rtol=1e-3, atol=1e-5)


def test_fedredefense_keeps_the_model_when_all_are_flagged():
    verdict = fedredefense()(noise(3), view_of(3, round=4))
    assert not verdict.trusted.any()
    assert torch.equal(verdict.aggregate, torch.zeros(MODEL.size))


def test_a_reconstruction_that_diverges_is_told_apart_from_updates_that_have_no_error():
    updates = genuine()[1][:4].clone()
    updates[1], updates[2, 0], updates[3] = 0.0, torch.nan, 1e30  # 1e60 is no float32
    too_fast = replace(FAST, image_lr=1e10)
    verdict = fedredefense(reconstruction=too_fast)(updates, view_of(4))
    assert not verdict.scores.isfinite().any()
    assert verdict.diverged.tolist() == [True, False, False, False]
    assert not fedredefense()(attacked(), view_of(9)).diverged.any()


def test_fedredefense_excludes_for_good_or_for_the_round():
    permanent = fedredefense()(attacked(), view_of(9))
    assert torch.equal(permanent.excluded, ~permanent.trusted)
    assert permanent.excluded.any()
    passing = fedredefense(exclusion="round")(attacked(), view_of(9))
    assert not passing.excluded.any()
    assert torch.equal(passing.trusted, permanent.trusted)
    torch.testing.assert_close(passing.aggregate, permanent.aggregate)


def test_fedredefense_hands_the_trusted_updates_to_its_aggregator():
    updates = attacked()
    verdict = fedredefense(aggregator=Median())(updates, view_of(9))
    assert torch.equal(verdict.aggregate, Median()(updates[:6], view_of(6)).aggregate)
    samples = list(range(10, 100, 10))
    training = replace(FAST, step_size="released", initial_step_size=0.75)
    by_samples = fedredefense(reconstruction=training, aggregator=FedAvg(by_samples=True))
    verdict = by_samples(updates, view_of(9, samples))
    trusted = verdict.trusted.numpy()
    assert trusted.any()
    assert not trusted.all()
    expected = np.average(updates.numpy()[trusted], 0, np.array(samples)[trusted])
    np.testing.assert_allclose(verdict.aggregate, expected, rtol=1e-4, atol=1e-6)


def test_fedredefense_starts_from_what_it_has_learned():
    """Images, labels and step size: with one of them forgotten the first error would be another."""
    _, updates = genuine()
    rule = fedredefense(reconstruction=replace(FAST, step_size_lr=0.5))
    first = rule(updates, view_of(6))
    assert (first.iterations > 1).all()
    start = FAST.initial_step_sizes(TRAINING, torch.full((6,), SAMPLES), 10)
    assert (first.state["step_size"][:6] / start - 1).abs().min() > 0.01
    again = rule(updates, view_of(6, state=first.state, round=2))
    assert (again.iterations == 1).all()
    torch.testing.assert_close(again.scores, first.scores, rtol=1e-4, atol=0)


def test_fedredefense_learns_from_participants_alone():
    _, updates = genuine()
    first = fedredefense()(updates[:3], view_of(3, clients=[1, 4, 7], all_clients=9))
    assert first.state["known"].nonzero().flatten().tolist() == [1, 4, 7]
    second = fedredefense()(
        updates[3:5], view_of(2, clients=[2, 4], state=first.state, round=2, all_clients=9)
    )
    assert second.state["known"].nonzero().flatten().tolist() == [1, 2, 4, 7]
    others = [0, 1, 3, 5, 6, 7, 8]
    for name, before in first.state.items():
        assert len(before) == 9
        assert torch.equal(second.state[name][others], before[others]), name
    for name in ("images", "labels", "step_size"):
        assert not torch.equal(second.state[name][2], first.state[name][2]), name
        assert not torch.equal(second.state[name][4], first.state[name][4]), name


def test_fedredefense_starts_all_clients_from_the_same_images():
    one_iteration = replace(FAST, first_iterations=1)
    verdict = fedredefense(reconstruction=one_iteration)(genuine()[1], view_of(6))
    images = verdict.state["images"]
    assert (images == images[0]).all()
    expected = FAST.initial_images(MODEL, view_of(1).generator)
    assert torch.equal(images[0], expected)
    assert not verdict.state["labels"].any()


def test_fedredefense_has_one_budget_for_the_first_time_and_one_for_later():
    options = replace(FAST, first_iterations=3, later_iterations=5)
    rule, updates = fedredefense(threshold=1e-9, reconstruction=options), genuine()[1]
    first = rule(updates[:2], view_of(2, clients=[0, 3]))
    assert first.iterations.tolist() == [3, 3]
    second = rule(updates[:3], view_of(3, clients=[0, 1, 3], state=first.state, round=2))
    assert second.iterations.tolist() == [5, 3, 5]


def test_fedredefense_forgets_nothing_because_of_a_broken_update():
    _, updates = genuine()
    first = fedredefense()(updates, view_of(6))
    broken = with_row(updates, 2, torch.nan)
    second = fedredefense()(broken, view_of(6, state=first.state, round=2))
    for name, before in first.state.items():
        assert torch.equal(second.state[name][2], before[2]), name
    assert all(part.isfinite().all() for part in second.state.values())
    never = fedredefense()(broken, view_of(6))
    assert not never.state["known"][2]


def test_a_broken_update_leaves_a_known_client_its_later_budget_and_a_new_one_its_first():
    """Client 0 is known before its broken update, client 1 is not."""
    options = replace(FAST, first_iterations=4, later_iterations=9)
    rule = fedredefense(threshold=1e-9, exclusion="round", reconstruction=options)
    updates, state, spent = genuine()[1][:2], {}, []
    broken = torch.full_like(updates, torch.nan)
    for round, (clients, sent) in enumerate([([0], updates), ([0, 1], broken), ([0, 1], updates)]):
        at = {"clients": clients, "state": state, "round": round + 1}
        verdict = rule(sent[: len(clients)], view_of(len(clients), **at))
        state = verdict.state
        spent.append(verdict.iterations.tolist())
    assert spent == [[4], [1, 1], [9, 4]]


def test_fedredefense_judges_one_client_alone_as_among_others():
    updates = attacked()
    together = fedredefense()(updates, view_of(9))
    for client in (0, 7):
        alone = fedredefense()(updates[[client]], view_of(1, clients=[client]))
        assert alone.trusted[0] == together.trusted[client]
        torch.testing.assert_close(alone.scores[0], together.scores[client], rtol=1e-3, atol=0)
