"""DeepSight reads the output layer, clusters clients, and rejects clusters of suspects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from defense_support import MODEL, TRAINING, digits, genuine, view_of
from torch import nn
from torch.func import vmap

from fedred.defenses.deepsight import (
    DeepSight,
    division_differences,
    normalised_energies,
    output_layer,
    suspect_shares,
    threshold_exceedings,
)
from fedred.errors import UserError
from fedred.local_training import batch_schedule, train_clients
from fedred.models import MLP, ConvNet, ResNet, flat_model
from fedred.parameters import FlatModel

SAMPLES = 80


@pytest.mark.parametrize("model", [MLP(width=7), ConvNet(width=4, depth=2), ResNet(width=4)])
def test_the_output_layer_is_the_last_linear_layer(model):
    network = flat_model(model, (1, 8, 8), 10)
    vector = torch.arange(network.size, dtype=torch.float64)
    *_, weight, bias = network.unflatten(vector).values()
    weights, biases = output_layer(torch.stack([vector, -vector]), network)
    assert torch.equal(weights[0], weight)
    assert torch.equal(biases[1], -bias)


@pytest.mark.parametrize(
    "last", [nn.Linear(64, 10, bias=False), nn.Sequential(nn.Linear(64, 10), nn.PReLU(1))]
)
def test_a_network_without_a_linear_output_layer_is_refused(last):
    network = FlatModel(nn.Sequential(nn.Flatten(), last), (1, 8, 8), 10)
    with pytest.raises(UserError, match="ends in a linear layer with biases"):
        output_layer(torch.zeros(2, network.size), network)


def test_energies_and_exceedings_by_hand():
    """e = (1 + 2, 1 + 0, 0 + 0): squares 9, 1, 0 of 10; a third of 0.9 is exceeded once."""
    weights = torch.tensor([[[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]])
    biases = torch.tensor([[-1.0, 1.0, 0.0]])
    energies = normalised_energies(weights, biases)
    torch.testing.assert_close(energies, torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64))
    assert threshold_exceedings(energies).tolist() == [1]
    assert threshold_exceedings(torch.tensor([[0.5, 0.4, 0.1]])).tolist() == [2]
    assert threshold_exceedings(torch.zeros(1, 3)).tolist() == [0]


def test_one_per_cent_is_exceeded_when_classes_are_many():
    energies = torch.zeros(1, 1000)
    energies[0, :3] = torch.tensor([0.9, 0.0091, 0.0089])
    assert threshold_exceedings(energies).tolist() == [2]


def test_division_differences_equal_a_loop_over_images():
    weights, updates = genuine()
    view = view_of(3)
    found = division_differences(updates[:3], view, 20)
    drawn = np.random.default_rng(5).standard_normal((20, 1, 8, 8), "float32")
    for client in range(3):
        ratios = []
        for image in torch.from_numpy(drawn):
            local = MODEL(weights + updates[client], image[None])[0].double().softmax(-1)
            ratios.append(local / MODEL(weights, image[None])[0].double().softmax(-1))
        expected = torch.stack(ratios).mean(0)
        torch.testing.assert_close(found[client], expected, rtol=1e-4, atol=0)


def test_suspects_are_counted_in_clusters_and_who_is_in_none_is_its_own():
    suspect = torch.tensor([True, False, False, True, False, True])
    clusters = torch.tensor([0, 0, 0, 1, -1, -1])
    shares = suspect_shares(suspect, clusters)
    assert shares.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0, 0.0, 1.0])


def last_layer(patterns):
    """Updates that move only output biases."""
    updates = torch.zeros(len(patterns), MODEL.size)
    updates[:, -10:] = torch.tensor(patterns)
    return updates


def group(count):
    return [[1.0] * count + [0.0] * (10 - count)]


@pytest.mark.parametrize(("moved", "suspect"), [(2, True), (3, True), (4, False)])
def test_suspects_move_at_most_half_as_many_outputs_as_the_median(moved, suspect):
    """Median 6: half is 3."""
    updates = last_layer(group(6) * 5 + [[0.0] * (10 - moved) + [1.0] * moved] * 3)
    verdict = DeepSight(images=50)(updates, view_of(8))
    assert verdict.scores.tolist() == [0.0] * 5 + [float(suspect)] * 3
    assert verdict.trusted[5:].all() == (not suspect)


@pytest.mark.parametrize(("chunk", "images", "expected"), [(1, 10, 1), (100, 1000, 5), (8, 50, 8)])
def test_no_more_images_are_held_than_a_chunk_holds(chunk, images, expected, monkeypatch):
    taken = []

    def spying(function, chunk_size):
        taken.append(chunk_size)
        return vmap(function, chunk_size=chunk_size)

    monkeypatch.setattr("fedred.defenses.deepsight.vmap", spying)
    updates = torch.randn(2, MODEL.size)
    division_differences(updates, replace(view_of(2), clients_per_chunk=chunk), images)
    assert taken == [expected]


def test_division_differences_that_are_not_finite_are_zero():
    _, updates = genuine()
    changed = updates[:2].clone()
    changed[0] = 1e30
    assert division_differences(changed, view_of(2), 5).isfinite().all()


def trained(labels_of):
    """Weights and updates of nine honest clients, and three trained on other labels."""
    images, labels = digits()
    parts = [slice(client * SAMPLES, (client + 1) * SAMPLES) for client in range(12)]
    data = [(images[part], labels[part]) for part in parts]
    data[9:] = [(x, labels_of(y)) for x, y in data[9:]]
    training = replace(TRAINING, epochs=4)
    schedules = [
        batch_schedule(SAMPLES, training, np.random.default_rng(client)) for client in range(12)
    ]
    weights, _ = genuine()
    starts = weights.repeat(12, 1)
    return train_clients(MODEL, starts, data, schedules, training, 12) - weights


def test_clients_of_one_class_are_found_among_clients_of_all_classes():
    verdict = DeepSight(images=100)(trained(torch.zeros_like), view_of(12))
    assert not verdict.trusted[9:].any()
    assert (verdict.scores[9:] == 1).all()
    assert verdict.trusted[:9].all()


def test_the_trusted_are_clipped_to_the_median_norm_of_all():
    updates = trained(torch.zeros_like)
    verdict = DeepSight(images=100)(updates, view_of(12))
    limit = np.median(updates.double().norm(dim=1).numpy())
    kept = updates[:9].double()
    factors = (limit / kept.norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(
        verdict.aggregate.double(), (kept * factors).mean(0), rtol=1e-4, atol=1e-7
    )


def test_it_fails_against_attackers_who_hold_all_classes():
    """Labels that are all wrong move as many outputs as labels that are all right."""
    verdict = DeepSight(images=100)(trained(lambda labels: (labels + 1) % 10), view_of(12))
    assert verdict.trusted[9:].all()


def test_a_cluster_with_a_third_of_suspects_is_rejected_and_one_with_a_quarter_is_not(monkeypatch):
    clusters = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    monkeypatch.setattr("fedred.defenses.deepsight.hdbscan", lambda distances, fewest: clusters)
    updates = last_layer(group(2) + group(6) * 2 + group(2) + group(6) * 3)
    verdict = DeepSight(images=10)(updates, view_of(7))
    assert verdict.scores.tolist() == [1 / 3] * 3 + [1 / 4] * 4
    assert verdict.trusted.tolist() == [False] * 3 + [True] * 4
