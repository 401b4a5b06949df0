"""Names, directions, colours and sizes: what must be the same in all tables and figures."""

from typing import Any

DISPLAY_NAMES = {
    "accuracy": "Accuracy (%)",
    "attack_success_rate": "Attack success rate (%)",
    "DACC": "DACC",
    "FPR": "FPR",
    "FNR": "FNR",
    "ADACC": "ADACC",
    "AFPR": "AFPR",
    "AFNR": "AFNR",
    "AAR": "AAR",
    "auroc": "AUROC (%)",
    "digits": "Digits",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cinic10": "CINIC-10",
    "image_folder": "Images",
    "none": "No attack",
    "label_flip": "Label flip",
    "targeted_label_flip": "Targeted label flip",
    "sign_flip": "Sign flip",
    "gaussian": "Gaussian",
    "ipm": "IPM",
    "lie": "LIE",
    "fang_trim": "Fang (trim)",
    "fang_krum": "Fang (Krum)",
    "min_max": "Min-Max",
    "min_sum": "Min-Sum",
    "mpaf": "MPAF",
    "scaling": "Scaling",
    "dba": "DBA",
    "neurotoxin": "Neurotoxin",
    "poisonedfl": "PoisonedFL",
    "adaptive_reconstruction": "Adaptive reconstruction",
    "fedavg": "FedAvg",
    "median": "Median",
    "trimmed_mean": "Trimmed mean",
    "krum": "Krum",
    "multi_krum": "Multi-Krum",
    "bulyan": "Bulyan",
    "geometric_median": "Geometric median",
    "norm_bound": "Norm bound",
    "centered_clipping": "Centered clipping",
    "fltrust": "FLTrust",
    "flame": "FLAME",
    "fldetector": "FLDetector",
    "foolsgold": "FoolsGold",
    "dnc": "DnC",
    "signguard": "SignGuard",
    "deepsight": "DeepSight",
    "rlr": "RLR",
    "nnm": "NNM",
    "bucketing": "Bucketing",
    "fedredefense": "FedREDefense",
}

SETTING_NAMES = {
    "partition.alpha": "Dirichlet alpha",
    "partition.clients": "Clients",
    "malicious": "Malicious clients",
    "participation": "Share of clients in a round",
    "training.lr": "Learning rate of the clients",
    "training.epochs": "Local epochs",
    "training.batch_size": "Batch size",
    "defense.threshold": "Threshold",
    "defense.reconstruction.images_per_class": "Synthetic images per class",
}
"""What the axis of a sweep says; another setting stands under its dotted name."""

HIGHER_IS_BETTER = {
    "accuracy": True,
    "attack_success_rate": False,
    "DACC": True,
    "FPR": False,
    "FNR": False,
    "ADACC": True,
    "AFPR": False,
    "AFNR": False,
    "AAR": False,
}

# Okabe and Ito, Color Universal Design, 2008, without the yellow that is lost on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

HONEST, MALICIOUS = BLUE, VERMILLION

SOLID, DASHED, DOTTED = "-", (0, (4, 1.5)), (0, (1, 1.2))

# Relatives share a colour and differ in their dashes, so that 20 defenses stay apart.
LINES: dict[str, tuple[str, Any]] = {
    "fedredefense": (VERMILLION, SOLID),
    "fedavg": (BLACK, SOLID),
    "norm_bound": (BLACK, DASHED),
    "centered_clipping": (BLACK, DOTTED),
    "median": (GREEN, SOLID),
    "trimmed_mean": (GREEN, DASHED),
    "geometric_median": (GREEN, DOTTED),
    "krum": (BLUE, SOLID),
    "multi_krum": (BLUE, DASHED),
    "bulyan": (BLUE, DOTTED),
    "fltrust": (ORANGE, SOLID),
    "foolsgold": (ORANGE, DASHED),
    "flame": (PURPLE, SOLID),
    "signguard": (PURPLE, DASHED),
    "fldetector": (SKY, SOLID),
    "dnc": (SKY, DASHED),
    "deepsight": (PURPLE, DOTTED),
    "rlr": (SKY, DOTTED),
    "nnm": (GREY, DASHED),
    "bucketing": (GREY, DOTTED),
}
OTHER_LINE: tuple[str, Any] = (GREY, SOLID)
VARIANT_MARKERS = ("", "o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")

PAGE_WIDTH = 7.0
"""Inches, of a two-column paper."""
PAGE_HEIGHT = 30.0
"""Inches; what does not fit is aggregated, or left out with a note."""

RC: Any = {
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


def base_name(label: str) -> str:
    """Return the registry name in a label: `scaling` for `scaling (factor=3)`."""
    return label.split(" (")[0]


def display(label: str) -> str:
    """Return a label as a reader sees it: `Scaling (factor=3)` for `scaling (factor=3)`."""
    name = base_name(label)
    return DISPLAY_NAMES.get(name, name) + label.removeprefix(name)


def line(defense: str) -> tuple[str, Any]:
    """Return colour and dashes of a defense, the same in every figure, whatever its options."""
    return LINES.get(base_name(defense), OTHER_LINE)


def variant_marker(label: str, labels: list[str]) -> str:
    """Return the marker that tells apart methods of one name, or without a line of their own."""
    variants = [other for other in labels if line(other) == line(label)]
    return VARIANT_MARKERS[variants.index(label) % len(VARIANT_MARKERS)]
