"""The defenses: one method, one file, one paper. This dict is their table of contents.

A rule that is built on another (rlr, fedredefense, nnm, bucketing) may take any listed above it.
"""

from fedred.defenses.bucketing import Bucketing
from fedred.defenses.bulyan import Bulyan
from fedred.defenses.centered_clipping import CenteredClipping
from fedred.defenses.deepsight import DeepSight
from fedred.defenses.dnc import DnC
from fedred.defenses.fedavg import FedAvg
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.flame import FLAME
from fedred.defenses.fldetector import FLDetector
from fedred.defenses.fltrust import FLTrust
from fedred.defenses.foolsgold import FoolsGold
from fedred.defenses.geometric_median import GeometricMedian
from fedred.defenses.interface import Defense
from fedred.defenses.krum import Krum
from fedred.defenses.median import Median
from fedred.defenses.multi_krum import MultiKrum
from fedred.defenses.nnm import NNM
from fedred.defenses.norm_bound import NormBound
from fedred.defenses.rlr import RLR
from fedred.defenses.signguard import SignGuard
from fedred.defenses.trimmed_mean import TrimmedMean

DEFENSES: dict[str, type[Defense]] = {
    "fedavg": FedAvg,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "norm_bound": NormBound,
    "centered_clipping": CenteredClipping,
    "fltrust": FLTrust,
    "flame": FLAME,
    "fldetector": FLDetector,
    "foolsgold": FoolsGold,
    "dnc": DnC,
    "signguard": SignGuard,
    "deepsight": DeepSight,
    "rlr": RLR,
    "fedredefense": FedREDefense,
    "nnm": NNM,
    "bucketing": Bucketing,
}
