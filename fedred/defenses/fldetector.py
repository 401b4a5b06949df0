"""FLDetector: malicious clients break the consistency of their own updates over rounds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedred.defenses.geometry import by_rows
from fedred.defenses.interface import (
    ServerView,
    Traits,
    Verdict,
    judge_finite,
    mean_of_trusted,
    of_participants,
)
from fedred.options import check_options, option
from fedred.papers import Paper
from fedred.parameters import NamedTensors

REFERENCES = 20  # reference draws of the gap statistic, as in the paper
TINY = 1e-12


@dataclass(frozen=True)
class FLDetector:
    """Distrust clients whose updates are badly predicted from their own updates of the round before.

    prediction_i = x_i' + H (w_t - w_(t-1)), x_i' the last update of client i, H the L-BFGS Hessian of
    the last `window` pairs (movement of the model, change of the aggregate). The distances between
    prediction and update are divided by their sum; the suspicion of a client is their mean over its
    last `window` rounds. If the gap statistic finds more than one cluster in the suspicions, 2-means
    divides them and the cluster of the larger mean is distrusted. The rest is averaged.

    It starts once `window` pairs are there, and trusts everybody until then. A client that did not take
    part in the round before is not predicted, and keeps the suspicion that it had.

    Args:
        exclusion: `permanent`: a flagged client is never asked again, as in the paper; `round`: it is
            left out of this round only.

    Source: Zhang et al., KDD 2022, algorithms 1 to 3. There training starts again from scratch after a
    detection; here it goes on.
    """

    window: int = option(
        10, "rounds of history, for the Hessian and for the suspicion", ge=1, le=1_000
    )
    exclusion: Literal["permanent", "round"] = option("permanent", "how long a flag lasts")

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Zhang et al., KDD 2022",
            "Zhang, Zaixi and Cao, Xiaoyu and Jia, Jinyuan and Gong, Neil Zhenqiang",
            "FLDetector: Defending Federated Learning Against Model Poisoning Attacks "
            "via Detecting Malicious Clients",
            "ACM SIGKDD Conference on Knowledge Discovery and Data Mining",
            2022,
        ),
    )
    tested: ClassVar[str] = (
        "dense BFGS and the gap statistic as twins; noise found among gradients of one quadratic"
    )
    elsewhere: ClassVar[str] = (
        "one library starts after round 50, and leaves clients out of one round alone"
    )
    traits: ClassVar[Traits] = Traits(selects=True, remembers_clients=True)
    __call__ = judge_finite

    def __post_init__(self) -> None:
        check_options(self)

    def judge(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate updates [n, P] by the mean of the trusted; scores once there are predictions."""
        memory = dict(view.state) or self._initial_memory(updates, view)
        memory |= self._surprises(memory, updates, view)
        suspicion, predicted = self._suspicion(memory, view)
        flagged = torch.zeros_like(predicted)
        flagged[predicted] = suspicious(suspicion[predicted], view.generator)
        trusted = (~flagged).cpu()
        aggregate = mean_of_trusted(updates, trusted)
        memory |= self._round(memory, updates, aggregate, view)
        excluded = ~trusted if self.exclusion == "permanent" else torch.zeros_like(trusted)
        scores = suspicion if predicted.any() else None
        return Verdict(aggregate, trusted, scores, memory, excluded)

    def _suspicion(self, memory: NamedTensors, view: ServerView) -> tuple[Tensor, Tensor]:
        """Return the suspicions [n] and who was ever predicted, bool [n]."""
        clients = view.clients.to(memory["seen"].device)
        counts = memory["predictions"][clients]
        return memory["distances"][clients].sum(1) / counts.clamp(min=1), counts > 0

    def _initial_memory(self, updates: Tensor, view: ServerView) -> dict[str, Tensor]:
        size, clients = updates.shape[1], view.all_clients
        return {
            "updates": updates.new_zeros(1).expand(clients, size),  # takes no memory
            "seen": torch.zeros(clients, dtype=torch.long, device=updates.device),
            "distances": updates.new_zeros(clients, self.window, dtype=torch.float64),
            "predictions": torch.zeros(clients, dtype=torch.long, device=updates.device),
            "movements": updates.new_zeros(self.window, size),
            "changes": updates.new_zeros(self.window, size),
            "pairs": torch.tensor(0),
            "weights": view.weights,
            "aggregate": updates.new_zeros(size),
            "round": torch.tensor(0),
        }

    def _surprises(
        self, memory: NamedTensors, updates: Tensor, view: ServerView
    ) -> dict[str, Tensor]:
        """Return the histories with this round's distances of the clients that can be predicted."""
        clients, last = view.clients.to(updates.device), int(memory["round"])
        predictable = (memory["seen"][clients] == last) & bool(last)
        if int(memory["pairs"]) < self.window or not predictable.any():
            return {}
        movement = view.weights - memory["weights"]
        turn = hessian_product(memory["movements"], memory["changes"], movement)
        chosen, before = clients[predictable], of_participants(memory["updates"], view)
        errors = by_rows(
            lambda rows, last: (rows.double() - last.double() - turn).norm(dim=1), updates, before
        )[predictable]
        share = errors / errors.sum().clamp(min=TINY)
        history = torch.cat([memory["distances"][chosen, 1:], share[:, None]], 1)
        counts = (memory["predictions"][chosen] + 1).clamp(max=self.window)
        return {
            "distances": memory["distances"].index_copy(0, chosen, history),
            "predictions": memory["predictions"].index_copy(0, chosen, counts),
        }

    def _round(
        self, memory: NamedTensors, updates: Tensor, aggregate: Tensor, view: ServerView
    ) -> dict[str, Tensor]:
        """Return what to remember of this round: updates, model, and a pair if the model has moved."""
        clients, movement = view.clients.to(updates.device), view.weights - memory["weights"]
        noted = {
            "updates": memory["updates"].index_copy(0, clients, updates),
            "seen": memory["seen"].index_fill(0, clients, view.round),
            "weights": view.weights,
            "aggregate": aggregate.clone(),
            "round": torch.tensor(view.round),
        }
        if int(memory["round"]) and movement.any():
            change = aggregate - memory["aggregate"]
            noted["movements"] = torch.cat([memory["movements"][1:], movement[None]])
            noted["changes"] = torch.cat([memory["changes"][1:], change[None]])
            noted["pairs"] = memory["pairs"] + 1
        return noted


def hessian_product(movements: Tensor, changes: Tensor, vector: Tensor) -> Tensor:
    """Return H v float64 [P], H the L-BFGS approximation in its compact form.

    With S the movements and Y the changes as columns, oldest first, sigma = <y, s> / <s, s> of the
    newest pair, L the strictly lower part of S^T Y and D its diagonal:
    H = sigma I - [sigma S, Y] [[sigma S^T S, L], [L^T, -D]]^-1 [sigma S, Y]^T.
    H s = y holds for the newest pair. The formula is odd in Y, so that updates, which point against
    gradients, need no change of sign.

    Args:
        movements: s, differences of the model [k, P], the newest not zero.
        changes: y, differences of the aggregate [k, P].
        vector: v [P].

    Source: Byrd, Nocedal, Schnabel, Mathematical Programming 63, 1994, theorem 2.3.
    """
    S, Y, v = movements.double(), changes.double(), vector.double()
    sigma = (S[-1] @ Y[-1]) / (S[-1] @ S[-1])
    cross = S @ Y.T
    lower = cross.tril(-1)
    middle = torch.cat(
        [
            torch.cat([sigma * S @ S.T, lower], 1),
            torch.cat([lower.T, -cross.diagonal().diag()], 1),
        ]
    )
    basis = torch.cat([sigma * S, Y])
    product: Tensor = sigma * v - basis.T @ (torch.linalg.pinv(middle) @ (basis @ v))
    return product


def suspicious(suspicion: Tensor, generator: np.random.Generator) -> Tensor:
    """Return who is in the cluster of the larger mean, bool [n]; nobody when one cluster is all.

    Source: the gap statistic of Tibshirani, Walther, Hastie, JRSS B 2001, asked only whether one
    cluster or more explain the suspicions [n]: gap(1) < gap(2) - s(2).
    """
    values = np.sort(suspicion.double().cpu().numpy())
    if len(values) < 3 or values[-1] - values[0] <= TINY:
        return torch.zeros(len(suspicion), dtype=torch.bool, device=suspicion.device)
    drawn = np.sort(generator.random((REFERENCES, len(values))), axis=1)
    references = np.array([log_dispersions(row) for row in drawn])
    gaps = references.mean(0) - log_dispersions((values - values[0]) / (values[-1] - values[0]))
    spread = references[:, 1].std() * np.sqrt(1 + 1 / REFERENCES)
    if gaps[0] >= gaps[1] - spread:
        return torch.zeros(len(suspicion), dtype=torch.bool, device=suspicion.device)
    largest_below = float(values[two_means(values)[0] - 1])
    return suspicion > largest_below


def two_means(values: np.ndarray) -> tuple[int, float]:
    """Return the best division of sorted values [n] into two: size of the lower part, dispersion."""
    n = len(values)
    costs = [k * np.var(values[:k]) + (n - k) * np.var(values[k:]) for k in range(1, n)]
    best = int(np.argmin(costs))
    return best + 1, float(costs[best])


def log_dispersions(values: np.ndarray) -> np.ndarray:
    """Return the logarithms of the within-cluster sums of squares of one and of two clusters."""
    dispersions = np.array([np.var(values) * len(values), two_means(values)[1]])
    return np.asarray(np.log(dispersions + TINY))
