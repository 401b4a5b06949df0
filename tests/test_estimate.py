"""How much work a configuration is, and how long it takes."""

import os

import pandas as pd
import pytest
from command import fedred
from run_folders import write_run

from fedred.config import resolve
from fedred.datasets import DATASETS
from fedred.estimate import KNOWN, Work, estimates, pace_of, work_of, work_of_judging
from fedred.plan import make_plan

BASE = {
    "dataset": "fashion_mnist",
    "partition": {"name": "iid", "clients": 10},
    "model": {"name": "mlp", "width": 7, "depth": 1},
    "training": {"epochs": 2},
    "rounds": 3,
    "participation": 0.5,
}
FORWARD = 2 * (28 * 28 * 7 + 7 * 10)
DEFENSE = {
    "name": "fedredefense",
    "reconstruction": {
        "first_iterations": 20,
        "later_iterations": 4,
        "steps": 3,
        "images_per_class": 2,
    },
}


def plain(**changes):
    return resolve({**BASE, **changes}).model_dump()


def test_work_by_counting():
    visits = 3 * 5
    assert work_of(plain()) == Work(3 * FORWARD * visits * 6000 * 2)
    # All ten clients may have a first round, five visits are later ones; three steps on 20 images.
    iterations = 10 * 20 + 5 * 4
    found = work_of(plain(defense=DEFENSE))
    assert found.reconstruction == 9 * FORWARD * 3 * 20 * iterations
    # Where later rounds take longer, as few clients as may be have their first round.
    longer = {**DEFENSE, "reconstruction": {**DEFENSE["reconstruction"], "later_iterations": 30}}
    found = work_of(plain(defense=longer))
    assert found.reconstruction == 9 * FORWARD * 3 * 20 * (5 * 20 + 10 * 30)
    few = {"name": "balanced_dirichlet", "clients": 10, "samples_per_client": 30}
    assert work_of(plain(partition=few)).training == 3 * FORWARD * visits * 30 * 2


def test_the_sizes_of_data_sets_are_those_of_the_data():
    assert set(KNOWN) == {*DATASETS} - {"image_folder"}
    shape, classes, images = KNOWN["digits"]
    digits = DATASETS["digits"]().load(None, download=False)
    assert (digits.input_shape, len(digits.classes)) == (shape, classes)
    assert len(digits.train_labels) == images


def test_a_measured_run_is_estimated_to_take_its_own_time_with_all_its_iterations(tmp_path):
    settings = plain(defense=DEFENSE, attack="mpaf", malicious=2)
    folder = write_run(tmp_path / "run", settings)
    pace = pace_of([folder])
    made = pd.read_parquet(folder / "clients.parquet")["iterations"].sum()
    assert pace.used == pytest.approx(made / (10 * 20 + 5 * 4))
    hours = pace.hours(work_of(settings))
    # What write_run notes; the reconstruction as if nobody had stopped early.
    assert hours * 3600 == pytest.approx(4.0 + 0.5 + 2.0 + 1.5 / pace.used)
    assert pace.hours(work_of({**settings, "rounds": 3})) == pytest.approx(hours)
    twice = {**settings, "training": {**settings["training"], "epochs": 4}}
    assert 3600 * (pace.hours(work_of(twice)) - hours) == pytest.approx(4.0 + 0.5 + 2.0)


def test_what_was_not_measured_is_not_estimated(tmp_path):
    pace = pace_of([write_run(tmp_path / "run", plain())])
    assert pace.hours(work_of(plain())) > 0
    assert pace.hours(work_of(plain(defense=DEFENSE))) is None
    folder = {"name": "image_folder", "folder": "mine"}
    assert work_of(plain(dataset=folder)) is None


def test_a_run_of_two_experiments_counts_once():
    plan = make_plan({"experiments": {"one": {"base": BASE}, "two": {"base": BASE}}})
    first, second = estimates(plan)
    assert (first.runs, second.runs) == (1, 0)
    assert first.work == work_of(plain())
    assert second.work == Work()


def test_judging_offline_counts_every_iteration_of_recorded_rounds():
    recorded = {"base": {**BASE, "record": [1, 3]}, "judge": DEFENSE}
    plan = make_plan({"experiments": {"one": {"base": BASE}, "recorded": recorded}})
    training, judged = (each.work for each in estimates(plan))
    assert judged.training == training.training
    # Two rounds of five participants, 20 iterations of three steps on 20 images.
    assert judged.reconstruction == 9 * FORWARD * 3 * 20 * (2 * 5 * 20)
    (run,) = plan.experiments["recorded"]
    assert work_of_judging(plan.runs[run], plan.judges["recorded"]) == Work(
        0.0, judged.reconstruction
    )


def test_the_command_prints_runs_and_hours(tmp_path):
    run = write_run(tmp_path / "run", plain(defense=DEFENSE))
    done = fedred("plan", "config/paper.yaml")
    assert done.returncode == 0, done.stderr
    assert "1,890" in done.stdout
    assert "For hours, measure a round" in done.stdout
    hours = []
    for gpus in (1, 4):
        arguments = ("plan", "config/paper.yaml", "--measured", run, "--gpus", gpus)
        done = fedred(*arguments, env=os.environ | {"COLUMNS": "200"})
        assert done.returncode == 0, done.stderr
        assert f"hours on {gpus}" in done.stdout
        hours.append(float(done.stdout.split("all ")[1].split()[3].replace(",", "")))
    assert hours[0] == pytest.approx(4 * hours[1], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no.yaml"], "there is no file no.yaml"),
        (["config/config.yaml", "--measured", "nowhere"], "run.json is missing"),
    ],
)
def test_mistakes_are_told(arguments, sentence):
    done = fedred("plan", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
