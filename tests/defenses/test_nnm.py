"""NNM mixes every update with its nearest neighbours, and the rule inside judges the mixtures."""

import numpy as np
import pytest
import torch
from defense_support import normal, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.fedavg import FedAvg
from fedred.defenses.krum import Krum
from fedred.defenses.median import Median
from fedred.defenses.nnm import NNM, mixtures
from fedred.errors import UserError


def plain_mixtures(updates, count):
    """Allouah et al., algorithm 2, as loops."""
    rows = updates.numpy()
    mixed = []
    for one in rows:
        order = sorted(range(len(rows)), key=lambda j, one=one: np.linalg.norm(one - rows[j]))
        mixed.append(np.mean([rows[j] for j in order[:count]], axis=0))
    return torch.tensor(np.array(mixed))


@given(st.integers(0, 10**6), st.integers(1, 9), st.data())
def test_mixtures_are_means_of_the_nearest_updates(seed, n, data):
    count = data.draw(st.integers(1, n))
    updates = normal(seed, n, 4)
    torch.testing.assert_close(mixtures(updates, count), plain_mixtures(updates, count))


def test_an_update_is_its_own_nearest_neighbour_even_beside_a_twin():
    updates = torch.tensor([[0.0], [0.0], [5.0]])
    assert mixtures(updates, 1).tolist() == [[0.0], [0.0], [5.0]]
    assert mixtures(updates, 2).tolist() == [[0.0], [0.0], [2.5]]


def test_nnm_by_hand():
    """f = 1 of 4: three neighbours. 0, 1, 2 mix to 1; 10 mixes to 13/3; the median is 1."""
    updates = torch.tensor([[0.0], [1.0], [2.0], [10.0]], dtype=torch.float64)
    verdict = NNM(1, Median())(updates, view_of(4))
    torch.testing.assert_close(verdict.aggregate, torch.tensor([1.0], dtype=torch.float64))


@pytest.mark.parametrize("inner", [FedAvg(), Median(), Krum(0)])
def test_without_tolerance_every_mixture_is_the_mean(inner):
    updates = normal(0, 6, 5)
    aggregate = NNM(0, inner)(updates, view_of(6)).aggregate
    torch.testing.assert_close(aggregate, updates.mean(0))


def test_nnm_tolerates_a_third_by_default():
    updates = normal(1, 10, 5)
    default, told = (NNM(f, Median())(updates, view_of(10)).aggregate for f in (None, 3))
    assert torch.equal(default, told)


def test_mixing_brings_the_honest_closer_together():
    """Lemma 1 of the paper: what the rule inside sees has a smaller variance."""
    honest = normal(2, 8, 20)
    updates = torch.cat([honest, 50 + normal(3, 2, 20)])
    mixed = mixtures(updates, 8)[:8]
    assert mixed.var(0).sum() < 0.2 * honest.var(0).sum()


def test_the_verdict_on_a_mixture_is_the_verdict_on_its_client():
    updates = torch.cat([normal(4, 6, 5), 100 + normal(5, 2, 5)])
    verdict = NNM(2, Krum(2))(updates, view_of(8))
    inside = Krum(2)(mixtures(updates, 6), view_of(8))
    assert torch.equal(verdict.trusted, inside.trusted)
    assert torch.equal(verdict.scores, inside.scores)
    assert not verdict.trusted[6:].any()


def test_nnm_needs_an_honest_majority_and_what_the_rule_inside_needs():
    assert NNM(3, Median()).traits.fewest_participants == 7
    assert NNM(1, Krum(2)).traits.fewest_participants == 5
    with pytest.raises(UserError, match=r"NNM.* needs at least 7 participants"):
        NNM(3, Median())(normal(0, 6, 3), view_of(6))


def test_nnm_fails_when_the_attackers_are_the_majority():
    updates = torch.cat([normal(6, 3, 5), 100 + normal(7, 4, 5)])
    assert (NNM(3, Median())(updates, view_of(7)).aggregate > 50).all()


@given(st.integers(0, 10**6), st.integers(2, 9), st.data())
def test_mixtures_equal_byzfl(seed, n, data):
    byzfl = pytest.importorskip("byzfl")
    updates, f = normal(seed, n, 4), data.draw(st.integers(0, (n - 1) // 2))
    expected = byzfl.NNM(f)(updates.numpy().copy())
    np.testing.assert_allclose(mixtures(updates, n - f), expected, rtol=1e-9, atol=1e-12)
