"""FedAvg: the mean of all updates; no defense."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.interface import ServerView, Traits, Verdict, everybody
from fedred.options import check_options, option
from fedred.papers import MCMAHAN, Paper


@dataclass(frozen=True)
class FedAvg:
    """Return sum_i p_i x_i with p_i = 1/n, or n_i / sum n_j with `by_samples`.

    Everyone is trusted, also an update that is not finite: the aggregate is then not finite either.

    Source: McMahan et al., AISTATS 2017, which weights by samples; FedREDefense's released code
    does not, and that is the default.
    """

    by_samples: bool = option(False, "weight clients by their announced number of samples")

    papers: ClassVar[tuple[Paper, ...]] = (MCMAHAN,)
    tested: ClassVar[str] = (
        "NumPy's mean; by samples, the mean over all samples; byzfl as an oracle"
    )
    elsewhere: ClassVar[str] = "libraries weight by samples, the released code does not"
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their (weighted) mean [P]."""
        counts = view.samples if self.by_samples else torch.ones_like(view.samples)
        shares = counts.to(updates) / counts.sum().to(updates)
        return Verdict(shares @ updates, everybody(updates))
