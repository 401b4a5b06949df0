"""How a run is computed: choices that change speed and memory, and results by rounding alone."""

import logging
import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from fedred.errors import UserError
from fedred.parameters import FlatModel

log = logging.getLogger(__name__)

SMALL_NETWORK = 1_000_000  # floating-point operations of one image; docs/decisions/client-chunks.md
CHUNK = 128
SHARE_OF_MEMORY = 0.7  # of a GPU's, for what the clients of a chunk hold at once
VALUES_HELD = 3  # for each activation of an image: docs/scaling.md
IMAGES_HELD = 50  # K steps of all synthetic images, more than a batch of local training; by default

REPAYS_COMPILING = 10**12  # operations of a run's local training; docs/decisions/compilation.md

MOST_COMPILED = 64
"""Programs of one function: sizes of batches, and options of attacks and defenses."""

Compile = Literal["auto", "on", "off"]


def compute_deterministically() -> None:
    """Make PyTorch compute the same bits each time, where it can; to be called before CUDA starts."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Execution:
    """What a user may decide about how a run is computed.

    Args:
        clients_per_chunk: clients trained or reconstructed at once; None: chosen for network and device.
        compile: whether torch.compile is used; auto: on a CPU, for a run that is long enough to repay
            the compilation, where a compiler is found.
        jobs_per_gpu: that share a GPU's memory, at least 1.
    """

    clients_per_chunk: int | None = None
    compile: Compile = "auto"
    jobs_per_gpu: int = 1


def forward_operations(model: FlatModel) -> int:
    """Return the floating-point operations of one image's forward pass: products of matrices alone."""
    matrices = (nn.Conv2d, nn.Linear)
    return sum(
        2 * output.numel() * layer.weight[0].numel()
        for layer, output in _layers_with_outputs(model)
        if isinstance(layer, matrices)
    )


def activations(model: FlatModel) -> int:
    """Return how many numbers the layers of a network give for one image."""
    return sum(output.numel() for _, output in _layers_with_outputs(model))


def _layers_with_outputs(model: FlatModel) -> list[tuple[nn.Module, Tensor]]:
    """Return what each innermost layer gives for one image (PyTorch's FlopCounterMode loads Triton)."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        found.append((layer, output))

    layers = [layer for layer in model.module.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    image = torch.zeros(1, *model.input_shape, device=next(model.module.parameters()).device)
    with torch.inference_mode():
        model.module(image)
    for hook in hooks:
        hook.remove()
    return found


def choose_clients_per_chunk(
    model: FlatModel, device: torch.device, participants: int, jobs_per_gpu: int = 1
) -> int:
    """Return how many clients are trained or reconstructed at once on this device.

    A vmapped convolution over clients is a grouped convolution, which pays on a GPU and for small
    networks, where the cost is in the calls, and costs on a CPU for large ones: those run one by one.

    Args:
        model: the network.
        device: where it is computed.
        participants: clients of a round; they are divided into chunks of nearly equal size.
        jobs_per_gpu: that share the GPU's memory, at least 1.
    """
    if device.type == "cpu" and forward_operations(model) > SMALL_NETWORK:
        return 1
    most = CHUNK
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        most = clients_in_memory(model, memory // jobs_per_gpu)
    return math.ceil(participants / math.ceil(participants / most))


def clients_in_memory(model: FlatModel, memory: int) -> int:
    """Return how many clients at once a device with so many bytes holds, at least 1 and at most CHUNK.

    Counted from the whole memory, not from what happens to be free: a resumed job must choose the same.
    """
    held = 4 * VALUES_HELD * IMAGES_HELD * activations(model)
    return max(1, min(CHUNK, int(SHARE_OF_MEMORY * memory / held)))


def choose_to_compile(wanted: Compile, device: torch.device, operations: float) -> bool:
    """Return whether to compile, and say so.

    Args:
        wanted: the user's word.
        device: where the run is computed.
        operations: floating-point operations of all local training of the run.

    Raises:
        UserError: when compilation is wanted, but does not work here.
    """
    repays = device.type == "cpu" and operations >= REPAYS_COMPILING
    if wanted == "off":
        return False
    if wanted == "auto" and not repays:
        log.info("not compiled: %s", "on a GPU" if device.type == "cuda" else "a short run")
        return False
    failure = compiler_failure(device.type)
    if failure and wanted == "on":
        raise UserError(f"--compile on: torch.compile does not work here ({failure})")
    if failure:
        log.info("not compiled, which would be faster: torch.compile does not work (%s)", failure)
        return False
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler as well
    torch._dynamo.config.recompile_limit = MOST_COMPILED  # beyond it, the rest is not compiled
    log.info("compiled: the first round takes a minute longer, unless cached on this machine")
    return True


@cache
def compiler_failure(device: str) -> str | None:
    """Return why a small function cannot be compiled for this type of device, or None if it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:
        return str(error).strip().partition("\n")[0][:200]
    return None
