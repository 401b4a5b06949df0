"""FLAME: cluster by direction, clip to the median norm, add noise."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedred.defenses.clustering import hdbscan
from fedred.defenses.geometry import clip_factors, cosine_distances, norms
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, mean_of_trusted
from fedred.defenses.median import middle_of
from fedred.options import check_options, option
from fedred.papers import Paper


@dataclass(frozen=True)
class FLAME:
    """Return the mean of the trusted updates, clipped to S, plus N(0, (noise S)^2) in every coordinate.

    Trusted is the one cluster that HDBSCAN finds in cosine distances when a cluster must hold more
    than half of the participants; S is the median norm of all updates. `angles` says between what:
    the local models w + x_i, or the updates x_i.

    Source: Nguyen et al., USENIX Security 2022, algorithm 1: min_cluster_size n // 2 + 1, min_samples 1,
    a single cluster allowed; noise 0.001.
    """

    angles: Literal["models", "updates"] = option("models", "what is compared by its direction")
    noise: float = option(0.001, "lambda, deviation of the noise in units of the median norm", ge=0)

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Nguyen et al., USENIX Security 2022",
            "Nguyen, Thien Duc and Rieger, Phillip and Chen, Huili and Yalame, Hossein and "
            'M{\\"o}llering, Helen and Fereidooni, Hossein and Marchal, Samuel and Miettinen, Markus and '
            "Mirhoseini, Azalia and Zeitouni, Shaza and Koushanfar, Farinaz and "
            "Sadeghi, Ahmad-Reza and Schneider, Thomas",
            "FLAME: Taming Backdoors in Federated Learning",
            "USENIX Security Symposium",
            2022,
        ),
    )
    tested: ClassVar[str] = (
        "two bundles of directions; clipping by hand; noise by Kolmogorov's test"
    )
    elsewhere: ClassVar[str] = "one library scales the noise by the spread of each layer's weights"
    traits: ClassVar[Traits] = Traits(selects=True, fewest_participants=2)
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P]; who lies outside the cluster is not trusted."""
        origin = -view.weights.double() if self.angles == "models" else 0.0
        distances = cosine_distances(updates, origin)
        trusted = hdbscan(distances, len(updates) // 2 + 1) == 0
        lengths = norms(updates)
        limit = middle_of(lengths)
        drawn = view.generator.standard_normal(updates.shape[1], "float32")
        noise = self.noise * limit.to(updates) * torch.from_numpy(drawn).to(updates)
        mean = mean_of_trusted(updates, trusted, clip_factors(lengths, limit))
        return Verdict(mean + noise, trusted)
