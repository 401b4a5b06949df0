"""FLTrust: trust in the direction of an update that the server trains itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import by_rows, norms, rounding, unit_rows
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, keep_model
from fedred.local_training import batch_schedule, train_clients
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class FLTrust:
    """Return sum_i t_i (||x_0|| / ||x_i||) x_i / sum_i t_i with t_i = ReLU(cos(x_i, x_0)).

    x_0 is the server's own update, trained on its clean samples by the announced protocol. Clients
    with t_i > 0 are trusted; the suspicion is -cos(x_i, x_0). When nobody is trusted, or x_0 is zero or
    not finite, the model stays as it is.

    Source: Cao et al., NDSS 2021, algorithm 2; 100 clean samples as there.
    """

    root_samples: int = option(
        100, "clean samples of the server, drawn from the training data", ge=1
    )

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Cao et al., NDSS 2021",
            "Cao, Xiaoyu and Fang, Minghong and Liu, Jia and Gong, Neil Zhenqiang",
            "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
            "Network and Distributed System Security Symposium",
            2021,
        ),
    )
    tested: ClassVar[str] = (
        "trust and lengths by hand around a server update trained by a plain loop"
    )
    elsewhere: ClassVar[str] = "some code divides by zero when no client is trusted"
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """It owns `root_samples` clean samples."""
        return Traits(selects=True, clean_samples=self.root_samples)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by their trust; scores are -cos."""
        reference = server_update(view)
        direction = unit_rows(reference[None])[0]
        cosines = by_rows(lambda rows: unit_rows(rows) @ direction, updates)
        trust = cosines.where(cosines > rounding(len(direction)), 0.0)
        length = norms(reference[None])[0]
        if not (length.isfinite() and trust.any()):
            return keep_model(view)._replace(scores=-cosines.nan_to_num(nan=-1.0))
        lengths = norms(updates).clamp(min=torch.finfo().tiny)
        weights = trust / trust.sum() * (length / lengths)
        return Verdict(weights.to(updates) @ updates, (trust > 0).cpu(), -cosines)


def server_update(view: ServerView) -> Tensor:
    """Train on the server's clean samples from the global model and return the update [P]."""
    assert view.clean is not None
    schedule = batch_schedule(len(view.clean[1]), view.training, view.generator)
    start = view.weights[None]
    trained = train_clients(view.model, start, [view.clean], [schedule], view.training, 1)
    return (trained - start)[0]
