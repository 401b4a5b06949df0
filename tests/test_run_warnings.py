"""What makes the numbers of a run doubtful: told under every rule, counted rightly, and said once."""

import io
import json
import logging
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from small import DEFENSE, SETTINGS, federation, play

from fedred.config import resolve
from fedred.defenses import DEFENSES
from fedred.progress import RunProgress
from fedred.run import Limits, Stopped, run
from fedred.run_folder import RunFolder
from fedred.run_warnings import data_warnings, history_warnings, round_warnings

DIVERGING = {"training": {"lr": 1e20, "batch_size": 16}}


def reconstructing(**options):
    return {**DEFENSE, "reconstruction": {**DEFENSE["reconstruction"], **options}}


def finish(path, **changes):
    """Play a run to its end and return what run.json says."""
    settings = resolve({**SETTINGS, **changes}).model_dump()
    run(federation(**changes), RunFolder(path, settings, {}), Limits())
    return json.loads((path / "run.json").read_text())


def history(**changes):
    settings = resolve({**SETTINGS, **changes}).model_dump()
    _, records = play(federation(**changes))
    return history_warnings(settings, records), records


@pytest.mark.parametrize("name", DEFENSES)
def test_divergence_is_told_under_every_rule(name):
    """All clients send what is not finite: FedAvg loses the model, all others keep it."""
    found, records = history(**DIVERGING, defense=name, rounds=2)
    sent = sum(int(record.summary["participants"]) for record in records)
    assert found["updates_not_finite"].startswith(f"{sent} of {sent} updates were not finite")
    lost = "model_not_finite" in found
    assert lost != ("model_stayed" in found)
    assert lost == (name == "fedavg")
    sentences = round_warnings(records[0])
    assert sentences["updates_not_finite"] == "8 of 8 updates are not finite"


def test_a_sound_run_has_no_warning(tmp_path):
    assert finish(tmp_path / "run", attack="min_max", defense="median")["warnings"] == {}


def test_the_counts_are_those_of_a_loop_over_rounds_and_clients():
    found, records = history(defense=reconstructing(image_lr=1e10), attack="mpaf", rounds=2)
    rows = [
        {name: bool(column[client]) for name, column in record.clients.items()}
        for record in records
        for client in range(8)
    ]
    diverged = [row for row in rows if row["diverged"]]
    honest = [row for row in diverged if not row["malicious"]]
    assert found["reconstructions_diverged"].startswith(
        f"{len(diverged)} of {sum(row['iterations'] for row in rows)} reconstructions diverged, "
        f"{len(honest)} of them of honest clients"
    )
    # MPAF sends a zero vector in round 1, which has no error whatever is learned.
    assert 0 < len(diverged) == len(honest) < 8


def test_the_kinds_of_a_run_in_which_nobody_is_left():
    slow = reconstructing(image_lr=0.0, label_lr=0.0, step_size_lr=0.0)
    found, records = history(defense=slow, rounds=3)
    assert list(found) == ["threshold_never_reached", "all_excluded", "model_stayed"]
    assert "none of 8 reconstructions reached the threshold 0.6" in found["threshold_never_reached"]
    assert found["all_excluded"] == "all clients were excluded in 2 of 3 rounds, first in round 2"
    assert round_warnings(records[0]) == {
        "model_stayed": "0 of 8 updates are trusted; the model stays"
    }
    assert list(round_warnings(records[1])) == ["all_excluded", "model_stayed"]


def test_who_was_given_up_did_not_use_the_budget():
    """The fastest fall, going on until the end, would not reach the threshold."""
    found, records = history(
        attack="gaussian", defense=reconstructing(give_up=0.001, first_iterations=14), rounds=1
    )
    clients = records[0].clients
    given_up = clients["iterations"][~clients["trusted"]]
    assert len(given_up)
    assert int(given_up.max()) < 14
    assert (
        f"none of {len(given_up)} rejected reconstructions used its 14 iterations"
        in (found["budget_never_reached"])
    )
    whole, _ = history(attack="gaussian", defense=reconstructing(), rounds=1)
    assert "budget_never_reached" not in whole


@pytest.mark.parametrize(("participation", "told"), [(0.125, True), (1.0, False)])
def test_attackers_that_never_take_part_are_told(participation, told):
    found, records = history(
        attack="min_max", malicious=1, participation=participation, rounds=1, seed=0
    )
    took_part = (records[0].clients["malicious"] & records[0].clients["participated"]).any()
    assert bool(took_part) != told
    assert ("attackers_never_sampled" in found) == told


def test_one_class_is_told_wherever_it_is_the_only_one():
    whole = federation()
    assert data_warnings(whole) == {}
    ones = torch.ones_like(whole.test_labels)
    assert (
        "all images to test on are of one class"
        in data_warnings(replace(whole, test_labels=ones))["one_class"]
    )
    clients = tuple((images, labels * 0) for images, labels in whole.clients)
    assert (
        "all images that clients hold are of one class"
        in data_warnings(replace(whole, clients=clients))["one_class"]
    )


def test_run_json_holds_what_the_log_says_at_the_end(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    written = finish(tmp_path / "run", **DIVERGING, defense="median")["warnings"]
    assert set(written) == {"updates_not_finite", "model_stayed"}
    for sentence in written.values():
        assert f"warning: {sentence}" in caplog.messages


def test_a_round_is_told_when_it_tells_something_new(tmp_path, caplog):
    """Three rounds alike are one line; a run that goes on after its checkpoint does not repeat it."""
    caplog.set_level(logging.WARNING)
    changes = {**DIVERGING, "defense": "median"}
    settings = resolve({**SETTINGS, **changes}).model_dump()
    place = RunFolder(tmp_path / "resumed", settings, {})
    with pytest.raises(Stopped):
        run(federation(**changes), place, Limits(deadline=0.0))
    run(federation(**changes), place, Limits())
    rounds = [message for message in caplog.messages if message.startswith("round")]
    assert rounds == ["round 1: 8 of 8 updates are not finite; the model stays"]
    resumed = json.loads((place.path / "run.json").read_text())["warnings"]
    assert resumed == finish(tmp_path / "undisturbed", **changes)["warnings"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"evaluate_every": 2}, "accuracy not measured yet, excluded 0"),
        ({**DIVERGING}, "the model is not finite, excluded 0"),
    ],
)
def test_progress_says_why_there_is_no_accuracy(changes, status, caplog):
    caplog.set_level(logging.INFO)
    whole = federation(rounds=2, **changes)
    state, records = play(whole)
    with RunProgress(2, Console(file=io.StringIO())) as progress:
        progress.update(replace(state, round=1), records[0])
    assert caplog.messages[-1] == f"round 1 of 2: {status}"
