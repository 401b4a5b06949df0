"""FLTrust trusts the direction of an update that a plain loop trains on the server's samples."""

import dataclasses

import numpy as np
import pytest
import torch
from defense_support import CLEAN, MODEL, TRAINING, clean_data, genuine, noise, normal, view_of
from small import federation
from torch.nn import functional as F

from fedred.defenses.fltrust import FLTrust, server_update
from fedred.local_training import LocalTraining, batch_schedule


def plain_server_update(training=TRAINING):
    """x_0 by a loop over batches, with the same seed as the view."""
    images, labels = clean_data()
    vector = genuine()[0].clone()
    for row in batch_schedule(CLEAN, training, np.random.default_rng(5)):
        batch = torch.from_numpy(row[row >= 0])
        vector.requires_grad_(True)
        loss = F.cross_entropy(MODEL(vector, images[batch]), labels[batch])
        (gradient,) = torch.autograd.grad(loss, vector)
        vector = vector.detach() - training.lr * gradient
    return vector - genuine()[0]


def across(reference, seed):
    """A unit vector orthogonal to the reference."""
    drawn = normal(seed, len(reference)).to(reference)
    drawn = drawn - (drawn @ reference) / (reference @ reference) * reference
    return drawn / drawn.norm()


def at_cosine(reference, cosine, length, seed):
    """An update of this length whose cosine with the reference is known."""
    along = reference / reference.norm()
    return length * (cosine * along + (1 - cosine**2) ** 0.5 * across(reference, seed))


@pytest.mark.parametrize("training", [TRAINING, LocalTraining(lr=0.2, batch_size=100, epochs=3)])
def test_the_server_trains_as_a_plain_loop_does(training):
    found = server_update(dataclasses.replace(view_of(3), training=training))
    expected = plain_server_update(training)
    assert expected.norm() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_server_update_is_none_of_the_clients():
    others = genuine()[1]
    assert (others - plain_server_update()).norm(dim=1).min() > 0.1 * others.norm(dim=1).max()


def test_the_rule_equals_algorithm_2():
    updates = torch.cat([genuine()[1][:5], noise(3), -2 * genuine()[1][5:7]])
    verdict = FLTrust()(updates, view_of(10))
    rows, reference = updates.double().numpy(), plain_server_update().double().numpy()
    length = np.linalg.norm(reference)
    cosines = np.array([row @ reference / np.linalg.norm(row) / length for row in rows])
    trust = np.maximum(cosines, 0)
    total = sum(t * length / np.linalg.norm(row) * row for t, row in zip(trust, rows, strict=True))
    assert verdict.trusted.tolist() == (trust > 0).tolist()
    assert 0 < verdict.trusted.sum() < 10
    np.testing.assert_allclose(verdict.scores, -cosines, atol=1e-6)
    np.testing.assert_allclose(verdict.aggregate, total / trust.sum(), rtol=1e-4, atol=1e-6)


def test_trust_by_hand_is_the_cosine_whatever_the_length():
    """Cosines 0.8, 0.6, -0.5: along x_0 it is (0.8^2 + 0.6^2) / 1.4."""
    reference = plain_server_update()
    cosines, lengths = [0.8, 0.6, -0.5], [1.0, 50.0, 7.0]
    updates = torch.stack(
        [
            at_cosine(reference, c, n, i)
            for i, (c, n) in enumerate(zip(cosines, lengths, strict=True))
        ]
    )
    verdict = FLTrust()(updates, view_of(3))
    assert verdict.scores.tolist() == pytest.approx([-0.8, -0.6, 0.5], abs=1e-5)
    assert verdict.trusted.tolist() == [True, True, False]
    along = verdict.aggregate @ reference / reference.norm() ** 2
    assert float(along) == pytest.approx(1 / 1.4, rel=1e-4)


def test_no_update_however_long_makes_the_aggregate_longer_than_the_servers():
    reference = plain_server_update()
    updates = torch.stack([1e6 * reference, 1e-6 * reference])
    aggregate = FLTrust()(updates, view_of(2)).aggregate
    torch.testing.assert_close(aggregate, reference, rtol=1e-4, atol=1e-6)


def test_a_model_that_everybody_turns_against_stays_as_it_is():
    verdict = FLTrust()(-plain_server_update().repeat(4, 1), view_of(4))
    assert not verdict.aggregate.any()
    assert not verdict.trusted.any()
    assert verdict.scores.tolist() == pytest.approx([1.0] * 4)


def test_clients_at_a_right_angle_to_the_server_get_no_trust_from_rounding():
    """Their cosines are 1e-17, of either sign; over the sum of all they would decide everything."""
    reference = server_update(view_of(9)).double()
    drawn = torch.stack([across(reference, seed) for seed in range(9)])
    updates = drawn - (drawn @ reference)[:, None] * reference / (reference @ reference)
    verdict = FLTrust()(updates, view_of(9))
    assert (verdict.scores < 0).any()
    assert not verdict.trusted.any()
    assert not verdict.aggregate.any()


def test_a_zero_update_gets_no_trust_and_changes_nothing():
    reference = plain_server_update()
    verdict = FLTrust()(torch.stack([reference, 0 * reference]), view_of(2))
    assert verdict.trusted.tolist() == [True, False]
    torch.testing.assert_close(verdict.aggregate, reference, rtol=1e-4, atol=1e-6)


def test_the_server_owns_a_hundred_samples_of_the_training_data():
    fed = federation(defense="fltrust")
    images, labels = fed.clean
    assert len(images) == len(labels) == 100
    held = {
        (x.numpy().tobytes(), int(y)) for xs, ys in fed.clients for x, y in zip(xs, ys, strict=True)
    }
    assert all((x.numpy().tobytes(), int(y)) in held for x, y in zip(images, labels, strict=True))


def test_the_servers_samples_are_drawn_by_the_seed():
    first, again, other = (federation(defense="fltrust", seed=seed).clean for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_the_server_owns_as_many_samples_as_the_option_says():
    fed = federation(defense={"name": "fltrust", "root_samples": 17})
    assert len(fed.clean[1]) == 17
    assert federation(defense="median").clean is None


def test_it_fails_when_an_attacker_points_partly_along_the_servers_update():
    """The attacker at cosine 0.3 is trusted with 0.3 / 1.3 of the aggregate, off x_0's direction."""
    reference = plain_server_update()
    evil = at_cosine(reference, 0.3, 9.0, 1)
    verdict = FLTrust()(torch.stack([reference, evil]), view_of(2))
    assert verdict.trusted.tolist() == [True, True]
    pushed = verdict.aggregate @ across(reference, 1) / reference.norm()
    assert float(pushed) == pytest.approx(0.3 / 1.3 * (1 - 0.3**2) ** 0.5, rel=1e-3)


def test_it_fails_when_honest_clients_know_what_the_servers_samples_do_not_show():
    """Honest updates a little beyond a right angle to x_0 get no trust, though they all agree."""
    reference = plain_server_update()
    honest = torch.stack([at_cosine(reference, -0.01, 1.0, 1)] * 5)
    verdict = FLTrust()(torch.cat([honest, reference[None]]), view_of(6))
    assert verdict.trusted.tolist() == [False] * 5 + [True]
    torch.testing.assert_close(verdict.aggregate, reference, rtol=1e-4, atol=1e-6)
