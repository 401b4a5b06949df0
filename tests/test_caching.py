"""Two working copies share one cache, and what was published outlives `make clean`."""

import os
import re
import shutil
import subprocess

import pytest
from workflow_support import ROOT, TINY, copy_project, snakemake, tiny_jobs

from fedred.plan import make_plan

pytestmark = pytest.mark.slow

PLAN = make_plan(TINY)
RUN = f"results/runs/{next(iter(PLAN.runs))}/run.json"
PARTITION = f"results/partitions/{next(iter(PLAN.partitions))}.safetensors"
DATASET = "results/datasets/digits.safetensors"


def run_cached(project, target):
    """Make one file with the cache beside the project; return what happened and what was called."""
    (project / "calls.txt").write_text("")
    arguments = (target, "--configfile", "tiny.yaml", "--cores", 1, "--cache")
    cache = project.parent / "cache"
    done = snakemake(project, *arguments, SNAKEMAKE_OUTPUT_CACHE=str(cache))
    return done, (project / "calls.txt").read_text().split()


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Two copies; the first one has put its data and its partition into the cache."""
    folder = tmp_path_factory.mktemp("copies")
    (folder / "cache").mkdir()
    first, second = (copy_project(folder / name) for name in ("first", "second"))
    done, called = run_cached(first, PARTITION)
    assert done.returncode == 0, done.stderr
    assert called == ["data", "partition"]
    return first, second


def flip_a_bit_in_the_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_second_copy_computes_neither_data_nor_partition(copies):
    first, second = copies
    done, called = run_cached(second, RUN)
    assert done.returncode == 0, done.stderr
    assert called == ["run"]
    for name in (DATASET, PARTITION):
        assert (second / name).read_bytes() == (first / name).read_bytes()


def way_out(damaged):
    """Return the documentation's commands that remove a damaged file from the cache."""
    page = (ROOT / "docs/workflow.md").read_text()
    found = re.search(r"^file=(results/datasets/digits\.safetensors)\nrm .*$", page, re.MULTILINE)
    return found[0].replace(found[1], damaged)


@pytest.mark.parametrize("damaged", [DATASET, PARTITION])
def test_a_damaged_file_of_the_cache_stops_the_run_until_it_is_removed(copies, damaged):
    _, second = copies
    shutil.rmtree(second / "results/runs", ignore_errors=True)
    run_cached(second, PARTITION)
    flip_a_bit_in_the_middle((second / damaged).resolve())
    done, called = run_cached(second, RUN)
    assert done.returncode == 1
    assert called == ["run"]
    assert not (second / RUN).exists()
    log = (second / "logs/simulate" / f"{next(iter(PLAN.runs))}.log").read_text().splitlines()
    assert log == [
        f"fedred: {damaged} has changed since it was written (its checksum differs): "
        "delete it and build it again"
    ]
    subprocess.run(["sh", "-c", way_out(damaged)], cwd=second, check=True)
    done, called = run_cached(second, RUN)
    assert done.returncode == 0, done.stderr
    assert called[-1] == "run"


def content_below(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_make_clean_keeps_every_result(finished, tmp_path):
    project = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    shutil.copy(ROOT / "Makefile", project)
    published = project / "results/published/paper/run.json"
    published.parent.mkdir(parents=True)
    published.write_text("{}")
    before = content_below(project / "results")
    subprocess.run(["make", "clean"], cwd=project, check=True, env=os.environ, capture_output=True)
    assert not (project / ".snakemake").exists()
    assert content_below(project / "results") == before
    assert tiny_jobs(project) == {}
