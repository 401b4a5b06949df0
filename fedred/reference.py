"""Published values that runs are set beside: config/reference.yaml."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedred.attacks import ATTACKS
from fedred.config import Strict
from fedred.datasets import DATASETS
from fedred.defenses import DEFENSES
from fedred.report.sweeps import flatten
from fedred.validation import validated
from fedred.yaml_reading import read_yaml

REFERENCE = Path(__file__).absolute().parents[1] / "config" / "reference.yaml"
Metric = Literal[
    "accuracy", "attack_success_rate", "DACC", "FPR", "FNR", "ADACC", "AFPR", "AFNR", "AAR"
]


class Published(Strict):
    """Values of one publication, and the protocol that they belong to."""

    source: str = Field(min_length=1)
    note: str | None = None
    dataset: Literal[tuple(DATASETS)]  # type: ignore[valid-type]
    attack: Literal[tuple(ATTACKS)]  # type: ignore[valid-type]
    defense: Literal[tuple(DEFENSES)]  # type: ignore[valid-type]
    values: dict[Metric, float] = Field(min_length=1)
    settings: dict[str, bool | float | str]

    def is_about(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether a run has the data set, the attack and the defense of these values."""
        return all(
            settings[family]["name"] == getattr(self, family)
            for family in ("dataset", "attack", "defense")
        )

    def otherwise(self, settings: Mapping[str, Any]) -> list[str]:
        """Return in words what a run does not have of the protocol: `rounds 40, not 500`."""
        found = flatten(settings)
        return [
            f"{key} {found.get(key)}, not {value:g}"
            if isinstance(value, float)
            else f"{key} {found.get(key)}, not {value}"
            for key, value in self.settings.items()
            if found.get(key) != value
        ]


class _References(Strict):
    values: list[Published]


@cache
def references(path: Path = REFERENCE) -> tuple[Published, ...]:
    """Return all published values; none where the file is not installed.

    Raises:
        UserError: for a mistake in the file.
    """
    if not path.exists():
        return ()
    return tuple(validated(_References, read_yaml(path), path.name).values)
