"""FLAME keeps the smallest linked majority, clips to the median norm, and adds normal noise."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.stats import kstest

from fedred.defenses.flame import FLAME
from fedred.errors import UserError

SIZE = 20_000
MAJORITY, MINORITY = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0], [10.0, 10.0, 10.0]
QUIET = FLAME(angles="updates", noise=0)


def linked_majority(vectors):
    """Who is linked at the smallest cosine distance that links more than half, bool [n]."""
    units = torch.nn.functional.normalize(vectors.double())
    return linked(1 - units @ units.T)


def linked(distances):
    """Who is linked at the smallest of distances [n, n] that links more than half, bool [n]."""
    for threshold in distances.flatten().sort().values:
        labels = torch.from_numpy(connected_components((distances <= threshold).numpy())[1])
        size, label = labels.bincount().max(0)
        if size > len(distances) / 2:
            return labels == label
    raise AssertionError


def bundle(direction, aside, lengths, seed):
    """Updates of these lengths around a direction; alternate ones lean to either side of it.

    Without the two sides the last one to join would be left out: the smallest majority is 6 of 10.
    """
    sides = torch.tensor([(-1.0) ** i for i in range(len(lengths))])[:, None]
    blur = 0.1 * normal(seed, len(lengths), len(direction)) / len(direction) ** 0.5
    rows = direction + 0.3 * sides * aside + blur
    return rows / rows.norm(dim=1, keepdim=True) * torch.tensor(lengths)[:, None]


def two_bundles():
    """Seven updates near a direction, and three longer ones near its opposite."""
    direction, aside = (v / v.norm() for v in normal(0, 2, SIZE))
    return torch.cat(
        [bundle(direction, aside, MAJORITY, 1), bundle(-direction, aside, MINORITY, 2)]
    )


def judge(rule, updates, weights=None):
    weights = torch.zeros(updates.shape[1]) if weights is None else weights
    return rule(updates, view_of(len(updates), weights=weights))


def test_the_majority_of_directions_is_trusted_and_the_minority_not():
    assert judge(QUIET, two_bundles()).trusted.tolist() == [True] * 7 + [False] * 3


def test_the_aggregate_is_the_mean_of_the_trusted_clipped_to_the_median_norm_of_all():
    """The median norm of all is 5, that of the trusted would be 4: only the 6 is clipped."""
    updates = two_bundles()
    kept = [x * min(1.0, 5.0 / length) for x, length in zip(updates, MAJORITY, strict=False)]
    assert [round(float(x.norm()), 6) for x in kept] == [1, 2, 3, 4, 5, 5, 5]
    torch.testing.assert_close(judge(QUIET, updates).aggregate, sum(kept) / 7)


@pytest.mark.parametrize("noise", [0.001, 0.5])
def test_the_noise_is_normal_with_lambda_times_the_median_norm(noise):
    updates = two_bundles()
    noisy = judge(FLAME("updates", noise), updates).aggregate
    added = (noisy - judge(QUIET, updates).aggregate).numpy()
    assert kstest(added / (noise * 5.0), "norm").pvalue > 0.01
    assert kstest(added / (noise * 4.0), "norm").pvalue < 1e-6


@given(st.integers(2, 13), st.integers(2, 6), st.sampled_from(["models", "updates"]), st.data())
def test_the_trusted_are_the_smallest_linked_majority(n, size, angles, data):
    seed = data.draw(st.integers(0, 10**6))
    updates, weights = normal(seed, n, size), 2 * normal(seed + 1, size)
    verdict = judge(FLAME(angles, noise=0), updates, weights)
    expected = linked_majority(updates + weights if angles == "models" else updates)
    assert verdict.trusted.tolist() == expected.tolist()


@given(
    st.integers(0, 10**6),
    st.sampled_from([5, 30, 50, 100]),
    st.sampled_from([2, 15, 19, 349, 9_610]),
    st.sampled_from([0.6, 0.8]),
    st.sampled_from(["models", "updates"]),
)
def test_a_majority_that_sends_the_same_is_trusted_as_a_whole(seed, n, size, share, angles):
    updates, weights = normal(seed, n, size).float() / 100, normal(seed + 1, size).float()
    majority = torch.from_numpy(np.random.default_rng(seed).permutation(n)[: int(share * n)])
    updates[majority] = updates[majority[0]].clone()
    verdict = FLAME(angles)(updates, view_of(n, all_clients=n, weights=weights))
    assert verdict.trusted.nonzero().flatten().tolist() == majority.sort().values.tolist()


@given(st.integers(0, 10**6), st.integers(5, 12), st.sampled_from([1e-4, 1e-6, 1e-8]))
def test_models_that_differ_little_are_linked_by_the_differences_of_their_updates(seed, n, part):
    """Updates across the model turn it by their length: angles are as far apart as they are."""
    weights = normal(seed, 30)
    updates = normal(seed + 1, n, 30)
    updates -= (updates @ weights)[:, None] * weights / weights.square().sum()
    verdict = judge(FLAME("models", noise=0), part * updates, weights)
    differences = (updates[:, None] - updates).norm(dim=2)
    assert verdict.trusted.tolist() == linked(differences).tolist()


def test_lengths_separate_models_but_not_updates():
    """All updates point along axis 1; added to the model on axis 0, long ones turn it further."""
    lengths = [1.0] * 7 + [100.0] * 3
    updates = torch.tensor([[0.0, length] for length in lengths])
    model = torch.tensor([1.0, 0.0])
    of_models = judge(FLAME("models", noise=0), updates, model)
    of_updates = judge(QUIET, updates, model)
    assert of_models.trusted.tolist() == [True] * 7 + [False] * 3
    assert of_updates.trusted.all()
    assert of_models.aggregate.tolist() == of_updates.aggregate.tolist() == [0.0, 1.0]


def test_models_are_compared_by_default():
    assert FLAME() == FLAME(angles="models", noise=0.001)


def test_one_client_is_too_few():
    with pytest.raises(UserError, match="needs at least 2"):
        judge(QUIET, torch.ones(1, 2))


def test_it_fails_when_attackers_are_the_majority_they_are_the_cluster():
    attackers, honest = two_bundles().split([7, 3])
    verdict = judge(QUIET, torch.cat([honest, attackers]))
    assert verdict.trusted.tolist() == [False] * 3 + [True] * 7
    assert (honest @ verdict.aggregate < 0).all()


def test_it_fails_when_honest_clients_differ_no_more_than_a_majority_is_kept():
    """At angles 0, 10, 21, 33, 46, 60 degrees, without an attacker, two of six are left out."""
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 21.0, 33.0, 46.0, 60.0]))
    updates = torch.stack([angles.cos(), angles.sin()], 1)
    assert judge(QUIET, updates).trusted.tolist() == [True] * 4 + [False] * 2


def test_it_fails_among_models_when_an_opposite_update_is_short():
    """The attacker's -0.05 hardly turns the model, and two honest clients turn it too far."""
    updates = torch.tensor([[0.0, y] for y in (0.1, 0.2, 0.4, 0.5, 3.0, 6.0, -0.05)])
    model = torch.tensor([10.0, 0.0])
    of_models = judge(FLAME("models", noise=0), updates, model)
    assert of_models.trusted.tolist() == [True] * 4 + [False] * 2 + [True]
    assert judge(QUIET, updates, model).trusted.tolist() == [True] * 6 + [False]


def test_it_fails_against_an_attacker_that_points_where_the_honest_do_but_its_length_is_clipped():
    """The long one takes the place of the 6, which was clipped to the same 5."""
    updates = two_bundles()
    before = judge(QUIET, updates).aggregate
    updates[6] *= 1e6
    verdict = judge(QUIET, updates)
    assert verdict.trusted[6]
    torch.testing.assert_close(verdict.aggregate, before)


def test_the_median_of_an_even_number_of_norms_is_the_middle():
    """Norms 1, 2, 4 and 8 in one direction: clipped to 3, the mean is (1 + 2 + 3 + 3) / 4."""
    updates = torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)
    verdict = FLAME("updates", noise=0)(updates, view_of(4))
    assert verdict.trusted.all()
    assert float(verdict.aggregate) == pytest.approx(9 / 4)
