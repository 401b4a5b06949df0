"""The networks: each a frozen dataclass with `build(channels, height, width, classes)`."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedred.errors import UserError
from fedred.options import check_options, option
from fedred.papers import MCMAHAN, Paper
from fedred.parameters import FlatModel


class Model(Protocol):
    """What a member of MODELS is: options at construction, `build` makes the network."""

    papers: ClassVar[tuple[Paper, ...]]

    def build(self, channels: int, height: int, width: int, classes: int) -> nn.Module: ...


GROUPS = 4
MOST_PARAMETERS = 10**9
"""Of a network; one vector of so many takes 4 GB, and a round holds one for each participant."""
WIDEST = 2**16
Norm = Literal["instance", "group", "none"]
Pooling = Literal["average", "max", "none"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    """Instance norm is group norm with one channel a group: both work on one sample, no buffers."""
    if kind == "none":
        return nn.Identity()
    groups = math.gcd(channels, GROUPS) if channels > GROUPS else 1
    return nn.GroupNorm(channels if kind == "instance" else groups, channels)


def _pooling(kind: Pooling) -> nn.Module:
    layers = {"average": AveragePool(), "max": nn.MaxPool2d(2), "none": nn.Identity()}
    return layers[kind]


class AveragePool(nn.Module):
    """Mean over 2x2 squares, for even height and width.

    Faster than nn.AvgPool2d(2) on a CPU, with its backward pass 2.5 times (docs/decisions/pooling.md).
    """

    def forward(self, images: Tensor) -> Tensor:
        *batch, height, width = images.shape
        squares = images.reshape(*batch, height // 2, 2, width // 2, 2)
        upper, lower = squares.unbind(-3)
        left, right = (upper + lower).unbind(-1)
        return (left + right) / 4


class PadToMultiple(nn.Module):
    """Pad height and width with zeros, evenly, up to the next multiple of a number."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, images: Tensor) -> Tensor:
        height, width = (-side % self.multiple for side in images.shape[-2:])
        if not height and not width:
            return images
        left, top = width // 2, height // 2
        return F.pad(images, (left, width - left, top, height - top))


@dataclass(frozen=True)
class ConvNet:
    """The paper's network: depth x [3x3 convolution, norm, ReLU, pooling by 2], then linear.

    Images are padded with zeros to a multiple of 2^depth, so that every pooling halves exactly:
    28x28 becomes 32x32 with depth 3 as in the paper, 32x32 stays. With the defaults this has 320,010
    parameters on 3x32x32 and 317,706 on 1x28x28, as in the paper.

    Source: Xie, Fang, Gong, ICML 2024, section 5; the network is that of Zhao et al., ICLR 2021.
    """

    width: int = option(128, "channels of every convolution", ge=1, le=WIDEST)
    depth: int = option(3, "number of convolution blocks", ge=1, le=8)
    norm: Norm = option("instance", "normalisation after each convolution")
    pooling: Pooling = option("average", "halves height and width after each block")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Zhao, Mopuri, Bilen, ICLR 2021",
            "Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan",
            "Dataset Condensation with Gradient Matching",
            "International Conference on Learning Representations",
            2021,
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)

    def build(self, channels: int, height: int, width: int, classes: int) -> nn.Module:
        """Return the network for images of this shape."""
        scale = 1 if self.pooling == "none" else 2**self.depth
        layers: list[nn.Module] = [PadToMultiple(scale)]
        for block in range(self.depth):
            layers += self._block(channels if block == 0 else self.width)
        area = math.ceil(height / scale) * math.ceil(width / scale)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(self.width * area, classes))

    def _block(self, channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, self.width, 3, padding=1)
        return [convolution, _norm(self.norm, self.width), nn.ReLU(), _pooling(self.pooling)]


@dataclass(frozen=True)
class MLP:
    """A fully connected network: depth hidden layers of equal width with ReLU.

    The 2NN of McMahan et al. is width 200, depth 2.
    """

    width: int = option(128, "units of each hidden layer", ge=1, le=WIDEST)
    depth: int = option(1, "number of hidden layers", ge=0, le=16)

    papers: ClassVar[tuple[Paper, ...]] = (MCMAHAN,)

    def __post_init__(self) -> None:
        check_options(self)

    def build(self, channels: int, height: int, width: int, classes: int) -> nn.Module:
        """Return the network for images of this shape."""
        sizes = [channels * height * width] + [self.width] * self.depth
        hidden = [
            layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


class ResidualBlock(nn.Module):
    """relu(x' + norm(conv(relu(norm(conv(x)))))) with x' = x, or a 1x1 convolution of it."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1),
            _norm("group", width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            _norm("group", width),
        )
        same = channels == width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.shortcut(images) + self.body(images))


class GlobalAverage(nn.Module):
    """Mean over height and width: [samples, channels, height, width] -> [samples, channels]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(-2, -1))


@dataclass(frozen=True)
class ResNet:
    """A small residual network with GroupNorm: stages double the width and halve the image."""

    width: int = option(16, "channels of the first stage", ge=1, le=WIDEST)
    stages: int = option(3, "number of stages", ge=1, le=5)
    blocks: int = option(1, "residual blocks in each stage", ge=1, le=100)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "He et al., CVPR 2016",
            "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
            "Deep Residual Learning for Image Recognition",
            "IEEE Conference on Computer Vision and Pattern Recognition",
            2016,
        ),
        Paper(
            "Wu and He, ECCV 2018",
            "Wu, Yuxin and He, Kaiming",
            "Group Normalization",
            "European Conference on Computer Vision",
            2018,
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)

    def build(self, channels: int, height: int, width: int, classes: int) -> nn.Module:
        """Return the network for images of this shape."""
        layers: list[nn.Module] = [nn.Conv2d(channels, self.width, 3, padding=1), nn.ReLU()]
        before = self.width
        for stage in range(self.stages):
            after = self.width * 2**stage
            for block in range(self.blocks):
                layers.append(ResidualBlock(before, after, 2 if stage and not block else 1))
                before = after
        return nn.Sequential(*layers, GlobalAverage(), nn.Linear(before, classes))


MODELS: dict[str, type[Model]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "resnet": ResNet,
}


def flat_model(model: Model, input_shape: tuple[int, int, int], classes: int) -> FlatModel:
    """Build a network as a function of its parameter vector.

    Args:
        model: a member of MODELS with its options.
        input_shape: (channels, height, width) of one image.
        classes: number of classes C.

    Raises:
        UserError: when the network has buffers, or too many parameters.
    """
    with torch.device("meta"):  # shapes without memory
        size = sum(p.numel() for p in model.build(*input_shape, classes).parameters())
    if size > MOST_PARAMETERS:
        raise UserError(
            f"{model} has {size} parameters on images of {input_shape}: at most {MOST_PARAMETERS} "
            "are allowed"
        )
    return FlatModel(model.build(*input_shape, classes), input_shape, classes)


def initial_parameters(model: FlatModel, generator: np.random.Generator) -> Tensor:
    """Draw a fresh parameter vector [P] from a generator, by PyTorch's own default distributions.

    Convolutions and linear layers: weights and biases from U(-b, b), b = 1 / sqrt(fan_in).
    Normalisations: weights 1, biases 0.

    Raises:
        UserError: for a layer with parameters of another kind, whose distribution is not known here.
    """
    parts = [
        values
        for layer in model.module.modules()
        if list(layer.parameters(recurse=False))
        for values in _initial_layer(layer, generator)
    ]
    return torch.cat([torch.from_numpy(part).float().reshape(-1) for part in parts])


def _initial_layer(layer: nn.Module, generator: np.random.Generator) -> list[np.ndarray]:
    shapes = [tuple(parameter.shape) for parameter in layer.parameters(recurse=False)]
    if isinstance(layer, nn.Conv2d | nn.Linear):
        bound = 1 / math.sqrt(math.prod(shapes[0][1:]))
        return [generator.uniform(-bound, bound, shape) for shape in shapes]
    if isinstance(layer, nn.GroupNorm):
        return [np.ones(shapes[0]), np.zeros(shapes[1])]
    name = type(layer).__name__
    raise UserError(
        f"no seeded initialisation is known for layer {name}: add it to fedred/models.py"
    )
