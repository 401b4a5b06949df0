"""What a measurement says: a table for the terminal and a JSON file for each machine."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import SIDES, Measured, statistics_of
from benchmarks.units import Deviation, Facts
from fedred.files import opened_whole, told

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "unit",
    "clients",
    "ours s",
    "twin s",
    "twin/ours",
    "quartiles",
    "smallest to largest",
    "memory MiB",
    "same",
)
MEBIBYTE = 2**20

Result = Mapping[str, Any]


def result_of(
    facts: Facts,
    clients_of: int,
    measured: Measured,
    deviations: Sequence[Deviation],
    environment: Mapping[str, Any],
) -> Result:
    """Return what is kept of one unit, as JSON holds it.

    Args:
        facts: the unit as it was computed.
        clients_of: how many clients the whole unit has.
        measured: seconds and memory of both sides; without repetitions when they differ.
        deviations: of their results.
        environment: machine, versions and date.
    """
    timed = bool(measured.seconds["ours"])
    return {
        "work": facts.work,
        "clients": facts.clients,
        "clients_of": clients_of,
        "clients_per_chunk": facts.chunk,
        "twin_clients": facts.twin_clients,
        "same": all(deviation.allowed for deviation in deviations),
        "deviations": {d.of: {"value": d.value, "tolerance": d.tolerance} for d in deviations},
        "ratio": statistics_of(measured.ratios) if timed else None,
        "ratios": measured.ratios,
        "seconds": {
            side: {
                **(statistics_of(measured.seconds[side]) if timed else {}),
                "all": measured.seconds[side],
                "warm_up": measured.warm_up[side],
            }
            for side in SIDES
        },
        "peak_bytes": measured.memory,
        "compiled": facts.compiled,
        "environment": environment,
    }


def write_result(folder: Path, machine: str, name: str, result: Result) -> Path:
    """Put the result of one unit into the file of a machine; units measured before stay.

    A unit has one result for each kind of device, and one more there if it was compiled.

    Returns:
        The file, written whole.

    Raises:
        UserError: when the file cannot be read or written.
    """
    path = folder / f"{machine}.json"
    content: dict[str, Any] = {"machine": machine, "units": {}}
    if path.exists():
        with told(f"{path} is not a whole file of results: remove it or choose another --machine"):
            content = json.loads(path.read_text())
            content["units"] = dict(content["units"])
    kind = result["environment"]["device"] + (" compiled" if result["compiled"] else "")
    content["units"][name] = {**content["units"].get(name, {}), kind: result}
    text = json.dumps(content, indent=2) + "\n"
    with told(f"{path} could not be written"), opened_whole(path) as file:
        file.write(text.encode())
    return path


def row(name: str, result: Result) -> tuple[str, ...]:
    """Return the cells of one unit, in the order of COLUMNS."""
    part = f"{result['clients']} of {result['clients_of']}"
    memory = " / ".join(f"{result['peak_bytes'][side] / MEBIBYTE:.0f}" for side in SIDES)
    same = "yes" if result["same"] else "NO"
    ratio, seconds = result["ratio"], result["seconds"]
    if ratio is None:
        return (name, part, "-", "-", "-", "-", "-", memory, same)
    return (
        name,
        part,
        *(f"{seconds[side]['median']:.3g}" for side in SIDES),
        f"{ratio['median']:.2f}",
        f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}",
        f"{ratio['smallest']:.2f} to {ratio['largest']:.2f}",
        memory,
        same,
    )


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Return rows of cells under their headings, aligned: the first column left, the others right."""
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def told_ratio(result: Result) -> str:
    """Return how much faster ours was, in words."""
    ratio = result["ratio"]
    return f"twin/ours {ratio['median']:.2f}" if ratio else "not timed: results differ"


def told_deviations(deviations: Sequence[Deviation]) -> str:
    """Return the deviations in words, with what is allowed."""
    return ", ".join(f"{d.of} {d.value:.1e} (allowed {d.tolerance:.0e})" for d in deviations)
