"""Each rule alone, on what the rule before it made; and the workflow as a module of another."""

import os
import re
import shutil

import pandas as pd
import pytest
import yaml
from command import fedred
from PIL import Image
from safetensors import safe_open
from small import DEFENSE, SETTINGS
from workflow_support import ROOT, TINY, snakemake, succeed

from fedred.datasets import load_dataset
from fedred.partition import load_partition
from fedred.plan import make_plan
from fedred.report.runs import load_runs

pytestmark = pytest.mark.slow

PLAN = make_plan(TINY)
RUN, PARTITION = next(iter(PLAN.runs)), next(iter(PLAN.partitions))


@pytest.fixture
def project(finished, tmp_path):
    """A finished project of this test alone, whose files may be removed and made again."""
    return shutil.copytree(finished, tmp_path / "project")


def made_again(project, *outputs):
    """Remove outputs of one rule and ask for the first: return it, and the commands that ran."""
    for output in outputs:
        (project / "results" / output).unlink()
    (project / "calls.txt").write_text("")
    succeed(project, f"results/{outputs[0]}", "--cores", 1)
    assert all((project / "results" / output).exists() for output in outputs)
    return project / "results" / outputs[0], (project / "calls.txt").read_text().split()


def test_dataset(project):
    path, called = made_again(project, "datasets/digits.safetensors")
    dataset = load_dataset(path)
    assert called == ["data"]
    assert dataset.train_images.shape == (1437, 1, 8, 8)
    assert dataset.test_images.shape == (360, 1, 8, 8)


def test_partition(project):
    names = [f"partitions/{PARTITION}.{ending}" for ending in ("safetensors", "png")]
    path, called = made_again(project, *names)
    samples = [index for client in load_partition(path).indices for index in client.tolist()]
    assert called == ["partition"]
    assert sorted(samples) == list(range(1437))
    Image.open(path.with_suffix(".png")).verify()


def test_simulate(project):
    names = ("run.json", "rounds.csv", "clients.parquet", "model.safetensors")
    path, called = made_again(project, *(f"runs/{RUN}/{name}" for name in names))
    run = load_runs([path.parent])[0]
    assert called == ["run"]
    assert run.settings["attack"]["name"] == "none"
    assert list(run.rounds["round"]) == [1, 2]
    assert len(pd.read_parquet(path.with_name("clients.parquet"))) == 2 * 8
    with safe_open(path.with_name("model.safetensors"), framework="numpy") as model:
        assert model.keys()


def test_table(project):
    endings = ("csv", "html", "md", "tex")
    path, called = made_again(project, *(f"tables/tiny-performance.{e}" for e in endings))
    rows = pd.read_csv(path)
    assert called == ["table"]
    pairs = set(zip(rows["attack"], rows["defense"], strict=True))
    assert {attack for attack, _ in pairs} == {"none", "mpaf"}
    assert len(pairs) == 4
    accuracy = rows.loc[rows["metric"] == "accuracy", "mean"]
    assert len(accuracy) == 4
    assert accuracy.between(0, 100).all()
    cells = [f"{value:.2f}" for value in accuracy]
    for ending in endings[1:]:
        text = path.with_suffix(f".{ending}").read_text()
        assert all(cell in text for cell in cells), ending


def test_figure(project):
    path, called = made_again(project, *(f"figures/tiny-heat_map.{e}" for e in ("png", "pdf")))
    assert called == ["figure"]
    with Image.open(path) as image:
        image.load()
        assert len(image.convert("L").getcolors()) > 10
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


CHAPTERS = (ROOT / "docs/workflow.md").read_text().split("\n## ")
(MODULE,) = (part for part in CHAPTERS if "\nmodule fedred:" in part)
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", MODULE, re.DOTALL))
PREFIX = '    prefix: "poisoning"\n'


RECORDED = {
    "experiments": {
        "recorded": {
            "base": {**SETTINGS, "rounds": 2, "record": [1, 2], "attack": "mpaf"},
            "grid": {"defense": ["fedavg", DEFENSE]},
            "tables": ["threshold"],
            "figures": ["roc", "curves", "images"],
        }
    }
}


def test_reconstruct_from_recorded_updates_to_figures_and_published(project, tmp_path):
    (project / "recorded.yaml").write_text(yaml.safe_dump(RECORDED))
    (project / "calls.txt").write_text("")
    arguments = ("--cores", 2, "--configfile", "recorded.yaml", "--cache")
    cache = {"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path)}
    done = snakemake(project, *arguments, **cache)
    assert done.returncode == 0, done.stdout + done.stderr
    called = (project / "calls.txt").read_text().split()
    assert (called.count("run"), called.count("reconstruct")) == (2, 2 * 2)
    files = sorted(project.glob("results/reconstructions/recorded/*/round-000[12].parquet"))
    first = pd.read_parquet(files[0])
    own = first[first["rule"] == "fedredefense"]
    budget = make_plan(RECORDED).judges["recorded"]["reconstruction"]["first_iterations"]
    assert own["iteration"].max() == budget
    shown = (
        "tables/recorded-threshold.md",
        "figures/recorded-roc.png",
        "figures/recorded-images.png",
    )
    for name in shown:
        assert (project / "results" / name).stat().st_size > 0
    for folder in ("tables", "figures"):
        shutil.rmtree(project / "results" / folder)
    (project / "calls.txt").write_text("")
    done = snakemake(project, *arguments, **cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reconstruct" not in (project / "calls.txt").read_text().split()
    done = fedred("publish", "recorded.yaml", "recorded", cwd=project)
    assert done.returncode == 0, done.stderr
    kept = project.glob("results/published/recorded/reconstructions/recorded/*/*.parquet")
    assert len(list(kept)) == len(files) == 4
    images = (project / "results/published/recorded").rglob("round-*.safetensors")
    assert [path.name for path in images] == ["round-0001.safetensors"] * 2


@pytest.mark.parametrize("prefix", ["poisoning", ""])
def test_another_workflow_uses_this_one_as_the_documentation_says(finished, tmp_path, prefix):
    snakefile, study = (BLOCKS[kind] for kind in ("python", "yaml"))
    assert PREFIX in snakefile
    (tmp_path / "Snakefile").write_text(snakefile if prefix else snakefile.replace(PREFIX, ""))
    (tmp_path / "study.yaml").write_text(study)
    copy = tmp_path / "fedred"
    copy.symlink_to(finished)
    paths = {"PYTHONPATH": str(copy), "PATH": f"{copy / 'bin'}:{os.environ['PATH']}"}
    done = snakemake(tmp_path, "--cores", 2, **paths)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / prefix / "results"
    made = {str(path.relative_to(results)) for path in results.glob("[tf]*/*")}
    tables = {f"tables/one-performance.{ending}" for ending in ("csv", "html", "md", "tex")}
    assert made == tables | {"figures/one-partition.png", "figures/one-partition.pdf"}
    assert len((tmp_path / "sizes.txt").read_text().splitlines()) == 7
    assert (tmp_path / "results").exists() == (not prefix)
