"""The round loop: what depends on what, who takes part, what is written of a round."""

import dataclasses

import pytest
import torch
from small import DEFENSE, federation, play

from fedred.attacks.interface import AttackerView
from fedred.defenses.interface import ServerView, Verdict
from fedred.simulation import initial_state, local_updates, play_round, sample_participants


def same(one, other):
    return torch.equal(one.weights, other.weights)


def test_a_run_is_a_pure_function_of_its_settings():
    settings = {"attack": "fang_trim", "defense": DEFENSE, "participation": 0.5}
    first, second = play(federation(**settings)), play(federation(**settings))
    assert same(first[0], second[0])
    for one, other in zip(first[1], second[1], strict=True):
        for name, column in one.clients.items():
            torch.testing.assert_close(column, other.clients[name], rtol=0, atol=0, equal_nan=True)


def test_the_seed_changes_everything():
    one, other = play(federation())[0], play(federation(seed=1))[0]
    assert not same(one, other)
    assert not torch.equal(one.initial_weights, other.initial_weights)


def test_fedavg_without_attack_is_the_mean_of_separately_trained_clients():
    fed = federation(attack="none")
    start = initial_state(fed)
    after, _ = play_round(fed, start)
    alone = [
        local_updates(fed, start.weights, torch.tensor([client]), 1)
        for client in range(len(fed.clients))
    ]
    expected = start.weights + torch.cat(alone).mean(0)
    torch.testing.assert_close(after.weights, expected, rtol=1e-5, atol=1e-6)


def test_training_learns():
    state, records = play(federation(rounds=15))
    assert records[-1].summary["accuracy"] > 0.7 > records[0].summary["accuracy"]
    assert state.round == 15


@pytest.mark.parametrize(("share", "expected"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.01, 1)])
def test_participants_are_a_sorted_sample_of_the_clients_left(share, expected):
    fed = federation(participation=share)
    excluded = torch.zeros(8, dtype=torch.bool)
    drawn = [tuple(sample_participants(fed, excluded, round).tolist()) for round in range(1, 20)]
    assert all(len(set(ids)) == expected and list(ids) == sorted(ids) for ids in drawn)
    assert len(set(drawn)) > 1 or expected == 8
    excluded[[0, 5]] = True
    left = sample_participants(fed, excluded, 1).tolist()
    assert len(left) == min(expected, 6)
    assert not {0, 5} & set(left)


def test_excluded_clients_never_return_and_stay_flagged():
    fed = federation(attack="mpaf", defense=DEFENSE, rounds=4)
    state, records = play(fed)
    gone = records[0].clients["excluded"]
    assert not gone[~fed.malicious].any()
    assert gone[fed.malicious].all(), "the zero update of MPAF's first round must be flagged"
    for record in records[1:]:
        assert not record.clients["participated"][gone].any()
        assert record.clients["flagged"][gone].all()
        assert record.clients["excluded"][gone].all()
    assert state.excluded.sum() == records[-1].summary["excluded"]


def test_exclusion_for_one_round_lets_clients_return():
    defense = {**DEFENSE, "exclusion": "round"}
    fed = federation(attack="mpaf", defense=defense)
    _, records = play(fed)
    assert records[0].clients["flagged"][fed.malicious].all()
    assert records[1].clients["participated"].all()
    assert not records[-1].clients["excluded"].any()


def test_when_everybody_is_excluded_the_model_stays():
    fed = federation(defense={**DEFENSE, "threshold": 1e-9})
    state, records = play(fed)
    assert records[0].summary["excluded"] == 8
    assert [record.summary["participants"] for record in records] == [8, 0, 0]
    assert torch.equal(state.weights, state.initial_weights)
    assert records[-1].summary["FPR"] == 1.0


def test_a_diverged_model_is_reported_not_fatal():
    _, records = play(federation(training={"lr": 1e20, "batch_size": 16}, attack="none"))
    assert records[-1].summary["accuracy"] < 0.3


def test_evaluation_is_skipped_where_it_is_not_due_but_never_in_the_last_round():
    _, records = play(federation(rounds=5, evaluate_every=2))
    measured = [record.summary["accuracy"] == record.summary["accuracy"] for record in records]
    assert measured == [False, True, False, True, True]


def test_malicious_clients_are_those_of_highest_id_and_none_without_an_attack():
    assert federation(attack="mpaf").malicious.nonzero().flatten().tolist() == [6, 7]
    assert not federation(attack="none").malicious.any()


def test_views_hold_what_the_threat_model_allows_and_no_more():
    """A new field is a change of the threat model: it must be added here with a reason."""
    assert {field.name for field in dataclasses.fields(ServerView)} == {
        *("model", "weights", "round", "clients", "all_clients", "samples"),
        *("training", "generator", "clients_per_chunk", "state"),
        "clean",  # the server's own samples (FLTrust)
    }
    assert {field.name for field in dataclasses.fields(AttackerView)} == {
        *("model", "weights", "previous_weights", "initial_weights"),
        *("round", "clients", "generator", "state"),
        *("participants", "samples", "training", "clients_per_chunk"),  # public, or its own
        "honest_updates",  # None unless the attack's knowledge is `full`
    }


def test_a_rule_sees_what_the_clients_announced():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Spy:
        papers = ()

        def __call__(self, updates, view):
            seen.append(view)
            return Verdict(updates.mean(0), torch.ones(len(updates), dtype=torch.bool))

    fed = dataclasses.replace(federation(participation=0.5), defense=Spy())
    play_round(fed, initial_state(fed))
    sizes = [len(fed.clients[client][1]) for client in seen[0].clients.tolist()]
    assert seen[0].samples.tolist() == sizes
    assert seen[0].training == fed.training
