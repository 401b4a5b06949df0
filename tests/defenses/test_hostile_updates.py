"""Whatever malicious clients send, the server goes on, and counts it as what it is."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from defense_support import CLIENTS, MODEL, genuine, judged
from small import DEFENSE, federation, play

from fedred.attacks import ATTACKS
from fedred.attacks.interface import Forged, train_honestly
from fedred.defenses import DEFENSES
from fedred.simulation import initial_state, play_round

TAKES_ALL = {"fedavg": "the mean takes every update, and says so"}
MOVED_BY_ONE = {
    **TAKES_ALL,
    "fldetector": "the mean of everybody until its history is full",
    "foolsgold": "weighs clients by likeness, whatever their length",
    "rlr": "changes signs of a mean",
}
"""Rules that one huge update may move."""
LARGEST = torch.finfo(torch.float32).max
TINY = torch.finfo(torch.float32).smallest_normal / 4
SIGNS = torch.ones(MODEL.size)
SIGNS[::2] = -1
BROKEN = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf, "both_inf": SIGNS * math.inf}
HUGE = {
    "1e38": 1e38,
    "minus_1e38": -1e38,
    "signs_1e38": SIGNS * 1e38,
    "largest": LARGEST,
    "1e19": 1e19,
    "tiny": TINY,
    "zero": 0.0,
}
SENT = {**BROKEN, **HUGE}
"""What a client may send: the square of 1e38 overflows, that of a denormal is zero."""
GUARDED = [name for name in DEFENSES if name not in TAKES_ALL]


def hostile(value, count):
    updates = genuine()[1].clone()
    updates[:count] = value
    return updates


@pytest.mark.parametrize("count", [1, 3, CLIENTS // 2, CLIENTS - 1, CLIENTS])
@pytest.mark.parametrize("kind", SENT)
@pytest.mark.parametrize("name", GUARDED)
def test_a_guarded_rule_moves_the_model_by_finite_numbers_only(name, kind, count):
    updates = hostile(SENT[kind], count)
    verdict = judged(name, updates)
    broken = ~updates.isfinite().all(1)
    assert verdict.aggregate.isfinite().all()
    assert not verdict.trusted[broken].any()
    assert all(part.isfinite().all() for part in verdict.state.values())
    if verdict.scores is not None:
        assert not verdict.scores.isnan().any()
        assert verdict.scores[broken].isposinf().all()


@pytest.mark.parametrize("name", GUARDED)
def test_clients_that_send_opposite_ends_of_the_numbers_cancel_or_are_dropped(name):
    updates = hostile(LARGEST, CLIENTS)
    updates[1::2] *= -1
    assert judged(name, updates).aggregate.isfinite().all()


@pytest.mark.parametrize("name", GUARDED)
def test_every_kind_of_update_at_once_is_judged(name):
    updates = genuine()[1].clone()
    for row, value in enumerate(SENT.values()):
        updates[row] = value
    verdict = judged(name, updates)
    assert verdict.aggregate.isfinite().all()
    assert not verdict.trusted[: len(BROKEN)].any()


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.parametrize("name", [name for name in DEFENSES if name not in MOVED_BY_ONE])
def test_the_largest_numbers_do_not_reach_the_aggregate_of_a_robust_rule(name, kind):
    updates = hostile(HUGE[kind], 1)
    aggregate, others = judged(name, updates).aggregate, genuine()[1][1:]
    inside = (aggregate <= others.max(0).values + 1e-6) & (aggregate >= others.min(0).values - 1e-6)
    assert inside.all() or aggregate.norm() <= others.norm(dim=1).max() * (1 + 1e-6)


@pytest.mark.parametrize("name", MOVED_BY_ONE)
def test_the_largest_numbers_move_a_rule_that_is_not_robust(name):
    aggregate = judged(name, hostile(1e38, 1)).aggregate
    assert aggregate.abs().max() > 1e30


@pytest.mark.parametrize("kind", BROKEN)
def test_the_mean_takes_what_is_not_finite(kind):
    verdict = judged("fedavg", hostile(BROKEN[kind], 2))
    assert not verdict.aggregate.isfinite().any()


def test_an_aggregate_that_overflows_leaves_the_model():
    verdict = judged("trimmed_mean", hostile(LARGEST, CLIENTS))
    assert not verdict.aggregate.any()
    assert not verdict.trusted.any()


# --- through the round loop ---


class Sends:
    """An attack whose clients send what `make` makes of their own updates [m, P]."""

    knowledge = "own"
    backdoor = None
    poison = train_honestly

    def __init__(self, make):
        self.make = make

    def forge(self, own_updates, view):
        return Forged(self.make(own_updates))


def attacked(make, defense, rounds=1, malicious=2):
    settings = DEFENSE if defense == "fedredefense" else defense
    whole = federation(attack="sign_flip", defense=settings, rounds=rounds, malicious=malicious)
    return replace(whole, attack=Sends(make))


MALFORMED = {
    "too_short": lambda own: own[:, :-1],
    "too_long": lambda own: torch.cat([own, own], 1),
    "empty": lambda own: own[:, :0],
    "a_matrix_each": lambda own: own[:, None],
    "a_number_each": lambda own: own[:, 0],
    "one_vector_for_all": lambda own: own[0],
    "whole_numbers": lambda own: own.int(),
    "truth_values": lambda own: own > 0,
    "complex": lambda own: own.to(torch.complex64),
    "nobody": lambda own: own[:0],
    "nothing": lambda own: [None] * len(own),
    "text": lambda own: ["update"] * len(own),
    "numbers_in_a_list": lambda own: own.tolist(),
    "objects": lambda own: [object()] * len(own),
    "beyond_float32": lambda own: torch.full_like(own, 1e300, dtype=torch.float64),
    **{
        kind: lambda own, value=value: torch.zeros_like(own) + value
        for kind, value in BROKEN.items()
    },
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("name", GUARDED)
def test_what_is_no_update_is_flagged_and_leaves_the_others_their_round(name, kind):
    whole = attacked(MALFORMED[kind], name)
    state, record = play_round(whole, initial_state(whole))
    malicious = whole.malicious
    assert state.weights.isfinite().all()
    assert record.clients["flagged"][malicious].all()
    assert not record.clients["trusted"][malicious].any()
    assert record.clients["trusted"].any()
    assert record.summary["FNR"] == 0
    scores = record.clients["score"]
    assert scores.isnan().all() or scores[malicious].isposinf().all()


def test_malformed_updates_are_counted_in_one_line(caplog):
    whole = attacked(lambda own: [own[0], own[1, :-1]], "median")
    with caplog.at_level(logging.WARNING):
        _, record = play_round(whole, initial_state(whole))
    assert caplog.messages == [
        f"round 1: 1 malicious clients sent no vector of {whole.model.size} numbers: "
        "they count as not finite"
    ]
    assert record.clients["flagged"].nonzero().flatten().tolist() == [7]


def test_a_list_of_vectors_is_as_good_as_a_matrix_and_more_than_asked_is_ignored():
    states = []
    for make in (
        lambda own: -own,
        lambda own: [*(-own), own[0]],
        lambda own: list((-own).double()),
    ):
        whole = attacked(make, "median")
        states.append(play_round(whole, initial_state(whole))[0].weights)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


@pytest.mark.parametrize("kind", ["too_short", "nan", "text"])
@pytest.mark.parametrize("name", DEFENSES)
def test_a_run_in_which_everybody_is_hostile_reaches_its_end(name, kind):
    state, records = play(attacked(MALFORMED[kind], name, rounds=2, malicious=8))
    assert [record.summary["round"] for record in records] == [1, 2]
    if name in GUARDED:
        assert records[0].clients["flagged"].all()
        assert torch.equal(state.weights, state.initial_weights)


@pytest.mark.parametrize("value", [math.nan, 1e38])
def test_a_model_that_the_mean_has_lost_is_evaluated_to_the_end(value):
    """The next rounds train from numbers that are not finite; such a model classifies nothing."""
    state, records = play(attacked(lambda own: own * 0 + value, "fedavg", rounds=3))
    assert not state.weights.isfinite().any()
    assert records[-1].summary["accuracy"] == 0.0
    assert records[-1].summary["trusted"] == 8


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_lost_model_does_not_stop_the_run(name, value):
    quick = {"reconstruction": DEFENSE["reconstruction"]} if "reconstruction" in name else {}
    whole = federation(attack={"name": name, **quick}, defense="fedavg")
    state = initial_state(whole)
    state = replace(state, weights=torch.full_like(state.weights, value))
    after, _ = play_round(whole, state)
    _, record = play_round(whole, after)
    assert record.summary["accuracy"] == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", GUARDED)
def test_a_rule_on_a_lost_model_does_not_stop_the_run(name, value):
    settings = DEFENSE if name == "fedredefense" else name
    whole = federation(attack="min_max", defense=settings)
    state = initial_state(whole)
    state = replace(state, weights=torch.full_like(state.weights, value))
    _, record = play_round(whole, state)
    assert record.summary["trusted"] == 0
    assert record.clients["flagged"].all()
