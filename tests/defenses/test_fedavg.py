"""FedAvg is a mean, by clients or by samples, broken updates included."""

import numpy as np
import pytest
import torch
from defense_support import genuine, judged, normal, view_of, with_row

from fedred.defenses.fedavg import FedAvg


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_fedavg_passes_a_broken_update_on(value):
    verdict = judged("fedavg", with_row(genuine()[1], 1, value), round=7)
    assert verdict.trusted.all()
    assert not verdict.aggregate.isfinite().any()


def test_fedavg_is_the_mean_whatever_the_sample_counts():
    updates = normal(0, 5, 9)
    for samples in (None, [1, 2, 3, 4, 100]):
        aggregate = FedAvg()(updates, view_of(5, samples)).aggregate
        np.testing.assert_allclose(aggregate, updates.numpy().mean(0), rtol=1e-6, atol=1e-7)


def test_fedavg_by_samples_is_the_mean_over_all_samples():
    updates, samples = normal(0, 3, 9), [1, 5, 2]
    aggregate = FedAvg(by_samples=True)(updates, view_of(3, samples)).aggregate
    expected = np.repeat(updates.numpy(), samples, axis=0).mean(0)
    np.testing.assert_allclose(aggregate, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("by_samples", [True, False])
def test_the_shares_are_as_exact_as_the_updates(by_samples):
    """A third and a seventh have no end in binary: in float32 they are wrong by 1e-8."""
    for seed, samples in enumerate([[1, 1, 1], [1, 2, 4], [3, 5, 9, 11, 20]]):
        updates = normal(seed, len(samples), 9)
        aggregate = FedAvg(by_samples)(updates, view_of(len(samples), samples)).aggregate
        expected = np.average(updates.numpy(), 0, samples if by_samples else None)
        np.testing.assert_allclose(aggregate, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_fedavg_equals_byzfl(n):
    byzfl = pytest.importorskip("byzfl")
    updates = normal(n, n, 9)
    expected = byzfl.Average()(updates.numpy().copy())
    np.testing.assert_allclose(FedAvg()(updates, view_of(n)).aggregate, expected, rtol=1e-6)


def test_one_client_alone_moves_fedavg_wherever_it_wants():
    """Blanchard et al., lemma 1: no linear rule tolerates a single attacker."""
    updates, wanted = normal(3, 5, 9), normal(4, 9)
    forged = with_row(updates, 2, 0.0)
    forged[2] = 5 * wanted - forged.sum(0)
    torch.testing.assert_close(FedAvg()(forged, view_of(5)).aggregate, wanted, rtol=1e-5, atol=1e-6)
