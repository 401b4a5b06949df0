"""Hostile and broken data files: refused in one sentence that names the file, never obeyed."""

import json
import pickle
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bounded import small_effort
from code_files import FORMS, Marks, as_code
from command import fedred
from PIL import Image
from safetensors.torch import save_file

from fedred.datasets import Digits, FashionMNIST, ImageFolder, load_dataset, save_dataset
from fedred.errors import UserError
from fedred.files import checksum_of
from fedred.partition import Iid, load_partition, partition, save_partition

DIGITS = Digits().load(Path("nowhere"), download=False)
DEALT = replace(
    partition(Iid(3), DIGITS.train_labels, 10, 0, DIGITS.checksum), class_names=DIGITS.classes
)
INDICES, SIZES = torch.cat(DEALT.indices), DEALT.sizes
DATASET_TEXTS = DIGITS.texts
PARTITION_TEXTS = {
    "dataset_checksum": DEALT.dataset_checksum,
    "classes": json.dumps(DEALT.class_names),
    "made_by": DEALT.made_by,
}
READERS = {"data set": load_dataset, "partition": load_partition}


def refusal(path, read=load_dataset):
    """Return the sentence with which a file is refused before it is expanded."""
    with small_effort(), pytest.raises(UserError) as refused:
        read(path)
    sentence = str(refused.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def write(path, kind, tensors, texts):
    """Write a file whose checksum is right for its content, as a forger would."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    texts = {name: text for name, text in texts.items() if text is not None}
    save_file(tensors, path, {**texts, "kind": kind, "checksum": checksum_of(tensors, texts)})
    return path


FORGED_DATA = {
    "images_float": {"train_images": DIGITS.train_images.float()},
    "images_without_channels": {"train_images": DIGITS.train_images[:, 0]},
    "images_of_two_sizes": {"test_images": DIGITS.test_images[..., :4]},
    "images_of_no_pixels": {
        "train_images": DIGITS.train_images[..., :0],
        "test_images": DIGITS.test_images[..., :0],
    },
    "no_images": {
        "test_images": DIGITS.test_images[:0],
        "test_labels": DIGITS.test_labels[:0],
    },
    "label_too_large": {"train_labels": DIGITS.train_labels + 1},
    "label_negative": {"test_labels": DIGITS.test_labels - 1},
    "label_huge": {"test_labels": DIGITS.test_labels + 2**62},
    "labels_float": {"train_labels": DIGITS.train_labels.double()},
    "labels_int32": {"train_labels": DIGITS.train_labels.int()},
    "labels_too_few": {"train_labels": DIGITS.train_labels[:-1]},
    "labels_in_a_matrix": {"train_labels": DIGITS.train_labels[:, None]},
    "tensor_missing": {"test_labels": None},
    "tensor_unknown": {"more": torch.zeros(3)},
    **{
        f"{key}_{index}": {key: text}
        for key, texts in {
            "scale": (
                "NaN",
                "Infinity",
                "-1.0",
                "0.0",
                '"16"',
                "[16.0]",
                "null",
                "true",
                "1" * 5000,
            ),
            "mean": ("[NaN]", "[]", "3.0", '["a"]', "[0.1, 0.2]", "[null]", "[" * 100_000, "{}"),
            "std": ("[NaN]", "[0.0]", "[-1.0]", "[]", "[1e999]", "[0.1, 0.1]"),
            "classes": (
                "[]",
                '["one"]',
                "3",
                "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]",
                "x",
                '"0123456789"',
            ),
        }.items()
        for index, text in enumerate(texts)
    },
    "name_missing": {"name": None},
}


@pytest.mark.parametrize("forged", FORGED_DATA)
def test_a_forged_data_set_is_refused(forged, tmp_path):
    changes = FORGED_DATA[forged]
    texts = {key: changes.get(key, text) for key, text in DATASET_TEXTS.items()}
    tensors = {**DIGITS.tensors, **{k: v for k, v in changes.items() if k not in DATASET_TEXTS}}
    path = write(tmp_path / "file", "data set", tensors, texts)
    assert "delete it and build it again" in refusal(path)


def test_the_forger_writes_what_is_read_when_nothing_is_forged(tmp_path):
    path = write(tmp_path / "d", "data set", DIGITS.tensors, DATASET_TEXTS)
    assert load_dataset(path).checksum == DIGITS.checksum
    tensors = {"indices": INDICES, "sizes": SIZES, "counts": DEALT.counts}
    path = write(tmp_path / "p", "partition", tensors, PARTITION_TEXTS)
    assert load_partition(path).checksum == DEALT.checksum


def with_first(value):
    changed = INDICES.clone()
    changed[0] = value
    return changed


FORGED_PARTITIONS = {
    "negative": {"indices": with_first(-1)},
    "most_negative": {"indices": with_first(-(2**63))},
    "doubled": {"indices": with_first(int(INDICES[1]))},
    "doubled_across_clients": {"indices": with_first(int(INDICES[-1]))},
    "float": {"indices": INDICES.double()},
    "int32": {"indices": INDICES.int()},
    "bool": {"indices": INDICES.bool()},
    "matrix": {"indices": INDICES[:, None]},
    "too_few": {"indices": INDICES[:-1]},
    "none": {"indices": INDICES[:0], "sizes": SIZES[:0], "counts": DEALT.counts[:0]},
    "sizes_float": {"sizes": SIZES.double()},
    "sizes_huge": {"sizes": SIZES + 2**62},
    "sizes_negative": {"sizes": torch.tensor([-1, 1, len(INDICES)])},
    "empty_client": {"sizes": torch.tensor([0, 1, len(INDICES) - 1])},
    "counts_of_others": {"counts": DEALT.counts.roll(1, 0) + torch.eye(3, 10, dtype=torch.int64)},
    "counts_float": {"counts": DEALT.counts.double()},
    "counts_negative": {"counts": DEALT.counts - 1000},
    "counts_too_few": {"counts": DEALT.counts[:-1]},
    "counts_flat": {"counts": DEALT.counts.sum(1)},
    "indices_missing": {"indices": None},
    "sizes_missing": {"sizes": None},
    "counts_missing": {"counts": None},
    "classes_too_few": {"classes": '["one"]'},
    "classes_numbers": {"classes": "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"},
    "classes_no_list": {"classes": "5"},
    "classes_endless": {"classes": "[" * 100_000},
    "made_by_missing": {"made_by": None},
    "dataset_missing": {"dataset_checksum": None},
}


@pytest.mark.parametrize("forged", FORGED_PARTITIONS)
def test_a_forged_partition_is_refused(forged, tmp_path):
    changes = FORGED_PARTITIONS[forged]
    texts = {key: changes.get(key, text) for key, text in PARTITION_TEXTS.items()}
    tensors = {"indices": INDICES, "sizes": SIZES, "counts": DEALT.counts}
    tensors |= {key: value for key, value in changes.items() if key not in PARTITION_TEXTS}
    path = write(tmp_path / "file", "partition", tensors, texts)
    assert "delete it and build it again" in refusal(path, load_partition)


def whole_file(kind, path):
    if kind == "data set":
        save_dataset(DIGITS, path)
    else:
        save_partition(DEALT, path)
    return path


def with_header(content, header, length=None):
    """Replace the header of a safetensors file: eight bytes of length, then JSON."""
    (old,) = struct.unpack("<Q", content[:8])
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content[8 + old :]


def header_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def first_tensor(content, **changes):
    header = header_of(content)
    name = next(name for name in header if name != "__metadata__")
    header[name] |= changes
    return with_header(content, header)


HEADERS = {
    "length_huge": lambda c: with_header(c, header_of(c), 2**64 - 1),
    "length_of_gigabytes": lambda c: with_header(c, header_of(c), 10**10),
    "length_zero": lambda c: with_header(c, header_of(c), 0),
    "length_beyond_the_file": lambda c: with_header(c, header_of(c), len(c)),
    "no_json": lambda c: with_header(c, b"\xff" * 50),
    "endless_json": lambda c: with_header(c, b"[" * 1_000_000),
    "a_list": lambda c: with_header(c, []),
    "nothing": lambda c: with_header(c, {}),
    "shape_huge": lambda c: first_tensor(c, shape=[2**62]),
    "shape_overflowing": lambda c: first_tensor(c, shape=[2**32, 2**32]),
    "shape_negative": lambda c: first_tensor(c, shape=[-1]),
    "offsets_beyond": lambda c: first_tensor(c, data_offsets=[0, 10**12]),
    "offsets_backwards": lambda c: first_tensor(c, data_offsets=[10, 0]),
    "type_unknown": lambda c: first_tensor(c, dtype="OBJECT"),
    "type_of_another_size": lambda c: first_tensor(c, dtype="F64" if b"U8" in c[:2000] else "U8"),
    "texts_numbers": lambda c: with_header(c, header_of(c) | {"__metadata__": {"kind": 3}}),
    "texts_missing": lambda c: with_header(c, header_of(c) | {"__metadata__": {}}),
    "half": lambda c: c[: len(c) // 2],
    "last_byte_missing": lambda c: c[:-1],
    "one_byte_more": lambda c: c + b"\0",
    "empty": lambda c: b"",
    "magic": lambda c: b"\x89PNG\r\n\x1a\n" + c,
    "last_byte_changed": lambda c: c[:-1] + bytes([c[-1] ^ 255]),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", HEADERS)
def test_a_file_whose_header_lies_is_refused(kind, name, tmp_path):
    path = whole_file(kind, tmp_path / "file")
    path.write_bytes(HEADERS[name](path.read_bytes()))
    refusal(path, READERS[kind])


@pytest.mark.parametrize(("kind", "other"), [("data set", "partition"), ("partition", "data set")])
def test_a_file_of_another_kind_is_refused(kind, other, tmp_path):
    path = whole_file(other, tmp_path / "file")
    assert f"is not a {kind} of fedred" in refusal(path, READERS[kind])


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_code_is_refused_and_not_run(kind, form, tmp_path):
    path, marker = tmp_path / "file", tmp_path / "executed"
    as_code(form, path, marker)
    refusal(path, READERS[kind])
    assert not marker.exists()


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_refused(kind, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path, tmp_path / "none", loop, tmp_path / ("x" * 300), Path("/dev/null")):
        refusal(path, READERS[kind])


# --- images ---


@pytest.fixture
def images(tmp_path):
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            Image.fromarray(DIGITS.train_images[len(label) + len(part), 0].numpy()).save(
                folder / "0.png"
            )
    return tmp_path / "images"


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(width, height, rows):
    """A grey PNG that announces its size, whatever is in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(rows, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


BAD_IMAGES = {
    "bomb": png(30_000, 30_000, b"\0" * 30_000_000),
    "bomb_of_a_few_bytes": png(2**31 - 1, 2**31 - 1, b""),
    "no_pixels": png(0, 0, b""),
    "wrong_checksum": png(8, 8, b"\0" * 72).replace(b"IDAT", b"IDAX"),
    "magic_alone": b"\x89PNG\r\n\x1a\n",
    "empty": b"",
    "pickle": pickle.dumps([1]),
    "script": b"%!PS-Adobe-3.0 EPSF-3.0\n(touch executed) run\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
}


@pytest.mark.parametrize("name", BAD_IMAGES)
@pytest.mark.parametrize("place", ["train/cat/0.png", "test/dog/0.png"])
def test_a_bad_image_is_named(name, place, images):
    (images / place).write_bytes(BAD_IMAGES[name])
    sentence = refusal(images / place, lambda _: ImageFolder("images").load(images.parent, False))
    assert "cannot be read as an image" in sentence


@pytest.mark.parametrize("target", ["/etc", "/dev/zero", "..", "../../images2"])
@pytest.mark.parametrize("place", ["train", "train/cat", "train/cat/0.png", "test/dog/1.png"])
def test_a_link_that_leads_out_is_refused_unread(target, place, images):
    (images.parent / "images2").mkdir()  # begins with the name of the folder, and is not in it
    path = images / place
    if path.exists():
        path.rename(images.parent / "moved")
    path.symlink_to(target if target.startswith("/") else images.parent / target.split("/")[-1])
    sentence = refusal(path, lambda _: ImageFolder("images").load(images.parent, False))
    assert "is a link that leads out of" in sentence


# --- IDX ---


def idx(shape, content=b"", kind=8):
    return (
        struct.pack(">BBBB", 0, 0, kind, len(shape))
        + struct.pack(f">{len(shape)}I", *shape)
        + content
    )


BAD_IDX = {
    "huge": idx((2**32 - 1,) * 3),
    "more_than_64_bits": idx((2**31, 2**31, 2**31), b"\0" * 100),
    "nothing": idx((0, 28, 28)),
    "no_pixels": idx((20, 0, 0)),
    "of_labels": idx((20,), b"\0" * 20),
    "of_floats": idx((1, 1, 1), b"\0" * 4, kind=13),
    "short": idx((2, 2, 2), b"\0" * 7),
    "long": idx((2, 2, 2), b"\0" * 9),
    "pickle": pickle.dumps([1] * 100),
}


@pytest.mark.parametrize("name", BAD_IDX)
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_an_idx_file_that_lies_is_refused(name, part, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for one in ("train", "t10k"):
        pixels = DIGITS.train_images[:20].numpy().tobytes()
        (raw / f"{one}-images-idx3-ubyte").write_bytes(idx((20, 8, 8), pixels))
        (raw / f"{one}-labels-idx1-ubyte").write_bytes(idx((20,), bytes(range(10)) * 2))
    assert len(FashionMNIST().load(tmp_path, False).train_labels) == 20
    path = raw / f"{part}-images-idx3-ubyte"
    path.write_bytes(BAD_IDX[name])
    refusal(path, lambda _: FashionMNIST().load(tmp_path, False))


# --- the command line ---


@pytest.mark.slow
def test_the_command_refuses_bad_files_and_writes_nothing(tmp_path, images):
    dataset = whole_file("data set", tmp_path / "d.safetensors")
    dealt = whole_file("partition", tmp_path / "p.safetensors")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Marks(tmp_path / "executed")))
    (images / "train/cat/0.png").write_bytes(BAD_IMAGES["bomb"])
    before = sorted(tmp_path.rglob("*"))
    settings = "partition: {name: iid, clients: 3}\nrounds: 1\n"
    for arguments, name in (
        (["partition", "iid", "--dataset", dealt, "--out", "o"], "p.safetensors"),
        (["run", "-", "--out", "o", "--dataset", tmp_path / "pickle"], "pickle"),
        (["run", "-", "--out", "o", "--dataset", dataset, "--partition", dataset], "d.safetensors"),
        (["data", "image_folder", "--root", tmp_path, "--out", "o"], "0.png"),
    ):
        refused = fedred(*arguments, cwd=tmp_path, input=settings)
        assert refused.returncode == 2, refused.stderr
        assert name in refused.stderr
        assert "Traceback" not in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
