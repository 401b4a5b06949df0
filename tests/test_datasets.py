"""Data sets: what is read is what the files hold, and every mistake is told in one sentence."""

import ast
import gzip
import hashlib
import os
import pickle
import re
import struct
import threading
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import fedred.datasets
from fedred.datasets import (
    CIFAR10,
    CINIC10,
    DATASETS,
    Dataset,
    Digits,
    FashionMNIST,
    ImageFolder,
    data_root,
    load_dataset,
    save_dataset,
)
from fedred.errors import UserError

REAL = os.environ.get("FEDRED_DATA", "")


def needs(relative: str) -> pytest.MarkDecorator:
    reason = f"needs the real {relative} in the folder named by FEDRED_DATA"
    return pytest.mark.skipif(not (REAL and (Path(REAL) / relative).exists()), reason=reason)


def told(sentence: str, path: Path | None = None) -> "pytest.RaisesExc[UserError]":
    """Expect a UserError of one line that holds a sentence, and a path."""
    pattern = f"(?=.*{re.escape(str(path or ''))})(?=.*{re.escape(sentence)})^[^\\n]*$"
    return pytest.raises(UserError, match=pattern)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Digits().load(Path("nowhere"), download=False)


def test_import_is_light() -> None:
    """What is slow to import is imported where a data set is read, not at the top."""
    assert fedred.datasets.__file__
    tree = ast.parse(Path(fedred.datasets.__file__).read_text())
    names = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    roots = {name.split(".")[0] for name in names}
    assert "torch" in roots
    assert not roots & {"torchvision", "sklearn", "PIL", "pydantic", "safetensors"}


def test_every_source_names_its_paper() -> None:
    assert all(source.papers for name, source in DATASETS.items() if name != "image_folder")


def test_digits_are_those_of_scikit_learn(digits: Dataset) -> None:
    pixels, targets = load_digits(return_X_y=True)
    both = torch.cat([digits.train_images, digits.test_images])
    assert both.shape == (1797, 1, 8, 8)
    assert digits.input_shape == (1, 8, 8)
    assert both.dtype == torch.uint8
    rows = {(*image.astype(int), label) for image, label in zip(pixels, targets, strict=True)}
    labels = torch.cat([digits.train_labels, digits.test_labels])
    assert {(*i.ravel().tolist(), int(y)) for i, y in zip(both, labels, strict=True)} == rows
    assert len(rows) == 1797


def test_digits_split_is_stratified_and_disjoint(digits: Dataset) -> None:
    assert (len(digits.train_labels), len(digits.test_labels)) == (1437, 360)
    every = torch.cat([digits.train_labels, digits.test_labels]).bincount()
    assert bool((digits.test_labels.bincount() - every * 360 / 1797).abs().max() <= 1)
    train = {tuple(image.ravel().tolist()) for image in digits.train_images}
    assert not train & {tuple(image.ravel().tolist()) for image in digits.test_images}


def test_normalised_training_images_have_mean_0_and_std_1(digits: Dataset) -> None:
    images = digits.normalise(digits.train_images)
    assert images.dtype == torch.float32
    assert images.shape == digits.train_images.shape
    assert float(images.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(images.double().std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_normalise_is_its_formula_for_each_channel(digits: Dataset) -> None:
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2)
    dataset = replace(digits, scale=255.0, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for channel, (mean, std) in enumerate(zip(dataset.mean, dataset.std, strict=True)):
        expected = (images[:, channel] / 255 - mean) / std
        assert torch.allclose(dataset.normalise(images)[:, channel], expected, atol=1e-6)
    assert int(images.sum()) == sum(range(24))


def test_normalising_twice_is_refused(digits: Dataset) -> None:
    with pytest.raises(TypeError, match="uint8"):
        digits.normalise(digits.normalise(digits.test_images))


def test_checksum_notices_every_change(digits: Dataset) -> None:
    other = digits.train_images.clone()
    other[3, 0, 2, 2] += 1
    changed = [
        replace(digits, name="other"),
        replace(digits, train_images=other),
        replace(digits, train_labels=digits.train_labels.roll(1)),
        replace(digits, test_labels=digits.test_labels.to(torch.int32)),
        replace(digits, test_images=digits.test_images.reshape(-1, 1, 4, 16)),
        replace(digits, classes=digits.classes[::-1]),
        replace(digits, scale=255.0),
        replace(digits, mean=(0.5,)),
        replace(digits, std=(0.5,)),
    ]
    assert len({digits.checksum, *(dataset.checksum for dataset in changed)}) == len(changed) + 1
    assert replace(digits).checksum == digits.checksum
    assert re.fullmatch("[0-9a-f]{64}", digits.checksum)


def test_classes_are_shown_with_the_numbers_that_labels_have(digits: Dataset) -> None:
    named = replace(digits, classes=("a\nb", *digits.classes[1:]))
    assert named.numbered_classes.startswith("0 'a\\nb', 1 '1', 2 '2'")
    assert named.numbered_classes.endswith(", 9 '9'")


def test_data_of_one_class_is_legal_and_remarked_upon(digits: Dataset) -> None:
    assert digits.classes_present == digits.classes
    assert digits.remarks == []
    some = replace(digits, train_labels=torch.where(digits.train_labels < 5, 7, 3))
    assert some.classes_present == ("3", "7")
    assert some.remarks == []
    one = replace(digits, train_labels=torch.full_like(digits.train_labels, 3))
    assert one.classes_present == ("3",)
    (remark,) = one.remarks
    assert "of one class, '3'" in remark


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDRED_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("FEDRED_DATA", "/somewhere")
    assert data_root(None) == Path("/somewhere")
    assert data_root(Path("here")) == Path("here")


# --- files written and read again ---


def equal(one: Dataset, other: Dataset) -> bool:
    tensors = all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    return tensors and one.texts == other.texts and one.classes == other.classes


@pytest.mark.parametrize("verify", [True, False])
def test_file_round_trip(digits: Dataset, tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "new" / "digits.safetensors"
    save_dataset(digits, path)
    after = load_dataset(path, verify)
    assert equal(digits, after)
    assert after.checksum == digits.checksum
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_file_has_the_usual_rights(digits: Dataset, tmp_path: Path) -> None:
    save_dataset(digits, tmp_path / "digits.safetensors")
    (tmp_path / "usual").touch()
    assert len({entry.stat().st_mode for entry in tmp_path.iterdir()}) == 1


def test_equal_data_sets_make_equal_files(digits: Dataset, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_dataset(digits, tmp_path / name)
    assert load_dataset(tmp_path / "one").checksum == load_dataset(tmp_path / "two").checksum


def test_failed_write_leaves_the_old_file(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digits.safetensors"
    save_dataset(digits, path)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with told("could not be written: No space left on device", path):
        save_dataset(replace(digits, name="other"), path)
    assert load_dataset(path).name == "digits"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def saved(digits: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "digits.safetensors"
    save_dataset(digits, path)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with told("does not exist: build it first", tmp_path / "none"):
        load_dataset(tmp_path / "none")


@pytest.mark.parametrize("kept", [0, 4, 200, 5000, -1])
def test_torn_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with told("is not a whole data set: delete it and build it again", saved):
        load_dataset(saved, verify=False)


@pytest.mark.parametrize("position", [-1, -360 * 8, -100_000, 5000])
def test_flipped_byte_of_a_tensor_is_noticed(saved: Path, position: int) -> None:
    content = bytearray(saved.read_bytes())
    content[position] ^= 1
    saved.write_bytes(content)
    with told("has changed since it was written (its checksum differs)", saved):
        load_dataset(saved)
    load_dataset(saved, verify=False)


@pytest.mark.parametrize("word", [b"digits", b"16.0", b"0.3053", b"train_labels", b"I64"])
def test_flipped_byte_of_the_header_is_noticed(saved: Path, word: bytes) -> None:
    content = saved.read_bytes()
    assert word in content
    changed = word[:-1] + bytes([word[-1] ^ 1])
    saved.write_bytes(content.replace(word, changed, 1))
    with told("build it again", saved):
        load_dataset(saved)


def test_foreign_files(saved: Path) -> None:
    save_file({"weights": torch.zeros(3)}, saved)
    with told("is not a data set of fedred", saved):
        load_dataset(saved)
    save_file({"weights": torch.zeros(3)}, saved, {"kind": "data set"})
    with told("is not a whole data set", saved):
        load_dataset(saved)
    saved.write_bytes(pickle.dumps({"train_images": 1}))
    with told("is not a whole data set", saved):
        load_dataset(saved)


# --- folders of images ---


def write_images(
    top: Path,
    digits: Dataset,
    classes: tuple[str, ...] = ("cat", "dog"),
    channels: int = 1,
) -> None:
    """Write the first digits of each part as PNG files, class by class, 3 to train, 2 to test."""
    for part, each in (("train", 3), ("test", 2)):
        images = digits.tensors[f"{part}_images"][:, 0].numpy()
        for label, name in enumerate(classes):
            folder = top / part / name
            folder.mkdir(parents=True)
            for index in range(each):
                pixels = 15 * images[label * each + index]
                colours = np.stack([pixels, 255 - pixels, pixels // 2], -1)
                image = Image.fromarray(pixels if channels == 1 else colours)
                image.save(folder / f"{index}.png")


@pytest.fixture
def images(tmp_path: Path, digits: Dataset) -> Path:
    write_images(tmp_path / "images", digits)
    return tmp_path / "images"


def load_images(images: Path) -> Dataset:
    return ImageFolder(images.name).load(images.parent, download=False)


def test_image_folder_grey(images: Path, digits: Dataset) -> None:
    dataset = load_images(images)
    assert torch.equal(dataset.train_images, 15 * digits.train_images[:6])
    assert torch.equal(dataset.test_images, 15 * digits.test_images[:4])
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_labels.tolist() == [0, 0, 1, 1]
    assert dataset.classes == ("cat", "dog")
    assert dataset.name == "image_folder"
    assert dataset.scale == 255


def test_image_folder_colour(tmp_path: Path, digits: Dataset) -> None:
    write_images(tmp_path / "images", digits, channels=3)
    dataset = ImageFolder().load(tmp_path, download=False)
    pixels = 15 * digits.train_images[:6, 0]
    assert dataset.input_shape == (3, 8, 8)
    expected = torch.stack([pixels, 255 - pixels, pixels // 2], 1)
    assert torch.equal(dataset.train_images, expected)
    normalised = dataset.normalise(dataset.train_images).double()
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(
        normalised.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6
    )


def test_image_folder_can_be_saved(images: Path, tmp_path: Path) -> None:
    dataset = load_images(images)
    save_dataset(dataset, tmp_path / "file")
    assert equal(load_dataset(tmp_path / "file"), dataset)


def test_names_with_a_dot_and_links_inside_are_fine(images: Path) -> None:
    before = load_images(images)
    (images / ".cache").mkdir()
    (images / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (images / "valid").mkdir()
    (images / "train" / "cat" / "0.png").rename(images / "valid" / "0.png")
    (images / "train" / "cat" / "0.png").symlink_to("../../valid/0.png")
    assert load_images(images).checksum == before.checksum


def test_the_folder_itself_may_be_a_link(images: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(images)
    assert ImageFolder().load(tmp_path / "data", False).checksum == load_images(images).checksum


def test_cinic10_reads_train_and_test_as_colour(tmp_path: Path, digits: Dataset) -> None:
    write_images(tmp_path / "CINIC-10", digits, channels=3)
    (tmp_path / "CINIC-10" / "valid").mkdir()
    grey = Image.fromarray(15 * digits.train_images[0, 0].numpy())
    grey.save(tmp_path / "CINIC-10" / "train" / "cat" / "0.png")
    dataset = CINIC10().load(tmp_path, download=True)
    assert dataset.name == "cinic10"
    assert dataset.input_shape == (3, 8, 8)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (6, 4)
    assert torch.equal(dataset.train_images[0], 15 * digits.train_images[0].expand(3, 8, 8))
    assert dataset.mean == (0.47889522, 0.47227842, 0.43047404)
    assert dataset.std == (0.24205776, 0.23828046, 0.25874835)


def make_wide(images: Path) -> None:
    Image.new("L", (9, 8)).save(images / "test" / "dog" / "1.png")


def make_coloured(images: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "train" / "dog" / "1.png")


def make_deep(images: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(images / "train" / "cat" / "1.png")


def make_truncated(images: Path) -> None:
    path = images / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])


def make_text(images: Path) -> None:
    (images / "train" / "cat" / "1.png").write_text("not an image")


def make_notes(images: Path) -> None:
    (images / "train" / "cat" / "notes.txt").write_text("hello")


def make_nested(images: Path) -> None:
    (images / "train" / "cat" / "more.png").mkdir()


def make_stray(images: Path) -> None:
    (images / "train" / "cat" / "0.png").rename(images / "train" / "0.png")


def make_empty_class(images: Path) -> None:
    for part in ("train", "test"):
        (images / part / "bird").mkdir()


def make_no_classes(images: Path) -> None:
    for part in ("train", "test"):
        (images / part).rename(images / f"old-{part}")
        (images / part).mkdir()


def make_other_classes(images: Path) -> None:
    (images / "test" / "cat").rename(images / "test" / "Cat")
    (images / "train" / "dog").rename(images / "train" / "wolf")


def make_no_test(images: Path) -> None:
    (images / "test").rename(images / "tests")


def make_file_link(images: Path) -> None:
    outside = images.parent / "outside.png"
    Image.new("L", (8, 8)).save(outside)
    (images / "train" / "cat" / "3.png").symlink_to(outside)


def make_class_link(images: Path) -> None:
    (images.parent / "bird").mkdir()
    (images / "train" / "bird").symlink_to(images.parent / "bird")


def make_part_link(images: Path) -> None:
    (images / "train").rename(images.parent / "train")
    (images / "train").symlink_to("../train")


def make_dangling_link(images: Path) -> None:
    (images / "train" / "cat" / "3.png").symlink_to("nothing.png")


def make_blank(images: Path) -> None:
    for path in images.rglob("*.png"):
        Image.new("L", (8, 8)).save(path)


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "another size": (
        make_wide,
        "test/dog/1.png",
        "is 9x8 pixels grey but {images}/train/cat/0.png is 8x8 pixels grey",
    ),
    "another channel count": (make_coloured, "train/dog/1.png", "is 8x8 pixels RGB but"),
    "16 bits": (make_deep, "train/cat/1.png", "has 16 bits a channel: convert IN -depth 8 OUT"),
    "truncated": (make_truncated, "train/dog/2.png", "cannot be read as an image"),
    "not an image": (make_text, "train/cat/1.png", "cannot be read as an image"),
    "another ending": (make_notes, "train/cat/notes.txt", "allowed are the endings .bmp, .jfif"),
    "folder in a class": (
        make_nested,
        "train/cat/more.png",
        "is a folder in a class folder, one level too deep: images lie in {images}/{{train,test}}/",
    ),
    "file beside the classes": (make_stray, "train/0.png", "is not a folder"),
    "empty class": (make_empty_class, "train/bird", "holds no image"),
    "no classes": (make_no_classes, "train", "holds no image"),
    "other classes": (
        make_other_classes,
        "",
        "must hold the same classes; only in train: cat, wolf; only in test: Cat, dog",
    ),
    "no test": (make_no_test, "", "has no folder 'test'"),
    "file link": (make_file_link, "train/cat/3.png", "is a link that leads out of {images}"),
    "class link": (make_class_link, "train/bird", "is a link that leads out of {images}"),
    "part link": (make_part_link, "train", "is a link that leads out of {images}"),
    "dangling link": (make_dangling_link, "train/cat/3.png", "cannot be read as an image"),
    "all pixels equal": (make_blank, "", "all training images have the same pixels"),
}


@pytest.mark.parametrize(("spoil", "where", "sentence"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_image_folders(
    images: Path, spoil: Callable[[Path], None], where: str, sentence: str
) -> None:
    spoil(images)
    with told(sentence.format(images=images), images / where if where else None):
        load_images(images)


@pytest.mark.parametrize("limit", [10, 50])
def test_decompression_bomb(images: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Of 64 pixels: more than twice the limit is Pillow's error, more than once its warning."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with told("decompression bomb", images / "train" / "cat" / "0.png"):
        load_images(images)


@pytest.mark.parametrize("folder", ["/etc", "../images", "a/../../b"])
def test_image_folder_stays_in_the_data_folder(folder: str) -> None:
    with told(f"ImageFolder.folder is '{folder}': it must be a path inside the data folder"):
        ImageFolder(folder)


@pytest.mark.parametrize("source", [FashionMNIST(), CIFAR10(), CINIC10(), ImageFolder()])
def test_missing_root(source: FashionMNIST, tmp_path: Path) -> None:
    with told("does not exist: make it, or name another one in FEDRED_DATA", tmp_path / "none"):
        source.load(tmp_path / "none", download=False)


@pytest.mark.parametrize(
    ("source", "path", "sentence"),
    [
        (FashionMNIST(), "FashionMNIST/raw/train-images-idx3-ubyte", "allow the download"),
        (CIFAR10(), "cifar-10-batches-py/data_batch_1", "allow the download"),
        (CINIC10(), "CINIC-10", "unpack CINIC-10.tar.gz there"),
        (ImageFolder(), "images", "make it, with train/ and test/"),
    ],
)
def test_missing_files(source: FashionMNIST, path: str, sentence: str, tmp_path: Path) -> None:
    with told(sentence, tmp_path / path):
        source.load(tmp_path, download=False)


# --- Fashion-MNIST: IDX files ---


def idx(values: np.ndarray) -> bytes:
    """Encode bytes by the definition of the format."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim)
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def fashion_files(digits: Dataset) -> dict[str, bytes]:
    files = {}
    for part, split in (("train", "train"), ("t10k", "test")):
        pixels = digits.tensors[f"{split}_images"][:20, 0].numpy()
        files[f"{part}-images-idx3-ubyte"] = idx(np.kron(pixels, np.ones((4, 4), np.uint8)))
        labels = digits.tensors[f"{split}_labels"][:20].numpy().astype(np.uint8)
        files[f"{part}-labels-idx1-ubyte"] = idx(labels)
    return files


@pytest.fixture
def fashion(tmp_path: Path, digits: Dataset) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in fashion_files(digits).items():
        (raw / name).write_bytes(content)
    return raw


@pytest.mark.parametrize("download", [True, False])
def test_fashion_mnist_reads_what_torchvision_reads(fashion: Path, download: bool) -> None:
    root = fashion.parents[1]
    dataset = FashionMNIST().load(root, download)
    for train, part in ((True, "train"), (False, "test")):
        expected = torchvision.datasets.FashionMNIST(str(root), train=train)
        assert torch.equal(dataset.tensors[f"{part}_images"][:, 0], expected.data)
        assert torch.equal(dataset.tensors[f"{part}_labels"], expected.targets)
    assert dataset.input_shape == (1, 32, 32)
    assert dataset.classes == tuple(torchvision.datasets.FashionMNIST.classes)
    assert (dataset.mean, dataset.std) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("train-images-idx3-ubyte", lambda c: c[:-1000], "bytes but its header announces 20496"),
        ("train-images-idx3-ubyte", lambda c: c + b"0", "holds 20497 bytes but its header"),
        ("t10k-images-idx3-ubyte", lambda c: b"", "is not an IDX file of bytes in 3 dimensions"),
        ("t10k-images-idx3-ubyte", lambda c: c[:9], "is not an IDX file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", lambda c: b"\1" + c[1:], "is not an IDX file of bytes"),
        ("train-labels-idx1-ubyte", lambda c: gzip.compress(c), "is not an IDX file of bytes in 1"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:-1] + b"\x0a", "must hold labels 0 to 9"),
        (
            "train-labels-idx1-ubyte",
            lambda c: idx(np.zeros(19, np.uint8)),
            "holds 20 images but train-labels-idx1-ubyte holds 19 labels",
        ),
    ],
)
@pytest.mark.parametrize("download", [True, False])
def test_damaged_fashion_mnist(
    fashion: Path, name: str, spoil: Callable[[bytes], bytes], sentence: str, download: bool
) -> None:
    (fashion / name).write_bytes(spoil((fashion / name).read_bytes()))
    with told(sentence, fashion):
        FashionMNIST().load(fashion.parents[1], download)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Serve a folder over HTTP on this computer; yield the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, args=[0.01], daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


def serve_fashion(
    server: tuple[Path, str], files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let torchvision download Fashion-MNIST from the server of the test."""
    folder, address = server
    resources = []
    for name, content in files.items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)


def test_fashion_mnist_download(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, server: tuple[Path, str]
) -> None:
    serve_fashion(server, fashion_files(digits), monkeypatch)
    dataset = FashionMNIST().load(tmp_path / "new" / "data", download=True)
    assert torch.equal(dataset.train_images[:, :, ::4, ::4], digits.train_images[:20])


def test_torn_fashion_mnist_download(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, server: tuple[Path, str]
) -> None:
    serve_fashion(server, fashion_files(digits), monkeypatch)
    (server[0] / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half")
    raw = tmp_path / "FashionMNIST" / "raw"
    with told(f"Fashion-MNIST could not be downloaded to {raw} (") as refused:
        FashionMNIST().load(tmp_path, download=True)
    assert "): Error downloading t10k-labels" in str(refused.value)


def test_fashion_mnist_without_network_says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with told("Temporary failure in name resolution", tmp_path / "FashionMNIST/raw") as refused:
        FashionMNIST().load(tmp_path, download=True)
    assert "name the folder that holds FashionMNIST/raw in FEDRED_DATA" in str(refused.value)


def test_cifar10_that_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[Path, str]
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server[1]}nothing.tar.gz")
    with told("FEDRED_DATA): HTTP Error 404", tmp_path):
        CIFAR10().load(tmp_path, download=True)


# --- CIFAR-10: torchvision's batches ---


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make small batches of random images, whose MD5 sums stand in for the published ones."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    source = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> list[str]:
        packed = pickle.dumps(content)
        (folder / name).write_bytes(packed)
        return [name, hashlib.md5(packed).hexdigest()]

    def batch(samples: int) -> dict[str, object]:
        pixels = source.integers(0, 256, (samples, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": source.integers(0, 2, samples).tolist()}

    published = torchvision.datasets.CIFAR10
    monkeypatch.setattr(
        published, "train_list", [write("data_batch_1", batch(4)), write("b", batch(3))]
    )
    monkeypatch.setattr(published, "test_list", [write("test_batch", batch(2))])
    name, md5 = write("batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(published, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return folder


def test_cifar10_reads_the_batches(cifar: Path) -> None:
    dataset = CIFAR10().load(cifar.parent, download=False)
    batches = [pickle.loads((cifar / name).read_bytes()) for name in ("data_batch_1", "b")]
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    assert torch.equal(dataset.train_images, torch.from_numpy(pixels))
    assert dataset.train_labels.tolist() == batches[0]["labels"] + batches[1]["labels"]
    assert dataset.test_images.shape == (2, 3, 32, 32)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_images.is_contiguous()
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_damaged_cifar10(cifar: Path, name: str) -> None:
    whole = (cifar / name).read_bytes()
    (cifar / name).write_bytes(whole[:-10])
    with told("is damaged or incomplete, it has not the published MD5 sum", cifar / name):
        CIFAR10().load(cifar.parent, download=False)
    (cifar / name).unlink()
    with told("is missing: unpack CIFAR-10 there, or allow the download", cifar / name):
        CIFAR10().load(cifar.parent, download=False)


def test_foreign_pickle_is_never_loaded(cifar: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (cifar / "test_batch").write_bytes(pickle.dumps(Harmful()))
    with told("is damaged or incomplete", cifar / "test_batch"):
        CIFAR10().load(cifar.parent, download=False)
    assert not (tmp_path / "executed").exists()


def test_truncated_cifar10_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(gzip.compress(bytes(range(256)) * 40)[:200])
    with told("is missing: unpack CIFAR-10 there", tmp_path / "cifar-10-batches-py"):
        CIFAR10().load(tmp_path, download=False)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5)
    with told("CIFAR-10 could not be downloaded to", tmp_path):
        CIFAR10().load(tmp_path, download=True)


# --- the real files ---


@needs("FashionMNIST/raw")
def test_real_fashion_mnist() -> None:
    dataset = FashionMNIST().load(Path(REAL), download=False)
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.test_images.shape == (10_000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [6000] * 10
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    pixels = dataset.train_images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=1e-4)


@needs("cifar10-jpeg")
def test_real_cifar10_as_image_folder() -> None:
    dataset = ImageFolder("cifar10-jpeg").load(Path(REAL), download=False)
    assert dataset.train_images.shape == (50_000, 3, 32, 32)
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert dataset.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=3e-3)


@needs("cifar-10-batches-py")
def test_real_cifar10() -> None:
    dataset = CIFAR10().load(Path(REAL), download=False)
    assert dataset.train_images.shape == (50_000, 3, 32, 32)
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    pixels = dataset.train_images.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(dataset.mean, abs=1e-4)
