"""FoolsGold: clients that always say the same are sybils."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.geometry import cosine_distances
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, of_participants
from fedred.options import check_options, option
from fedred.papers import Paper

HIGHEST = 0.99  # as in its authors' code: the logit of 1 is infinite


@dataclass(frozen=True)
class FoolsGold:
    """Weight clients by how little their summed updates resemble those of any other.

    With c_ij the cosine of the summed histories of clients i and j, and v_i = max(0, max_j c_ij): c_ij is
    multiplied by v_i / v_j where v_j > v_i (pardoning); a_i = 1 - max_j c_ij in [0, 1], divided by the
    largest; weight_i = confidence (ln(a_i / (1 - a_i)) + 1/2) in [0, 1]. The aggregate is the weighted
    mean. Clients of weight 0 are not trusted; the suspicion is 1 - weight. When all weights are zero,
    the model stays as it is.

    Source: Fung, Yoon, Beschastnikh, RAID 2020, algorithm 1. There the weighted updates are summed;
    here they are averaged, as all other rules do. Features are not weighted by importance.
    """

    confidence: float = option(1.0, "kappa, factor on the logit", gt=0)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Fung, Yoon, Beschastnikh, RAID 2020",
            "Fung, Clement and Yoon, Chris J. M. and Beschastnikh, Ivan",
            "The Limitations of Federated Learning in Sybil Settings",
            "International Symposium on Research in Attacks, Intrusions and Defenses",
            2020,
        ),
    )
    tested: ClassVar[str] = (
        "a loop written from the paper; sybils found, and honest twins wrongly so"
    )
    elsewhere: ClassVar[str] = "some code compares single updates, without the history"
    traits: ClassVar[Traits] = Traits(selects=True, remembers_clients=True)
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by weights from the histories, which are remembered."""
        histories = self._histories(updates, view)
        weights = self.weights(cosine_distances(of_participants(histories, view)))
        total = weights.sum()
        shares = (weights / total if total > 0 else weights).to(updates)
        state = {"histories": histories}
        return Verdict(shares @ updates, (weights > 0).cpu(), 1 - weights, state)

    def _histories(self, updates: Tensor, view: ServerView) -> Tensor:
        """Add this round's updates to what was summed of every client [clients, P]."""
        nothing = updates.new_zeros(1).expand(view.all_clients, updates.shape[1])  # takes no memory
        before = view.state.get("histories", nothing)
        clients, largest = view.clients.to(updates.device), torch.finfo(updates.dtype).max
        return before.index_add(0, clients, updates).clamp_(-largest, largest)

    def weights(self, distances: Tensor) -> Tensor:
        """Return the weights [n] from cosine distances d = 1 - c of histories [n, n].

        With e = 1 - v the pardoned distance 1 - c_ij v_i / v_j is (e_i - e_j + d_ij v_i) / v_j, in
        which small distances keep their digits.
        """
        apart = distances.clone().fill_diagonal_(torch.inf)
        nearest = apart.min(1).values.clamp(max=1)
        mine, other = nearest[:, None], nearest
        pardoned = (mine - other + apart * (1 - mine)) / (1 - other)
        originality = pardoned.where(other < mine, apart).min(1).values.clamp(0, 1)
        if not originality.any():
            return originality
        originality = (originality / originality.max()).clamp(max=HIGHEST)
        return (self.confidence * (originality.logit() + 0.5)).clamp(0, 1)
