"""Clusters of clients: what scikit-learn is asked, and what its answer means."""

import numpy as np
import pytest
import torch
from defense_support import normal
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from fedred.defenses.clustering import hdbscan, largest_cluster, mean_shift


def line_distances(*points):
    values = torch.tensor(points, dtype=torch.float64)[:, None]
    return torch.cdist(values, values)


def test_equal_clients_are_one_cluster():
    assert hdbscan(torch.zeros(5, 5), 3).tolist() == [0] * 5


def test_two_far_groups_are_two_clusters():
    found = hdbscan(line_distances(0, 0.1, 0.25, 50, 50.1, 50.3), 2)
    assert found[:3].unique().numel() == found[3:].unique().numel() == 1
    assert found[0] != found[3]
    assert (found >= 0).all()


def test_who_is_far_from_a_majority_is_in_no_cluster():
    found = hdbscan(line_distances(0, 0.1, 0.25, 0.3, 0.42, 50, 70), 4)
    assert found.tolist() == [0] * 5 + [-1, -1]


@pytest.mark.parametrize("seed", range(30))
def test_a_majority_cluster_is_connected_in_single_linkage(seed):
    """Some cut of scipy's tree holds exactly the accepted clients together."""
    points = normal(seed, 15, 3)
    points[:5] += 4
    distances = torch.cdist(points, points)
    accepted = (hdbscan(distances, 8) == 0).numpy()
    tree = linkage(squareform(distances.numpy(), checks=False), "single")
    cuts = [fcluster(tree, height * (1 + 1e-9), "distance") for height in tree[:, 2]]
    groups = [cut == label for cut in cuts for label in np.unique(cut)]
    assert accepted.sum() >= 8
    assert any((accepted == group).all() for group in groups)


def test_mean_shift_divides_two_groups():
    features = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0], [9.1]])
    found = mean_shift(features)
    assert found[:5].unique().numel() == found[5:].unique().numel() == 1
    assert found[0] != found[5]


def test_where_the_bandwidth_is_zero_equal_clients_are_together():
    """Six points, three neighbours each with itself: all at distance zero."""
    found = mean_shift(torch.tensor([[1.0], [2.0], [1.0], [2.0], [1.0], [2.0]]))
    assert found.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_largest_cluster_by_hand():
    assert largest_cluster(torch.tensor([0, 1, 1, -1, -1, -1])).tolist() == [0, 1, 1, 0, 0, 0]
    assert not largest_cluster(torch.tensor([-1, -1])).any()
    assert largest_cluster(torch.tensor([1, 0, 0, 2, -1])).tolist() == [0, 1, 1, 0, 0]
    tied = largest_cluster(torch.tensor([0, 1, 0, 1]))
    assert tied.tolist() in ([1, 0, 1, 0], [0, 1, 0, 1])
