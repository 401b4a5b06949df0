"""A run that was killed and started again ends with the same bytes as one that was not."""

import os
import pickle
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from command import FEDRED, pausing, wait_for_checkpoint
from run_results import same_results
from small import DEFENSE, SETTINGS, federation, play

from fedred.files import checksum_of, read_tensors, write_tensors
from fedred.run import ECHO_SECONDS, StopRequest
from fedred.run_folder import RunFolder
from fedred.simulation import initial_state

pytestmark = pytest.mark.slow

LONG = {
    **SETTINGS,
    "model": {"name": "convnet", "width": 4, "depth": 2},
    "training": {"lr": 0.05, "batch_size": 16, "momentum": 0.5},
    "attack": {"name": "mpaf", "base": "random"},
    "defense": {**DEFENSE, "exclusion": "round"},
    "participation": 0.6,
    "rounds": 20,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "one.yaml"
    path.write_text(yaml.safe_dump(LONG))
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(config, out).wait() == 0
    return out


def start(config, out, *arguments, fedred=FEDRED):
    command = [*fedred, "run", config, "--out", out, "--checkpoint-every", 3, *arguments]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


@pytest.fixture
def pause(tmp_path):
    """A file that keeps runs after a checkpoint until it is removed."""
    file = tmp_path / "pause"
    file.touch()
    return file


def test_killed_twice_and_resumed_equals_undisturbed(config, undisturbed, tmp_path, pause):
    out, seen = tmp_path / "run", None
    for _ in range(2):
        process = start(config, out, fedred=pausing(pause))
        seen = wait_for_checkpoint(process, out, seen)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (out / "run.json").exists()
    process = start(config, out)
    assert process.wait() == 0
    assert "resuming after round" in process.stderr.read()
    same_results(out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_stop_after_the_round_with_a_checkpoint(
    config, undisturbed, tmp_path, pause, number
):
    out = tmp_path / "run"
    process = start(config, out, fedred=pausing(pause))
    wait_for_checkpoint(process, out)
    process.send_signal(number)
    pause.unlink()
    assert process.wait() == 128 + number
    assert "run the same command again to go on" in process.stderr.read()
    assert start(config, out).wait() == 0
    same_results(out, undisturbed)


def test_a_signal_that_is_sent_twice_at_once_stops_like_one(config, undisturbed, tmp_path, pause):
    out = tmp_path / "run"
    interpreter, option, code = pausing(pause)
    slow_machine = f"import fedred.run; fedred.run.ECHO_SECONDS = float('inf'); {code}"
    process = start(config, out, fedred=[interpreter, option, slow_machine])
    wait_for_checkpoint(process, out)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)  # or both may be delivered as one
    process.send_signal(signal.SIGTERM)
    pause.unlink()
    assert process.wait() == 128 + signal.SIGTERM
    assert start(config, out).wait() == 0
    same_results(out, undisturbed)


@pytest.fixture
def usual_interrupt():
    """SIGINT raises KeyboardInterrupt, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_later_signal_stops_in_the_middle_of_a_round(usual_interrupt, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("fedred.run.time", clock)
    now = 100.0
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        now += ECHO_SECONDS
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        now += 0.01
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual_interrupt


def test_a_terminal_may_be_closed_where_a_user_arranged_for_it():
    """As by nohup, which ignores the signal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_max_seconds_stops_after_a_round_and_goes_on(config, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(config, out, "--max-seconds", 0)
    assert process.wait() == 75
    assert "after round 1 of 20" in process.stderr.read()
    assert start(config, out).wait() == 0
    same_results(out, undisturbed)


def folder(path, **settings):
    return RunFolder(path, {"seed": 0, **settings}, {"dataset": "abc"})


def test_a_checkpoint_gives_back_every_bit(tmp_path):
    played = federation(attack="mpaf", defense=DEFENSE)
    state, records = play(played)
    place = folder(tmp_path)
    place.save_checkpoint(state, records, "as now")
    loaded = place.load_checkpoint(initial_state(played), "as now")
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


@pytest.mark.parametrize("damage", ["torn", "foreign", "flipped", "settings", "computed"])
def test_a_checkpoint_that_does_not_fit_is_set_aside(tmp_path, caplog, damage):
    played = federation()
    state, records = play(played)
    place = folder(tmp_path)
    place.save_checkpoint(state, records, "as now")
    content = bytearray(place.checkpoint.read_bytes())
    if damage == "torn":
        place.checkpoint.write_bytes(content[: len(content) // 2])
    if damage == "foreign":
        place.checkpoint.write_bytes(b"not a checkpoint at all")
    if damage == "flipped":
        content[-100] ^= 1
        place.checkpoint.write_bytes(content)
    if damage == "settings":
        place = folder(tmp_path, rounds=7)
    now = "otherwise" if damage == "computed" else "as now"
    is_set_aside(place, played, caplog, now)


def is_set_aside(place, played, caplog, now="as now"):
    assert place.load_checkpoint(initial_state(played), now) is None
    assert not place.checkpoint.exists()
    assert len(list(place.path.glob("checkpoint.unusable-*"))) == 1
    assert len(caplog.messages) == 1
    assert "starting afresh" in caplog.text


class Trap:
    """What a pickle of this does when it is loaded: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_checkpoint_that_is_a_pickle_is_set_aside_and_not_obeyed(tmp_path, caplog, write):
    place, trap = folder(tmp_path), tmp_path / "obeyed"
    with place.checkpoint.open("wb") as file:
        write(Trap(str(trap)), file)
    is_set_aside(place, federation(), caplog)
    assert not trap.exists()


FORGED = {
    "no weights": lambda tensors, marks: tensors.pop("state/weights"),
    "short weights": lambda tensors, marks: tensors.update(
        {"state/weights": tensors["state/weights"][1:].clone()}
    ),
    "whole weights": lambda tensors, marks: tensors.update(
        {"state/weights": tensors["state/weights"].int()}
    ),
    "few clients": lambda tensors, marks: tensors.update(
        {"state/excluded": tensors["state/excluded"][1:].clone()}
    ),
    "no column": lambda tensors, marks: tensors.pop("summary/accuracy"),
    "no mark": lambda tensors, marks: marks.pop("computed"),
    "round in words": lambda tensors, marks: marks.update(round="two"),
    "round of the past": lambda tensors, marks: marks.update(round="-3"),
    "round of the future": lambda tensors, marks: marks.update(round="9" * 30),
    "columns of nothing": lambda tensors, marks: marks.update(columns="[]"),
    "columns of half": lambda tensors, marks: marks.update(columns="{"),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_checkpoint_with_a_right_checksum_is_set_aside(tmp_path, caplog, forge):
    played = federation()
    state, records = play(played)
    place = folder(tmp_path)
    place.save_checkpoint(state, records, "as now")
    tensors, marks = read_tensors(place.checkpoint, "checkpoint")
    del marks["checksum"]
    forge(tensors, marks)
    write_tensors(tensors, marks | {"checksum": checksum_of(tensors, marks)}, place.checkpoint)
    is_set_aside(place, played, caplog)


def test_a_checkpoint_of_other_code_or_data_does_not_fit(tmp_path, monkeypatch):
    before = folder(tmp_path).fingerprint
    assert RunFolder(tmp_path, {"seed": 0}, {"dataset": "other"}).fingerprint != before
    monkeypatch.setattr("fedred.run_folder.code_fingerprint", lambda: "other code")
    assert folder(tmp_path).fingerprint != before
