"""The content of a data set: equal files are equal, a changed one is noticed, a touched one is not."""

import gzip
import hashlib
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import fedred.datasets
from fedred.content import SETTLED, content_of
from fedred.datasets import CIFAR10, CINIC10, DATASETS, Digits, FashionMNIST, ImageFolder
from fedred.plan import UNREADABLE, make_plan

DIGITS = Digits().load("nowhere", False)


def image_files(top):
    for part in ("train", "test"):
        for number, name in enumerate(("a$b", "n\n", "é", os.fsdecode(b"\xff"))):
            (top / part / name).mkdir(parents=True)
            pixels = np.full((2, 2), number, np.uint8)
            Image.fromarray(pixels).save(top / part / name / "0.png")


def idx_files(raw):
    raw.mkdir(parents=True)
    for part, split in (("train", "train"), ("t10k", "test")):
        images = DIGITS.tensors[f"{split}_images"][:20].numpy()
        labels = DIGITS.tensors[f"{split}_labels"][:20].numpy()
        sizes = np.array([20, 8, 8], ">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
        labels = labels.astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels)


MADE = {
    "digits": (Digits(), lambda root: None),
    "fashion_mnist": (FashionMNIST(), lambda root: idx_files(root / "FashionMNIST/raw")),
    "cinic10": (CINIC10(), lambda root: image_files(root / "CINIC-10")),
    "image_folder": (ImageFolder("a/b"), lambda root: image_files(root / "a/b")),
}
PUBLISHED_ALONE = {"cifar10": CIFAR10}
"""Reads no bytes but those whose published sums it knows."""

OPENED: list[str] | None = None


def note_opened(event, arguments):
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(note_opened)


def test_every_data_set_is_tested():
    assert {*MADE, *PUBLISHED_ALONE} == {*DATASETS}


@pytest.mark.parametrize("name", MADE)
def test_the_files_of_a_data_set_are_those_that_are_opened(name, tmp_path, hook):
    global OPENED
    source, make = MADE[name]
    make(tmp_path)
    source.load(tmp_path, False)  # libraries are imported
    OPENED = []
    try:
        source.load(tmp_path, False)
        opened = {path for path in OPENED if path.startswith(str(tmp_path))}
    finally:
        OPENED = None
    assert opened == {str(path) for path in source.files(tmp_path)}


def test_cifar10_needs_no_content(tmp_path):
    assert not CIFAR10().files(tmp_path)


class Folder:
    """A folder of images, and how often its files were read."""

    def __init__(self, root, memo, monkeypatch):
        self.root, self.memo, self.read = root, memo, 0
        checksum = fedred.content._checksum

        def counted(path):
            self.read += 1
            return checksum(path)

        monkeypatch.setattr("fedred.content._checksum", counted)
        image_files(root / "images")

    @property
    def content(self):
        return content_of(self.root, ImageFolder().files(self.root), self.memo)

    @property
    def first(self):
        return ImageFolder().files(self.root)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("fedred.content.SETTLED", -1e9)  # time stamps count as old at once
    return Folder(tmp_path / "data", tmp_path / "memo", monkeypatch)


def test_the_place_of_equal_files_does_not_matter(folder, tmp_path):
    shutil.copytree(folder.root, tmp_path / "other")
    elsewhere = content_of(
        tmp_path / "other", ImageFolder().files(tmp_path / "other"), tmp_path / "m"
    )
    assert elsewhere == folder.content != ""


def test_a_touched_file_is_read_again_and_nothing_has_changed(folder):
    before, read = folder.content, folder.read
    os.utime(folder.first, (1, 1))
    assert folder.content == before
    assert folder.read > read


CHANGES = {
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    "removed": lambda path: path.unlink(),
    "added": lambda path: shutil.copy(path, path.with_name("1.png")),
    "renamed": lambda path: path.rename(path.with_name("1.png")),
    "emptied": lambda path: path.write_bytes(b""),
    "another class": lambda path: path.parent.rename(path.parent.with_name("z")),
    "swapped for a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed_with_the_old_time(name, folder):
    before, path = folder.content, folder.first
    was = path.stat()
    CHANGES[name](path)
    if path.exists():
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert folder.content != before


def test_names_that_images_do_not_have_change_nothing(folder):
    before = folder.content
    (folder.root / "images/valid/a").mkdir(parents=True)
    (folder.root / "images/valid/a/0.png").write_bytes(b"x")
    folder.first.with_name(".DS_Store").write_bytes(b"x")
    assert folder.content == before


def test_what_has_not_changed_is_not_read_twice(folder):
    before, read = folder.content, folder.read
    assert read == len(ImageFolder().files(folder.root))
    assert folder.content == before
    assert folder.read == read


@pytest.mark.parametrize(("seconds", "times"), [(SETTLED / 2, 2), (2 * SETTLED, 1)])
def test_files_that_were_just_written_are_read_again(seconds, times, folder, monkeypatch):
    """A second change within one tick of the clock would leave their times as they are."""
    written = max(path.stat().st_ctime for path in ImageFolder().files(folder.root))
    monkeypatch.setattr("fedred.content.SETTLED", SETTLED)
    monkeypatch.setattr("fedred.content.time.time", lambda: written + seconds)
    before, read = folder.content, folder.read
    assert folder.content == before
    assert folder.read == times * read


@pytest.mark.parametrize("spoilt", ["", "{}", "[]", "null", "[" * 100_000, '{"signature": 1}'])
def test_a_spoilt_memo_is_of_no_account(spoilt, folder):
    before = folder.content
    folder.memo.write_text(spoilt)
    assert folder.content == before


def test_a_memo_that_cannot_be_written_is_done_without(folder):
    folder.memo = folder.first / "no folder"
    assert folder.content == folder.content != ""


def test_missing_files_have_a_content_and_no_file_has_none(tmp_path):
    (gone,) = ImageFolder().files(tmp_path)
    assert gone == tmp_path / "images"
    assert content_of(tmp_path, [gone], tmp_path / "memo")
    assert content_of(tmp_path, (), tmp_path / "memo") == ""


# --- Fashion-MNIST: the published files, or others ---


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Files that count as the published ones, with the archives that a download leaves beside them."""
    raw = tmp_path / "FashionMNIST/raw"
    idx_files(raw)
    sums = {}
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        path.with_name(f"{path.name}.gz").write_bytes(packed)
        sums[path.name] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr("fedred.datasets.FASHION_MNIST_MD5", sums)
    return raw


def test_what_a_download_leaves_is_what_was_planned_before_it(fashion):
    root = fashion.parents[1]
    assert not FashionMNIST().files(root)
    assert not FashionMNIST().files(root / "yet to be made")


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", fedred.datasets.FASHION_MNIST_MD5)
def test_other_files_are_told_from_the_published_ones(fashion, name, archive):
    changed = fashion / (f"{name}.gz" if archive else name)
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert len(FashionMNIST().files(fashion.parents[1])) == 4


def test_files_without_their_archives_are_the_users_own(fashion):
    next(fashion.glob("*.gz")).unlink()
    assert len(FashionMNIST().files(fashion.parents[1])) == 4


# --- the plan ---


FASHION = "FashionMNIST/raw"
LOSSES = {
    "the folder": ("image_folder", lambda root: shutil.rmtree(root / "images")),
    "all in it": ("image_folder", lambda root: emptied(root / "images")),
    "train": ("image_folder", lambda root: shutil.rmtree(root / "images/train")),
    "all in test": ("image_folder", lambda root: emptied(root / "images/test")),
    "the data folder": ("image_folder", lambda root: shutil.rmtree(root)),
    "CINIC-10": ("cinic10", lambda root: emptied(root / "CINIC-10")),
    "all IDX files": ("fashion_mnist", lambda root: shutil.rmtree(root / FASHION)),
    "an IDX file": ("fashion_mnist", lambda root: next((root / FASHION).iterdir()).unlink()),
}
DAMAGES = {
    "a file that is no image": (
        "image_folder",
        lambda root: (root / "images/train/é/Thumbs.db").write_bytes(b"x"),
    ),
    "a broken image": (
        "image_folder",
        lambda root: (root / "images/test/é/0.png").write_bytes(b"x"),
    ),
    "a class": ("image_folder", lambda root: shutil.rmtree(root / "images/train/é")),
    "a torn IDX file": (
        "fashion_mnist",
        lambda root: (root / FASHION / "t10k-images-idx3-ubyte").write_bytes(b"x"),
    ),
}


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


class Made:
    """A data set that was made from files in a data folder, and what Snakemake has recorded of it."""

    def __init__(self, dataset, tmp_path):
        source = {"name": dataset}
        if dataset == "image_folder":
            source["folder"] = "images"
            image_files(tmp_path / "data/images")
        else:
            MADE[dataset][1](tmp_path / "data")
        self.raw = {"experiments": {"one": {"base": {"dataset": source}}}}
        self.file = tmp_path / "made.safetensors"
        self.recorded = [repr("settings"), repr(self.plan.content(self.name))]

    @property
    def plan(self):
        return make_plan(self.raw)

    @property
    def name(self):
        return next(iter(self.plan.datasets))

    def blocked(self, recorded):
        return self.plan.before_reading_again(self.name, str(self.file), recorded)


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRED_DATA", str(tmp_path / "data"))

    def make(dataset):
        made = Made(dataset, tmp_path)
        made.file.touch()
        return made

    return make


@pytest.mark.parametrize("name", LOSSES)
def test_a_data_set_whose_files_are_gone_waits_for_what_nobody_makes(name, made, tmp_path, capsys):
    dataset, lose = LOSSES[name]
    finished = made(dataset)
    lose(tmp_path / "data")
    (name,) = finished.blocked(finished.recorded)
    assert not name.endswith(UNREADABLE)
    assert not os.path.exists(name)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert finished.name in sentence
    assert str(tmp_path / "data") in sentence


@pytest.mark.parametrize("name", DAMAGES)
def test_a_data_set_whose_files_cannot_be_read_waits_for_a_rule_that_fails(
    name, made, tmp_path, capsys
):
    dataset, damage = DAMAGES[name]
    finished = made(dataset)
    damage(tmp_path / "data")
    (name,) = finished.blocked(finished.recorded)
    assert name == str(finished.file.with_suffix(UNREADABLE))
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", [*LOSSES, *DAMAGES])
def test_a_data_set_that_is_yet_to_be_made_waits_for_nothing(name, made, tmp_path, capsys):
    dataset, spoil = (LOSSES | DAMAGES)[name]
    finished = made(dataset)
    spoil(tmp_path / "data")
    finished.file.unlink()
    assert finished.blocked(None) == finished.blocked(finished.recorded) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dataset", ["image_folder", "cinic10", "fashion_mnist"])
def test_files_that_are_as_they_were_are_not_decoded_to_plan(dataset, made, monkeypatch):
    finished = made(dataset)
    source = type(DATASETS[dataset]())
    monkeypatch.setattr(source, "load", lambda *arguments, **options: pytest.fail("was read"))
    assert finished.blocked(finished.recorded) == finished.blocked(None) == []


@pytest.mark.parametrize("dataset", ["image_folder", "fashion_mnist"])
def test_files_that_have_changed_and_can_be_read_are_read_again(dataset, made, tmp_path, capsys):
    finished = made(dataset)
    assert finished.blocked([repr("settings"), repr("other content")]) == []
    assert capsys.readouterr().err == ""


def test_without_a_record_a_folder_that_is_gone_is_noticed(made, tmp_path):
    finished = made("image_folder")
    emptied(tmp_path / "data/images")
    assert finished.blocked(None)


def test_whatever_goes_wrong_while_reading_nothing_is_deleted(made, monkeypatch):
    """Snakemake takes an error of a function for inputs as a reason to use the file unseen."""
    finished = made("image_folder")

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(ImageFolder, "load", fail)
    assert finished.blocked([]) == [str(finished.file.with_suffix(UNREADABLE))]


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "fashion_mnist"])
def test_a_data_set_of_no_files_of_the_user_never_waits(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDRED_DATA", str(tmp_path))
    plan = make_plan({"experiments": {"one": {"base": {"dataset": dataset}}}})
    (tmp_path / "made.safetensors").touch()
    for recorded in (None, [repr("settings"), repr("")]):
        assert not plan.before_reading_again(
            *plan.datasets, str(tmp_path / "made.safetensors"), recorded
        )
    assert capsys.readouterr().err == ""
