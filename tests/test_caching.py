"""Two working copies share one cache, and what was published outlives `make clean`."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image
from small import SETTINGS
from workflow_support import ROOT, TINY, copy_project, snakemake, tiny_jobs

from fedred.datasets import ImageFolder, load_dataset
from fedred.partition import load_partition
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


OWN = {
    "experiments": {
        "own": {
            "base": {**SETTINGS, "dataset": "image_folder", "rounds": 1},
            "grid": {"attack": ["none"], "defense": ["fedavg"]},
        }
    }
}
OWN["experiments"]["own"]["base"]["partition"] = {"name": "iid", "clients": 4}
OWN_PLAN = make_plan(OWN)
(OWN_PARTITION,) = (f"results/partitions/{name}.safetensors" for name in OWN_PLAN.partitions)
(OWN_DATASET,) = (f"results/datasets/{name}.safetensors" for name in OWN_PLAN.datasets)


def write_images(folder, seed):
    draw = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(4):
                pixels = draw.integers(0, 256, (4, 4), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Two users with one cache and the same settings, each with images of their own."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "cache").mkdir()
    for number, name in enumerate(("first", "second")):
        project = copy_project(folder / name)
        (project / "own.yaml").write_text(yaml.safe_dump(OWN))
        write_images(folder / f"data-{name}" / "images", number)
    return folder


def make_own(users, name, *arguments):
    """Make a user's partition; return what was called."""
    project = users / name
    (project / "calls.txt").write_text("")
    variables = {"SNAKEMAKE_OUTPUT_CACHE": str(users / "cache")}
    variables["FEDRED_DATA"] = str(users / f"data-{name}")
    own = (OWN_PARTITION, "--configfile", "own.yaml", "--cores", 1, *arguments)
    done = snakemake(project, *own, **variables)
    assert done.returncode == 0, done.stderr
    return (project / "calls.txt").read_text().split()


def holds_own_images(users, name):
    source = ImageFolder().load(users / f"data-{name}", False)
    project = users / name
    made = load_dataset(project / OWN_DATASET)
    dealt = load_partition(project / OWN_PARTITION)
    return made.checksum == source.checksum == dealt.dataset_checksum


def test_of_two_users_with_one_cache_each_gets_their_own_images(users):
    assert make_own(users, "first", "--cache") == ["data", "partition"]
    assert make_own(users, "second", "--cache") == ["data", "partition"]
    assert holds_own_images(users, "first")
    assert holds_own_images(users, "second")


def test_equal_images_in_another_place_come_from_the_cache(users):
    copy_project(users / "third")
    shutil.copy(users / "first/own.yaml", users / "third")
    shutil.copytree(users / "data-first", users / "data-third")
    assert make_own(users, "third", "--cache") == []
    assert holds_own_images(users, "third")


def test_images_that_change_are_read_anew_and_touched_ones_are_not(users):
    images = users / "data-first/images"
    (images / "train/dog/2.png").touch()
    assert make_own(users, "first") == []
    write_images(images, 7)
    assert make_own(users, "first") == ["data", "partition"]
    assert holds_own_images(users, "first")


# --- files that are gone, or cannot be read ---


def own_run(dataset):
    base = {**SETTINGS, "dataset": dataset, "rounds": 1}
    base["partition"] = {"name": "iid", "clients": 4}
    return {"base": base, "grid": {"attack": ["none"], "defense": ["fedavg"]}}


KEPT = {"experiments": {name: own_run(name) for name in ("image_folder", "fashion_mnist")}}
KEPT_RUNS = {
    settings["dataset"]["name"]: f"results/runs/{name}/run.json"
    for name, settings in make_plan(KEPT).runs.items()
}


def write_idx(raw):
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        sizes = np.array([20, 8, 8], ">u4").tobytes()
        images = draw.integers(0, 256, 20 * 64, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images)
        labels = bytes(range(10)) * 2
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A project with finished runs on images and on IDX files of the user."""
    project = copy_project(tmp_path_factory.mktemp("kept") / "project")
    (project / "kept.yaml").write_text(yaml.safe_dump(KEPT))
    write_images(project / "data/images", 0)
    write_idx(project / "data/FashionMNIST/raw")
    done = play_kept(project)
    assert done.returncode == 0, done.stderr
    return project


def play_kept(project, *arguments):
    (project / "calls.txt").write_text("")
    run = (*KEPT_RUNS.values(), "--configfile", "kept.yaml", "--cores", 1, "--keep-going")
    return snakemake(project, *run, *arguments, FEDRED_DATA=str(project / "data"))


def modified_below(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


SPOILT = {
    "an empty folder": (0, lambda data: emptied(data / "images")),
    "no train": (0, lambda data: shutil.rmtree(data / "images/train")),
    "no IDX files": (0, lambda data: emptied(data / "FashionMNIST/raw")),
    "a broken image": (1, lambda data: (data / "images/test/dog/1.png").write_bytes(b"x")),
}
"""What happens to the data folder -> the exit code of Snakemake, and how it happens."""


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_read_again_loses_nothing_that_is_finished(name, kept):
    code, spoil = SPOILT[name]
    before = modified_below(kept / "results")
    shutil.copytree(kept / "data", kept / "was")
    try:
        spoil(kept / "data")
        planned, played = play_kept(kept, "--dry-run"), play_kept(kept)
        called = (kept / "calls.txt").read_text()
    finally:
        shutil.rmtree(kept / "data")
        (kept / "was").rename(kept / "data")
    assert played.returncode == code, played.stderr
    for done in (planned, played):
        told = [line for line in done.stderr.splitlines() if line.startswith("fedred: ")]
        assert len(told) == 1
        assert "is kept, with all that was made from it" in told[0]
    assert called == ""
    assert modified_below(kept / "results") == before
    assert play_kept(kept).returncode == 0
    assert (kept / "calls.txt").read_text() == ""
    assert modified_below(kept / "results") == before


def test_a_cached_result_has_no_input_that_its_key_does_not_know():
    """Recorded updates lie beside the input run.json and are not made yet when the key is."""
    rules = (ROOT / "workflow/rules").glob("*.smk")
    cached = [
        name
        for path in rules
        for name, body in re.findall(r"^rule (\w+):\n((?:(?: .*)?\n)+)", path.read_text(), re.M)
        if "\n    cache: True\n" in body
    ]
    assert sorted(cached) == ["dataset", "partition"]


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
