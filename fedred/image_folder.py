"""Folders of images: <folder>/{train,test}/<class>/<image>, each image as a viewer shows it."""

import glob
import mimetypes
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fedred.errors import UserError, printable
from fedred.files import told

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Samples = tuple[np.ndarray, np.ndarray]
"""Images uint8 [samples, channels, height, width] and labels [samples]."""

PARTS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""The two folders that are read, and what they are called elsewhere."""
IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
CHANNELS = {"1": "L", "L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB"}
"""Pixel format of a file -> the one it is read as; palettes are looked into."""
USUAL_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02
PNG_SIGNATURE, PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24


def files_of(folder: Path) -> list[Path]:
    """Return the files that `read_folder` reads, in order of name.

    The folder itself where none is there to train on or none to test on.
    """
    found = [sorted(glob.glob(f"{part}/*/*", root_dir=folder)) for part in PARTS]
    return [folder / name for names in found for name in names] if all(found) else [folder]


def read_folder(
    folder: Path, hint: str, mode: str | None = None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Read all images of a folder.

    Args:
        folder: holds train/ and test/, each with one folder a class.
        hint: what to do when it is not there.
        mode: L (grey) or RGB, to convert all to it; None: that of the first image.

    Returns:
        What to train on, what to test on, and the names of the classes in natural order.

    Raises:
        UserError: for a folder that is missing, empty or laid out otherwise, and for a file that is
            no image, of another size, or not shown as its pixels are.
    """
    with _one_line(), _strict_pillow():
        train, test = (_class_files(part, folder) for part in _parts(folder, hint))
        _require_same_classes(folder, set(train), set(test))
        first = next(iter(train.values()))[0]
        samples, test_samples = (_read_samples(files, first, mode) for files in (train, test))
        return samples, test_samples, tuple(train)


def natural(name: str) -> tuple[list[str | int], str]:
    """Return the key that sorts names with their digits as numbers: 2 before 10, 01 before 1."""
    pieces = re.split(r"(\d+)", name)
    return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)], name


@contextmanager
def _one_line() -> Iterator[None]:
    """Escape line breaks and the like, which names of files may hold, in what is told."""
    try:
        yield
    except UserError as error:
        raise UserError(printable(str(error))) from error


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Make an error of a warning about size, and say nothing of metadata that no pixel depends on."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


# --- where the files lie ---


def _parts(folder: Path, hint: str) -> list[Path]:
    """Return the folders train and test."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist: {hint}")
    there = {entry.name: Path(entry.path) for entry in _entries(folder, folder)}
    for part in PARTS:
        if part not in there:
            raise UserError(f"{folder} has no folder '{part}': {_near(part, there) or hint}")
    return [there[part] for part in PARTS]


def _near(part: str, there: Mapping[str, Path]) -> str:
    """Return what to do where train or test has another name or another place, else nothing."""
    meant = [name for name in there if name.casefold() in PARTS[part]]
    if meant:
        return f"rename '{meant[0]}' to '{part}' if that is meant"
    deeper = [name for name, path in there.items() if (path / part).is_dir()]
    if len(deeper) == 1:
        return f"the folder '{deeper[0]}' in it has one, name that one"
    if deeper:
        return (
            f"its folders have one each, such as '{deeper[0]}': expected is {part}/<class>, not "
            f"<class>/{part}"
        )
    return ""


def _entries(folder: Path, top: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, in order of name; a link must not lead out of `top`."""
    with told(f"{folder} could not be read"), os.scandir(folder) as found:
        entries = sorted((e for e in found if e.name[0] != "."), key=lambda entry: entry.name)
    inside = Path(os.path.realpath(top))
    for entry in entries:
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(inside):
            raise UserError(
                f"{entry.path} is a link that leads out of {top}: put the files themselves there"
            )
    return entries


def _class_files(part: Path, top: Path) -> dict[str, list[str]]:
    """Return the image files of each class below train/ or test/, classes in natural order."""
    classes = {}
    for entry in sorted(_entries(part, top), key=lambda entry: natural(entry.name)):
        if not entry.is_dir():
            raise UserError(
                f"{entry.path} is not a folder: remove it, {part} holds one folder a class"
            )
        classes[entry.name] = [_image_file(e, top) for e in _entries(Path(entry.path), top)]
        if not classes[entry.name]:
            raise UserError(f"the class folder {entry.path} holds no image: fill it or remove it")
    if not classes:
        raise UserError(f"{part} holds no image: it must hold one folder of images a class")
    return classes


def _image_file(entry: os.DirEntry[str], top: Path) -> str:
    if entry.is_dir():
        raise UserError(
            f"{entry.path} is a folder in a class folder, one level too deep: images lie in "
            f"{top}/{{train,test}}/<class>/; remove it if it holds none of yours"
        )
    is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
    if is_image and (entry.is_file() or entry.is_symlink()):
        return entry.path
    kind = "" if is_image else mimetypes.guess_type(entry.name)[0] or ""
    allowed = f"allowed are the endings {', '.join(IMAGE_SUFFIXES)}"
    if kind.startswith("image/"):
        raise UserError(
            f"{entry.path} is an image of the kind {kind.removeprefix('image/')}: convert it to PNG "
            f"or JPEG (convert IN OUT.png); {allowed}"
        )
    raise UserError(f"{entry.path} is not an image file: remove it; {allowed}")


def _require_same_classes(folder: Path, train: set[str], test: set[str]) -> None:
    if train != test:
        only = [
            f"only in {part}: {', '.join(sorted(names, key=natural))}"
            for part, names in (("train", train - test), ("test", test - train))
            if names
        ]
        raise UserError(f"train and test in {folder} must hold the same classes; {'; '.join(only)}")


# --- what they show ---


def _read_samples(classes: dict[str, list[str]], first: str, mode: str | None) -> Samples:
    """Decode all files into one array; all must have the shape of the file `first`."""
    paths = [path for files in classes.values() for path in files]
    expected = _decode(first, mode).shape
    wanted = "L" if expected[0] == 1 else "RGB"
    images = np.empty((len(paths), *expected), dtype=np.uint8)
    for index, path in enumerate(paths):
        pixels = _decode(path, mode, wanted)
        if pixels.shape != expected:
            raise UserError(
                f"{path} is {_shape_in_words(pixels.shape)} but {first} is "
                f"{_shape_in_words(expected)}: all images must have the same size and channels"
            )
        images[index] = pixels
    return images, np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])


def _shape_in_words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels {'grey' if channels == 1 else 'RGB'}"


def _decode(path: str, mode: str | None, wanted: str = "") -> np.ndarray:
    """Return the pixels that a viewer shows, uint8 [channels, height, width].

    Args:
        path: of an image file.
        mode: L or RGB, to convert it to; None: its own.
        wanted: the one of the two that an image is read as if it can be read as both.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with told(f"{path} cannot be read as an image"), open(path, "rb") as file:
        depth = _png_depth(file)
        try:
            image = Image.open(file, formats=IMAGE_FORMATS)
        except UnidentifiedImageError:
            kinds = "BMP, JPEG, PNG or WebP"
            raise UserError(
                f"{path} cannot be read as an image: its content is not {kinds}, or damaged"
            ) from None
        if reason := _unlike(image, depth):
            raise UserError(f"{path} {reason}")
        decoded = image.copy()  # an opened file does not tell of damaged EXIF data, its copy does
        with told(f"{path} has EXIF data that cannot be read, remove them (exiftool -all= IN)"):
            upright = ImageOps.exif_transpose(decoded)
        pixels = np.asarray(_in_srgb(upright, mode or _read_as(upright, wanted)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _png_depth(file: BinaryIO) -> int:
    """Return the bits a channel in which a PNG is written, 8 for other files: Pillow does not tell."""
    head = file.read(PNG_DEPTH_AT + 1)
    file.seek(0)
    is_png = head.startswith(PNG_SIGNATURE) and len(head) > PNG_DEPTH_AT
    return head[PNG_DEPTH_AT] if is_png else 8


def _unlike(image: "ImageFile", depth: int) -> str:
    """Return why the pixels of a file are not what a viewer shows, and how to convert it; or nothing.

    A JPEG of several pictures (MPO) is what viewers show, its first picture.
    """
    if depth > 8:
        return "has 16 bits a channel: convert IN -depth 8 OUT"
    if image.mode not in (*CHANNELS, "P"):
        return (
            f"has the pixel format {image.mode}, allowed are 8-bit grey and RGB: convert IN "
            "-colorspace sRGB -depth 8 OUT"
        )
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        return f"is animated, it has {frames} frames: keep one of them (convert 'IN[0]' OUT)"
    if not _is_opaque(image, depth):
        return (
            "is transparent in places: give it a background (convert IN -background white -flatten "
            "-alpha off OUT)"
        )
    gamma = image.info.get("gamma", USUAL_GAMMA)
    plain = abs(gamma - USUAL_GAMMA) < GAMMA_TOLERANCE or {"srgb", "icc_profile"} & set(image.info)
    return "" if plain else f"has the gamma {gamma:g}: convert IN -colorspace sRGB -depth 8 OUT"


def _is_opaque(image: "Image", depth: int) -> bool:
    """Tell whether no pixel is transparent, where Pillow can: not by a grey of less than 8 bits."""
    if not image.has_transparency_data:
        return True
    told_by_grey = image.mode == "L" and depth < 8
    return not told_by_grey and image.convert("RGBA").getchannel("A").getextrema()[0] == 255


def _read_as(image: "Image", wanted: str) -> str:
    """Return L or RGB; a palette of greys alone can be read as either."""
    if image.mode != "P":
        return CHANNELS[image.mode]
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    grey = bool((colours == colours[:, :1]).all())
    return (wanted or "L") if grey else "RGB"


def _in_srgb(image: "Image", mode: str) -> "Image":
    """Return an image as L or RGB, converted to sRGB if it has a profile of other colours.

    A profile that is damaged, or of another colour space than the image, has no effect on viewers.
    """
    from PIL import ImageCms

    plain, profile = image.convert(mode), image.info.get("icc_profile")
    if not profile:
        return plain
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return plain
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(plain, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return plain
    return plain if shown is None else shown.convert(mode)
