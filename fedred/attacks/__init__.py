"""The attacks: one method, one file, one paper. This dict is their table of contents."""

from fedred.attacks.fang_trim import FangTrim
from fedred.attacks.interface import Attack
from fedred.attacks.label_flip import LabelFlip
from fedred.attacks.min_max import MinMax
from fedred.attacks.mpaf import MPAF
from fedred.attacks.none import NoAttack
from fedred.attacks.scaling import Scaling

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "label_flip": LabelFlip,
    "fang_trim": FangTrim,
    "min_max": MinMax,
    "mpaf": MPAF,
    "scaling": Scaling,
}
