"""Seconds and memory of every aggregation rule beside the matrix of updates that it is given.

python -m benchmarks.aggregation_memory [rule ...] [--clients 1000] [--parameters 320010]
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import PROC, forget_peak_memory, peak_memory, timed
from benchmarks.report import MEBIBYTE, table
from fedred.defenses import DEFENSES
from fedred.defenses.interface import Defense, ServerView, Verdict
from fedred.errors import UserError, unknown_name
from fedred.local_training import LocalTraining
from fedred.models import MLP, flat_model
from fedred.parameters import FlatModel
from fedred.reconstruction import Reconstruction

CPU = torch.device("cpu")
CLASSES, INPUTS = 10, 89  # INPUTS + 1 + CLASSES = 100 parameters for each hidden unit
UNIT = INPUTS + 1 + CLASSES
FEWEST = 8  # clients that every rule can judge, for the call that loads its libraries
COLUMNS = ("rule", "seconds", "extra MiB", "share of matrix", "of it remembered")

OPTIONS: dict[str, dict[str, Any]] = {
    # Ten rounds fill its default window, and the window's vectors hide what clients take.
    "fldetector": {"window": 2},
    "deepsight": {"images": 10},
    # All are trusted, at the first iteration: what reconstruction takes is not the question here.
    "fedredefense": {"threshold": 1e9, "reconstruction": Reconstruction(first_iterations=1)},
}
"""Options other than the defaults."""
ROUNDS = {"centered_clipping": 2, "fldetector": 4, "foolsgold": 2}
"""Rounds until a memory is in use; the most of all of them counts."""


class Cost(NamedTuple):
    """What a rule takes beside the updates.

    seconds: of the last round.
    extra: bytes at the peak, the new state included.
    remembered: bytes of the new state.
    """

    seconds: float
    extra: int
    remembered: int


def model_of(parameters: int) -> FlatModel:
    """Return a network with at most this many parameters: one hidden layer, 100 a unit.

    Raises:
        UserError: when they are too few for one hidden unit.
    """
    if parameters < UNIT + CLASSES:
        raise UserError(f"--parameters is {parameters}, but it must be at least {UNIT + CLASSES}")
    return flat_model(MLP(width=(parameters - CLASSES) // UNIT), (1, 1, INPUTS), CLASSES)


def alike(clients: int, parameters: int) -> Tensor:
    """Return updates [clients, parameters] around a common direction, the usual length 0.1."""
    source = torch.Generator().manual_seed(0)
    updates = torch.randn(clients, parameters, generator=source)
    updates += torch.randn(parameters, generator=source)
    return updates.mul_(0.1 / (2 * parameters) ** 0.5)


def view_of(model: FlatModel, clients: int, round: int, weights: Tensor, state: Any) -> ServerView:
    """Return what the server knows in a round in which all clients take part."""
    source = np.random.default_rng(round)
    images = torch.from_numpy(source.standard_normal((100, *model.input_shape), "float32"))
    return ServerView(
        model=model,
        weights=weights,
        round=round,
        clients=torch.arange(clients),
        all_clients=clients,
        samples=torch.full((clients,), 50),
        training=LocalTraining(),
        generator=source,
        clean=(images, torch.from_numpy(source.integers(0, CLASSES, 100))),
        state=state,
    )


def cost_of(name: str, updates: Tensor, model: FlatModel) -> Cost:
    """Measure a rule on updates [n, P] of a model, n at least 8, after a call with few of them."""
    rule, weights = DEFENSES[name](**OPTIONS.get(name, {})), torch.zeros(model.size)
    judge(rule, updates[:FEWEST], view_of(model, FEWEST, 1, weights, {}))
    state, costs = {}, []
    for round in range(1, ROUNDS.get(name, 1) + 1):
        verdict, cost = judge(rule, updates, view_of(model, len(updates), round, weights, state))
        state, weights = verdict.state, weights + verdict.aggregate
        costs.append(cost)
    return costs[-1]._replace(extra=max(cost.extra for cost in costs))


def judge(rule: Defense, updates: Tensor, view: ServerView) -> tuple[Verdict, Cost]:
    """Return what a rule decides, and what that took."""
    forget_peak_memory(CPU)
    before = peak_memory(CPU)
    verdict, seconds = timed(lambda: rule(updates, view), CPU)
    remembered = sum(part.nbytes for part in verdict.state.values())
    return verdict, Cost(seconds, peak_memory(CPU) - before, remembered)


def can_forget() -> bool:
    """Return whether the kernel can start the measurement of a peak anew (Linux)."""
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    command = argparse.ArgumentParser(
        "python -m benchmarks.aggregation_memory", description=__doc__
    )
    command.add_argument("rules", nargs="*", metavar="rule", help="all unless named")
    command.add_argument("--clients", type=int, default=1000, help="n, at least 8")
    command.add_argument("--parameters", type=int, default=320_010, help="P, rounded to 100 k + 10")
    return command


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Raises:
        UserError: for an unknown rule, too few clients, or a system that cannot tell.
    """
    for name in options.rules:
        if name not in DEFENSES:
            raise UserError(unknown_name("defense", name, DEFENSES))
    if options.clients < FEWEST:
        raise UserError(f"--clients is {options.clients}, but it must be at least {FEWEST}")
    if not can_forget():
        raise UserError("only Linux starts the measurement of a peak anew (/proc/self/clear_refs)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0, or 2 for a mistake."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        model = model_of(options.parameters)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    updates = alike(options.clients, model.size)
    print(f"updates [{options.clients}, {model.size}]: {updates.nbytes / MEBIBYTE:.0f} MiB")
    rows = [row(name, updates, model) for name in options.rules or DEFENSES]
    print(table(rows, COLUMNS))
    return 0


def row(name: str, updates: Tensor, model: FlatModel) -> tuple[str, ...]:
    """Return the cells of one rule."""
    print(name, file=sys.stderr, flush=True)
    cost = cost_of(name, updates, model)
    shares = (f"{part / updates.nbytes:.1%}" for part in (cost.extra, cost.remembered))
    return (name, f"{cost.seconds:.2f}", f"{cost.extra / MEBIBYTE:.0f}", *shares)


if __name__ == "__main__":
    sys.exit(main())
