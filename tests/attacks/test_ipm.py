"""IPM sends the reversed mean, which turns the aggregate where attackers are enough."""

import numpy as np
import pytest
import torch
from attack_support import POINTS, forged, forged_with_full_knowledge, honest, points, view_of
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks.ipm import IPM


@given(POINTS, st.floats(0.01, 100))
def test_ipm_is_the_reversed_mean_in_closed_form(shape, eps):
    own = points(*shape)
    sent = forged(IPM(eps), own)
    expected = np.tile(-eps * own.numpy().mean(0), (len(own), 1))
    np.testing.assert_allclose(sent, expected, rtol=1e-9, atol=1e-12 * eps * own.abs().max())


@given(POINTS, st.floats(0.01, 100))
def test_ipm_equals_byzfl(shape, eps):
    byzfl = pytest.importorskip("byzfl")
    known = points(*shape)
    expected = byzfl.InnerProductManipulation(eps)(known.numpy())
    for sent in (
        forged(IPM(eps), known),
        forged_with_full_knowledge(IPM(eps, "full"), 5 * known[:2], known),
    ):
        slack = 1e-12 * eps * float(known.abs().max())
        np.testing.assert_allclose(sent[0], expected, rtol=1e-9, atol=slack)


@pytest.mark.parametrize(("attackers", "turns"), [(2, False), (7, False), (9, True), (20, True)])
def test_ipm_turns_the_inner_product_of_fedavg_where_eps_m_exceeds_the_honest(attackers, turns):
    """(k - eps m) / n is the factor of the mean: at eps 0.5 and k = 4 it is zero for m = 8."""
    known = honest(4).double()
    own = honest(attackers, seed=5).double()
    sent = forged_with_full_knowledge(IPM(0.5, "full"), own, known)
    aggregate = torch.cat([known, sent]).mean(0)
    assert bool(aggregate @ known.mean(0) < 0) == turns


def test_ipm_of_a_small_eps_lies_closer_to_the_honest_mean_than_one_honest_update():
    known = honest(6).double()
    mean = known.mean(0)
    sent = forged(IPM(0.1), known)
    assert (sent[0] - mean).norm() < (known - mean).norm(dim=1).min()


def test_ipm_of_a_lone_attacker_reverses_its_update():
    own = honest(1)
    torch.testing.assert_close(IPM(0.5).forge(own, view_of([3])).updates, -own / 2)
