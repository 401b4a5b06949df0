"""The command `fedred` as a user meets it: what it writes, what it refuses and with which exit code."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from command import fedred
from small import DEFENSE, SETTINGS

from fedred.attacks import ATTACKS
from fedred.datasets import load_dataset
from fedred.defenses import DEFENSES
from fedred.partition import load_partition


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, with the settings file that it was made from."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "one.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "attack": "mpaf", "defense": DEFENSE}))
    done = fedred("run", config, "--out", folder / "out", "--set", "rounds=2")
    assert done.returncode == 0, done.stderr
    return config, folder / "out", done


def test_a_run_writes_its_four_files_and_nothing_else(finished):
    _, out, _ = finished
    names = {path.name for path in out.iterdir()}
    assert names == {"run.json", "rounds.csv", "clients.parquet", "model.safetensors"}


def test_what_a_run_writes_agrees_with_itself(finished):
    _, out, _ = finished
    summary = json.loads((out / "run.json").read_text())
    rounds = pd.read_csv(out / "rounds.csv")
    clients = pd.read_parquet(out / "clients.parquet")
    assert rounds["round"].tolist() == [1, 2] == sorted(clients["round"].unique())
    assert len(clients) == 2 * 8
    assert summary["final"]["accuracy"] == rounds["accuracy"].iloc[-1]
    assert summary["final"]["AFPR"] == pytest.approx(rounds["FPR"].mean())
    assert summary["settings"]["rounds"] == 2
    assert set(summary["timings"]) == {"training", "attack", "defense", "evaluation"}
    assert 50 < summary["memory"]["peak"] / 2**20 < 4000
    assert 0 < summary["memory"]["defense"] < 2**20  # images, labels and rates of few small clients
    assert clients[clients["round"] == 2]["excluded"].sum() == rounds["excluded"].iloc[-1]
    assert clients["malicious"].sum() == 2 * 2


def test_a_finished_run_is_not_done_again(finished):
    config, out, _ = finished
    before = (out / "run.json").stat().st_mtime_ns
    again = fedred("run", config, "--out", out, "--set", "rounds=2")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert (out / "run.json").stat().st_mtime_ns == before


def test_results_of_other_settings_are_never_overwritten(finished):
    config, out, _ = finished
    before = (out / "run.json").read_bytes()
    refused = fedred("run", config, "--out", out, "--set", "rounds=3")
    assert refused.returncode == 2
    assert "finished run of other settings" in refused.stderr
    assert (out / "run.json").read_bytes() == before


def test_settings_come_from_standard_input_too(finished, tmp_path):
    config, out, _ = finished
    done = fedred(
        "run", "-", "--out", tmp_path / "o", "--set", "rounds=2", input=config.read_text()
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o/rounds.csv").read_bytes() == (out / "rounds.csv").read_bytes()


def test_prepared_files_give_the_same_run_as_preparing_on_the_way(finished, tmp_path):
    config, out, _ = finished
    dataset, partition = tmp_path / "digits.safetensors", tmp_path / "part.safetensors"
    assert fedred("data", "digits", "--out", dataset).returncode == 0
    settings = json.dumps(SETTINGS["partition"])
    dealt = fedred("partition", settings, "--dataset", dataset, "--seed", 0, "--out", partition)
    assert dealt.returncode == 0, dealt.stderr
    assert "part.png" in dealt.stderr
    assert (tmp_path / "part.png").stat().st_size > 1000
    assert load_partition(partition).dataset_checksum == load_dataset(dataset).checksum
    done = fedred(
        *("run", config, "--set", "rounds=2", "--out", tmp_path / "o"),
        *("--dataset", dataset, "--partition", partition),
    )
    assert done.returncode == 0, done.stderr
    for name in ("rounds.csv", "clients.parquet", "model.safetensors"):
        assert (tmp_path / "o" / name).read_bytes() == (out / name).read_bytes()


def test_tables_and_figures_of_a_run(finished, tmp_path):
    _, out, _ = finished
    shown = fedred("table", "performance", out)
    assert shown.returncode == 0
    assert "FedREDefense" in shown.stdout
    assert fedred("table", "detection", out, "--out", tmp_path / "t").returncode == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".html", ".md", ".tex"}
    drawn = fedred("figure", "reconstruction_error", out, "--out", tmp_path / "f")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


REFUSED = [
    (["data", "digit", "--out", "x"], "unknown dataset 'digit'", "did you mean 'digits'?"),
    (["data", "fashion_mnist", "--no-download", "--root", "nowhere", "--out", "x"], "nowhere", ""),
    (["data", "[", "--out", "x"], "not valid YAML", ""),
    (["partition", "iid", "--dataset", "nothing", "--out", "x"], "nothing", "does not exist"),
    (["run", "nothing.yaml", "--out", "x"], "there is no file nothing.yaml", ""),
    (["run", "-", "--out", "x"], "standard input holds no settings", ""),
    (["run", "-", "--out", "x", "--threads", "0"], "--threads", ""),
    (
        ["table", "performanc", "nothing"],
        "unknown table 'performanc'",
        "did you mean 'performance'?",
    ),
    (["table", "performance", "nothing"], "nothing", ""),
    (["figure", "x", "nothing", "--out", "x"], "unknown figure 'x'", "accuracy_over_rounds"),
    (["list", "attack"], "unknown family 'attack'", "did you mean 'attacks'?"),
    (["summary", "nothing.yaml"], "there is no file nothing.yaml", ""),
]


@pytest.mark.parametrize(("arguments", "start", "end"), REFUSED)
def test_mistakes_end_with_one_sentence_and_exit_code_2(arguments, start, end, tmp_path):
    refused = fedred(*arguments, cwd=tmp_path, input="")
    assert refused.returncode == 2
    assert start in refused.stderr
    assert end in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_refused(finished, tmp_path):
    config, _, _ = finished
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    refused = fedred("run", config, "--out", tmp_path / "o", "--device", "cuda", env=hidden)
    assert refused.returncode == 2
    assert "PyTorch finds no GPU" in refused.stderr


def test_impossible_combinations_are_refused_before_training(tmp_path):
    for changes, sentence in (
        (["attack={name: scaling, target: 10}"], "only the classes 0 to 9"),
        (["partition.clients=5000"], "5000"),
        (["defense={name: krum, tolerated: 6}"], "needs at least 9 participants"),
    ):
        sets = [part for change in changes for part in ("--set", change)]
        refused = fedred("run", "-", "--out", tmp_path / "o", *sets, input=yaml.safe_dump(SETTINGS))
        assert refused.returncode == 2, refused.stderr
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr


def test_files_of_other_settings_are_refused(tmp_path):
    dataset, partition = tmp_path / "d.safetensors", tmp_path / "p.safetensors"
    assert fedred("data", "digits", "--out", dataset).returncode == 0
    dealt = fedred("partition", "{name: iid, clients: 3}", "--dataset", dataset, "--out", partition)
    assert dealt.returncode == 0
    refused = fedred(
        *("run", "-", "--out", tmp_path / "o", "--dataset", dataset, "--partition", partition),
        input=yaml.safe_dump(SETTINGS),
    )
    assert refused.returncode == 2
    assert "holds Iid(clients=3, samples_per_client=None) with seed 0" in refused.stderr
    assert "ask for BalancedDirichlet(clients=8" in refused.stderr


def test_a_partition_of_another_seed_is_refused(tmp_path):
    dataset, partition = tmp_path / "d.safetensors", tmp_path / "p.safetensors"
    assert fedred("data", "digits", "--out", dataset).returncode == 0
    settings = json.dumps(SETTINGS["partition"])
    dealt = fedred("partition", settings, "--dataset", dataset, "--seed", 1, "--out", partition)
    assert dealt.returncode == 0
    refused = fedred(
        *("run", "-", "--out", tmp_path / "o", "--dataset", dataset, "--partition", partition),
        input=yaml.safe_dump(SETTINGS),
    )
    assert refused.returncode == 2
    assert "with seed 1, but the settings ask for" in refused.stderr
    assert not (tmp_path / "o").exists()


def test_list_names_every_method_with_paper_and_options():
    listed = json.loads(fedred("list", "--json").stdout)
    assert set(listed) == {"datasets", "partitions", "models", "attacks", "defenses"}
    assert set(listed["attacks"]) == set(ATTACKS)
    assert set(listed["defenses"]) == set(DEFENSES)
    assert all(m["summary"] for family in listed.values() for m in family.values())
    options = listed["defenses"]["fedredefense"]["options"]
    assert options["threshold"]["default"] == 0.6
    assert options["reconstruction.momentum"]["range"] == "at least 0 and less than 1"
    assert options["aggregator"]["default"] == "fedavg"
    assert "min_max" in fedred("list", "attacks").stdout
    assert all(m["tested"] for name in ("attacks", "defenses") for m in listed[name].values())


def test_cite_prints_the_papers_of_the_methods_that_are_used_and_no_others(tmp_path):
    config = tmp_path / "one.yaml"
    inner = {"name": "bucketing", "aggregator": {"name": "krum"}}
    config.write_text(yaml.safe_dump({**SETTINGS, "attack": "neurotoxin", "defense": inner}))
    cited = fedred("cite", config)
    assert cited.returncode == 0
    assert set(re.findall(r"^@\w+\{(\w+),$", cited.stdout, re.MULTILINE)) == {
        "alpaydin1998optical",  # digits
        "xie2024fedredefense",  # balanced_dirichlet
        "mcmahan2017communication",  # mlp, local training
        "zhang2022neurotoxin",
        "bagdasaryan2020how",  # scaling, inside neurotoxin
        "karimireddy2022byzantine",  # bucketing
        "blanchard2017machine",  # krum, inside bucketing
    }


def test_cite_takes_a_configuration_of_the_workflow_and_refuses_a_mistake(tmp_path):
    cited = fedred("cite", "config/grid.yaml").stdout
    used = {paper for family in (ATTACKS, DEFENSES) for m in family.values() for paper in m.papers}
    assert all(paper.bibtex in cited for paper in used)
    config = tmp_path / "one.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "attack": "min_mx"}))
    refused = fedred("cite", config)
    assert refused.returncode == 2
    assert "did you mean 'min_max'?" in refused.stderr


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fedred", "list", "attacks"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "min_max" in done.stdout


def test_the_command_starts_without_pytorch():
    code = "import sys, fedred.cli, fedred.report.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_simulation_needs_neither_pydantic_nor_pandas():
    code = (
        "import sys\n"
        "for name in ('pydantic', 'typer', 'pandas', 'snakemake', 'rich', 'yaml', 'matplotlib',\n"
        "    'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from fedred import simulate\n"
        "import fedred.run, fedred.attacks, fedred.defenses, fedred.datasets, fedred.partition\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
