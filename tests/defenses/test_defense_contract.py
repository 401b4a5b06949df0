"""What every member of DEFENSES promises: a new rule is tested by being listed.

A rule that rightly does otherwise stands in a table below, with the reason.
"""

import logging
import math
from dataclasses import asdict
from itertools import takewhile

import numpy as np
import pytest
import torch
from defense_support import (
    BUILT_WITH,
    CLIENTS,
    FAST,
    MODEL,
    defense_of,
    genuine,
    judged,
    noise,
    normal,
    view_of,
    with_row,
)
from safetensors.torch import load, save
from small import DEFENSE, SETTINGS, federation, play

from fedred.config import resolve
from fedred.defenses import DEFENSES
from fedred.defenses.interface import ServerView, without_broken
from fedred.errors import UserError

NOT_ROBUST = {
    "fedavg": "the mean follows every update",
    "fldetector": "the mean of everybody until its history is full",
    "foolsgold": "weighs clients by likeness, whatever their length",
    "rlr": "changes signs of a mean",
}
"""Rules that one huge update may move."""
NOT_FINITE_ONLY = {"fedavg": "the mean takes every update, and says so"}
"""Rules that an update which is not finite may reach."""
NOT_TRANSLATABLE = {
    "norm_bound": "clips lengths, which are measured from the global model",
    "centered_clipping": "clips around zero in the first round",
    "fltrust": "compares directions, seen from the global model",
    "flame": "compares directions, seen from the global model",
    "foolsgold": "compares directions, seen from the global model",
    "signguard": "counts signs, which are those of a difference to the global model",
    "deepsight": "looks into the network that an update makes of the global model",
    "rlr": "counts signs, which are those of a difference to the global model",
    "fedredefense": "a displaced update is not the product of training",
}
NOT_SCALABLE = {
    "fltrust": "gives every update the length of the server's own",
    "fedredefense": "a longer update may need more iterations than there are",
}
NOT_IDENTICAL = {
    "fltrust": "gives every update the length of the server's own",
    "flame": "adds noise",
    "foolsgold": "equal clients are sybils",
}
"""Rules from which equal updates do not come back."""
NOT_ALIKE = {
    "krum": "one winner",
    "multi_krum": "a given number of winners",
    "bulyan": "a given number of winners",
    "dnc": "drops a given number",
}
"""Rules that may trust some of those who send the same: they must choose among equals."""
ALONE = {
    "dnc": "a row far out turns the one direction of a pass to itself, and hides the next",
}
"""Rules that one huge update does not move, and two of different size may (docs/limits.md)."""
NOT_ORDERLESS = {"bucketing": "random buckets of positions"}
"""Rules whose aggregate may depend on who is which client."""
LOOKS_INTO_NETWORK = {
    "fltrust": "trains the network",
    "deepsight": "reads the output layer",
    "fedredefense": "trains the network",
}
"""Rules whose updates must be vectors of the network's parameters, of their type."""
TOLERANCE = {"fedredefense": 1e-3}
"""Relative: clients that are computed at once differ by rounding from one order to another."""

REMEMBERING = {
    "centered_clipping": {},
    "foolsgold": {},
    "fldetector": {"window": 2},
    "fedredefense": BUILT_WITH["fedredefense"],
}
"""Rules with a memory, with options for which three rounds fill it."""
TOLERANT = [name for name in DEFENSES if hasattr(DEFENSES[name], "tolerated")]
COMPOSED = [name for name in DEFENSES if hasattr(DEFENSES[name], "aggregator")]
INSIDE = [(outer, name) for outer in COMPOSED for name in takewhile(outer.__ne__, DEFENSES)]


def without(exempt):
    assert exempt.keys() <= DEFENSES.keys()
    return [name for name in DEFENSES if name not in exempt]


def outcome(verdict):
    """All parts of a verdict that are there, by name."""
    return {key: part for key, part in verdict._asdict().items() if part is not None}


def rounds_of(name, played, store=lambda state: state):
    """Verdicts of rounds [(ids, updates)], the model moved and the memory handed on by `store`."""
    rule, state, weights = DEFENSES[name](**REMEMBERING[name]), {}, genuine()[0]
    for round, (clients, updates) in enumerate(played, 1):
        at = {"state": state, "round": round, "weights": weights}
        verdict = rule(updates, view_of(len(clients), clients=clients, **at))
        state, weights = store(verdict.state), weights + verdict.aggregate
        yield verdict


def tolerant(name):
    """Whether a rule is told of f clients, among which a broken update counts."""
    return hasattr(defense_of(name), "tolerated")


def alike(n, seed, size=None):
    """Updates of n clients, two thirds of whom send the same, and two others the same too."""
    updates = noise(n, seed) if size is None else normal(seed, n, size).float()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    groups = order[: 2 * n // 3], order[2 * n // 3 :][:2]
    for group in groups:
        updates[group] = updates[group[0]].clone()
    return updates, groups


def told(name, f):
    """The options of a rule that is to tolerate f, if it is told of any."""
    return {**BUILT_WITH.get(name, {}), **({"tolerated": f} if tolerant(name) else {})}


def nested_rule(outer, inner, f, inner_f):
    inside = DEFENSES[inner](**told(inner, inner_f))
    return DEFENSES[outer](aggregator=inside, **told(outer, f))


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
    assert rule.traits.selects or judged(name, genuine()[1]).trusted.all()


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


@pytest.mark.parametrize("name", NOT_ORDERLESS)
def test_the_order_of_clients_matters_to_a_rule_that_is_not_orderless(name):
    updates = genuine()[1]
    turned = judged(name, updates.roll(1, 0), clients=[CLIENTS - 1, *range(CLIENTS - 1)])
    whole = judged(name, updates)
    assert not torch.allclose(turned.aggregate, whole.aggregate, rtol=1e-3, atol=1e-6)


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


@pytest.mark.parametrize("name", NOT_IDENTICAL)
def test_identical_updates_do_not_come_back_from_a_rule_that_does_otherwise(name):
    _, updates = genuine()
    aggregate = judged(name, updates[:1].repeat(9, 1)).aggregate
    assert not torch.allclose(aggregate, updates[0], rtol=1e-4, atol=1e-7)


def assert_alike(verdict, groups, tolerance=1e-12):
    for group in groups:
        assert len(verdict.trusted[group].unique()) == 1
        if verdict.scores is not None:
            scores = verdict.scores[group]
            torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=tolerance, atol=0)


@pytest.mark.parametrize("n", [9, 12, 30])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", without(NOT_ALIKE))
def test_clients_that_send_the_same_are_treated_alike(name, seed, n):
    updates, groups = alike(n, seed)
    assert_alike(judged(name, updates, all_clients=n), groups, TOLERANCE.get(name, 1e-12))


@pytest.mark.parametrize("size", [1, 2, 349, 9_610, 20_000])
@pytest.mark.parametrize("n", [9, 27, 100])
@pytest.mark.parametrize("name", without({**NOT_ALIKE, **LOOKS_INTO_NETWORK}))
def test_so_are_those_who_send_the_same_vector_of_any_length(name, n, size):
    for seed in range(3):
        updates, groups = alike(n, seed, size)
        weights = normal(seed + 9, size).float()
        verdict = defense_of(name)(updates, view_of(n, all_clients=n, weights=weights))
        assert_alike(verdict, groups)


@pytest.mark.parametrize("name", NOT_ALIKE)
def test_a_rule_that_selects_a_given_number_must_choose_among_equals(name):
    verdict = judged(name, genuine()[1][:1].repeat(9, 1))
    assert 0 < int(verdict.trusted.sum()) < 9


@pytest.mark.parametrize("name", DEFENSES)
def test_the_fewest_clients_are_enough_and_one_less_is_refused(name):
    fewest = defense_of(name).traits.fewest_participants
    _, updates = genuine()
    verdict = judged(name, updates[:1].repeat(fewest, 1))
    assert verdict.aggregate.isfinite().all()
    if name not in NOT_IDENTICAL:
        close(name, verdict.aggregate, updates[0])
    if fewest > 1:
        sentence = f"needs at least {fewest} participants, but the round has {fewest - 1}$"
        with pytest.raises(UserError, match=sentence):
            judged(name, updates[: fewest - 1])


@pytest.mark.parametrize("name", TOLERANT)
def test_a_rule_that_must_tolerate_more_than_it_can_says_what_it_needs(name):
    rule = DEFENSES[name](tolerated=4)
    fewest = rule.traits.fewest_participants
    assert fewest > 4
    _, updates = genuine(20)
    assert rule(updates[:fewest], view_of(fewest)).aggregate.isfinite().all()
    sentence = rf"^{type(rule).__name__}\(tolerated=4.* needs at least {fewest} participants, but"
    with pytest.raises(UserError, match=sentence):
        rule(updates[: fewest - 1], view_of(fewest - 1))


@pytest.mark.parametrize(("honest", "malicious"), [(CLIENTS, 0), (CLIENTS, 1), (0, CLIENTS)])
@pytest.mark.parametrize("name", DEFENSES)
def test_any_number_of_malicious_clients_is_judged(name, honest, malicious):
    updates = torch.cat([genuine()[1][:honest], noise(malicious)])
    verdict = judged(name, updates)
    assert verdict.aggregate.isfinite().all()
    assert verdict.trusted.any() or not verdict.aggregate.any()
    assert verdict.scores is None or verdict.scores.isfinite().all()


@pytest.mark.parametrize("name", DEFENSES)
def test_no_trusted_client_is_more_suspicious_than_a_distrusted_one(name):
    verdict = judged(name, torch.cat([genuine()[1], noise(3)]))
    scores = torch.zeros(CLIENTS + 3) if verdict.scores is None else verdict.scores
    distrusted = torch.cat([scores[~verdict.trusted], torch.tensor([torch.inf])])
    assert scores[verdict.trusted].max() <= distrusted.min()


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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", without({**NOT_ROBUST, **ALONE}))
def test_nor_do_two_huge_updates_of_different_size(name, seed):
    updates = two_huge(seed)
    assert no_worse_than(judged(name, updates).aggregate, updates[2:])


def two_huge(seed):
    """An update of length 1e19 and one of 1e10 before genuine ones."""
    updates, far = genuine(20)[1].clone(), normal(seed, 2, MODEL.size)
    updates[:2] = far / far.norm(dim=1, keepdim=True) * torch.tensor([[1e19], [1e10]])
    return updates


@pytest.mark.parametrize("name", ALONE)
def test_two_huge_updates_move_a_rule_that_withstands_one(name):
    moved = [not no_worse_than(judged(name, u).aggregate, u[2:]) for u in map(two_huge, range(6))]
    assert any(moved)


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


@pytest.mark.parametrize("name", NOT_FINITE_ONLY)
def test_an_update_that_is_not_finite_reaches_a_rule_that_takes_all(name):
    verdict = judged(name, with_row(genuine()[1], 1, torch.nan))
    assert not verdict.aggregate.isfinite().any()


@pytest.mark.parametrize("name", [n for n in without(NOT_FINITE_ONLY) if not tolerant(n)])
def test_others_are_judged_as_if_a_broken_update_were_not_there(name):
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


@pytest.mark.parametrize("name", without(LOOKS_INTO_NETWORK))
def test_a_vector_of_one_parameter_is_judged(name):
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


@pytest.mark.parametrize("name", NOT_TRANSLATABLE)
def test_translation_matters_to_a_rule_that_is_not_translatable(name):
    updates, shift = genuine()[1], noise(1, seed=8)[0]
    plain, moved = judged(name, updates), judged(name, updates + shift)
    assert not torch.allclose(moved.aggregate, plain.aggregate + shift, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize("name", without(NOT_SCALABLE))
def test_scaling_all_updates_scales_the_aggregate(name, factor):
    updates = torch.cat([genuine()[1], noise(2)])
    plain, scaled = judged(name, updates), judged(name, updates * factor)
    assert torch.equal(scaled.trusted, plain.trusted)
    torch.testing.assert_close(scaled.aggregate / factor, plain.aggregate, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NOT_SCALABLE)
def test_scale_matters_to_a_rule_that_is_not_scalable(name):
    updates = genuine()[1]
    plain, scaled = judged(name, updates), judged(name, updates * 50)
    assert not torch.allclose(scaled.aggregate / 50, plain.aggregate, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("name", without(LOOKS_INTO_NETWORK))
def test_small_differences_between_large_float32_updates_are_not_lost(name, n):
    updates = (100 + 1e-3 * normal(2, n, MODEL.size)).float()
    exact, fast = (defense_of(name)(rows, view_of(n)) for rows in (updates.double(), updates))
    torch.testing.assert_close(fast.aggregate.double(), exact.aggregate, rtol=3e-7, atol=0)
    assert torch.equal(fast.trusted, exact.trusted)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_rule_remembers_exactly_when_it_is_listed_as_remembering(name):
    assert bool(judged(name, genuine()[1]).state) == (name in REMEMBERING)


def four_rounds(value=None):
    """Client 3 is absent in round 2, and sends `value` in round 3."""
    _, updates = genuine()
    everybody, without_3 = list(range(6)), [0, 1, 2, 4, 5]
    third = updates[:6] if value is None else with_row(updates[:6], 3, value)
    return [
        (everybody, updates[:6]),
        (without_3, updates[[6, 7, 8, 9, 10]]),
        (everybody, third),
        (everybody, updates[6:]),
    ]


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_survives_being_stored_and_absent_clients(name):
    direct = list(rounds_of(name, four_rounds()))
    stored = list(rounds_of(name, four_rounds(), lambda state: load(save(dict(state)))))
    for one, other in zip(direct, stored, strict=True):
        torch.testing.assert_close(outcome(one), outcome(other), rtol=0, atol=0)
        assert one.aggregate.isfinite().all()
    assert len({frozenset(verdict.state) for verdict in direct}) == 1


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_matters(name):
    *_, last = rounds_of(name, four_rounds())
    *_, forgetful = rounds_of(name, four_rounds(), lambda state: {})
    same = [
        torch.equal(part, outcome(forgetful)[key])
        for key, part in outcome(last).items()
        if key in outcome(forgetful) and key != "state"
    ]
    assert not all(same) or outcome(last).keys() != outcome(forgetful).keys()


@pytest.mark.parametrize("value", [1e30, -1e30, torch.nan, torch.inf])
@pytest.mark.parametrize("name", REMEMBERING)
def test_no_update_spoils_a_memory(name, value):
    for verdict in rounds_of(name, four_rounds(value)):
        assert all(part.isfinite().all() for part in verdict.state.values())
        assert verdict.aggregate.isfinite().all()


@pytest.mark.parametrize("name", DEFENSES)
def test_a_rule_names_its_paper_its_tests_and_where_others_differ(name):
    rule = DEFENSES[name]
    assert all(paper.title for paper in rule.papers)
    assert rule.papers
    assert rule.tested
    assert rule.elsewhere
    assert "Source: " in rule.__doc__


@pytest.mark.parametrize("name", DEFENSES)
def test_a_federation_plays_with_every_rule(name):
    settings = {"name": name} if name != "fedredefense" else DEFENSE
    state, records = play(federation(attack="min_max", defense=settings, rounds=2))
    assert state.weights.isfinite().all()
    assert len(records) == 2
    for record in records:
        assert all(0 <= record.summary[rate] <= 1 for rate in ("DACC", "FPR", "FNR"))
        here = record.clients["participated"]
        scored = not record.clients["score"][here].isnan().all()
        mixed = 0 < int(record.clients["malicious"][here].sum()) < int(here.sum())
        assert (scored and mixed) == math.isfinite(record.summary["auroc"])


@pytest.mark.parametrize("name", ["krum", "multi_krum", "dnc", "fltrust", "fedredefense"])
def test_the_area_under_the_curve_is_written_for_a_rule_with_scores(name):
    settings = {"name": name} if name != "fedredefense" else DEFENSE
    _, records = play(federation(attack="min_max", defense=settings, rounds=1))
    assert 0 <= records[0].summary["auroc"] <= 1


REMEMBERING_CLIENTS = [n for n in DEFENSES if defense_of(n).traits.remembers_clients]


def composed(outer, inner):
    """A composed rule as the configuration builds it, with a reconstruction that is quick."""

    def settings(name, **more):
        quick = {"reconstruction": asdict(FAST)} if name == "fedredefense" else {}
        return {"name": name, **quick, **more}

    asked = settings(outer, aggregator=settings(inner))
    return resolve({**SETTINGS, "defense": asked}).defense.build()


@pytest.mark.parametrize(
    ("outer", "inner"),
    [pair for pair in INSIDE if pair not in {("bucketing", name) for name in REMEMBERING_CLIENTS}],
)
def test_a_composed_rule_builds_and_judges_with_every_rule_above_it(outer, inner):
    rule, (_, updates) = composed(outer, inner), genuine()
    assert type(rule.aggregator) is DEFENSES[inner]
    verdict = rule(updates, view_of(CLIENTS))
    assert verdict.aggregate.isfinite().all()
    assert verdict.trusted.shape == (CLIENTS,)
    again = rule(updates, view_of(CLIENTS, state=verdict.state, round=2))
    assert again.aggregate.isfinite().all()
    assert rule.traits.clean_samples == rule.aggregator.traits.clean_samples


@pytest.mark.parametrize("broken", [1, 2])
@pytest.mark.parametrize(
    ("outer", "inner"),
    [pair for pair in INSIDE if pair not in {("bucketing", name) for name in REMEMBERING_CLIENTS}],
)
def test_a_broken_update_counts_among_the_f_of_a_rule_inside_another(outer, inner, broken):
    """With the fewest participants that f = 2 needs, the rest is judged by the rules for fewer."""
    rule, per_row = nested_rule(outer, inner, 2, 2), 2 if outer == "bucketing" else 1
    for n in range(rule.traits.fewest_participants, 22):
        missing = math.ceil(n / per_row) - math.ceil((n - broken) / per_row)
        fewer = nested_rule(outer, inner, 2 - broken, 2 - missing)
        if n - broken >= fewer.traits.fewest_participants:
            break
    updates = with_row(genuine(22)[1][:n], slice(1, 1 + broken), torch.nan)
    finite = [0, *range(1 + broken, n)]
    verdict = rule(updates, view_of(n))
    expected = fewer(updates[finite], view_of(n - broken, clients=finite))
    assert verdict.trusted.any()
    assert verdict.trusted[finite].tolist() == expected.trusted.tolist()
    close(outer, verdict.aggregate, expected.aggregate)


def test_it_counts_however_deep_the_rules_stand_in_each_other():
    """f = 3; of 7 clients one or all are broken; two buckets of 3 are left of 5 clients, or of 4."""
    rlr = DEFENSES["rlr"](1, DEFENSES["trimmed_mean"](3))
    deep = DEFENSES["nnm"](3, DEFENSES["fedredefense"](aggregator=rlr))
    lessened = without_broken(deep, 7, 6)
    assert lessened.tolerated == lessened.aggregator.aggregator.aggregator.tolerated == 2
    assert without_broken(deep, 7, 0).tolerated == 0
    mixed = DEFENSES["bucketing"](3, DEFENSES["nnm"](3, rlr))
    assert without_broken(mixed, 7, 6).aggregator.tolerated == 2
    assert without_broken(mixed, 7, 6).aggregator.aggregator.aggregator.tolerated == 2
    assert without_broken(mixed, 6, 4) == mixed


@pytest.mark.parametrize("inner", REMEMBERING_CLIENTS)
def test_bucketing_over_a_rule_that_remembers_clients_is_refused(inner):
    inside = DEFENSES[inner].__name__
    sentence = f"bucketing cannot hold {inside}, which remembers clients: [^.]*$"
    with pytest.raises(UserError, match=sentence):
        composed("bucketing", inner)
    with pytest.raises(UserError, match="which remembers clients"):
        DEFENSES["bucketing"](aggregator=DEFENSES["nnm"](aggregator=DEFENSES[inner]()))


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
