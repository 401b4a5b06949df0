"""Fang's attack on trimmed mean and median, with partial knowledge (the paper's "Fang")."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, train_honestly
from fedred.options import check_options, option


@dataclass(frozen=True)
class FangTrim:
    """Push every coordinate beyond its spread, against the direction in which it would move.

    With mu and sigma (n - 1) per coordinate over the attacker's own honest updates:
    U[mu - far sigma, mu - near sigma] where mu > 0, else U[mu + near sigma, mu + far sigma], drawn
    anew for each attacker. One attacker alone has no spread and sends its honest update.

    Source: Fang et al., USENIX Security 2020, section 4.2, partial knowledge. The released code of
    FedREDefense lets a lone attacker send a zero update.
    """

    near: float = option(3.0, "inner end of the interval, in standard deviations", ge=0)
    far: float = option(4.0, "outer end of the interval, in standard deviations", ge=0)

    paper: ClassVar[str] = "Fang et al., USENIX Security 2020"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return one draw from the interval for each attacker [m, P]."""
        if len(own_updates) < 2:
            return Forged(own_updates)
        mean, deviation = own_updates.mean(0), own_updates.std(0)
        outward = torch.where(mean > 0, -1.0, 1.0)
        draws = [view.generator(client).random(len(mean), "float32") for client in view.clients]
        shares = torch.stack([torch.from_numpy(draw) for draw in draws]).to(mean)
        return Forged(mean + outward * deviation * (self.near + (self.far - self.near) * shares))
