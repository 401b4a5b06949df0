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
from fedred.plan import make_plan

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


def test_files_that_were_just_written_are_read_again(folder, monkeypatch):
    """A second change within one tick of the clock would leave their times as they are."""
    monkeypatch.setattr("fedred.content.SETTLED", SETTLED)
    before, read = folder.content, folder.read
    assert folder.content == before
    assert folder.read == 2 * read


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


def test_a_lost_folder_is_told_only_while_there_is_something_to_lose(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRED_DATA", str(tmp_path))
    plan = make_plan({"experiments": {"one": {"base": {"dataset": "image_folder"}}}})
    (name,) = plan.datasets
    made = tmp_path / "made.safetensors"
    assert plan.lost_files(name, str(made)) == []
    made.touch()
    assert plan.lost_files(name, str(made)) == [str(tmp_path / "images")]
    image_files(tmp_path / "images")
    assert plan.lost_files(name, str(made)) == []
