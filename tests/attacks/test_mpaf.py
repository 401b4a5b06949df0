"""MPAF pulls the model towards one base model."""

import pytest
import torch
from attack_support import forged, honest, view_of

from fedred.attacks.mpaf import MPAF


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_mpaf_closed_form(scale):
    view = view_of([4, 8], round=3)
    sent = MPAF(scale).forge(honest(2), view).updates
    expected = scale * (view.initial_weights - view.weights)
    torch.testing.assert_close(sent, expected.repeat(2, 1))
    assert expected.abs().max() > 0.01


def test_mpaf_takes_the_released_factor_and_base_by_default():
    own = honest(2)
    assert torch.equal(forged(MPAF(), own, round=3), forged(MPAF(3.0, "initial"), own, round=3))
    random = forged(MPAF(3.0, "random"), own, round=3)
    assert (forged(MPAF(), own, round=3) - random).abs().max() > 0.01


def test_mpaf_of_the_initial_model_is_zero_in_round_1_and_of_a_random_one_is_not():
    assert not forged(MPAF(), honest(2)).any()
    assert forged(MPAF(base="random"), honest(2)).any()


def test_mpaf_throws_the_own_updates_away():
    view = view_of([4, 8], round=3)
    one, other = (MPAF().forge(honest(2, seed), view).updates for seed in (0, 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize("base", ["initial", "random"])
def test_an_averaged_pull_of_scale_one_over_the_share_lands_on_the_base(base):
    """Two of six with lambda 3 and four zero updates: w + (w_base - w) = w_base."""
    view = view_of([4, 8], round=3)
    sent = MPAF(3.0, base).forge(honest(2), view)
    landed = view.weights + sent.updates.sum(0) / 6
    torch.testing.assert_close(landed, sent.state["base"])


def bases(attack, rounds):
    """The base model of each round, found from what was sent; attackers come and go."""
    state = {}
    for round in rounds:
        view = view_of([4, 8] if round < 3 else [8], round, state=state)
        sent = attack.forge(honest(len(view.clients)), view)
        assert (sent.updates == sent.updates[0]).all()
        yield sent.updates[0] / attack.scale + view.weights
        state = sent.state


def test_mpaf_pulls_all_rounds_towards_one_remembered_random_model():
    first, second, third = bases(MPAF(2.0, "random"), (1, 2, 3))
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, first)
    assert (first - view_of([4]).initial_weights).abs().max() > 0.01


def test_mpaf_would_pull_elsewhere_if_it_forgot():
    """Else the test above would hold without a memory."""
    (first,), (afresh,) = (list(bases(MPAF(2.0, "random"), [round])) for round in (1, 2))
    assert (afresh - first).abs().max() > 0.01
