"""Both sides of a unit, each in a process of its own with its own memory and settings."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmarks.measure import SIDES, forget_peak_memory, peak_memory, timed
from benchmarks.units import Deviation, Facts, Prepared, Unit
from fedred.allocation import keep_freed_memory
from fedred.execution import Execution, compute_deterministically


class Side:
    """One side of a unit in a fresh process, which keeps the unit ready between the calls.

    Ours is as `fedred run` makes it: freed memory is kept, algorithms are deterministic. The twin is as
    any program. On a GPU both convolve in full float32, or they could not be compared. Preparing begins
    at once.

    Args:
        side: "ours" or "twin".
        unit, device, clients, execution: what is prepared (see `Unit.prepare`).
    """

    def __init__(
        self, side: str, unit: Unit, device: torch.device, clients: int, execution: Execution
    ) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent)
        self._facts = self._process.submit(_prepare, side, unit, device, clients, execution)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown(cancel_futures=True)

    def wait(self) -> None:
        """Wait until the unit is prepared, and raise what went wrong."""
        self._facts.result()

    @property
    def facts(self) -> Facts:
        """What was prepared."""
        return self._facts.result()

    def _there(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._process.submit(function, *arguments).result()

    def first_call(self) -> tuple[float, int, Any]:
        """Return seconds of a call, bytes at its peak, and its result with arrays for tensors."""
        return self._there(_first_call)  # type: ignore[no-any-return]

    def call(self) -> float:
        """Return the seconds of a call."""
        return self._there(_call)  # type: ignore[no-any-return]

    def compare(self, ours: Any, twin: Any) -> list[Deviation]:
        """Return the deviations of two results of first calls."""
        return self._there(_compare, ours, twin)  # type: ignore[no-any-return]


@contextmanager
def both_sides(
    unit: Unit, device: torch.device, clients: int, execution: Execution
) -> Iterator[dict[str, Side]]:
    """Give both sides of a unit, prepared, to be called in turn; at the end their processes end."""
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(Side(side, unit, device, clients, execution))
            for side in SIDES
        }
        for side in sides.values():
            side.wait()
        yield sides


@dataclass(frozen=True)
class _Ready:
    """What the process of a side holds."""

    prepared: Prepared
    compute: Callable[[], Any]
    device: torch.device


_ready: _Ready


def _end_with_parent() -> None:
    """Let this process end when the one that asked for it has ended, however that was."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _prepare(
    side: str, unit: Unit, device: torch.device, clients: int, execution: Execution
) -> Facts:
    global _ready
    if side == "ours":
        keep_freed_memory()
        compute_deterministically()
    else:
        execution = Execution(compile="off")
    torch.backends.cudnn.allow_tf32 = False
    prepared = unit.prepare(device, clients, execution)
    _ready = _Ready(prepared, getattr(prepared, side), device)
    return prepared.facts


def _first_call() -> tuple[float, int, Any]:
    forget_peak_memory(_ready.device)
    returned, seconds = timed(_ready.compute, _ready.device)
    peak = peak_memory(_ready.device)
    # a tensor would be handed over in shared memory, of which a container may have little
    return seconds, peak, tree_map_only(Tensor, lambda part: part.cpu().numpy(), returned)


def _call() -> float:
    return timed(_ready.compute, _ready.device)[1]


def _compare(ours: Any, twin: Any) -> list[Deviation]:
    def here(part: np.ndarray) -> Tensor:
        return torch.from_numpy(part).to(_ready.device)

    return _ready.prepared.compare(*tree_map_only(np.ndarray, here, (ours, twin)))
