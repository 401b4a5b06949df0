"""RLR: robust learning rate, reversed where too few clients agree on a sign."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.defenses.fedavg import FedAvg
from fedred.defenses.geometry import by_columns
from fedred.defenses.interface import Defense, ServerView, Traits, Verdict, judge_finite
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class RLR:
    """Aggregate by another rule, and reverse every coordinate with |sum_i sign(x_i)| < agreement.

    Needs as many participants as must agree; by default these are n // 3 + 1, one more than a third.

    Source: Ozdayi, Kantarcioglu, Gel, AAAI 2021, section 4, where the threshold lies between the number
    of attackers plus one and the number of honest clients.
    """

    agreement: int | None = option(None, "theta, surplus of a sign; null: n // 3 + 1", ge=0)
    aggregator: Defense = option(FedAvg(), "rule that aggregates")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Ozdayi, Kantarcioglu, Gel, AAAI 2021",
            "Ozdayi, Mustafa Safa and Kantarcioglu, Murat and Gel, Yulia R.",
            "Defending against Backdoors in Federated Learning with Robust Learning Rate",
            "AAAI Conference on Artificial Intelligence",
            2021,
        ),
    )
    tested: ClassVar[str] = "signs counted by hand; nothing reversed at agreement 0, all above n"
    elsewhere: ClassVar[str] = (
        "its own code works on the mean or on signs, with a server learning rate"
    )
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """Those of the rule that aggregates; enough participants to agree."""
        inner = self.aggregator.traits
        enough = max(self.agreement or 1, inner.fewest_participants)
        return inner._replace(fewest_participants=enough)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] with a sign for every coordinate."""
        needed = len(updates) // 3 + 1 if self.agreement is None else self.agreement
        verdict = self.aggregator(updates, view)
        surplus = by_columns(lambda block: block.sign().sum(0).abs(), updates)
        rates = torch.where(surplus >= needed, 1.0, -1.0)
        return verdict._replace(aggregate=rates.to(updates) * verdict.aggregate)
