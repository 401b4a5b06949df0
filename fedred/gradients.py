"""Values and gradients of the same function for many clients: mapped or one by one, compiled or not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Pulled = tuple[Tensor, Callable[[], Any]]
AS_LAID_OUT: dict[str, str | int | bool | Callable[..., Any]] = {"layout_optimization": False}
"""Vmapped convolutions are not compiled channels-last, in which a CPU would read every norm crosswise."""
PADDING_FACTOR = 4  # between two compiled sizes: each takes up to a minute the first time


def value_and_pull(
    function: Callable[..., Tensor], size: int, compiled: bool = False, largest: int | None = None
) -> Callable[..., Pulled]:
    """Return a function's value, and what pulls its gradient by the first argument, for each client.

    Clients lie along the leading axis and are mapped by `vmap`. A single one is computed by plain
    autograd: a batch of one would pay for vmap (grouped convolutions) without gaining from it, and a
    gradient that nobody pulls is not computed.

    Args:
        function: of a tensor, or a tuple of tensors, and other tensors; returns a scalar.
        size: length of the leading axis of all arguments.
        compiled: whether to compile (see `fedred.execution`).
        largest: the largest size that will be asked for; compiled code is made for it and for few
            smaller sizes, and the clients asked for are padded up to one of them.
    """
    if size == 1:
        return _single_compiled(function) if compiled else _single(function)
    return (
        _many_compiled(function, padded_size(size, largest or size))
        if compiled
        else _many(function)
    )


def padded_size(size: int, largest: int) -> int:
    """Return the smallest of largest, largest / 4, largest / 16, ... (rounded up) not below the size."""
    smaller = -(-largest // PADDING_FACTOR)
    return padded_size(size, smaller) if size <= smaller < largest else largest


def _many(function: Callable[..., Tensor]) -> Callable[..., Pulled]:
    def mapped(*arguments: Any) -> Pulled:
        slopes, values = vmap(_slope_and_value(function))(*arguments)
        return values, lambda: slopes

    return mapped


def _slope_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Any, Tensor]]:
    """Return `grad_and_value` without a graph of the gradient.

    That graph would be kept ready for another derivative, which nobody takes, and costs the fused
    backward kernels of normalisations.
    """

    def once(first: Any, *others: Any) -> tuple[Any, Tensor]:
        pulled: Any = vjp(lambda part: function(part, *others), first)
        value, pull = pulled
        (slope,) = pull(torch.ones_like(value), retain_graph=False, create_graph=False)
        return slope, value

    return once


def _many_compiled(function: Callable[..., Tensor], width: int) -> Callable[..., Pulled]:
    program = torch.compile(vmap(grad_and_value(function)), dynamic=False, options=AS_LAID_OUT)

    def mapped(*arguments: Any) -> Pulled:
        size = len(tree_flatten(arguments)[0][0])
        if size < width:
            arguments = tree_map(lambda part: _padded(part, width), arguments)
        slopes, values = program(*arguments)
        return values[:size], lambda: tree_map(lambda part: part[:size], slopes)

    return mapped


def _padded(part: Tensor, width: int) -> Tensor:
    """Repeat the last client until there are `width`: no client touches another."""
    return torch.cat([part, part[-1:].expand(width - len(part), *part.shape[1:])])


def _single(function: Callable[..., Tensor]) -> Callable[..., Pulled]:
    def alone(first: Any, *others: Tensor) -> Pulled:
        leaves, structure = tree_flatten(first)
        leaves = [leaf[0].detach().requires_grad_() for leaf in leaves]
        value = function(tree_unflatten(leaves, structure), *(other[0] for other in others))

        def pull() -> Any:
            slopes = [slope[None] for slope in torch.autograd.grad(value, leaves)]
            return tree_unflatten(slopes, structure)

        return value.detach()[None], pull

    return alone


def _single_compiled(function: Callable[..., Tensor]) -> Callable[..., Pulled]:
    program = torch.compile(grad_and_value(function), dynamic=False)

    def alone(*arguments: Any) -> Pulled:
        slopes, value = program(*tree_map(lambda part: _channels_last(part[0]), arguments))
        return value[None], lambda: tree_map(lambda slope: slope[None].contiguous(), slopes)

    return alone


def _channels_last(part: Tensor) -> Tensor:
    """Lay out images as compiled convolutions on a CPU read them fastest."""
    images = part.dim() == 4 and part.device.type == "cpu"
    return part.contiguous(memory_format=torch.channels_last) if images else part
