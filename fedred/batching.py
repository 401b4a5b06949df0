"""How many clients to compute at once: a speed decision, made in one place."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedred.parameters import FlatModel

SMALL_NETWORK = 1_000_000  # floating-point operations of one image; docs/decisions/client-chunks.md
CHUNK = {"cpu": 32, "cuda": 128}


def forward_operations(model: FlatModel) -> int:
    """Return the floating-point operations of one image's forward pass."""
    image = torch.zeros(1, *model.input_shape)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(model.flatten().cpu(), image)
    return int(counter.get_total_flops())


def choose_clients_per_chunk(model: FlatModel, device: torch.device) -> int:
    """Return how many clients are trained or reconstructed at once on this device.

    A vmapped convolution over clients is a grouped convolution, which pays on a GPU and for small
    networks, where the cost is in the calls, and costs on a CPU for large ones: those run one by one.
    """
    if device.type == "cpu" and forward_operations(model) > SMALL_NETWORK:
        return 1
    return CHUNK["cpu" if device.type == "cpu" else "cuda"]
