"""Seconds, ratios, memory, and the machine they belong to."""

import ctypes
import gc
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedred.provenance import cores, cpu_model, versions

SIDES = ("ours", "twin")
PROC = Path("/proc/self")


@dataclass
class Measured:
    """What was measured of one unit: of each side ("ours", "twin") its seconds and its memory.

    Args:
        warm_up: seconds of the first call, in which libraries choose and load their kernels.
        memory: bytes at the peak of the warm-up.
        seconds: one number for each repetition.
        times: what the seconds of a side are multiplied by, where it computes a part of the clients.
    """

    warm_up: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    times: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SIDES, 1.0))

    @property
    def ratios(self) -> list[float]:
        """Seconds of the twin over seconds of ours, one for each repetition."""
        pairs = zip(self.seconds["twin"], self.seconds["ours"], strict=True)
        return [twin / ours for twin, ours in pairs]


def repeat(measured: Measured, calls: Mapping[str, Callable[[], float]], repeats: int) -> None:
    """Call both sides in turn, each of which returns its seconds, and note them.

    Which one comes first changes from repetition to repetition, so that a machine that grows slower
    favours neither.
    """
    for repetition in range(repeats):
        for side in SIDES if repetition % 2 == 0 else SIDES[::-1]:
            measured.seconds[side].append(measured.times[side] * calls[side]())


def timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return what a function returns, and its seconds until the device has finished."""
    gc.collect()
    synchronise(device)
    start = time.perf_counter()
    result = function()
    synchronise(device)
    return result, time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest, largest, and both quartiles (linear interpolation)."""
    names = ("smallest", "lower_quartile", "median", "upper_quartile", "largest")
    quantiles = np.quantile(np.asarray(values, "float64"), [0, 0.25, 0.5, 0.75, 1])
    return {name: float(value) for name, value in zip(names, quantiles, strict=True)}


def forget_peak_memory(device: torch.device) -> None:
    """Start the measurement of the peak anew, on a CPU where the kernel can do it (Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_free_memory()
    with suppress(OSError):
        (PROC / "clear_refs").write_text("5")


def return_free_memory() -> None:
    """Give freed memory back, else what is measured next takes it unseen (glibc; elsewhere nothing)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Return bytes at the peak: allocated on the GPU, or resident in this process.

    Resident memory is that of the whole process with its libraries. Where the kernel cannot start
    anew, it is the peak since the process began.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, AttributeError):
        status = (PROC / "status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a number needs beside it: device, threads, versions, date."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions() | gpu_versions(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def gpu_versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what PyTorch computes with on a GPU; none on a CPU."""
    if device.type != "cuda":
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or that of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def slug(name: str) -> str:
    """Return a name that is safe as a file name: lower case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def machine_name(device: torch.device) -> str:
    """Return the default name of this machine: its GPU or CPU, and its cores."""
    return slug(f"{device_name(device)} {cores()} cores")
