"""Multi-Krum is the mean of the updates with the best of Krum's scores."""

import numpy as np
import pytest
import torch
from defense_support import normal, plain_krum, view_of, with_row
from hypothesis import given
from hypothesis import strategies as st

from fedred.defenses.krum import Krum
from fedred.defenses.multi_krum import MultiKrum
from fedred.errors import UserError


@given(st.integers(3, 9), st.booleans(), st.integers(0, 10**6), st.data())
def test_multi_krum_is_the_mean_of_the_best(n, squared, seed, data):
    tolerated, selected = data.draw(st.integers(0, n - 3)), data.draw(st.integers(1, n))
    updates = normal(seed, n, 4)
    verdict = MultiKrum(tolerated, selected, squared)(updates, view_of(n))
    scores = plain_krum(updates, tolerated, squared)
    torch.testing.assert_close(verdict.scores, scores)
    assert verdict.trusted.sum() == selected
    assert scores[verdict.trusted].max() <= scores.sort().values[selected - 1] + 1e-12
    chosen = updates.numpy()[verdict.trusted.numpy()]
    np.testing.assert_allclose(verdict.aggregate, chosen.mean(0), rtol=1e-12, atol=1e-14)


def test_multi_krum_of_one_is_krum():
    for seed in range(5):
        updates = normal(seed, 9, 4)
        one, krum = MultiKrum(2, 1)(updates, view_of(9)), Krum(2)(updates, view_of(9))
        assert torch.equal(one.aggregate, krum.aggregate)
        assert torch.equal(one.trusted, krum.trusted)


@pytest.mark.parametrize("selected", [9, 50])
def test_multi_krum_of_all_is_the_mean(selected):
    updates = normal(0, 9, 4)
    verdict = MultiKrum(2, selected)(updates, view_of(9))
    torch.testing.assert_close(verdict.aggregate, updates.mean(0))
    assert verdict.trusted.all()


@pytest.mark.parametrize(("tolerated", "selected"), [(0, 20), (2, 18), (None, 12)])
def test_multi_krum_selects_all_but_the_tolerated_by_default(tolerated, selected):
    verdict = MultiKrum(tolerated)(normal(0, 20, 4), view_of(20))
    assert verdict.trusted.sum() == selected


def test_multi_krum_by_hand():
    """n = 4, f = 0: scores 106, 41, 17, 26 as in Krum's test."""
    updates = torch.tensor([[0.0], [5.0], [9.0], [10.0]])
    assert MultiKrum(0, 2)(updates, view_of(4)).aggregate == 9.5
    assert MultiKrum(0, 3)(updates, view_of(4)).aggregate == 8.0


def test_multi_krum_leaves_out_as_many_far_updates_as_it_tolerates():
    updates = torch.cat([normal(1, 7, 5), 100 + normal(2, 2, 5)])
    verdict = MultiKrum(2)(updates, view_of(9))
    assert verdict.trusted.tolist() == [True] * 7 + [False] * 2


@given(st.integers(5, 10), st.integers(0, 10**6))
def test_multi_krum_equals_byzfl_which_counts_one_neighbour_more(n, seed):
    byzfl = pytest.importorskip("byzfl")
    updates, tolerated = normal(seed, n, 4), 1
    rule = MultiKrum(tolerated, selected=n - tolerated - 1)
    expected = byzfl.MultiKrum(tolerated + 1)(updates.numpy().copy())
    np.testing.assert_allclose(rule(updates, view_of(n)).aggregate, expected, rtol=1e-9)


def test_multi_krum_refuses_too_few_and_counts_broken_updates_among_the_tolerated():
    with pytest.raises(UserError, match=r"^MultiKrum.* needs at least 5 participants, but .* 4$"):
        MultiKrum(2)(normal(0, 4, 3), view_of(4))
    updates = normal(0, 8, 3)
    verdict = MultiKrum(2)(with_row(updates, 0, torch.nan), view_of(8))
    alone = MultiKrum(1)(updates[1:], view_of(7))
    assert torch.equal(verdict.trusted[1:], alone.trusted)
    assert torch.equal(verdict.aggregate, alone.aggregate)
