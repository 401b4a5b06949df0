"""PoisonedFL: push in one random direction, round after round."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedred.attacks.interface import AttackerView, Forged, Knowledge, train_honestly
from fedred.options import Relation, check_options, option
from fedred.papers import Paper
from fedred.parameters import NamedTensors

TINY = 1e-30  # a vector of zeros has no direction: it stays zero


@dataclass(frozen=True)
class PoisonedFL:
    """Send lambda v * s with fixed random signs s, every attacker the same.

    With the last global movement g = w_t - w_(t-1) and the last forged update x:
    v = |g - x ||g|| / ||x||| normalised (v = |g| normalised before the first x), lambda = c ||g||.

    Every `period` rounds the movement over that period is compared with s. If the coordinates whose
    sign agrees are fewer than the (1 - significance) quantile of Binomial(P, 1/2), the push got
    lost: c becomes `decay` c, unless that is below `smallest`. Before the model has moved, attackers
    send their honest updates.

    Source: Xie, Fang, Gong, CVPR 2025, section 4. Its released code holds the quantiles of some model
    sizes as constants; here they are computed for any P.
    """

    factor: float = option(8.0, "c at the start", gt=0)
    decay: float = option(0.7, "factor on c after a lost push", gt=0, lt=1)
    smallest: float = option(0.5, "c is never made smaller than this", gt=0)
    period: int = option(50, "rounds between two sign tests", ge=1)
    significance: float = option(0.01, "level of the sign test", gt=0, lt=1)

    relations: ClassVar[tuple[Relation, ...]] = (Relation("smallest", "<=", "factor"),)
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Xie, Fang, Gong, CVPR 2025",
            "Xie, Yueqi and Fang, Minghong and Gong, Neil Zhenqiang",
            "Model Poisoning Attacks to Federated Learning via Multi-Round Consistency",
            "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
            2025,
        ),
    )
    tested: ClassVar[str] = (
        "signs fixed over rounds; length c ||g||; the sign test passes and fails by hand"
    )
    elsewhere: ClassVar[str] = "the released code knows the quantiles of a few model sizes only"
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return lambda v * s for every attacker [m, P]; signs, c, x and the test's start are kept."""
        state = self._tested(dict(view.state) or self._initial_state(view), view)
        movement = view.weights - view.previous_weights
        if not movement.any():
            return Forged(own_updates, state)
        magnitude = _unit(_without(movement, state["sent"]).abs())
        sent = state["factor"].to(movement) * movement.norm() * magnitude * state["signs"]
        return Forged(sent.repeat(len(own_updates), 1), {**state, "sent": sent})

    def _initial_state(self, view: AttackerView) -> dict[str, Tensor]:
        draw = view.generator(min(view.clients)).integers(0, 2, len(view.weights))
        return {
            "signs": torch.from_numpy(2.0 * draw - 1).to(view.weights),
            "factor": torch.tensor(self.factor, dtype=torch.float64),
            "sent": torch.zeros_like(view.weights),
            "anchor": view.weights,
            "anchor_round": torch.tensor(view.round),
        }

    def _tested(self, state: dict[str, Tensor], view: AttackerView) -> NamedTensors:
        """Return the state after the sign test, when a period is over."""
        if view.round - int(state["anchor_round"]) < self.period:
            return state
        followed = follows(view.weights - state["anchor"], state["signs"], self.significance)
        reduced = self.decay * state["factor"]
        factor = state["factor"] if followed or reduced < self.smallest else reduced
        start = {"anchor": view.weights, "anchor_round": torch.tensor(view.round)}
        return {**state, "factor": factor, **start}


def follows(movement: Tensor, signs: Tensor, significance: float) -> bool:
    """Tell whether a movement [P] agrees with signs [P] in more coordinates than chance would."""
    from scipy.stats import binom

    agreeing = int((movement.sign() == signs).sum())
    return bool(agreeing >= binom.ppf(1 - significance, len(signs), 0.5))


def _without(movement: Tensor, sent: Tensor) -> Tensor:
    """Take the attacker's own last update, at the movement's length, out of the movement."""
    length: Tensor = movement.norm()
    return movement - length * _unit(sent)


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = normalize(vector, dim=0, eps=TINY)
    return unit
