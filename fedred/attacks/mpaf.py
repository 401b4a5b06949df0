"""MPAF: pull the global model towards a model of the attacker's choice."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedred.attacks.interface import AttackerView, Forged, Knowledge, train_honestly
from fedred.models import initial_parameters
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class MPAF:
    """Send scale * (w_base - w), w the global model and w_base a fixed base model.

    base initial: w_base is the global model before round 1 (released code of FedREDefense; the update
    of round 1 is then zero). base random: one random model, drawn in the first round, shared by all
    attackers and kept to the end, as in the MPAF paper.

    Source: Cao and Gong, CVPR Workshops 2022, equation 3. They attack with fake clients that hold no
    data; here the attacker's clients train, and their training is thrown away.
    """

    scale: float = option(3.0, "factor lambda on the pull", gt=0)
    base: Literal["initial", "random"] = option("initial", "where the base model comes from")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Cao and Gong, CVPR Workshops 2022",
            "Cao, Xiaoyu and Gong, Neil Zhenqiang",
            "MPAF: Model Poisoning Attacks to Federated Learning Based on Fake Clients",
            "IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops",
            2022,
        ),
    )
    tested: ClassVar[str] = "closed form; one remembered base model over the rounds"
    elsewhere: ClassVar[str] = (
        "the released base is the model before round 1, the paper's a random one"
    )
    knowledge: ClassVar[Knowledge] = "own"
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def __post_init__(self) -> None:
        check_options(self)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return scale * (w_base - w) for every attacker [m, P]; the base is remembered."""
        base = view.state["base"] if "base" in view.state else self._base(view)
        pull = self.scale * (base - view.weights)
        return Forged(pull.repeat(len(own_updates), 1), {"base": base})

    def _base(self, view: AttackerView) -> Tensor:
        if self.base == "initial":
            return view.initial_weights
        generator = view.generator(min(view.clients))
        return initial_parameters(view.model, generator).to(view.weights)
