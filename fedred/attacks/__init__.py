"""The attacks: one method, one file, one paper. This dict is their table of contents.

An attack that is built on another (neurotoxin, adaptive_reconstruction) may take any listed above it.
"""

from fedred.attacks.adaptive_reconstruction import AdaptiveReconstruction
from fedred.attacks.dba import DBA
from fedred.attacks.fang_krum import FangKrum
from fedred.attacks.fang_trim import FangTrim
from fedred.attacks.gaussian import Gaussian
from fedred.attacks.interface import Attack
from fedred.attacks.ipm import IPM
from fedred.attacks.label_flip import LabelFlip
from fedred.attacks.lie import LIE
from fedred.attacks.min_max import MinMax
from fedred.attacks.min_sum import MinSum
from fedred.attacks.mpaf import MPAF
from fedred.attacks.neurotoxin import Neurotoxin
from fedred.attacks.none import NoAttack
from fedred.attacks.poisonedfl import PoisonedFL
from fedred.attacks.scaling import Scaling
from fedred.attacks.sign_flip import SignFlip
from fedred.attacks.targeted_label_flip import TargetedLabelFlip

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "label_flip": LabelFlip,
    "targeted_label_flip": TargetedLabelFlip,
    "sign_flip": SignFlip,
    "gaussian": Gaussian,
    "ipm": IPM,
    "lie": LIE,
    "fang_trim": FangTrim,
    "fang_krum": FangKrum,
    "min_max": MinMax,
    "min_sum": MinSum,
    "mpaf": MPAF,
    "poisonedfl": PoisonedFL,
    "scaling": Scaling,
    "dba": DBA,
    "neurotoxin": Neurotoxin,
    "adaptive_reconstruction": AdaptiveReconstruction,
}
