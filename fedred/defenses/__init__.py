"""The defenses: one method, one file, one paper. This dict is their table of contents."""

from fedred.defenses.fedavg import FedAvg
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.interface import Defense
from fedred.defenses.krum import Krum
from fedred.defenses.median import Median

DEFENSES: dict[str, type[Defense]] = {
    "fedavg": FedAvg,
    "median": Median,
    "krum": Krum,
    "fedredefense": FedREDefense,
}
