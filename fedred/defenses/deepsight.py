"""DeepSight: a look into the output layer, and clusters of clients with like data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from fedred.defenses.clustering import hdbscan
from fedred.defenses.geometry import by_rows, clip_factors, cosine_distances, norms
from fedred.defenses.interface import ServerView, Traits, Verdict, judge_finite, mean_of_trusted
from fedred.defenses.median import middle_of
from fedred.errors import UserError
from fedred.execution import IMAGES_HELD
from fedred.options import InRound, check_options, option
from fedred.papers import Paper
from fedred.parameters import FlatModel

DRAWS = 3  # sets of random inputs, as in the paper
LEAST = 0.01  # smallest threshold of an exceeding, as in the paper


@dataclass(frozen=True)
class DeepSight:
    """Cluster clients by what their updates tell of their data; reject clusters with many suspects.

    With e_c = |change of bias c| + sum of |changes of the weights of c| in the output layer:
    NEUP_c = e_c^2 / sum e^2, and TE counts the NEUP_c above max(0.01, 1 / C) times the largest. A
    client is a suspect when its TE is at most half of the median: homogeneous data move few outputs.

    Three views of the clients are clustered by HDBSCAN: NEUPs, division differences DDif_c (mean
    over random images of its model's probability of c over the global model's), and directions of the
    output biases. The share of views in which two clients are apart is the distance of a last
    clustering. A cluster, or a client in none, is rejected when at least `suspects` of it are
    suspects. The trusted updates are clipped to the median norm of all and averaged.

    Source: Rieger et al., NDSS 2022, algorithms 1 to 3: 20,000 random images, drawn three times; here
    from N(0, 1). How small a cluster may be is not said there.
    """

    suspects: float = option(1 / 3, "share of suspects that rejects a cluster", gt=0, le=1)
    images: int = option(
        1_000, "random images in each of the three draws (paper: 20,000)", ge=1, le=100_000
    )
    cluster_size: int = option(2, "fewest clients in a cluster", ge=2)

    relations: ClassVar[tuple[InRound, ...]] = (InRound("cluster_size"),)
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Rieger et al., NDSS 2022",
            "Rieger, Phillip and Nguyen, Thien Duc and Miettinen, Markus and Sadeghi, Ahmad-Reza",
            "DeepSight: Mitigating Backdoor Attacks in Federated Learning Through Deep Model "
            "Inspection",
            "Network and Distributed System Security Symposium",
            2022,
        ),
    )
    tested: ClassVar[str] = (
        "NEUPs, exceedings and DDifs by hand; clients of one class found among others"
    )
    elsewhere: ClassVar[str] = "some code calls all clients outside clusters one cluster"
    traits: ClassVar[Traits] = Traits(selects=True, fewest_participants=2)
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P]; the score is the share of suspects in a client's cluster."""
        weights, biases = output_layer(updates, view.model)
        energies = by_rows(normalised_energies, weights, biases)
        exceedings = threshold_exceedings(energies).double()
        suspect = exceedings <= middle_of(exceedings) / 2
        clusters = hdbscan(self._distances(updates, energies, biases, view), self.cluster_size)
        shares = suspect_shares(suspect.cpu(), clusters)
        trusted = shares < self.suspects
        lengths = norms(updates)
        factors = clip_factors(lengths, middle_of(lengths))
        return Verdict(mean_of_trusted(updates, trusted, factors), trusted, shares)

    def _distances(
        self, updates: Tensor, energies: Tensor, biases: Tensor, view: ServerView
    ) -> Tensor:
        """Return the share of views in which two clients are in different clusters [n, n]."""
        differences = [
            self._apart(_euclidean(division_differences(updates, view, self.images)))
            for _ in range(DRAWS)
        ]
        by_energy = self._apart(_euclidean(energies))
        by_bias = self._apart(cosine_distances(biases))
        return (torch.stack(differences).mean(0) + by_energy + by_bias) / 3

    def _apart(self, distances: Tensor) -> Tensor:
        clusters = hdbscan(distances, self.cluster_size)
        together = (clusters[:, None] == clusters) & (clusters >= 0)
        return (~together).double()


def output_layer(updates: Tensor, model: FlatModel) -> tuple[Tensor, Tensor]:
    """Return the part of updates [n, P] in the last layer: weights [n, C, inputs], biases [n, C].

    Raises:
        UserError: when the network does not end in a linear layer with a bias for every class.
    """
    weight, bias = [torch.Size(), torch.Size(), *model.shapes.values()][-2:]
    if len(weight) != 2 or tuple(bias) != (model.classes,):
        raise UserError("deepsight needs a network that ends in a linear layer with biases")
    tail = updates[:, -(weight.numel() + model.classes) :]
    weights, biases = torch.split(tail, [weight.numel(), model.classes], 1)
    return weights.reshape(-1, *weight), biases


def normalised_energies(weights: Tensor, biases: Tensor) -> Tensor:
    """Return the NEUPs float64 [n, C] of output layers [n, C, inputs], [n, C]; zero of a zero update."""
    energies = (biases.double().abs() + weights.double().abs().sum(2)).square()
    return energies / energies.sum(1, keepdim=True).clamp(min=torch.finfo(energies.dtype).tiny)


def threshold_exceedings(energies: Tensor) -> Tensor:
    """Return how many NEUPs [n, C] of a client are above max(0.01, 1 / C) times its largest [n]."""
    threshold = max(LEAST, 1 / energies.shape[1])
    return (energies > threshold * energies.max(1, keepdim=True).values).sum(1)


def division_differences(updates: Tensor, view: ServerView, images: int) -> Tensor:
    """Return the DDifs float64 [n, C] of updates [n, P] on random images; 0 where not finite."""
    model, weights = view.model, view.weights
    drawn = view.generator.standard_normal((images, *model.input_shape), "float32")
    inputs = torch.from_numpy(drawn).to(weights)
    tiny = torch.finfo(torch.float64).tiny
    before = model(weights, inputs).double().softmax(-1).clamp(min=tiny)

    def difference(update: Tensor) -> Tensor:
        return (model(weights + update, inputs).double().softmax(-1) / before).mean(0)

    # clients of a chunk hold IMAGES_HELD images each
    at_once = max(1, view.clients_per_chunk * min(IMAGES_HELD, images) // images)
    found: Tensor = vmap(difference, chunk_size=at_once)(updates)
    return found.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def suspect_shares(suspect: Tensor, clusters: Tensor) -> Tensor:
    """Return the share of suspects in each client's cluster [n]; who is in none is its own."""
    shares = suspect.double()
    for cluster in set(clusters.tolist()) - {-1}:
        members = clusters == cluster
        shares[members] = suspect[members].double().mean()
    return shares


def _euclidean(features: Tensor) -> Tensor:
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
