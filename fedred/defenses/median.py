"""The coordinate-wise median."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedred.defenses.interface import ServerView, Verdict, finite_rows
from fedred.options import check_options, option


@dataclass(frozen=True)
class Median:
    """Return the median of every coordinate over the participants.

    For an even number: the middle between the two central values, or the lower one (`lower`, as
    torch.median and FedREDefense's released code). Updates that are not finite are left out; if none
    is finite, the model stays as it is.

    Source: Yin et al., ICML 2018, definition 1.
    """

    even: Literal["middle", "lower"] = option("middle", "the median of an even number of values")

    paper: ClassVar[str] = "Yin et al., ICML 2018"
    selects: ClassVar[bool] = False
    fewest_participants: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their median [P]."""
        trusted = finite_rows(updates)
        if not trusted.any():
            return Verdict(torch.zeros_like(updates[0]), trusted)
        rows = updates[trusted]
        lower = rows.median(0).values
        if self.even == "lower" or len(rows) % 2:
            return Verdict(lower, trusted)
        upper = -(-rows).median(0).values
        return Verdict(lower + (upper - lower) / 2, trusted)
