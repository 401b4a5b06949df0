"""The benchmarks: each twin computes what FedRED computes, and what is reported of them is right."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from command import wait_for

import fedred.defenses.fedredefense
import fedred.simulation
from benchmarks import calibration, growth, twins, units
from benchmarks.__main__ import main
from benchmarks.measure import (
    Measured,
    machine_name,
    repeat,
    slug,
    statistics_of,
)
from benchmarks.report import table, write_result
from benchmarks.sides import both_sides
from benchmarks.units import (
    DEMO,
    LAPTOP,
    UNITS,
    Deviation,
    Prepared,
    ReconstructUnit,
    TrainUnit,
)
from fedred.config import resolve
from fedred.errors import UserError
from fedred.execution import Execution
from fedred.local_training import LocalTraining, batch_schedule
from fedred.models import ConvNet, PadToMultiple
from fedred.plan import make_plan
from fedred.yaml_reading import read_yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = ConvNet(width=4, depth=1)


def agree(prepared):
    """Whether ours and the twin agree, far inside what a benchmark allows on large sizes."""
    deviations = prepared.compare(prepared.ours(), prepared.twin())
    return deviations and all(10 * d.value <= d.tolerance for d in deviations)


def train_unit(**changes):
    training = LocalTraining(lr=0.05, batch_size=4, epochs=2, momentum=0.5, weight_decay=0.01)
    return replace(TrainUnit("", TINY, (3, 8, 8), 10, training, 3, 3), **changes)


def reconstruct_unit(**changes):
    return replace(ReconstructUnit("", TINY, (1, 4, 4), DEMO, 3, 3, 4), **changes)


@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_plain_training_equals_ours(chunk):
    assert agree(train_unit().prepare(CPU, 3, Execution(chunk)))


@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_plain_reconstruction_equals_ours(chunk):
    prepared = reconstruct_unit().prepare(CPU, 3, Execution(chunk))
    ours, twin = prepared.ours(), prepared.twin()
    assert all(10 * d.value <= d.tolerance for d in prepared.compare(ours, twin))
    assert ours.iterations.tolist() == twin.iterations.tolist() == [4, 4, 4]
    for part, expected in zip(ours.knowledge, twin.knowledge, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-4)


def test_the_errors_of_a_unit_move_so_that_comparing_them_says_something():
    first, last = (
        reconstruct_unit(cpu_iterations=iterations).prepare(CPU, 3, Execution(1)).ours().errors
        for iterations in (1, 8)
    )
    assert (last < 0.9 * first).all()


def test_plain_reconstruction_stops_where_ours_stops():
    options = replace(DEMO, image_lr=1.0, label_lr=1.0)
    model, weights = units.network_and_start(TINY, (1, 4, 4), CPU)
    updates, start = reconstruct_unit(options=options).updates_and_start(model, weights, 4)
    updates[3] = torch.nan
    case = (model, weights, updates, start, torch.tensor([9, 20, 3, 9]), 0.9, options)
    ours, twin = units.reconstruct(*case, 4), twins.reconstruct(*case)
    assert ours.iterations.tolist() == twin.iterations.tolist()
    assert twin.iterations[3] == 1
    torch.testing.assert_close(ours.errors, twin.errors, rtol=1e-3, atol=0, equal_nan=True)


@pytest.mark.parametrize("unit", [train_unit(), reconstruct_unit()])
def test_a_twin_of_few_clients_is_compared_with_the_same_ones(unit, monkeypatch):
    monkeypatch.setattr(units, "twin_clients", lambda clients, device: 2)
    prepared = unit.prepare(CPU, 3, Execution())
    assert prepared.facts.twin_clients == 2
    assert agree(prepared)


def test_both_sides_are_called_in_turn_and_the_seconds_of_few_clients_count_for_all():
    measured, called = Measured(times={"ours": 1.0, "twin": 2.5}), []
    seconds = {"ours": 2.0, "twin": 4.0}
    calls = {side: lambda side=side: called.append(side) or seconds[side] for side in seconds}
    repeat(measured, calls, 2)
    assert called == ["ours", "twin", "twin", "ours"]
    assert measured.seconds == {"ours": [2.0, 2.0], "twin": [10.0, 10.0]}
    assert measured.ratios == [5.0, 5.0]


def of_kind(kind):
    """Return a unit of the size of `train_unit`, of a class that computes something else."""
    return kind(*(getattr(train_unit(), field.name) for field in fields(TrainUnit)))


class Telling(TrainUnit):
    """A unit whose sides tell how their process is set, and how much memory it keeps once freed."""

    def prepare(self, device, clients, execution):
        def told():
            before = psutil.Process().memory_info().rss
            several = [torch.ones(2**24) for _ in range(8)]
            del several
            kept = psutil.Process().memory_info().rss - before
            mode = torch.get_deterministic_debug_mode()
            return {"mode": mode, "kept": kept / 2**20, "process": os.getpid()}

        def compare(ours, twin):
            assert len({ours["process"], twin["process"], os.getppid()}) == 3
            assert (ours["mode"], twin["mode"]) == (1, 0)
            return [Deviation("MiB kept", ours["kept"] - twin["kept"], math.inf)]

        return Prepared(super().prepare(device, clients, execution).facts, told, told, compare)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")
def test_ours_runs_as_a_run_and_the_twin_as_any_program():
    with both_sides(of_kind(Telling), CPU, 2, Execution()) as sides:
        seconds, _, results = zip(*(side.first_call() for side in sides.values()), strict=True)
        (deviation,) = sides["ours"].compare(*results)
    assert min(seconds) > 0
    assert deviation.value > 400
    assert torch.get_deterministic_debug_mode() == 0


class Failing(TrainUnit):
    """A unit that cannot be prepared."""

    def prepare(self, device, clients, execution):
        raise torch.OutOfMemoryError("too much\nfor it")


class Ending(TrainUnit):
    """A unit whose process is killed."""

    def prepare(self, device, clients, execution):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [(Failing, "(too much)"), (Ending, "a side's process was ended")],
)
def test_a_side_that_fails_is_one_sentence(kind, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(UNITS, "train-small", of_kind(kind))
    assert main(["train-small", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: train-small")
    assert sentence in error


KILLED = """
from benchmarks.sides import both_sides
from benchmarks.units import UNITS
from fedred.execution import Execution
import psutil, time, torch

if __name__ == "__main__":
    with both_sides(UNITS["train-small"], torch.device("cpu"), 2, Execution()):
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        time.sleep(10**6)
"""


def test_sides_end_when_the_benchmark_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    )
    sides = [int(pid) for pid in process.stdout.readline().split()]
    assert len(sides) >= 2
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: not any(psutil.pid_exists(side) for side in sides))


def test_a_gpu_gets_all_clients_and_its_twin_a_few():
    gpu = torch.device("cuda")
    for name in ("train-128", "reconstruct-128", "round-paper"):
        assert UNITS[name].clients(gpu) == (100, 100)
    assert units.twin_clients(100, gpu) == 10
    assert units.twin_clients(100, CPU) == 100


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_a_round_by_the_plain_twins_equals_ours(chunk):
    reconstruction = replace(DEMO, first_iterations=4)
    unit = replace(UNITS["round-demo"], network=TINY, reconstruction=reconstruction)
    assert agree(unit.prepare(CPU, 8, Execution(chunk)))


@pytest.mark.parametrize(
    ("unit", "config"), [("round-demo", "config.yaml"), ("round-laptop", "laptop.yaml")]
)
def test_rounds_are_those_of_the_configurations(unit, config):
    runs = make_plan(read_yaml(ROOT / "config" / config)).runs.values()
    wanted = ("fang_trim", "fedredefense")
    asked = next(run for run in runs if (run["attack"]["name"], run["defense"]["name"]) == wanted)
    settings, measured = resolve(asked), UNITS[unit]
    assert measured.network == settings.model.build()
    assert measured.training == settings.training.build()
    assert measured.reconstruction == settings.defense.build().reconstruction
    assert (measured.rounds, measured.evaluate_every) == (asked["rounds"], asked["evaluate_every"])
    held = asked["partition"]
    assert measured.all_clients == measured.cpu_clients == held["clients"]
    assert (measured.alpha, measured.samples_per_client) == (
        held["alpha"],
        held["samples_per_client"],
    )
    assert int(measured.malicious_share * held["clients"]) == asked["malicious"]


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("give_up", [0.0, 2.0])
def test_plain_reconstruction_knows_what_the_study_uses(chunk, give_up):
    options = replace(LAPTOP, give_up=give_up)
    model, weights = units.network_and_start(TINY, (1, 4, 4), CPU)
    updates, start = reconstruct_unit(options=options).updates_and_start(model, weights, 3)
    longest_slope = 0.3 * torch.ones(())
    case = (model, weights, updates, start, torch.tensor([18, 18, 9]), 0.6, options, chunk)
    ours, twin = (each.reconstruct(*case, longest_slope) for each in (units, twins))
    assert ours.iterations.tolist() == twin.iterations.tolist()
    torch.testing.assert_close(ours.errors, twin.errors, rtol=1e-3, atol=0)
    for part, expected in zip(ours.knowledge, twin.knowledge, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-4)


def test_a_plain_round_uses_neither_our_training_nor_our_reconstruction(monkeypatch):
    reconstruction = replace(DEMO, first_iterations=2)
    unit = replace(UNITS["round-demo"], network=TINY, reconstruction=reconstruction)
    prepared = unit.prepare(CPU, 4, Execution(1))

    def refuse(*arguments):
        raise AssertionError("this is ours")

    monkeypatch.setattr(fedred.simulation, "train_clients", refuse)
    monkeypatch.setattr(fedred.defenses.fedredefense, "reconstruct", refuse)
    prepared.twin()
    with pytest.raises(AssertionError, match="this is ours"):
        prepared.ours()


def test_the_twins_use_no_layer_of_ours():
    ours = units.flat_model(ConvNet(width=4, depth=2), (1, 8, 8), 3)
    plain = units.plain_network(ours)()
    assert any(type(layer).__name__ == "AveragePool" for layer in ours.module.modules())
    kinds = {type(layer) for layer in plain.modules() if not list(layer.children())}
    assert {kind.__module__.split(".")[0] for kind in kinds - {PadToMultiple}} == {"torch"}
    images = torch.arange(320.0).reshape(5, 1, 8, 8) / 320
    torch.testing.assert_close(plain(images), ours.module(images))


def test_after_a_plain_round_the_simulation_is_ours_again():
    places = (fedred.simulation, "local_updates"), (fedred.defenses.fedredefense, "reconstruct")
    before = [getattr(*place) for place in places]
    with twins.plain_round(lambda: None, []):
        assert all(getattr(*place) is not was for place, was in zip(places, before, strict=True))
    assert [getattr(*place) for place in places] == before


def test_a_loader_gives_the_given_batches_in_order_normalised_and_draws_nothing():
    images = torch.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3).to(torch.uint8)
    data = twins.ClientImages(images, torch.arange(5), 100.0, (0.1, 0.2), (0.5, 2.0))
    schedule = np.array([[4, 0], [2, 3], [1, -1]])
    state = torch.get_rng_state()
    batches = list(twins.loader(data, schedule))
    assert torch.equal(state, torch.get_rng_state())
    assert [labels.tolist() for _, labels in batches] == [[4, 0], [2, 3], [1]]
    value = (float(images[0, 1, 2, 1]) / 100 - 0.2) / 2
    assert batches[0][0][1, 1, 2, 1] == pytest.approx(value)


def test_the_twin_trains_on_the_same_batches_as_ours_and_on_no_others():
    unit = train_unit()
    prepared = unit.prepare(CPU, 3, Execution(1))
    other = replace(unit, training=replace(unit.training, batch_size=5)).prepare(
        CPU, 3, Execution(1)
    )
    assert not prepared.compare(prepared.ours(), other.twin())[0].allowed
    source = np.random.default_rng(0)
    assert batch_schedule(10, unit.training, source).shape == (6, 4)


def test_statistics_of_ratios_by_hand():
    measured = Measured(seconds={"ours": [1.0, 2.0, 1.0, 0.5, 4.0], "twin": [3, 2, 2, 2, 2]})
    assert measured.ratios == [3, 1, 2, 4, 0.5]
    assert statistics_of(measured.ratios) == {
        "smallest": 0.5,
        "lower_quartile": 1.0,
        "median": 2.0,
        "upper_quartile": 3.0,
        "largest": 4.0,
    }
    assert statistics_of([1.0, 2.0])["median"] == 1.5
    assert set(statistics_of([7.0]).values()) == {7.0}


def test_deviations_by_hand_and_what_is_not_a_number_is_never_allowed():
    ours, twin = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.5], [1.0, 1.0]])
    expected = 0.5 / (3.0**2 + 4.5**2) ** 0.5
    assert units.relative_differences(ours, twin).tolist() == pytest.approx([expected, 0])
    zeros = torch.zeros(1, 2)
    assert units.relative_differences(zeros, zeros) == 0
    for one, other in ((ours, zeros), (ours * torch.nan, twin)):
        worst = float(units.relative_differences(one, other).max())
        assert not Deviation("update", worst, 1e9).allowed
    assert Deviation("update", 1e-3, 1e-3).allowed


def result(number, device="cpu"):
    return {"ratio": number, "compiled": False, "environment": {"device": device}}


def test_results_join_those_of_the_same_machine(tmp_path):
    for name, number, device in (("a", 1, "cpu"), ("b", 2, "cpu"), ("a", 3, "cuda")):
        write_result(tmp_path, "box", name, result(number, device))
    path = write_result(tmp_path, "box", "a", result(4))
    write_result(tmp_path, "other", "c", result(5))
    content = json.loads(path.read_text())
    assert content["machine"] == "box"
    assert {name: list(kinds) for name, kinds in content["units"].items()} == {
        "a": ["cpu", "cuda"],
        "b": ["cpu"],
    }
    assert content["units"]["a"]["cpu"]["ratio"] == 4
    assert content["units"]["a"]["cuda"]["ratio"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.json", "other.json"]


def test_results_are_whole_or_as_before(tmp_path):
    path = write_result(tmp_path, "box", "a", result(1))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_result(tmp_path, "box", "b", result(object()))
    assert path.read_bytes() == before
    path.write_bytes(before[:-20])
    with pytest.raises(UserError, match="not a whole file of results"):
        write_result(tmp_path, "box", "b", result(2))
    assert path.read_bytes() == before[:-20]
    assert [path.name for path in tmp_path.iterdir()] == ["box.json"]


def test_the_slope_of_a_power_law_is_its_exponent():
    x = pd.Series([10.0, 30.0, 100.0])
    assert growth.slope(x, 3 * x**1.5) == pytest.approx(1.5)


CURVES = pd.DataFrame(
    {
        "dataset": "a",
        "lr": 0.1,
        "alpha": 1.0,
        "kind": ["honest", "honest", "mpaf"],
        "errors": [
            [1.0, 0.8, 0.59],
            [1.0, 0.95, 0.9, 0.85, 0.8, 0.75] + [0.7] * (calibration.BUDGET - 6) + [0.5],
            [1.0] * (calibration.BUDGET + 2),
        ],
    }
)


def test_the_study_judges_by_what_was_reached_within_the_budget():
    judged = calibration.judged(CURVES, calibration.BUDGET).set_index("kind")
    assert judged.loc["honest", ["clients", "passed", "fewest", "most"]].tolist() == [2, 1, 3, 3]
    assert judged.loc["honest", "smallest_error"] == 0.59
    assert judged.loc["mpaf", "passed"] == 0
    later = calibration.judged(CURVES, calibration.BUDGET + 1).set_index("kind")
    assert later.loc["honest", "passed"] == 2


def test_what_giving_up_saves_and_changes_by_hand():
    passes, slow, flat = CURVES["errors"]
    assert calibration.given_up(passes, 1.0) == 3
    assert calibration.given_up(flat, 1.0) == 4  # the first iteration with three falls
    assert calibration.given_up(flat, 0.0) == calibration.BUDGET
    # 0.7, never falling again: hopeless as soon as the last fall is three iterations past
    assert calibration.given_up(slow, 1.0) == 10
    hasty = CURVES.assign(errors=[[*flat[:10], 0.5], slow, flat])
    assert "1 of 3 decisions changed" in calibration.savings(hasty, 1.0)


def test_giving_up_is_replayed_on_published_rounds_until_a_client_passes(capsys):
    studies = [ROOT / "results/published" / name for name in ("fashion_mnist", "cifar10")]
    curves = calibration.replayed(studies)["errors"]
    assert len(curves) == 36 * 2 * 20  # runs, recorded rounds, clients
    for curve in curves:
        assert not (curve[:-1] < calibration.THRESHOLD).any()
        assert len(curve) == 60 or curve[-1] < calibration.THRESHOLD or not np.isfinite(curve[-1])
    assert calibration.main(["--replay", str(studies[0])]) == 0
    assert "of 720 decisions changed" in capsys.readouterr().out
    assert calibration.main(["--replay", str(ROOT / "results/published/limits")]) == 2
    assert "limits: no recorded rounds judged at 0.6" in capsys.readouterr().err


def test_machine_names_are_safe_file_names():
    assert slug("Intel(R) Xeon(R) CPU @ 2.20GHz, 2 cores") == "intel-r-xeon-r-cpu-2-20ghz-2-cores"
    assert slug("../../x") == "x"
    assert slug(machine_name(CPU)) == machine_name(CPU) != ""


def test_a_table_is_aligned():
    assert table([("a", "1"), ("long", "22")], ("unit", "x")).split("\n") == [
        "unit   x",
        "a      1",
        "long  22",
    ]


@pytest.fixture
def tiny(monkeypatch):
    """Units that take no time in place of the real ones."""
    monkeypatch.setitem(UNITS, "train-small", train_unit())
    monkeypatch.setitem(UNITS, "reconstruct-small", reconstruct_unit())


def test_the_command_measures_prints_and_writes(tiny, tmp_path, capsys):
    names = ["train-small", "reconstruct-small"]
    where = ["--results", str(tmp_path), "--machine", "My Box"]
    assert main([*names, *where, "--repeats", "2", "--clients", "2"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 3" in out
    assert "allowed" in err
    content = json.loads((tmp_path / "my-box.json").read_text())
    assert list(content["units"]) == names
    for name in names:
        found = content["units"][name]["cpu"]
        assert found["same"]
        assert len(found["ratios"]) == 2
        assert all(len(found["seconds"][side]["all"]) == 2 for side in ("ours", "twin"))
        assert all(found["peak_bytes"][side] > 2**20 for side in ("ours", "twin"))
        assert {"cpu", "threads", "versions", "date"} <= set(found["environment"])


def test_no_unit_is_started_after_the_minutes(tiny, tmp_path, capsys):
    names, where = ["train-small", "reconstruct-small"], ["--results", str(tmp_path)]
    assert main([*names, *where, "--repeats", "1", "--machine", "box", "--minutes", "0"]) == 0
    assert "not measured: reconstruct-small" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "box.json").read_text())["units"]) == ["train-small"]


class Wrong(TrainUnit):
    """A unit whose twin computes something else."""

    def prepare(self, device, clients, execution):
        prepared = super().prepare(device, clients, execution)
        return replace(prepared, twin=lambda: torch.zeros_like(prepared.ours()))


def test_results_that_differ_are_a_failure_and_are_not_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(UNITS, "train-small", of_kind(Wrong))
    assert main(["train-small", "--results", str(tmp_path), "--machine", "box"]) == 1
    assert "results differ in train-small" in capsys.readouterr().err
    found = json.loads((tmp_path / "box.json").read_text())["units"]["train-small"]["cpu"]
    assert not found["same"]
    assert found["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reconstruct-23"], "did you mean 'reconstruct-32'?"),
        (["--device", "cud"], "did you mean 'cuda'?"),
        (["--repeats", "0"], "--repeats is 0, but it must be at least 1"),
        (["--repeats", "many"], "many"),
        (["--clients", "-1"], "at least 1"),
        (["--machine", "//"], "a letter or a digit"),
        (["--unknown"], "--unknown"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert sentence in err
    assert err.count("\n") == 1


def test_no_gpu_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err


def benchmarks(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_the_list_names_every_unit():
    done = benchmarks("-m", "benchmarks", "--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(UNITS)


def test_the_benchmarks_need_torch_and_numpy_only():
    code = (
        "import sys\n"
        "for name in ('pydantic', 'typer', 'snakemake', 'rich', 'pandas', 'yaml', 'matplotlib',\n"
        "    'scipy', 'sklearn', 'pyarrow', 'safetensors', 'PIL', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from benchmarks.__main__ import main\n"
        "from benchmarks.units import UNITS\n"
        "from fedred.execution import Execution\n"
        "for name in ('train-small', 'round-demo'):\n"
        "    UNITS[name].prepare(torch.device('cpu'), 8, Execution())\n"
        "sys.exit(main(['--list']))\n"
    )
    done = benchmarks("-c", code)
    assert done.returncode == 0, done.stderr
