"""Clustering of clients, by scikit-learn, which is imported when a rule first needs it."""

import numpy as np
import torch
from torch import Tensor


def hdbscan(distances: Tensor, fewest: int) -> Tensor:
    """Return each client's cluster int64 [n], -1 for none, from distances [n, n].

    Args:
        distances: not negative, symmetric.
        fewest: clients that make a cluster, at least 2.

    min_samples 1 and a single cluster allowed, as in FLAME and DeepSight. scikit-learn counts a point
    among its own neighbours, the hdbscan package does not: with 1 both are plain single linkage.
    """
    from sklearn.cluster import HDBSCAN

    matrix = distances.double().clamp(min=0).fill_diagonal_(0).cpu().numpy()
    method = HDBSCAN(
        min_cluster_size=fewest,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    found = method.fit_predict(matrix)
    return torch.from_numpy(found).long()


def mean_shift(features: Tensor) -> Tensor:
    """Return each client's cluster int64 [n], -1 for none, from features [n, k].

    The bandwidth is scikit-learn's estimate at quantile 0.5; where it is zero, clients are in one
    cluster when they are equal.
    """
    from sklearn.cluster import MeanShift, estimate_bandwidth

    points = features.double().cpu().numpy()
    bandwidth = estimate_bandwidth(points, quantile=0.5)
    if not bandwidth > 0:
        return torch.from_numpy(np.unique(points, axis=0, return_inverse=True)[1].reshape(-1))
    return torch.from_numpy(MeanShift(bandwidth=bandwidth, cluster_all=False).fit_predict(points))


def largest_cluster(clusters: Tensor) -> Tensor:
    """Return who is in the cluster with most clients, bool [n]; nobody when all are in none."""
    inside = clusters[clusters >= 0]
    if not len(inside):
        return torch.zeros_like(clusters, dtype=torch.bool)
    largest: Tensor = inside.mode().values
    return clusters == largest
