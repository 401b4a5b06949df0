"""Folders of images: what is read is what a viewer shows, in a layout that is as described."""

import json
import os
import shutil
import struct
import subprocess
import zlib
from io import BytesIO

import numpy as np
import pytest
from command import fedred
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from fedred.datasets import CINIC10, ImageFolder, load_dataset
from fedred.errors import UserError
from fedred.image_folder import natural
from fedred.report.runs import load_runs

GREY = (20 * np.arange(12)).astype(np.uint8).reshape(3, 4)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], -1)
PARTS = ("train", "test")


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(pixels, depth=8, kind=0, extra=b""):
    """Write rows of bytes as a PNG, by its definition; kind 0 is grey, 2 RGB, 3 a palette."""
    rows, width = pixels, len(pixels[0]) * 8 // depth // {0: 1, 2: 3, 3: 1}[kind]
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    chunks = chunk(b"IHDR", head) + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def saved(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder_of(top, content, ending=".png"):
    """Make a folder of two classes that holds one image, many times, and another one to differ."""
    shutil.rmtree(top, ignore_errors=True)
    for part in PARTS:
        for name in ("cat", "dog"):
            (top / part / name).mkdir(parents=True)
            (top / part / name / f"0{ending}").write_bytes(content)
    return top


def first_of(top, content, ending=".png"):
    """Return the pixels that are read of one image [channels, height, width]."""
    folder_of(top / "images", content, ending)
    return ImageFolder().load(top, False).train_images[0].numpy()


def refusal(top, content, ending=".png"):
    with pytest.raises(UserError) as refused:
        first_of(top, content, ending)
    sentence = str(refused.value)
    assert f"train/cat/0{ending} " in sentence
    assert "\n" not in sentence
    return sentence


def channels_first(pixels):
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# --- what a viewer shows ---

TURNED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p[:, ::-1].swapaxes(0, 1),
    0: lambda p: p,
    9: lambda p: p,
}
"""EXIF orientation -> the picture: where the 0th row and column of the file are (Exif 2.3, 4.6.4)."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "RGB"])
def test_the_orientation_of_exif_is_applied(orientation, kind, options, pixels, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    written = saved(Image.fromarray(pixels), kind, exif=exif, **options)
    shown = TURNED[orientation](
        pixels if kind == "PNG" or pixels is RGB else np.stack([GREY] * 3, -1)
    )
    assert np.array_equal(first_of(tmp_path, written), channels_first(shown))


@pytest.mark.parametrize("orientation", TURNED)
def test_a_jpeg_is_turned_after_it_was_decoded(orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    plain = first_of(tmp_path, saved(Image.fromarray(GREY), "JPEG"), ".jpg")[0]
    turned = first_of(tmp_path, saved(Image.fromarray(GREY), "JPEG", exif=exif), ".jfif")
    assert np.array_equal(turned[0], TURNED[orientation](plain))


def test_exif_data_that_cannot_be_read_are_told(tmp_path):
    broken = saved(Image.fromarray(GREY), "JPEG", exif=b"Exif\0\0garbage!")
    assert "has EXIF data that cannot be read" in refusal(tmp_path, broken, ".jpg")


COLOURS = chunk(b"PLTE", bytes([7, 7, 7, 255, 0, 0, 9, 9, 9]))
GREYS = chunk(b"PLTE", bytes([7, 7, 7, 200, 200, 200, 9, 9, 9]))
INDICES = [[0, 1, 2], [1, 1, 2]]


def grey_16_bit(value):
    return struct.pack(">H", value)


VEILED = Image.fromarray(np.dstack([RGB, np.full_like(GREY, 254)]))
TRANSPARENT = {
    "RGBA": saved(VEILED),
    "LA": saved(VEILED.convert("LA")),
    "RGBA WebP": saved(VEILED, "WEBP", lossless=True),
    "palette": png(INDICES, 8, 3, COLOURS + chunk(b"tRNS", b"\xff\x80")),
    "grey palette": png(INDICES, 8, 3, GREYS + chunk(b"tRNS", b"\0")),
    "grey": png(GREY, 8, 0, chunk(b"tRNS", grey_16_bit(40))),
    "grey of 4 bits": png([[0x0F, 0x37]], 4, 0, chunk(b"tRNS", grey_16_bit(15))),
    "grey of 2 bits": png([[0b00011011]], 2, 0, chunk(b"tRNS", grey_16_bit(3))),
    "black and white": png([[0b00011011]], 1, 0, chunk(b"tRNS", grey_16_bit(1))),
    "RGB": png([[1, 2, 3, 4, 5, 6]], 8, 2, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_in_places_is_refused(name, tmp_path):
    ending = ".webp" if "WebP" in name else ".png"
    assert "-background white -flatten" in refusal(tmp_path, TRANSPARENT[name], ending)


OPAQUE = {
    "RGBA": (saved(Image.fromarray(RGB).convert("RGBA")), RGB),
    "LA": (saved(Image.fromarray(GREY).convert("LA")), GREY),
    "palette, of whose entries one is transparent and not used": (
        png([[1, 2, 1]], 8, 3, COLOURS + chunk(b"tRNS", b"\0\xff")),
        np.array([[[255, 0, 0], [9, 9, 9], [255, 0, 0]]]),
    ),
    "grey": (png(GREY, 8, 0, chunk(b"tRNS", grey_16_bit(41))), GREY),
    "RGB": (png(RGB.reshape(3, -1), 8, 2, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))), RGB),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_an_alpha_channel_in_which_nothing_is_transparent_is_none(name, tmp_path):
    written, shown = OPAQUE[name]
    assert np.array_equal(first_of(tmp_path, written), channels_first(shown))


@pytest.mark.parametrize(
    ("palette", "shown"),
    [(COLOURS, [[7, 255, 9], [7, 0, 9], [7, 0, 9]]), (GREYS, [[7, 200, 9]])],
    ids=["colours", "greys"],
)
def test_a_palette_is_grey_if_all_its_entries_are(palette, shown, tmp_path):
    read = first_of(tmp_path, png(INDICES, 8, 3, palette))
    assert read[:, 0].tolist() == shown


def test_a_grey_palette_among_colours_is_read_as_colour(tmp_path):
    folder_of(tmp_path / "images", png(INDICES, 8, 3, COLOURS))
    (tmp_path / "images/train/cat/1.png").write_bytes(png(INDICES, 8, 3, GREYS))
    read = ImageFolder().load(tmp_path, False).train_images
    assert read[1, :, 0].tolist() == [[7, 200, 9]] * 3


@pytest.mark.parametrize(
    ("depth", "row", "shown"),
    [(1, [0b01000000], [0, 255, 0, 0]), (2, [0b00011011], [0, 85, 170, 255]), (4, [0x0F, 0x37], 0)],
)
def test_few_bits_a_pixel_are_stretched_to_black_and_white(depth, row, shown, tmp_path):
    expected = shown or [0, 255, 51, 119]
    assert first_of(tmp_path, png([row], depth))[0, 0].tolist()[:4] == expected


FRAMES = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
OTHERWISE = {
    "animated PNG": (saved(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "2 frames"),
    "animated WebP": (
        saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
        "keep one of them (convert 'IN[0]' OUT)",
    ),
    "CMYK": (saved(FRAMES[0].convert("CMYK"), "JPEG"), "has the pixel format CMYK"),
    "16 bits grey": (png([[0, 1, 2, 3]], 16), "has 16 bits a channel: convert IN -depth 8 OUT"),
    "16 bits RGB": (
        png([[0, 1, 2, 3, 4, 5, 60, 70, 80, 90, 99, 9]], 16, 2),
        "has 16 bits a channel",
    ),
    "linear gamma": (
        png(GREY, extra=chunk(b"gAMA", struct.pack(">I", 100_000))),
        "has the gamma 1: convert IN -colorspace sRGB",
    ),
    "a GIF under another name": (saved(FRAMES[0], "GIF"), "its content is not BMP, JPEG, PNG or"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_a_viewer_shows_otherwise_is_refused_with_the_conversion(name, tmp_path):
    written, sentence = OTHERWISE[name]
    assert sentence in refusal(tmp_path, written)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"gAMA", struct.pack(">I", 45_455)),
        chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100_000)),
    ],
    ids=["usual gamma", "sRGB, which goes before the gamma"],
)
def test_usual_gamma_changes_nothing(extra, tmp_path):
    assert np.array_equal(first_of(tmp_path, png(GREY, extra=extra))[0], GREY)


def test_of_a_jpeg_with_several_pictures_the_first_is_shown(tmp_path):
    frames = [frame.convert("RGB") for frame in FRAMES]
    several = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    plain = first_of(tmp_path, saved(frames[0], "JPEG"), ".jpg")
    assert np.array_equal(first_of(tmp_path, several, ".jpg"), plain)


def linear_profile(space=b"RGB "):
    """A colour profile, by the definition of ICC.1:2001: sRGB's primaries without its gamma."""

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve, name = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256) + b"\0\0", b"linear\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 79
    tags = {b"desc": described + b"\0" * (-len(described) % 4), b"wtpt": xyz(0.9642, 1, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rXYZ": xyz(0.4361, 0.2225, 0.0139), b"gXYZ": xyz(0.3851, 0.7169, 0.0971)}
        tags |= {b"bXYZ": xyz(0.1431, 0.0606, 0.7141)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(body), b"\0" * 4, 0x02100000, b"mntr", space, b"XYZ "
    )
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + xyz(0.9642, 1, 0.8249)[8:]
    return head + b"\0" * (128 - len(head)) + body


def in_srgb(pixels):
    """The definition of sRGB (IEC 61966-2-1): linear light to a byte."""
    linear = pixels / 255
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * encoded


@pytest.mark.parametrize(
    ("pixels", "space"), [(RGB, b"RGB "), (GREY, b"GRAY")], ids=["RGB", "grey"]
)
def test_a_colour_profile_is_applied(pixels, space, tmp_path):
    written = saved(Image.fromarray(pixels), icc_profile=linear_profile(space))
    read = first_of(tmp_path, written).astype(float)
    assert np.abs(read - channels_first(in_srgb(pixels))).max() <= 2
    assert np.abs(read - channels_first(pixels)).max() > 20


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("kind", "ending", "options"),
    [("PNG", ".png", {}), ("JPEG", ".jpg", {}), ("WEBP", ".webp", {"lossless": True})],
)
@pytest.mark.parametrize(
    ("pixels", "space"), [(RGB, b"RGB "), (GREY, b"GRAY")], ids=["RGB", "grey"]
)
def test_an_image_with_a_profile_is_turned_like_any_other(
    orientation, kind, ending, options, pixels, space, tmp_path
):
    """Turning moves pixels and a profile changes their values, so that the order does not matter."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"icc_profile": linear_profile(space), **options}
    upright = first_of(tmp_path, saved(Image.fromarray(pixels), kind, **options), ending)
    turned = first_of(tmp_path, saved(Image.fromarray(pixels), kind, exif=exif, **options), ending)
    shown = TURNED[orientation](upright.transpose(1, 2, 0))
    assert np.array_equal(turned, shown.transpose(2, 0, 1))


@pytest.mark.parametrize("profile", [b"no profile", linear_profile(b"GRAY")])
def test_a_profile_of_no_use_has_no_effect(profile, tmp_path):
    written = saved(Image.fromarray(RGB), icc_profile=profile)
    assert np.array_equal(first_of(tmp_path, written), channels_first(RGB))


def image_magick():
    """Return the command, whichever of its names it has here; nothing where it is not installed."""
    for folder in os.get_exec_path():
        for name in ("magick", "convert"):
            found = shutil.which(name, path=folder)
            if (
                found
                and "ImageMagick"
                in subprocess.run([found, "-version"], capture_output=True, text=True).stdout.split(
                    "\n"
                )[0]
            ):
                return found
    return ""


IMAGE_MAGICK = image_magick()


@pytest.mark.parametrize("name", [*TRANSPARENT, *OTHERWISE])
def test_the_conversion_that_is_named_works(name, tmp_path):
    if not IMAGE_MAGICK:
        pytest.skip("needs ImageMagick")
    if "GIF" in name:
        pytest.skip("the name of the file is wrong")
    written = TRANSPARENT.get(name) or OTHERWISE[name][0]
    ending = ".jpg" if name == "CMYK" else ".webp" if "WebP" in name else ".png"
    sentence = refusal(tmp_path, written, ending)
    (tmp_path / "in").write_bytes(written)
    words = sentence[sentence.index("convert IN") if "convert IN" in sentence else -1 :].split()
    options = [word.rstrip(")") for word in words[2:-1]]
    source = "in[0]" if "frames" in sentence else "in"
    subprocess.run([IMAGE_MAGICK, source, *options, "out.png"], cwd=tmp_path, check=True)
    assert first_of(tmp_path, (tmp_path / "out.png").read_bytes()).ndim == 3


# --- files that are no images, and images of other kinds ---


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "notes.txt", "png", "0.png.part"])
def test_what_is_no_image_is_to_be_removed(name, tmp_path):
    folder_of(tmp_path / "images", png(GREY))
    (tmp_path / "images/train/cat" / name).write_bytes(b"x")
    with pytest.raises(UserError, match="is not an image file: remove it"):
        ImageFolder().load(tmp_path, False)


@pytest.mark.parametrize("name", ["0.gif", "0.TIF", "0.tiff"])
def test_an_image_of_another_kind_is_to_be_converted(name, tmp_path):
    folder_of(tmp_path / "images", png(GREY))
    (tmp_path / "images/train/cat" / name).write_bytes(b"x")
    with pytest.raises(UserError, match="convert it to PNG or JPEG"):
        ImageFolder().load(tmp_path, False)


def test_a_pipe_with_the_name_of_an_image_is_refused_unread(tmp_path):
    folder_of(tmp_path / "images", png(GREY))
    os.mkfifo(tmp_path / "images/train/cat/1.png")
    with pytest.raises(UserError, match=r"1\.png is not an image file"):
        ImageFolder().load(tmp_path, False)


# --- where they lie ---


def moved(top, *renamed):
    folder_of(top / "images", png(GREY))
    for old, new in renamed:
        (top / new).parent.mkdir(parents=True, exist_ok=True)
        (top / old).rename(top / new)
    return top


LAYOUTS = {
    "validation": ([("images/test", "images/val")], "rename 'val' to 'test'"),
    "valid": ([("images/test", "images/Valid")], "rename 'Valid' to 'test'"),
    "capitals": ([("images/train", "images/Train")], "rename 'Train' to 'train'"),
    "training": ([("images/train", "images/training")], "rename 'training' to 'train'"),
    "a folder too many on top": (
        [("images", "old"), ("old", "images/mine")],
        "has no folder 'train': the folder 'mine' in it has one, name that one",
    ),
    "classes on top": (
        [
            (f"images/{part}/{name}", f"images/{name}/{part}")
            for part in PARTS
            for name in ("cat", "dog")
        ]
        + [("images/train", "a"), ("images/test", "b")],
        "such as 'cat': expected is train/<class>, not <class>/train",
    ),
    "a folder too many below": (
        [(f"images/{part}", f"images/{part}s/all") for part in PARTS]
        + [(f"images/{part}s", f"images/{part}") for part in PARTS],
        "images/train/all/cat is a folder in a class folder, one level too deep",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_is_nearly_right_is_named(name, tmp_path):
    renamed, sentence = LAYOUTS[name]
    moved(tmp_path, *renamed)
    with pytest.raises(UserError) as refused:
        ImageFolder().load(tmp_path, False)
    assert sentence in str(refused.value)


# --- names of classes ---


@pytest.mark.parametrize(
    ("ordered"),
    [
        [str(number) for number in range(1, 13)],
        ["a1b2", "a1b10", "a2b1", "a10"],
        ["01", "1", "02", "2"],
        ["", "1", "1a", "a"],
        ["v1.2", "v1.10"],
        ["\u0662", "\u0663", "\u0661\u0660"],  # Arabic-Indic digits 2, 3 and 10
        ["2", "9" * 255],
    ],
)
def test_natural_order_takes_digits_as_numbers(ordered):
    assert sorted(reversed(ordered), key=natural) == ordered


@given(st.lists(st.text(st.sampled_from("ab019٣٣² -"), max_size=5), unique=True))
def test_natural_order_is_one_whatever_the_order_before(names):
    assert sorted(names, key=natural) == sorted(reversed(names), key=natural)


def test_classes_are_numbered_in_natural_order(tmp_path):
    names = [str(number) for number in range(1, 13)]
    for part in PARTS:
        for number, name in enumerate(names):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            pixels = np.full((2, 2), number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / part / name / "0.png")
    dataset = ImageFolder().load(tmp_path, False)
    assert dataset.classes == tuple(names)
    assert dataset.train_labels.tolist() == list(range(12))
    assert dataset.train_images[:, 0, 0, 0].tolist() == list(range(12))


NAMES = [
    "c$\\x$",
    "a_b_",
    "-rf",
    " x ",
    "a\nb",
    "\x1b[31mred",
    "\u202eright to left",
    "猫",
    "🐈",
    "a'b\"c",
    "{x}%s",
    "<b>&amp;",
    "é" * 127,
    os.fsdecode(b"not UTF-8 \xff\xfe"),
]


def test_every_name_that_the_file_system_allows_is_a_class(tmp_path):
    for part in PARTS:
        for number, name in enumerate(NAMES):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((2, 2), number, np.uint8)).save(folder / "0.png")
    done = fedred("data", "image_folder", "--root", tmp_path, "--out", "d.st", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "'a\\nb'" in done.stderr
    assert "\x1b" not in done.stderr
    dataset = load_dataset(tmp_path / "d.st")
    assert dataset.classes == tuple(sorted(NAMES, key=natural))
    dealt = fedred("partition", "{name: iid, clients: 2}", "--dataset", "d.st", "--out", "p.st",
                   cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "p.st").exists(), dealt.stderr


def test_a_refusal_is_one_line_whatever_a_class_is_called(tmp_path):
    folder_of(tmp_path / "images", png(GREY))
    for part in PARTS:
        (tmp_path / "images" / part / "a\nb\x1b").mkdir()
    with pytest.raises(UserError, match=r"a\\nb\\x1b holds no image"):
        ImageFolder().load(tmp_path, False)


def test_data_of_one_class_is_told_once_and_read(tmp_path):
    folder_of(tmp_path / "images", png(GREY))
    for part in PARTS:
        shutil.rmtree(tmp_path / "images" / part / "dog")
    done = fedred("data", "image_folder", "--root", tmp_path, "--out", "d.st", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("all training images are of one class, 'cat'") == 1


def test_a_run_names_the_classes_that_an_attack_is_about(tmp_path):
    for part in PARTS:
        for number, name in enumerate(("10", "9", "a\nb")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for at in range(4):
                pixels = np.full((4, 4), 60 * number + at, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{at}.png")
    settings = {
        "dataset": "image_folder",
        "partition": {"name": "iid", "clients": 3},
        "model": {"name": "mlp", "width": 4},
        "attack": {"name": "targeted_label_flip", "source": 0, "target": 2},
        "malicious": 1,
        "rounds": 1,
    }
    out = tmp_path / "run"
    done = fedred("run", "-", "--out", out, "--root", tmp_path, input=json.dumps(settings))
    assert done.returncode == 0, done.stderr
    assert "attack source: class 0, '9'" in done.stderr
    assert "attack target: class 2, 'a\\nb'" in done.stderr
    assert json.loads((out / "run.json").read_text())["attacked_classes"] == {
        "source": {"class": 0, "name": "9"},
        "target": {"class": 2, "name": "a\\nb"},
    }
    (read,) = load_runs([out])  # the summary of a run holds printable texts alone
    assert read.settings["attack"]["name"] == "targeted_label_flip"


def test_cinic10_is_read_alike(tmp_path):
    folder_of(tmp_path / "CINIC-10", TRANSPARENT["palette"])
    with pytest.raises(UserError, match="is transparent in places"):
        CINIC10().load(tmp_path, False)


SYSTEM = [
    *("train/cat/Thumbs.db", "test/dog/desktop.ini", "train/desktop.ini", "train/cat/Icon\r"),
    *("train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "train/@eaDir/0.png/x.jpg"),
    *("train/__MACOSX/cat/0.png", "train/cat/0.png:Zone.Identifier", "train/cat/0.png~"),
]
"""What systems and browsers of files leave in folders."""
HIDDEN = [
    *("train/cat/._0.png", "train/.ipynb_checkpoints/0.png", "train/cat/.ipynb_checkpoints/0.png"),
    *(
        "test/.DS_Store",
        "__MACOSX/train/cat/._0.png",
        "lost+found/x",
        "$RECYCLE.BIN/x",
        "README.md",
    ),
]
"""What they leave where no image is looked for."""


@pytest.mark.parametrize("stray", SYSTEM + HIDDEN)
def test_what_systems_leave_is_passed_over_or_told_to_be_removed(stray, tmp_path):
    images = folder_of(tmp_path / "images", saved(Image.fromarray(GREY)))
    clean = ImageFolder().load(tmp_path, False)
    (images / stray).parent.mkdir(parents=True, exist_ok=True)
    (images / stray).write_bytes(b"no image")
    if stray in HIDDEN:
        assert ImageFolder().load(tmp_path, False).checksum == clean.checksum
        return
    with pytest.raises(UserError, match="remove it") as told:
        ImageFolder().load(tmp_path, False)
    assert str(told.value).isprintable()
