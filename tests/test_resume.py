"""A run that was killed and started again ends with the same bytes as one that was not."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from small import DEFENSE, SETTINGS, federation, play

from fedred.run_folder import RunFolder

FEDRED = [sys.executable, "-c", "from fedred.cli import main; main()"]
RESULTS = ("rounds.csv", "clients.parquet", "model.safetensors")
LONG = {
    **SETTINGS,
    "model": {"name": "convnet", "width": 4, "depth": 2},
    "training": {"lr": 0.05, "batch_size": 16, "momentum": 0.5},
    "attack": {"name": "mpaf", "base": "random"},
    "defense": {**DEFENSE, "exclusion": "round"},
    "participation": 0.6,
    "rounds": 40,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "one.yaml"
    path.write_text(yaml.safe_dump(LONG))
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(config, out).wait(timeout=200) == 0
    return out


def start(config, out, *arguments):
    command = [*FEDRED, "run", config, "--out", out, "--checkpoint-every", 3, *arguments]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process, out, changed_since=None):
    checkpoint = out / "checkpoint.safetensors"
    for _ in range(6000):
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != changed_since:
            return checkpoint.stat().st_mtime_ns
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise TimeoutError("no checkpoint")


def same_results(one, other):
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    summaries = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    for summary in summaries:
        del summary["timings"]
    assert summaries[0] == summaries[1]
    assert not list(one.glob("checkpoint*"))


def test_killed_twice_and_resumed_equals_undisturbed(config, undisturbed, tmp_path):
    out, seen = tmp_path / "run", None
    for _ in range(2):
        process = start(config, out)
        seen = wait_for_checkpoint(process, out, seen)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (out / "run.json").exists()
    process = start(config, out)
    assert process.wait(timeout=200) == 0
    assert "resuming after round" in process.stderr.read()
    same_results(out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_after_the_round_with_a_checkpoint(config, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    process = start(config, out)
    wait_for_checkpoint(process, out)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert "run the same command again to go on" in process.stderr.read()
    assert start(config, out).wait(timeout=200) == 0
    same_results(out, undisturbed)


def test_max_seconds_stops_after_a_round_and_goes_on(config, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(config, out, "--max-seconds", 0)
    assert process.wait(timeout=60) == 75
    assert "after round 1 of 40" in process.stderr.read()
    assert start(config, out).wait(timeout=200) == 0
    same_results(out, undisturbed)


def folder(path, **settings):
    return RunFolder(path, {"seed": 0, **settings}, {"dataset": "abc"})


def test_a_checkpoint_gives_back_every_bit(tmp_path):
    state, records = play(federation(attack="mpaf", defense=DEFENSE))
    place = folder(tmp_path)
    place.save_checkpoint(state, records)
    loaded = place.load_checkpoint(torch.device("cpu"))
    assert loaded is not None
    again, history = loaded
    assert again.round == state.round
    for name in ("weights", "previous_weights", "initial_weights", "excluded"):
        assert torch.equal(getattr(again, name), getattr(state, name))
    assert state.defense.keys() == again.defense.keys()
    assert all(torch.equal(again.defense[name], state.defense[name]) for name in state.defense)
    assert all(torch.equal(again.attack[name], state.attack[name]) for name in state.attack)
    for one, other in zip(records, history, strict=True):
        assert list(one.summary) == list(other.summary)
        assert [float(v).hex() for v in one.summary.values()] == [
            v.hex() for v in other.summary.values()
        ]
        for name, column in one.clients.items():
            assert column.dtype == other.clients[name].dtype
            torch.testing.assert_close(column, other.clients[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("damage", ["torn", "foreign", "settings", "threads"])
def test_a_checkpoint_that_does_not_fit_is_set_aside(tmp_path, caplog, monkeypatch, damage):
    state, records = play(federation())
    place = folder(tmp_path)
    place.save_checkpoint(state, records)
    content = place.checkpoint.read_bytes()
    if damage == "torn":
        place.checkpoint.write_bytes(content[: len(content) // 2])
    if damage == "foreign":
        place.checkpoint.write_bytes(b"not a checkpoint at all")
    if damage == "threads":
        monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    if damage == "settings":
        place = folder(tmp_path, rounds=7)
    assert place.load_checkpoint(torch.device("cpu")) is None
    assert not place.checkpoint.exists()
    assert len(list(tmp_path.glob("checkpoint.unusable-*"))) == 1
    assert "starting afresh" in caplog.text


def test_a_checkpoint_of_other_code_or_data_does_not_fit(tmp_path, monkeypatch):
    before = folder(tmp_path).fingerprint
    assert RunFolder(tmp_path, {"seed": 0}, {"dataset": "other"}).fingerprint != before
    monkeypatch.setattr("fedred.run_folder.code_fingerprint", lambda: "other code")
    assert folder(tmp_path).fingerprint != before
