"""The command `python -m benchmarks`: FedRED against plain loops, on this machine."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks import report
from benchmarks.measure import SIDES, Measured, environment, machine_name, repeat, slug
from benchmarks.sides import Side, both_sides
from benchmarks.units import UNITS, Deviation, Facts, Unit
from fedred.chunks import ran_out_of_memory
from fedred.errors import UserError, unknown_name
from fedred.execution import Execution, compiler_failure

DEVICES = ("cpu", "cuda")
GPU_MINUTES = 8.0
"""A GPU may be lent by the minute."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parser() -> Parser:
    """Return the command line's description."""
    made = Parser("python -m benchmarks", description="Measure FedRED against plain loops.")
    made.add_argument("units", nargs="*", metavar="UNIT", help="units to measure; none: all")
    made.add_argument("--list", action="store_true", help="show the units and stop")
    made.add_argument("--repeats", type=int, default=3, help="repetitions after the warm-up")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--clients", type=int, help="at most so many clients of each unit")
    made.add_argument(
        "--chunk", type=int, help="clients that ours computes at once (default: its choice)"
    )
    made.add_argument("--compile", action="store_true", help="compile ours, as long runs do")
    made.add_argument(
        "--minutes",
        type=float,
        help="start no unit after so many (a started one ends; default: 8 on a GPU, else no end)",
    )
    made.add_argument("--machine", help="name of the file of results (default: CPU or GPU, cores)")
    made.add_argument("--results", type=Path, default=report.RESULTS, help="folder of that file")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 when results differ, or 2 for a mistake."""
    try:
        options = parser().parse_args(arguments)
        if options.list:
            print(listing())
            return 0
        check(options)
        return measure_all(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Raises:
        UserError: for an unknown name, a number below 1, or a GPU that is not there.
    """
    for name in options.units:
        if name not in UNITS:
            raise UserError(unknown_name("unit", name, UNITS))
    if options.device not in DEVICES:
        raise UserError(unknown_name("device", options.device, DEVICES))
    for name in ("repeats", "clients", "chunk"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UserError(f"--{name} is {number}, but it must be at least 1")
    if options.minutes is not None and not options.minutes >= 0:
        raise UserError(f"--minutes is {options.minutes}, but it must be at least 0")
    if options.machine is not None and not slug(options.machine):
        raise UserError(f"--machine is '{options.machine}', but it must hold a letter or a digit")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but this PyTorch finds no GPU: leave --device out")
    if options.compile and (failure := compiler_failure(options.device)):
        raise UserError(f"--compile is set, but torch.compile does not work here ({failure})")


def listing() -> str:
    """Return the units, with the clients that are computed on a CPU and on a GPU."""
    rows = []
    for name, unit in UNITS.items():
        cpu, gpu = (unit.clients(torch.device(device)) for device in DEVICES)
        summary = unit.summary
        rows.append(
            f"{name:18} {cpu[0]:3} of {cpu[1]:3} clients on cpu, {gpu[0]:3} on cuda: {summary}"
        )
    return "\n".join(rows)


def measure_all(options: argparse.Namespace) -> int:
    """Measure the units asked for, write each when it is done, and print the table."""
    device = torch.device(options.device)
    machine = slug(options.machine) if options.machine else machine_name(device)
    results = {}
    names = list(options.units or UNITS)
    end = time.monotonic() + 60 * minutes_of(options)
    for place, name in enumerate(names):
        if place and time.monotonic() > end:
            say(f"--minutes are over: not measured: {', '.join(names[place:])}")
            break
        results[name] = measure(name, UNITS[name], device, options)
        path = report.write_result(options.results, machine, name, results[name])
        say(f"  {report.told_ratio(results[name])}")
    print(report.table([report.row(name, result) for name, result in results.items()]))
    print(f"written to {path}")
    differing = [name for name, result in results.items() if not result["same"]]
    if differing:
        print(f"FAILED: results differ in {', '.join(differing)}", file=sys.stderr)
    return 1 if differing else 0


def minutes_of(options: argparse.Namespace) -> float:
    """Return after how many minutes no unit is started."""
    if options.minutes is not None:
        return float(options.minutes)
    return GPU_MINUTES if options.device == "cuda" else math.inf


def measure(
    name: str, unit: Unit, device: torch.device, options: argparse.Namespace
) -> report.Result:
    """Prepare, warm up, compare and time one unit; one whose results differ is not timed.

    Raises:
        UserError: when memory does not suffice.
    """
    clients, clients_of = unit.clients(device)
    execution = Execution(options.chunk, "on" if options.compile else "off")
    case = (unit, device, min(clients_of, options.clients or clients), execution)
    say(f"{name}: {unit.summary}")
    try:
        with both_sides(*case) as sides:
            facts = sides["ours"].facts
            say(f"  {told_facts(facts, clients_of)}")
            measured, deviations = in_turn(sides, options.repeats)
    except BrokenProcessPool as error:
        raise UserError(f"{name}: a side's process was ended, as for want of memory") from error
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name} needs more memory than the GPU has: try a smaller --chunk or --clients ({reason})"
        ) from error
    return report.result_of(facts, clients_of, measured, deviations, environment(device))


def told_facts(facts: Facts, clients_of: int) -> str:
    """Return what is computed, in words."""
    compiled = ", compiled" if facts.compiled else ""
    part = f"{facts.clients} of {clients_of} clients"
    return f"{part}, {facts.chunk} at once{compiled}, {facts.work}"


def in_turn(sides: Mapping[str, Side], repeats: int) -> tuple[Measured, list[Deviation]]:
    """Measure two sides that are prepared; return also how their results differ."""
    measured, deviations = warm_up(sides)
    say(f"  deviation: {report.told_deviations(deviations)}")
    if all(deviation.allowed for deviation in deviations):
        first = ", ".join(f"{measured.warm_up[side]:.1f} s {side}" for side in SIDES)
        say(f"  first calls: {first}; now {repeats} repetitions")
        repeat(measured, {side: sides[side].call for side in SIDES}, repeats)
    return measured, deviations


def warm_up(sides: Mapping[str, Side]) -> tuple[Measured, list[Deviation]]:
    """Call each side once, noting seconds and memory, and return how their results differ."""
    facts = sides["ours"].facts
    measured = Measured(times={"ours": 1.0, "twin": facts.clients / facts.twin_clients})
    results = {}
    for side in SIDES:
        found = sides[side].first_call()
        measured.warm_up[side], measured.memory[side], results[side] = found
    return measured, sides["ours"].compare(**results)


def say(line: str) -> None:
    """Tell how far the measurement is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
