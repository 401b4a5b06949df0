"""What is legal and doubtful: found where it is, said once an experiment, without loading PyTorch."""

import subprocess
import sys

import pytest
from command import fedred
from small import SETTINGS, federation, play

from fedred.config import resolve
from fedred.plan import make_plan
from fedred.run_warnings import doubtful_settings, first_judged_round


def kinds(**changes):
    return set(doubtful_settings(resolve({**SETTINGS, **changes}).model_dump()))


def inside(defense):
    return {"name": "nnm", "aggregator": defense}


@pytest.mark.parametrize(
    ("attack", "malicious", "doubtful"),
    [("none", 0, False), ("none", 2, False), ("scaling", 2, False), ("scaling", 0, True)],
)
def test_an_attack_without_attackers(attack, malicious, doubtful):
    assert ("no_attackers" in kinds(attack=attack, malicious=malicious)) == doubtful


@pytest.mark.parametrize("wrap", [lambda defense: defense, inside], ids=["alone", "inside"])
def test_a_threshold_that_what_is_not_reconstructed_passes(wrap):
    for threshold, doubtful in ((0.99, False), (1.0, True), (2.0, True)):
        defense = wrap({"name": "fedredefense", "threshold": threshold})
        assert ("threshold_not_below_one" in kinds(defense=defense)) == doubtful


@pytest.mark.parametrize("window", [1, 2, 3])
def test_fldetector_gives_its_first_scores_in_the_round_that_is_named(window):
    defense = {"name": "fldetector", "window": window}
    first = first_judged_round(window)
    _, records = play(federation(defense=defense, rounds=first))
    scored = [bool(record.clients["score"].isfinite().any()) for record in records]
    assert scored == [False] * (first - 1) + [True]
    for rounds, doubtful in ((first - 1, True), (first, False)):
        assert ("defense_never_starts" in kinds(defense=defense, rounds=rounds)) == doubtful
        nested = kinds(defense=inside(defense), rounds=rounds)
        assert ("defense_never_starts" in nested) == doubtful


SWEEP = {
    "base": {"attack": "scaling", "partition": {"clients": 10}},
    "grid": {"malicious": [0, 2], "defense": ["fedavg", "median"]},
    "seeds": [0, 1],
}


def test_each_sentence_is_said_once_an_experiment_with_the_number_of_its_runs():
    plan = make_plan({"experiments": {"one": SWEEP, "two": {**SWEEP, "seeds": [0]}, "three": {}}})
    told = "the attack scaling has no attackers: malicious is 0"
    assert list(plan.doubts()) == [
        f"experiments.one: {told} (4 of 8 runs)",
        f"experiments.two: {told} (2 of 4 runs)",
    ]


def test_the_plan_says_it_and_succeeds(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "experiments: {a: {base: {attack: scaling, partition: {clients: 10}}}}"
    )
    done = fedred("plan", tmp_path / "c.yaml")
    assert done.returncode == 0
    assert done.stderr.count("experiments.a: the attack scaling has no attackers") == 1
    assert "attackers" not in done.stdout


def test_it_can_be_asked_without_pytorch():
    code = "import sys, fedred.run_warnings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
