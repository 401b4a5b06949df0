"""Settings under dotted names, and the one that a sweep varies."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Value = str | float | bool | None
Flat = dict[str, Value]
"""Settings with dotted names, such as `training.lr`."""

IID = "iid"
"""Partition that stands at the end of a sweep over the options of another one."""


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return nested settings under dotted names; a list becomes its JSON text."""
    flat: Flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def swept_setting(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the one numeric setting that runs differ in besides attack, defense and seed.

    Options of attacks and defenses, and the number of malicious clients, are compared between runs
    of the same attack and defense. Runs with the partition `iid` may stand among runs of another
    partition whose option is swept.

    Args:
        runs: settings of each run.

    Returns:
        Its dotted name; None where nothing differs, more than one setting, or one without numbers.
    """
    settings = [flatten(run) for run in runs]
    groups: dict[tuple[Value, Value], list[Flat]] = {}
    for mine in settings:
        groups.setdefault((mine["attack.name"], mine["defense.name"]), []).append(mine)
    shared = {path for path in _differing(settings) if not _of_method(path)}
    own = {path for group in groups.values() for path in _differing(group) if _of_method(path)}
    paths = shared | own
    if len(paths) != 1:
        return None
    (path,) = paths
    values = [mine[path] for mine in settings if path in mine]
    return path if all(map(_is_number, values)) and _iid_fits(settings, path) else None


def _of_method(path: str) -> bool:
    return path == "malicious" or path.split(".")[0] in ("attack", "defense")


def _differing(group: Sequence[Flat]) -> set[str]:
    """Name the settings that differ in a group, those of its `iid` partitions taken by themselves."""
    apart = [mine for mine in group if mine.get("partition.name") == IID]
    others = [mine for mine in group if mine.get("partition.name") != IID]
    everywhere = {path for path in _unequal(group) if not path.startswith("partition.")}
    dealt = {path for part in (apart, others) for path in _unequal(part)}
    return everywhere | {path for path in dealt if path.startswith("partition.")}


def _unequal(group: Sequence[Flat]) -> set[str]:
    """Name the settings that differ; one that some runs lack differs, unless it is None in the rest."""
    paths = {path for mine in group for path in mine} - {"seed"}
    return {path for path in paths if len({mine.get(path) for mine in group}) > 1}


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _iid_fits(settings: Sequence[Flat], path: str) -> bool:
    """Tell whether `iid` has a place: alone, or beside an option that it does not have itself."""
    apart = [mine for mine in settings if mine.get("partition.name") == IID]
    lacking = path.startswith("partition.") and not any(path in mine for mine in apart)
    return len(apart) in (0, len(settings)) or lacking
