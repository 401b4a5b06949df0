"""Recorded updates, and what is judged from them offline, each by its definition."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from command import fedred
from small import DEFENSE, SETTINGS, federation

from fedred.config import resolve
from fedred.defenses.dnc import DnC
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.krum import krum_scores
from fedred.errors import UserError
from fedred.execution import Execution
from fedred.offline import judge_offline, learn, other_scores, placed, write_images, write_judged
from fedred.reconstruction import reconstruction_error
from fedred.recording import TENSORS, read_recording
from fedred.report.images import images, load_images
from fedred.report.judged import Judged, load_judged
from fedred.report.offline import GRID, mean_roc
from fedred.report.offline_tables import auroc, budget, exclusion, threshold
from fedred.report.tables import OFFLINE_TABLES, write_table
from fedred.run import Limits, Stopped, run
from fedred.run_folder import RunFolder
from fedred.simulation import initial_state, play_round

ATTACKED = {"attack": "min_max", "defense": DEFENSE}


def folder(path, **changes):
    settings = resolve({**SETTINGS, **ATTACKED, **changes}).model_dump()
    return RunFolder(path, settings, {"dataset": "abc"})


def finish(place, **changes):
    """Play a run to its end in a folder."""
    run(federation(**ATTACKED, **changes), place, Limits())


def recordings(place):
    return {path.name: read_recording(path) for path in place.recordings(99)}


def same(one, other):
    names = ("weights", "updates", "clients", "samples", "malicious")
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    assert (one.settings, one.round) == (other.settings, other.round)


def test_a_run_without_recording_keeps_its_id_and_settings():
    settings = resolve(SETTINGS)
    assert "record" not in settings.model_dump()
    assert resolve({**SETTINGS, "record": []}).run_id == settings.run_id
    recorded = resolve({**SETTINGS, "record": [1]})
    assert recorded.model_dump() == {**settings.model_dump(), "record": [1]}
    assert recorded.run_id != settings.run_id


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ([4], "record names round 4, but the run has only the rounds 1 to 3"),
        ([1, 2, 1], "record names round 1 twice"),
        ([0], "record.0 is 0: it must be at least 1"),
        (2, "record is 2"),
    ],
)
def test_rounds_that_cannot_be_recorded_are_refused(record, sentence):
    with pytest.raises(UserError) as told:
        resolve({**SETTINGS, "record": record})
    assert sentence in str(told.value)


def test_what_is_recorded_is_what_the_server_received(tmp_path):
    place = folder(tmp_path / "run", record=[2])
    finish(place)
    (recorded,) = recordings(place).values()
    played = federation(**ATTACKED)
    seen = []
    state, _ = play_round(played, initial_state(played))
    play_round(played, state, lambda updates, view: seen.append((updates, view)))
    ((updates, view),) = seen
    assert torch.equal(recorded.updates, updates)
    assert torch.equal(recorded.weights, state.weights)
    assert torch.equal(recorded.clients, view.clients)
    assert torch.equal(recorded.samples, view.samples)
    assert torch.equal(recorded.malicious, played.malicious[view.clients])
    assert (recorded.round, recorded.all_clients, recorded.classes) == (2, 8, 10)
    assert recorded.settings == json.loads(json.dumps(place.settings))


def test_recording_changes_no_result(tmp_path):
    plain, recording = folder(tmp_path / "plain"), folder(tmp_path / "recording", record=[1, 3])
    finish(plain)
    finish(recording)
    assert sorted(recordings(recording)) == ["round-0001.safetensors", "round-0003.safetensors"]
    assert not (plain.path / "updates").exists()
    for name in ("rounds.csv", "clients.parquet", "model.safetensors"):
        assert (plain.path / name).read_bytes() == (recording.path / name).read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing is caught, nothing is written after it."""


def interrupted(place, at):
    """Play until the process is killed right after it has recorded round `at`."""

    class Kill:
        def update(self, state, record):
            if state.round == at:
                raise Killed

    with pytest.raises(Killed):
        run(federation(**ATTACKED), place, Limits(checkpoint_every=1), Kill())


@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_and_resumed_equals_undisturbed(tmp_path, at):
    undisturbed, killed = (folder(tmp_path / name, record=[1, 2, 3]) for name in ("one", "two"))
    finish(undisturbed)
    interrupted(killed, at)
    assert not killed.is_complete()
    finish(killed)
    for name, recorded in recordings(undisturbed).items():
        same(recordings(killed)[name], recorded)
    for name in ("rounds.csv", "clients.parquet", "model.safetensors"):
        assert (killed.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


def test_recorded_updates_that_are_gone_are_recorded_again(tmp_path, caplog):
    place = folder(tmp_path / "run", record=[1])
    with pytest.raises(Stopped):
        run(federation(**ATTACKED), place, Limits(deadline=0.0))
    (path,) = place.recordings(1)
    before = read_recording(path)
    path.unlink()
    finish(place)
    assert "is later than updates that were recorded and are gone" in caplog.text
    same(read_recording(path), before)
    path.unlink()
    assert not place.is_complete()


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    place = folder(tmp_path / "run", record=[1])
    torn = place.path / "updates" / ".round-0001.safetensors.0123abcd.fedred-tmp"
    torn.mkdir(parents=True)
    place.tidy()
    assert not torn.exists()


def test_a_damaged_recording_is_refused(tmp_path):
    place = folder(tmp_path / "run", record=[1])
    finish(place)
    (path,) = place.recordings(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="has changed since it was written"):
        read_recording(path)


ITERATIONS = 15


def recorded_round(tmp_path, round=1, **changes):
    place = folder(tmp_path / "run", record=[round])
    finish(place)
    (recorded,) = recordings(place).values()
    return replace(recorded, **changes), place


def judged(recording, chunk=None):
    return placed(recording, torch.device("cpu"), Execution(chunk, "off"), ITERATIONS)


def error_curves(*arguments):
    return learn(*arguments).errors


def defense_of(recording):
    return resolve(recording.settings).defense.build()


def test_curves_end_where_a_threshold_that_is_never_met_ends(tmp_path):
    recording, _ = recorded_round(tmp_path)
    here, options = judged(recording), defense_of(recording).reconstruction
    curves = error_curves(here, options, ITERATIONS)
    patient = replace(options, first_iterations=ITERATIONS)
    rule = FedREDefense(threshold=1e-30, reconstruction=patient)
    verdict = rule(here.updates, here.afresh())
    assert curves.shape == (8, ITERATIONS)
    assert torch.equal(curves[:, -1], verdict.scores)
    assert torch.equal(error_curves(here, options, 4), curves[:, :4])
    assert torch.equal(error_curves(here, options, ITERATIONS), curves)
    assert torch.equal(error_curves(here, replace(options, give_up=1e-6), ITERATIONS), curves)


@pytest.mark.parametrize(("step_size", "threshold"), [("calibrated", 0.6), ("bounded", 0.7)])
def test_the_first_error_below_the_threshold_is_where_the_run_stopped(
    tmp_path, step_size, threshold
):
    method = {"step_size": step_size, "image_lr": 60.0, "label_lr": 15.0, "first_iterations": 15}
    defense = {"name": "fedredefense", "threshold": threshold, "reconstruction": method}
    changes = {"attack": "min_max", "defense": defense}
    place = RunFolder(
        tmp_path / "run", resolve({**SETTINGS, **changes, "record": [1]}).model_dump(), {}
    )
    run(federation(**changes), place, Limits())
    (recording,) = recordings(place).values()
    curves = error_curves(judged(recording), defense_of(recording).reconstruction, 15)
    clients = pd.read_parquet(place.path / "clients.parquet").query("round == 1")
    below = curves < threshold
    first = torch.where(below.any(1), below.int().argmax(1) + 1, 15)
    assert first.tolist() == clients["iterations"].tolist()
    stopped = curves.gather(1, first[:, None] - 1)[:, 0]
    torch.testing.assert_close(
        stopped, torch.tensor(clients["score"].to_numpy()), rtol=1e-4, atol=1e-6
    )
    assert 0 < below.any(1).sum() < 8, "some pass and some do not, or the test shows nothing"


def test_clients_one_by_one_have_the_same_curves(tmp_path):
    recording, _ = recorded_round(tmp_path)
    options = defense_of(recording).reconstruction
    ticks = []
    one = error_curves(judged(recording, 1), options, ITERATIONS, ticks.append)
    torch.testing.assert_close(
        one, error_curves(judged(recording, 3), options, ITERATIONS), rtol=1e-3, atol=1e-5
    )
    assert sum(ticks) == 8 * ITERATIONS


def test_errors_that_are_not_finite_are_infinite_to_the_end(tmp_path):
    recording, _ = recorded_round(tmp_path)
    updates = recording.updates.clone()
    updates[2], updates[5] = torch.nan, 0.0
    options = defense_of(recording).reconstruction
    curves = error_curves(judged(replace(recording, updates=updates)), options, ITERATIONS)
    assert curves[[2, 5]].isinf().all()
    assert curves[[0, 1, 3, 4, 6, 7]].isfinite().all()


def test_a_round_in_which_nobody_is_left_has_no_rows(tmp_path):
    recording, _ = recorded_round(tmp_path)
    nobody = {name: getattr(recording, name)[:0] for name in TENSORS if name != "weights"}
    frame, _ = judge_offline(judged(replace(recording, **nobody)), FedREDefense(), 3)
    assert len(frame) == 0
    paths = [tmp_path / name for name in ("one.parquet", "two.parquet")]
    for path in paths:
        write_judged(frame, recording, 0.6, path)
    loaded = load_judged(paths)
    for name, make in OFFLINE_TABLES.items():
        table = make(loaded)
        assert table["mean"].isna().all()
        assert (table["n"] == 0).all()
        write_table(table, name, tmp_path / name)
        assert "n = 0 seeds, 0 recorded rounds" in (tmp_path / f"{name}.md").read_text()


def test_rounds_of_different_runs_are_never_pooled(tmp_path):
    recording, _ = recorded_round(tmp_path)
    defense = defense_of(recording)
    frame, _ = judge_offline(judged(recording), defense, 3)

    def written(name, **changes):
        changed = replace(recording, settings={**recording.settings, **changes})
        write_judged(frame, changed, defense.threshold, tmp_path / name)
        return tmp_path / name

    first, slower = written("first", seed=0), written("slower", seed=0, malicious=1)
    other = written("other", seed=0, dataset={"name": "cifar10"})
    seed = written("seed", seed=1)
    names = [one.attack for one in load_judged([first, slower, seed])]
    assert names == ["Min-Max, malicious=2", "Min-Max, malicious=1", "Min-Max, malicious=2"]
    names = [one.attack for one in load_judged([first, other])]
    assert names == ["Digits, Min-Max", "CIFAR-10, Min-Max"]
    with pytest.raises(UserError, match="are of the same recorded round: give one of them"):
        load_judged([first, seed, first])


def test_other_rules_score_as_they_do_in_a_run(tmp_path):
    recording, _ = recorded_round(tmp_path, round=2)
    here = judged(recording)
    scores = dict(other_scores(here))
    assert {"krum", "multi_krum", "dnc"} <= set(scores)
    assert not {"fedredefense", "fldetector", "foolsgold", "fltrust", "fedavg"} & set(scores)
    assert torch.equal(scores["krum"], krum_scores(recording.updates, None))
    assert torch.equal(scores["dnc"], DnC()(recording.updates, here.afresh()).scores.float())


def test_the_table_holds_every_client_iteration_and_rule_once(tmp_path):
    recording, _ = recorded_round(tmp_path)
    here, defense = judged(recording), defense_of(recording)
    frame, _ = judge_offline(here, defense, 5)
    assert not frame.duplicated(["rule", "client", "iteration"]).any()
    own = frame[frame["rule"] == "fedredefense"].pivot(
        index="client", columns="iteration", values="score"
    )
    curves = error_curves(here, defense.reconstruction, 5)
    assert torch.equal(torch.tensor(own.to_numpy()), curves)
    others = frame[frame["rule"] != "fedredefense"]
    assert (others["iteration"] == 0).all()
    assert (others.groupby("rule").size() == 8).all()
    assert set(frame.loc[frame["malicious"], "client"]) == {6, 7}


def test_the_area_under_a_roc_curve_is_the_share_of_pairs_in_order():
    scores, malicious = np.array([0.1, 0.4, 0.4, 0.8, 0.2]), np.array([0, 0, 1, 1, 0], bool)
    pairs = [(s > h) + 0.5 * (s == h) for s in scores[malicious] for h in scores[~malicious]]
    rates = mean_roc([(scores, malicious)])
    assert np.trapezoid(rates, GRID) == pytest.approx(np.mean(pairs), abs=0.01)


def test_thresholds_count_who_fell_below_them(tmp_path):
    recording, _ = recorded_round(tmp_path)
    defense = defense_of(recording)
    frame, _ = judge_offline(judged(recording), defense, ITERATIONS)
    write_judged(frame, recording, defense.threshold, tmp_path / "judged.parquet")
    table = threshold(load_judged([tmp_path / "judged.parquet"]))
    lowest = frame[frame["rule"] == "fedredefense"].groupby("client")["score"].min().to_numpy()
    for level, rows in table.groupby("threshold"):
        means = rows.set_index("metric")["mean"]
        assert means["FPR"] == 100 * np.mean(lowest[:6] >= level)
        assert means["FNR"] == 100 * np.mean(lowest[6:] < level)


def by_hand(curves, round=1, seed=0, clients=None):
    """A recorded round with these error curves; the last two clients are malicious."""
    clients = list(range(len(curves))) if clients is None else clients
    rows = [
        ("fedredefense", round, client, client >= 3, made, error)
        for client, errors in zip(clients, curves, strict=True)
        for made, error in enumerate(errors, 1)
    ]
    columns = ["rule", "round", "client", "malicious", "iteration", "score"]
    return Judged(pd.DataFrame(rows, columns=columns), {"seed": seed}, 0.6, "Min-Max")


def numbers(frame, column):
    """Means by level and metric."""
    return {(row[column], row["metric"]): row["mean"] for row in frame.to_dict("records")}


EASY, SLOW, NEVER = [0.9, 0.5, 0.4], [0.9, 0.8, 0.5], [0.9, 0.8, 0.7]


def test_a_budget_decides_as_a_reconstruction_that_stops_there():
    rounds = [by_hand([EASY, SLOW, NEVER, SLOW, NEVER])]
    found = numbers(budget(rounds), "budget")
    assert [found[made, "FPR"] for made in (1, 2, 3)] == pytest.approx([100, 200 / 3, 100 / 3])
    assert [found[made, "FNR"] for made in (1, 2, 3)] == [0, 0, 50]
    assert [found[made, "honest_iterations"] for made in (1, 2, 3)] == pytest.approx([1, 2, 8 / 3])
    assert found[3, "malicious_iterations"] == 3


def test_exclusion_counts_flags_over_recorded_rounds():
    rounds = [
        by_hand([EASY, NEVER, EASY, NEVER, SLOW], round=4),
        by_hand([EASY, NEVER, NEVER, SLOW, NEVER], round=2),
    ]
    frame = exclusion(rounds)
    found = numbers(frame[frame["budget"] == 3], "excluded by")
    assert found["1 flag", "FPR"] == pytest.approx(200 / 3)  # clients 1 and 2
    assert found["1 flag", "FNR"] == 0
    assert found["2 flags", "FPR"] == pytest.approx(100 / 3)
    assert found["2 flags", "FNR"] == 100
    assert found["latest flag", "FPR"] == pytest.approx(100 / 3)
    assert found["latest flag", "FNR"] == 50  # client 4 passed in round 4
    at_once = numbers(frame[frame["budget"] == 1], "excluded by")
    assert at_once["1 flag", "FPR"] == at_once["2 flags", "FPR"] == 100


def test_a_client_that_was_not_asked_last_keeps_its_last_flag():
    rounds = [
        by_hand([EASY, NEVER, EASY, NEVER, NEVER], round=1),
        by_hand([EASY, SLOW], round=2, clients=[0, 3]),
    ]
    frame = exclusion(rounds)
    found = numbers(frame[frame["budget"] == 3], "excluded by")
    assert found["latest flag", "FPR"] == pytest.approx(100 / 3)
    assert found["latest flag", "FNR"] == 50


def test_rounds_that_were_not_judged_alike_are_refused(tmp_path):
    recording, _ = recorded_round(tmp_path)
    defense = defense_of(recording)
    for name, seed, made, level in (("a", 0, 3, 0.6), ("b", 1, 2, 0.6), ("c", 1, 3, 0.8)):
        frame, _ = judge_offline(judged(recording), defense, made)
        seeded = replace(recording, settings={**recording.settings, "seed": seed})
        write_judged(frame, seeded, level, tmp_path / name)
    for other in ("b", "c"):
        with pytest.raises(UserError, match="were not judged alike: judge both one way"):
            load_judged([tmp_path / "a", tmp_path / other])


def test_seeds_are_the_samples_of_what_is_judged_offline():
    rounds = [
        by_hand([EASY, EASY, EASY, NEVER, NEVER], seed=0),
        by_hand([EASY, EASY, NEVER, NEVER, NEVER], seed=1),
    ]
    row = budget(rounds).query("budget == 3 and metric == 'FPR'").iloc[0]
    assert (row["n"], row["rounds"]) == (2, 1)
    assert row["mean"] == pytest.approx(100 / 6)
    assert row["std"] == pytest.approx(100 / 3 / np.sqrt(2))
    assert row["ci95"] == pytest.approx(12.7062 * row["std"] / np.sqrt(2), rel=1e-4)


def test_the_table_of_areas_is_the_share_of_pairs_in_order_mean_over_rounds():
    rounds = [
        by_hand([[0.1], [0.4], [0.2], [0.4], [0.8]]),
        by_hand([[0.1], [0.4], [0.2], [0.9], [0.8]], round=2),
    ]
    (row,) = auroc(rounds).to_dict("records")
    assert row["mean"] == pytest.approx(100 * (5.5 / 6 + 1) / 2)
    assert (row["rule"], row["n"], row["rounds"]) == ("fedredefense", 1, 2)


@pytest.mark.parametrize("name", OFFLINE_TABLES)
def test_tables_of_what_is_judged_offline_tell_their_n(name, tmp_path):
    rounds = [by_hand([EASY, SLOW, NEVER, SLOW, NEVER], seed=seed) for seed in (0, 1)]
    write_table(OFFLINE_TABLES[name](rounds), name, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert "n = 2 seeds, 1 recorded round" in text
    assert "±" in text


def test_the_commands_judge_a_recording_draw_it_and_tabulate_it(tmp_path):
    recorded_round(tmp_path)
    (recording,) = tmp_path.rglob("updates/*.safetensors")
    out, folder = tmp_path / "judged.parquet", tmp_path / "made"
    kept = tmp_path / "kept.safetensors"
    limits = ("--iterations", 3, "--threads", 1)
    done = fedred("reconstruct", recording, *limits, "--out", out, "--images", kept)
    assert done.returncode == 0, done.stderr
    done = fedred("reconstruct", recording, *limits, "--out", out, "--images", out)
    assert (done.returncode, "give each a file of its own" in done.stderr) == (2, True)
    figures = {"roc": out, "curves": out, "images": kept}
    for name, source in figures.items():
        done = fedred("figure", name, source, "--out", folder / name)
        assert done.returncode == 0, done.stderr
    for name in OFFLINE_TABLES:
        shown = fedred("table", name, out)
        assert shown.returncode == 0, shown.stderr
        assert "n = 1 seed, 1 recorded round" in shown.stdout
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{ending}" for name in figures for ending in ("png", "pdf")
    }


def learned_images(tmp_path):
    """Return a recording, what was learned of its clients, and the file with their images."""
    recording, _ = recorded_round(tmp_path)
    options = defense_of(recording).reconstruction
    learned = learn(judged(recording), options, ITERATIONS)
    path = tmp_path / "learned.safetensors"
    write_images(learned, recording, path)
    return recording, learned, path


def test_the_kept_images_are_those_that_gave_the_last_errors(tmp_path):
    recording, learned, path = learned_images(tmp_path)
    here, steps = judged(recording), defense_of(recording).reconstruction.steps
    for client in range(8):
        known = learned.knowledge.take(torch.tensor(client))
        found = reconstruction_error(
            here.view.model, here.view.weights, known, here.updates[client], steps
        )
        torch.testing.assert_close(found, learned.errors[client, -1], rtol=1e-3, atol=1e-5)
    (read,) = load_images([path])
    assert np.array_equal(read.images, learned.knowledge.images.numpy())
    assert read.images.shape == (8, 10, 1, 8, 8)
    assert np.array_equal(read.errors, learned.errors[:, -1].numpy())
    assert (read.round, read.panel, read.malicious.tolist()) == (
        1,
        "Min-Max",
        [False] * 6 + [True] * 2,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_of_images_names_honest_clients_above_malicious_ones(tmp_path, channels):
    _, _, path = learned_images(tmp_path)
    (read,) = load_images([path])
    pictures = read.images.repeat(channels, 2)
    pictures[0, 0, 0, 0, 0], pictures[1] = np.inf, np.nan
    figure = images([replace(read, images=pictures), replace(read, round=2)])
    (axis,) = figure.axes
    assert axis.get_title() == "Min-Max, round 1"
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert [name.split(":")[0] for name in names] == ["0", "1", "2", "6", "7"]
    assert names[3] == f"6: {read.errors[6]:.2f}"
    drawn = axis.images[0].get_array()
    assert drawn.shape == (5 * 9, 10 * 9, 3)
    assert 0 <= drawn.min() < drawn.max() <= 1


def test_damaged_images_are_refused(tmp_path):
    _, _, path = learned_images(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="has changed since it was written"):
        load_images([path])
    with pytest.raises(UserError, match="there are no synthetic images"):
        images([])


def test_a_file_of_another_kind_is_no_judged_recording(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read"):
        load_judged([tmp_path / "x.parquet"])
