"""What every member of DEFENSES promises: a new rule is tested by being listed.

A rule that rightly does otherwise stands in a table below, with the reason.
"""

import logging

import numpy as np
import pytest
import torch
from defense_support import (
    CLIENTS,
    MODEL,
    defense_of,
    genuine,
    judged,
    noise,
    normal,
    view_of,
    with_row,
)

from fedred.defenses import DEFENSES
from fedred.defenses.interface import ServerView
from fedred.errors import UserError

NOT_ROBUST = {"fedavg": "the mean follows every update"}
"""Rules that one huge update may move."""
NOT_FINITE_ONLY = {"fedavg": "the mean takes every update, and says so"}
"""Rules that an update which is not finite may reach."""
NOT_TRANSLATABLE = {"fedredefense": "a displaced update is not the product of training"}
NOT_SCALABLE = {"fedredefense": "a longer update may need more iterations than there are"}
NOT_IDENTICAL = {}
"""Rules from which equal updates do not come back."""
NOT_ORDERLESS = {}
"""Rules whose aggregate may depend on who is which client."""
TOLERANCE = {"fedredefense": 1e-3}
"""Relative: clients that are computed at once differ by rounding from one order to another."""


def without(exempt):
    assert exempt.keys() <= DEFENSES.keys()
    return [name for name in DEFENSES if name not in exempt]


def close(name, actual, expected):
    tolerance = TOLERANCE.get(name, 1e-6)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-2 * tolerance)


def no_worse_than(aggregate, others, slack=1e-6):
    """Whether an aggregate lies in the box of some updates, or is no longer than the longest."""
    box = (aggregate <= others.max(0).values + slack) & (aggregate >= others.min(0).values - slack)
    return bool(box.all() or aggregate.norm() <= others.norm(dim=1).max() * (1 + slack))


@pytest.mark.parametrize("name", DEFENSES)
def test_verdict_has_the_declared_shapes(name):
    _, updates = genuine()
    verdict = judged(name, updates)
    assert verdict.aggregate.shape == (MODEL.size,)
    assert verdict.aggregate.dtype == torch.float32
    assert verdict.aggregate.isfinite().all()
    assert verdict.aggregate.any()
    assert verdict.trusted.shape == (CLIENTS,)
    assert verdict.trusted.dtype == torch.bool
    assert verdict.trusted.any()
    for part in (verdict.scores, verdict.excluded, verdict.iterations):
        assert part is None or part.shape == (CLIENTS,)
    assert all(isinstance(value, torch.Tensor) for value in verdict.state.values())


@pytest.mark.parametrize("name", DEFENSES)
def test_a_rule_that_selects_nobody_trusts_everybody(name):
    rule = defense_of(name)
    assert rule.selects or judged(name, genuine()[1]).trusted.all()


@pytest.mark.parametrize("name", DEFENSES)
def test_a_rule_is_a_function_of_its_arguments_and_changes_none_of_them(name):
    weights, updates = genuine()
    before, weights_before = updates.clone(), weights.clone()
    first, second = judged(name, updates), judged(name, updates)
    assert torch.equal(first.aggregate, second.aggregate)
    assert torch.equal(first.trusted, second.trusted)
    assert torch.equal(updates, before)
    assert torch.equal(weights, weights_before)
    state_before = {key: value.clone() for key, value in first.state.items()}
    first.aggregate.add_(1)
    judged(name, updates, state=first.state, round=2)
    assert torch.equal(updates, before), "the aggregate must not be a view of an update"
    assert all(torch.equal(first.state[key], value) for key, value in state_before.items())


@pytest.mark.parametrize("name", without(NOT_ORDERLESS))
def test_permuting_clients_permutes_trusted_and_leaves_the_aggregate(name):
    updates = torch.cat([genuine()[1], noise(2)])
    whole = judged(name, updates)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(updates))
        shuffled = judged(name, updates[order], clients=order.tolist())
        assert torch.equal(shuffled.trusted, whole.trusted[order])
        close(name, shuffled.aggregate, whole.aggregate)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_ids_of_clients_tell_nothing(name):
    updates = torch.cat([genuine()[1], noise(2)])
    plain, renamed = judged(name, updates), judged(name, updates, clients=list(range(5, 19)))
    assert torch.equal(renamed.trusted, plain.trusted)
    close(name, renamed.aggregate, plain.aggregate)


@pytest.mark.parametrize("name", without(NOT_IDENTICAL))
def test_identical_updates_come_back(name):
    _, updates = genuine()
    verdict = judged(name, updates[:1].repeat(9, 1))
    assert verdict.trusted.any()
    close(name, verdict.aggregate, updates[0])


@pytest.mark.parametrize("name", DEFENSES)
def test_the_fewest_clients_are_enough_and_one_less_is_refused(name):
    fewest = defense_of(name).fewest_participants
    _, updates = genuine()
    verdict = judged(name, updates[:1].repeat(fewest, 1))
    assert verdict.aggregate.isfinite().all()
    if name not in NOT_IDENTICAL:
        close(name, verdict.aggregate, updates[0])
    if fewest > 1:
        sentence = f"needs at least {fewest} participants, but the round has {fewest - 1}$"
        with pytest.raises(UserError, match=sentence):
            judged(name, updates[: fewest - 1])


@pytest.mark.parametrize("value", [1e9, -1e30])
@pytest.mark.parametrize("row", [0, 3, 5])
@pytest.mark.parametrize("name", without(NOT_ROBUST))
def test_one_huge_update_does_not_move_a_robust_rule(name, row, value):
    _, updates = genuine()
    verdict = judged(name, with_row(updates, row, value))
    others = updates[[client for client in range(CLIENTS) if client != row]]
    assert verdict.aggregate.isfinite().all()
    assert no_worse_than(verdict.aggregate, others)
    if verdict.scores is not None:
        assert not verdict.scores.isnan().any()
    assert all(part.isfinite().all() for part in verdict.state.values())


@pytest.mark.parametrize("name", NOT_ROBUST)
def test_one_huge_update_moves_a_rule_that_is_not_robust(name):
    _, updates = genuine()
    assert not no_worse_than(judged(name, with_row(updates, 2, 1e9)).aggregate, updates)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", without(NOT_FINITE_ONLY))
def test_an_update_that_is_not_finite_never_reaches_the_aggregate(name, whole, value):
    _, updates = genuine()
    broken = updates.clone()
    broken[1, slice(None) if whole else 7] = value
    verdict = judged(name, broken)
    others = updates[[client for client in range(CLIENTS) if client != 1]]
    assert not verdict.trusted[1]
    assert verdict.trusted.any()
    assert no_worse_than(verdict.aggregate, others)
    if verdict.scores is not None:
        assert not verdict.scores.isnan().any()
        assert verdict.scores.argmax() == 1
    assert all(part.isfinite().all() for part in verdict.state.values())


@pytest.mark.parametrize("name", without(NOT_FINITE_ONLY))
def test_others_are_judged_as_if_a_broken_update_were_not_there(name):
    if hasattr(defense_of(name), "tolerated"):
        pytest.skip("a broken update counts as one of those to be tolerated")
    _, updates = genuine()
    rest = [client for client in range(CLIENTS) if client != 4]
    verdict = judged(name, with_row(updates, 4, torch.nan))
    alone = judged(name, updates[rest], clients=rest)
    assert torch.equal(verdict.trusted[rest], alone.trusted)
    close(name, verdict.aggregate, alone.aggregate)


@pytest.mark.parametrize("name", without(NOT_FINITE_ONLY))
def test_when_no_update_is_finite_the_model_stays_and_nobody_is_trusted(name):
    verdict = judged(name, torch.full((CLIENTS, MODEL.size), torch.nan))
    assert not verdict.trusted.any()
    assert torch.equal(verdict.aggregate, torch.zeros(MODEL.size))


@pytest.mark.parametrize("name", without(NOT_FINITE_ONLY))
def test_broken_updates_up_to_the_last_one_cause_no_error(name):
    """Whoever sends NaN must not be able to stop the server."""
    _, updates = genuine()
    for left in (1, 2, 3):
        broken = updates.clone()
        broken[left:] = torch.nan
        verdict = judged(name, broken)
        assert verdict.aggregate.isfinite().all()
        assert not verdict.trusted[left:].any()


@pytest.mark.parametrize("name", DEFENSES)
def test_finite_updates_cause_no_warning(name, caplog):
    with caplog.at_level(logging.WARNING):
        judged(name, genuine()[1])
    assert not caplog.text


@pytest.mark.parametrize("name", DEFENSES)
def test_zero_updates_are_judged_without_an_error(name):
    verdict = judged(name, torch.zeros(CLIENTS, MODEL.size))
    assert verdict.aggregate.isfinite().all()
    assert all(part.isfinite().all() for part in verdict.state.values())


@pytest.mark.parametrize("name", [n for n in DEFENSES if not defense_of(n).clean_samples])
def test_a_vector_of_one_parameter_is_judged(name):
    if name in NOT_TRANSLATABLE:
        pytest.skip("the rule looks into the network")
    updates = normal(0, 9, 1).float()
    verdict = defense_of(name)(updates, view_of(9, weights=torch.zeros(1)))
    assert verdict.aggregate.shape == (1,)
    assert verdict.aggregate.isfinite().all()


@pytest.mark.parametrize("name", without(NOT_TRANSLATABLE))
def test_translation_moves_the_aggregate_by_the_same_vector(name):
    updates, shift = normal(0, 9, MODEL.size), normal(1, MODEL.size)
    plain, moved = judged(name, updates), judged(name, updates + shift)
    assert torch.equal(moved.trusted, plain.trusted)
    torch.testing.assert_close(moved.aggregate, plain.aggregate + shift)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize("name", without(NOT_SCALABLE))
def test_scaling_all_updates_scales_the_aggregate(name, factor):
    updates = torch.cat([genuine()[1], noise(2)])
    plain, scaled = judged(name, updates), judged(name, updates * factor)
    assert torch.equal(scaled.trusted, plain.trusted)
    torch.testing.assert_close(scaled.aggregate / factor, plain.aggregate, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("name", without(NOT_TRANSLATABLE))
def test_small_differences_between_large_float32_updates_are_not_lost(name, n):
    updates = (100 + 1e-3 * normal(2, n, MODEL.size)).float()
    exact, fast = (defense_of(name)(rows, view_of(n)) for rows in (updates.double(), updates))
    torch.testing.assert_close(fast.aggregate.double(), exact.aggregate, rtol=3e-7, atol=0)
    assert torch.equal(fast.trusted, exact.trusted)


def test_an_inner_rule_sees_the_chosen_participants_and_its_own_state():
    memory = {"images": torch.ones(3), "inner.last": torch.zeros(2)}
    view = view_of(3, [5, 6, 7], [2, 4, 9], state=memory)
    chosen = view.select(torch.tensor([True, False, True])).within("inner")
    assert chosen.clients.tolist() == [2, 9]
    assert chosen.samples.tolist() == [5, 7]
    assert list(chosen.state) == ["last"]
    assert chosen.weights is view.weights


def test_the_server_does_not_know_who_is_malicious():
    known = set(ServerView.__dataclass_fields__)
    assert known.isdisjoint({"malicious", "labels", "attack", "data", "attackers"})
