"""The data sets: each a frozen dataclass with `load(root, download)` that returns a `Dataset`.

A data set is four tensors: uint8 images and int64 labels to train on and to test on. A run normalises
the images of its clients once, when it starts. There is no DataLoader and there are no workers.
"""

import gzip
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedred.errors import UserError, printable, shortened
from fedred.files import (
    Tensors,
    Texts,
    checksum_of,
    read_tensors,
    require_checksum,
    told,
    write_tensors,
)
from fedred.image_folder import Samples, files_of, read_folder
from fedred.options import check_options, option
from fedred.papers import Paper
from fedred.paths import expanded

# The released code's, as in much of the literature: each std is the mean of the standard deviations
# inside one image; over all training pixels they are 0.2470, 0.2435 and 0.2616.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# The released code's numbers for Fashion-MNIST: they are those of MNIST. The training images
# themselves have mean 0.2860 and standard deviation 0.3530.
FASHION_MNIST_MEAN, FASHION_MNIST_STD = (0.1307,), (0.3081,)
# Of the published archives, which a download leaves beside the files.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
CINIC10_MEAN = (0.47889522, 0.47227842, 0.43047404)
CINIC10_STD = (0.24205776, 0.23828046, 0.25874835)

DIGITS_SPLIT_SEED = 0
DIGITS_TEST_SAMPLES = 360
DIGITS_SCALE = 16.0
BYTE_SCALE = 255.0

LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels to train on and to test on; no tensor is ever changed in place.

    Args:
        name: as in DATASETS.
        train_images: uint8 [samples, channels, height, width].
        train_labels: int64 [samples], 0 to C - 1.
        test_images: uint8 [samples, channels, height, width].
        test_labels: int64 [samples], 0 to C - 1.
        classes: names of the C classes.
        scale: largest possible pixel value.
        mean: of pixel / scale, one number a channel.
        std: standard deviation of pixel / scale, one number a channel.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def normalise(self, images: Tensor) -> Tensor:
        """Return (pixel / scale - mean) / std on the device of the images.

        Args:
            images: uint8 [..., channels, height, width].

        Returns:
            float32 of the same shape.

        Raises:
            TypeError: for images that are not uint8, which were perhaps normalised before.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images to normalise are uint8, these are {images.dtype}")
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return images.float().div_(self.scale).sub_(mean).div_(std)

    @property
    def classes_present(self) -> tuple[str, ...]:
        """Names of the classes that a training image has."""
        numbers = torch.unique(self.train_labels).tolist()
        return tuple(self.classes[number] for number in numbers)

    @property
    def numbered_classes(self) -> str:
        """All classes with their numbers, to be printed: 0 'cat', 1 'dog'."""
        return ", ".join(f"{at} '{printable(name)}'" for at, name in enumerate(self.classes))

    @property
    def remarks(self) -> list[str]:
        """What a user should know of legal data before a run, a sentence each."""
        present = self.classes_present
        if len(present) > 1:
            return []
        name = shortened(present[0])
        return [f"all training images are of one class, '{name}': any model is always right"]

    @property
    def tensors(self) -> Tensors:
        """The four tensors by name, as a file holds them."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return {name: getattr(self, name) for name in names}

    @property
    def texts(self) -> Texts:
        """Everything that is not a tensor, as a file holds it."""
        described = {
            "classes": self.classes,
            "scale": self.scale,
            "mean": self.mean,
            "std": self.std,
        }
        return {"name": self.name} | {key: json.dumps(value) for key, value in described.items()}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 in hexadecimal digits of all tensors and texts: equal data, equal checksum."""
        return checksum_of(self.tensors, self.texts)


class Source(Protocol):
    """What a member of DATASETS is: options at construction, `load` reads the files.

    `files` names those that `load` reads and that anybody may have changed, there or not, in a fixed
    order: by their content one user's data are told from another's. Files that `load` compares with
    published sums, or would download, are not named.
    """

    papers: ClassVar[tuple[Paper, ...]]

    def files(self, root: Path) -> Sequence[Path]: ...

    def load(self, root: Path, download: bool) -> Dataset: ...


def data_root(root: Path | None = None) -> Path:
    """Return the folder of all data sets: the argument, else $FEDRED_DATA, else `data`."""
    return root or expanded(os.environ.get("FEDRED_DATA") or "data")


@dataclass(frozen=True)
class Digits:
    """Handwritten digits bundled with scikit-learn: 1,797 grey images of 8x8, pixels 0 to 16.

    A fixed stratified split: 1,437 images to train on, 360 to test on. Needs no file.
    """

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Alpaydin and Kaynak, 1998",
            "Alpaydin, Ethem and Kaynak, Cenk",
            "Optical Recognition of Handwritten Digits",
            "UCI Machine Learning Repository",
            1998,
            "misc",
        ),
    )

    def files(self, root: Path) -> Sequence[Path]:
        """Return no file."""
        return ()

    def load(self, root: Path, download: bool) -> Dataset:
        """Return the data set; both arguments are ignored."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        split: list[np.ndarray] = train_test_split(
            np.arange(len(labels)),
            test_size=DIGITS_TEST_SAMPLES,
            random_state=DIGITS_SPLIT_SEED,
            stratify=labels,
        )
        images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
        train, test = (np.sort(part) for part in split)
        classes = tuple(str(digit) for digit in range(10))
        return _dataset(
            "digits",
            (images[train], labels[train]),
            (images[test], labels[test]),
            classes,
            scale=DIGITS_SCALE,
        )


@dataclass(frozen=True)
class FashionMNIST:
    """Clothes, 60,000 + 10,000 grey images of 28x28, in torchvision's layout FashionMNIST/raw."""

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Xiao, Rasul, Vollgraf, 2017",
            "Xiao, Han and Rasul, Kashif and Vollgraf, Roland",
            "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
            "arXiv:1708.07747",
            2017,
            "misc",
        ),
    )

    def files(self, root: Path) -> Sequence[Path]:
        """Return the four IDX files, none when they are the published ones or yet to be downloaded."""
        raw = root / "FashionMNIST" / "raw"
        if not _fashion_is_there(raw) or _fashion_is_published(raw):
            return ()
        return [raw / name for name in FASHION_MNIST_MD5]

    def load(self, root: Path, download: bool) -> Dataset:
        """Read the four IDX files, downloaded by torchvision when one is missing.

        Args:
            root: folder that holds, or will hold, FashionMNIST/raw.
            download: whether missing files may be fetched from the internet.

        Raises:
            UserError: for a file that is missing, torn or of another kind, or a failed download.
        """
        from torchvision import datasets

        raw = root / "FashionMNIST" / "raw"
        if download and not _fashion_is_there(raw):
            with told(
                f"Fashion-MNIST could not be downloaded to {raw} (without network, put its files "
                "there, or name the folder that holds FashionMNIST/raw in FEDRED_DATA)"
            ):
                datasets.FashionMNIST(root, download=True)
        _require_folder(root)
        return _dataset(
            "fashion_mnist",
            _read_idx_pair(raw, "train"),
            _read_idx_pair(raw, "t10k"),
            tuple(datasets.FashionMNIST.classes),
            normalisation=(FASHION_MNIST_MEAN, FASHION_MNIST_STD),
        )


@dataclass(frozen=True)
class CIFAR10:
    """Objects, 50,000 + 10,000 colour images of 32x32, in torchvision's cifar-10-batches-py.

    The files are Python pickles: each is compared with its published MD5 sum before it is read, so
    that only the published bytes are ever unpickled.
    """

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Krizhevsky, 2009",
            "Krizhevsky, Alex",
            "Learning Multiple Layers of Features from Tiny Images",
            "Technical report, University of Toronto",
            2009,
            "misc",
        ),
    )

    def files(self, root: Path) -> Sequence[Path]:
        """Return no file: only the published bytes are ever read."""
        return ()

    def load(self, root: Path, download: bool) -> Dataset:
        """Read the batches, downloaded by torchvision when one is missing or damaged.

        Args:
            root: folder that holds, or will hold, cifar-10-batches-py.
            download: whether missing files may be fetched from the internet.

        Raises:
            UserError: for a file that is missing or damaged, or a failed download.
        """
        from torchvision import datasets

        if download:
            with told(
                f"CIFAR-10 could not be downloaded to {root} (without network, unpack it there, or "
                "name the folder that holds cifar-10-batches-py in FEDRED_DATA)"
            ):
                datasets.CIFAR10(root, download=True)
        _require_folder(root)
        _check_cifar10(root)
        with told(f"CIFAR-10 in {root} could not be read"):
            train, test = (datasets.CIFAR10(root, train=train) for train in (True, False))
        return _dataset(
            "cifar10",
            (train.data.transpose(0, 3, 1, 2), np.asarray(train.targets)),
            (test.data.transpose(0, 3, 1, 2), np.asarray(test.targets)),
            tuple(train.classes),
            normalisation=(CIFAR10_MEAN, CIFAR10_STD),
        )


@dataclass(frozen=True)
class CINIC10:
    """CIFAR-10 and downscaled ImageNet, 90,000 + 90,000 colour images of 32x32.

    In its own layout: CINIC-10/{train,test}/<class>/*.png, else as ImageFolder. The folder `valid` is
    not used, and grey files are read as colour.
    """

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Darlow et al., 2018",
            "Darlow, Luke N. and Crowley, Elliot J. and Antoniou, Antreas and Storkey, Amos J.",
            "CINIC-10 is not ImageNet or CIFAR-10",
            "arXiv:1810.03505",
            2018,
            "misc",
        ),
    )

    def files(self, root: Path) -> Sequence[Path]:
        """Return the image files."""
        return files_of(root / "CINIC-10")

    def load(self, root: Path, download: bool) -> Dataset:
        """Read the image files; there is no download.

        Args:
            root: folder that holds CINIC-10.
            download: ignored.

        Raises:
            UserError: as `image_folder`.
        """
        _require_folder(root)
        hint = "unpack CINIC-10.tar.gz there (https://datashare.ed.ac.uk/handle/10283/3192)"
        parts = read_folder(root / "CINIC-10", hint, "RGB")
        return _dataset("cinic10", *parts, normalisation=(CINIC10_MEAN, CINIC10_STD))


@dataclass(frozen=True)
class ImageFolder:
    """Your own images: <folder>/{train,test}/<class>/<image>, all of one size, grey or colour.

    Size, channels and classes are found out; mean and standard deviation are those of the training
    images. Classes are numbered in natural order, 2 before 10; samples are in order of class and of
    the characters of the file name. Names that begin with a dot are ignored.

    Pixels are those that a viewer shows: the EXIF orientation and a colour profile are applied (to
    sRGB), a palette of greys is grey. Refused, with the command that converts them: transparency (an
    alpha channel of 255 alone is none), animations, 16 bits a channel, CMYK, an unusual gamma.
    """

    folder: str = option("images", "folder with train/ and test/, relative to the data folder")

    papers: ClassVar[tuple[Paper, ...]] = ()

    def __post_init__(self) -> None:
        check_options(self)
        inside = not Path(self.folder).is_absolute() and ".." not in Path(self.folder).parts
        if not (inside and self.folder.isprintable() and len(self.folder) <= LONGEST_NAME):
            raise UserError(
                f"ImageFolder.folder is '{shortened(self.folder)}': it must be a path inside the "
                f"data folder, printable, and no longer than {LONGEST_NAME} characters"
            )

    def files(self, root: Path) -> Sequence[Path]:
        """Return the image files."""
        return files_of(root / self.folder)

    def load(self, root: Path, download: bool) -> Dataset:
        """Read the image files; there is no download.

        Args:
            root: folder that holds the folder of the images.
            download: ignored.

        Raises:
            UserError: for a folder that is missing or empty, classes that differ between train and
                test, a file that is no image, an image of another size or channel count than the
                first, or not shown as its pixels are, a link that leaves the folder.
        """
        _require_folder(root)
        hint = "make it, with train/ and test/, each with one folder a class"
        return _dataset("image_folder", *read_folder(root / self.folder, hint))


DATASETS: dict[str, type[Source]] = {
    "digits": Digits,
    "fashion_mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "cinic10": CINIC10,
    "image_folder": ImageFolder,
}

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def _dataset(
    name: str,
    train: Samples,
    test: Samples,
    classes: tuple[str, ...],
    scale: float = BYTE_SCALE,
    normalisation: Normalisation | None = None,
) -> Dataset:
    """Return a data set from (images, labels) twice; mean and std are found out when not given."""
    images, test_images = (
        torch.from_numpy(np.ascontiguousarray(part[0])) for part in (train, test)
    )
    labels, test_labels = (torch.from_numpy(part[1].astype(np.int64)) for part in (train, test))
    mean, std = normalisation or _mean_and_std(images, scale)
    return Dataset(name, images, labels, test_images, test_labels, classes, float(scale), mean, std)


def _mean_and_std(images: Tensor, scale: float) -> Normalisation:
    """Return mean and std of pixel / scale for each channel, from exact sums of whole numbers."""
    channels, pixels = images.shape[1], images[:, 0].numel()
    total, squares = torch.zeros(2, channels, dtype=torch.int64)
    for chunk in torch.split(images, 1000):
        values = chunk.to(torch.int64)
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    mean = total.double() / pixels
    std = (squares.double() / pixels - mean.square()).sqrt()
    if not bool((std > 0).all()):
        raise UserError("all training images have the same pixels: they cannot be normalised")
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def _require_folder(root: Path) -> None:
    if not os.path.isdir(root):  # never an error, whatever the name
        raise UserError(
            f"the data folder {root} does not exist: make it, or name another one in FEDRED_DATA"
        )


def _fashion_is_there(raw: Path) -> bool:
    return all((raw / name).is_file() for name in FASHION_MNIST_MD5)


def _fashion_is_published(raw: Path) -> bool:
    """Tell whether the files are what the published archives beside them hold."""
    try:
        return all(
            hashlib.md5(packed := (raw / f"{name}.gz").read_bytes()).hexdigest() == md5
            and gzip.decompress(packed) == (raw / name).read_bytes()
            for name, md5 in FASHION_MNIST_MD5.items()
        )
    except OSError:
        return False


def _read_idx_pair(raw: Path, part: str) -> Samples:
    """Return images [samples, 1, height, width] and labels [samples] of one part."""
    image_file, label_file = raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} holds {len(images)} images but {label_file.name} holds {len(labels)} "
            "labels: delete both and allow the download"
        )
    if images.size == 0:
        raise UserError(f"{image_file} holds no pixel: delete it and allow the download")
    if labels.max() > 9:
        raise UserError(f"{label_file} must hold labels 0 to 9: delete it and allow the download")
    return images[:, None], labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes: 0 0 8 dimensions, then each size in four bytes, then the bytes."""
    if not path.is_file():
        raise UserError(f"{path} is missing: put Fashion-MNIST there, or allow the download")
    with told(f"{path} could not be read"):
        content = np.fromfile(path, dtype=np.uint8)
    start = 4 * (1 + dimensions)
    if content[:4].tolist() != [0, 0, 8, dimensions] or content.size < start:
        raise UserError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: delete it and allow "
            "the download"
        )
    shape = content[4:start].view(">u4").tolist()
    announced = start + int(np.prod(shape, dtype=np.float64))
    if content.size != announced:
        raise UserError(
            f"{path} holds {content.size} bytes but its header announces {announced}: delete it "
            "and allow the download"
        )
    return content[start:].reshape(shape)


def _check_cifar10(root: Path) -> None:
    """Compare every file with its published MD5 sum: torchvision does not say which one differs."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    published = datasets.CIFAR10
    meta = (published.meta["filename"], published.meta["md5"])
    for name, md5 in [*published.train_list, *published.test_list, meta]:
        path = root / published.base_folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: unpack CIFAR-10 there, or allow the download")
        with told(f"{path} could not be read"):
            whole = check_integrity(str(path), md5)
        if not whole:
            raise UserError(
                f"{path} is damaged or incomplete, it has not the published MD5 sum {md5}: delete "
                "it and allow the download"
            )


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a data set to one safetensors file, whole or not at all.

    Raises:
        UserError: when the file cannot be written.
    """
    texts = dataset.texts | {"kind": "data set", "checksum": dataset.checksum}
    write_tensors(dataset.tensors, texts, path)


def load_dataset(path: Path, verify: bool = True) -> Dataset:
    """Return a data set that `save_dataset` wrote; its tensors are mapped, not read.

    Args:
        path: the file.
        verify: compute the checksum of all the data and compare it with the one in the file.

    Raises:
        UserError: for a file that is missing, torn, of another kind, or changed since.
    """
    tensors, texts = read_tensors(path, "data set")
    with told(f"{path} is not a whole data set: delete it and build it again"):
        mean, std, classes = (tuple(json.loads(texts[key])) for key in ("mean", "std", "classes"))
        dataset = Dataset(
            name=texts["name"],
            classes=classes,
            scale=json.loads(texts["scale"]),
            mean=mean,
            std=std,
            **tensors,
        )
    if verify:
        require_checksum(path, dataset.checksum, texts)
        with told(f"{path} is not a whole data set: delete it and build it again"):
            _require_sound(dataset)
    return dataset


def _require_sound(dataset: Dataset) -> None:
    """Refuse what no source makes, whatever checksum a file claims.

    Raises:
        ValueError: naming the part.
    """
    for part in ("train", "test"):
        images, labels = (dataset.tensors[f"{part}_{kind}"] for kind in ("images", "labels"))
        _require(f"{part}_images", images.dtype == torch.uint8 and images.dim() == 4)
        _require(f"{part}_images", images.shape[1:] == dataset.train_images.shape[1:])
        _require(f"{part}_images", images.numel() > 0)
        _require(f"{part}_labels", labels.dtype == torch.int64)
        _require(f"{part}_labels", labels.shape == images.shape[:1])
        _require(f"{part}_labels", 0 <= labels.min() <= labels.max() < len(dataset.classes))
    _require("classes", all(isinstance(name, str) for name in dataset.classes))
    channels = dataset.input_shape[0]
    for name, values in (("mean", dataset.mean), ("std", dataset.std)):
        _require(name, len(values) == channels and all(map(_is_finite, values)))
    _require("std", min(dataset.std) > 0)
    _require("scale", _is_finite(dataset.scale) and dataset.scale > 0)


def _require(name: str, sound: object) -> None:
    if not sound:
        raise ValueError(f"its {name} cannot be those of a data set")


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
