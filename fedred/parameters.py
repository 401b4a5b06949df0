"""A module as a pure function of one flat parameter vector."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedred.errors import UserError

NamedTensors = Mapping[str, Tensor]
"""What a method remembers from round to round: named tensors, the whole of its memory."""


def nested(part: str, state: NamedTensors) -> dict[str, Tensor]:
    """Return the state of a method inside another, every name below `part.`."""
    return {f"{part}.{name}": tensor for name, tensor in state.items()}


def part_of(state: NamedTensors, part: str) -> dict[str, Tensor]:
    """Return what `nested` stored below `part.`, under its own names."""
    prefix = f"{part}."
    inner = (name for name in state if name.startswith(prefix))
    return {name.removeprefix(prefix): state[name] for name in inner}


@dataclass(frozen=True)
class FlatModel:
    """A network whose parameters are one vector: `logits = model(vector, images)`.

    The parameters inside `module` are never read: the vector is the only state, so the same object
    serves the server, every client and every unrolled step, under `vmap` and `grad`.

    Args:
        module: a network without buffers.
        input_shape: (channels, height, width) of one image.
        classes: number of classes C.
        compiled: whether its gradients are compiled; changes speed, and results by rounding.
    """

    module: nn.Module
    input_shape: tuple[int, int, int]
    classes: int
    compiled: bool = False

    def __post_init__(self) -> None:
        refuse_buffers(self.module)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each named parameter, in the order in which the vector holds them."""
        return {name: parameter.shape for name, parameter in self.module.named_parameters()}

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return sum(prod(shape) for shape in self.shapes.values())

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return named views of a vector [P]; `split` keeps the gradient one concatenation."""
        shapes = self.shapes
        parts = torch.split(vector, [prod(shape) for shape in shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def flatten(self) -> Tensor:
        """Return the module's own parameters as a vector [P]."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def __call__(self, vector: Tensor, images: Tensor) -> Tensor:
        """Return logits [samples, C] of normalised images [samples, channels, height, width]."""
        logits: Tensor = functional_call(self.module, self.unflatten(vector), (images,))
        return logits

    def to(self, device: torch.device) -> "FlatModel":
        """Move the module to another device and return the model there."""
        return replace(self, module=self.module.to(device))


def refuse_buffers(module: nn.Module) -> None:
    """Refuse a network with buffers (BatchNorm's running statistics, for instance).

    A buffer is state outside the parameter vector: no rule would aggregate it, no update would
    carry it, and a reconstruction could not replay it.

    Raises:
        UserError: naming the first buffer.
    """
    for name, _ in module.named_buffers():
        raise UserError(
            f"the model has the buffer '{name}', which is not part of an update and which no rule "
            "would aggregate: use a layer without buffers (GroupNorm in place of BatchNorm)"
        )
