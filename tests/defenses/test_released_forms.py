"""The released forms of FedREDefense's code are options, and differ from the papers' rules."""

import pytest
import torch
from defense_support import normal, view_of

from fedred.config import resolve_method
from fedred.defenses.fedavg import FedAvg


def aggregate(settings, updates, samples=None):
    rule = resolve_method("defense", settings).build()
    return rule(updates, view_of(len(updates), samples)).aggregate


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_krum_without_squares_picks_another_client():
    updates = column(0.0, 0.0, 6.5, 3.0, 10.0)
    assert aggregate({"name": "krum", "tolerated": 0}, updates) == 3.0
    assert aggregate({"name": "krum", "tolerated": 0, "squared": False}, updates) == 0.0


def test_krum_with_the_released_f_looks_at_more_neighbours_than_with_the_most_it_can():
    """68 neighbours against 50: a group of 55 is dense enough for 50, but not for 68."""
    updates = torch.cat([torch.zeros(55, 1), 2 + torch.linspace(0, 0.1, 45)[:, None]]).double()
    updates[:55] += torch.linspace(0, 1e-3, 55)[:, None]
    assert aggregate("krum", updates) < 0.1
    scattered = torch.cat([updates[:55], column(*torch.linspace(1, 1.1, 45).tolist())])
    released = aggregate({"name": "krum", "tolerated": 30, "squared": False}, scattered)
    paper = aggregate("krum", scattered)
    assert paper != released


def test_the_median_of_an_even_number_is_the_middle_or_the_lower_value():
    updates = column(1.0, 2.0, 4.0, 9.0)
    assert aggregate("median", updates) == 3.0
    assert aggregate({"name": "median", "even": "lower"}, updates) == 2.0


def test_the_trimmed_mean_drops_thirty_of_a_hundred_at_each_end():
    updates = normal(0, 100, 3).square()
    released = aggregate({"name": "trimmed_mean", "tolerated": 30}, updates)
    torch.testing.assert_close(released, updates.sort(0).values[30:70].mean(0))
    assert (released != aggregate("trimmed_mean", updates)).all()


def test_fedavg_weighs_clients_alike_or_by_samples():
    updates = column(0.0, 4.0)
    assert aggregate("fedavg", updates, [1, 3]) == 2.0
    assert aggregate({"name": "fedavg", "by_samples": True}, updates, [1, 3]) == 3.0
    assert not FedAvg().by_samples


def test_the_released_norm_bound_cannot_be_written():
    """Its M is the mean norm of the truly honest clients, whom no view names."""
    with pytest.raises(ValueError, match="bound"):
        resolve_method("defense", {"name": "norm_bound", "bound": "honest"})
