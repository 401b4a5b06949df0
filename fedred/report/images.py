"""The figure of synthetic images: what a client's update was reconstructed with."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedred.errors import UserError
from fedred.files import checksum_of, read_tensors, require_checksum, told
from fedred.report import style
from fedred.report.drawing import panel_grid, panel_room, tell_left_out
from fedred.report.judged import attack_panels
from fedred.report.lettering import house_style, wrapped
from fedred.report.statistics import FloatArray

CLIENTS = 3
"""Honest clients that are drawn, and malicious ones."""
IMAGES = 10
"""Images that are drawn of a client."""
HIGHEST = 10.0
"""Inches of a panel."""
DARKEST, BRIGHTEST = 1, 99
"""Percentiles of a client's pixels that are drawn black and white."""


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Images of the n clients of a recorded round, as `fedred reconstruct --images` wrote them.

    Args:
        images: [n, K, channels, height, width] in normalised pixel units.
        clients: ids [n], ascending.
        malicious: bool [n].
        errors: of the reconstruction [n].
        round: its number, from 1.
        panel: in which it stands.
    """

    images: FloatArray
    clients: np.ndarray
    malicious: np.ndarray
    errors: FloatArray
    round: int
    panel: str

    def shown(self) -> list[int]:
        """Return the places of the clients to be drawn: honest ones, then malicious ones."""
        places = (np.flatnonzero(self.malicious == bad)[:CLIENTS] for bad in (False, True))
        return [int(place) for part in places for place in part]


def load_images(paths: Iterable[Path | str]) -> list[Synthetic]:
    """Read what `fedred reconstruct --images` wrote.

    Raises:
        UserError: for a file that is missing, torn, changed or of another kind.
    """
    read = [_read(Path(path)) for path in paths]
    panels = attack_panels([about["settings"] for _, about in read])
    return [
        Synthetic(**arrays, round=int(about["round"]), panel=panel)
        for (arrays, about), panel in zip(read, panels, strict=True)
    ]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors, texts = read_tensors(path, "reconstruction")
    written = {"checksum": texts.pop("checksum", "")}
    require_checksum(path, checksum_of(tensors, texts), written)
    with told(f"{path} is not a whole reconstruction: build it again"):
        names = ("images", "clients", "malicious", "errors")
        arrays = {name: tensors[name].numpy() for name in names}
        if arrays["images"].ndim != 5 or len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("its tensors have other shapes")
        return arrays, json.loads(texts["about"])


@house_style()
def images(synthetic: Sequence[Synthetic]) -> Figure:
    """Return synthetic images, a panel an attack, of the first file of each: a row a client.

    Raises:
        UserError: when there is nothing to draw.
    """
    first = {one.panel: one for one in reversed(synthetic)}
    panels = [one for one in synthetic if first[one.panel] is one and len(one.clients)]
    if not panels:
        raise UserError("there are no synthetic images to draw")
    beside = min(len(panels), 2)
    height = min(HIGHEST, max(_inches(one, style.PAGE_WIDTH / beside) for one in panels))
    figure, axes = panel_grid(len(panels), height, 0.3, most=beside)
    for axis, one in zip(axes, panels, strict=False):
        _draw(axis, one, panel_room(beside))
    colors = {"Honest client": style.HONEST, "Malicious client": style.MALICIOUS}
    handles = [Patch(color=color, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    tell_left_out(figure, len(axes), len(panels), "panels")
    return figure


def _inches(one: Synthetic, width: float) -> float:
    """Return the height of a panel of a width, with room for its title and the clients' names."""
    _, count, _, height, across = map(int, one.images.shape)
    return 0.3 + (width - 0.7) * len(one.shown()) * height / (min(count, IMAGES) * across)


def _draw(axis: Axes, one: Synthetic, room: float) -> None:
    rows = [_strip(one.images[place, :IMAGES]) for place in one.shown()]
    tall = rows[0].shape[0]
    axis.imshow(np.concatenate(rows), interpolation="nearest")
    axis.set_yticks(
        [tall * (row + 0.5) - 0.5 for row in range(len(rows))],
        [f"{one.clients[place]}: {one.errors[place]:.2f}" for place in one.shown()],
    )
    for label, place in zip(axis.get_yticklabels(), one.shown(), strict=True):
        label.set_color(style.MALICIOUS if one.malicious[place] else style.HONEST)
    title = wrapped(f"{one.panel}, round {one.round}", room)
    axis.set(title=title, ylabel="Client: error", xticks=[])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _strip(pictures: FloatArray) -> FloatArray:
    """Return the K images [K, channels, height, width] of a client side by side, in RGB."""
    scaled = _scaled(pictures)
    if scaled.shape[1] != 3:
        scaled = scaled.mean(1, keepdims=True).repeat(3, 1)
    edge = 1 + scaled.shape[-1] // 32
    framed = np.pad(scaled, ((0, 0), (0, 0), (0, edge), (0, edge)), constant_values=1.0)
    return np.concatenate(list(framed.transpose(0, 2, 3, 1)), axis=1)


def _scaled(pictures: FloatArray) -> FloatArray:
    """Return pixels in [0, 1]; those that are no number are grey."""
    finite = pictures[np.isfinite(pictures)]
    low, high = np.percentile(finite, (DARKEST, BRIGHTEST)) if finite.size else (0.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (pictures.astype(float) - low) / max(high - low, 1e-12)
    clipped: FloatArray = np.clip(np.nan_to_num(scaled, nan=0.5), 0, 1)
    return clipped
