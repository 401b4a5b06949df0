"""FedREDefense: trust the clients whose update can be reconstructed."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedred.defenses.fedavg import FedAvg
from fedred.defenses.geometry import by_rows
from fedred.defenses.interface import (
    Defense,
    ServerView,
    Traits,
    Verdict,
    finite_rows,
    without_broken,
)
from fedred.options import check_options, option
from fedred.papers import FEDREDEFENSE, Paper
from fedred.parameters import NamedTensors, nested, part_of
from fedred.reconstruction import Knowledge, Reconstructed, Reconstruction, reconstruct


@dataclass(frozen=True)
class FedREDefense:
    """Reconstruct each update by training on learned synthetic images; distrust what cannot be.

    A participant is trusted when its reconstruction error is at most `threshold`, which is also the
    early stop of the reconstruction. An error that is not finite is distrusted, and the others are
    judged as always. The trusted updates go to `aggregator`, and updates that are not finite count
    among its f; when the trusted are fewer than it needs, the global model stays as it is. What was
    learned of a client starts its next reconstruction.

    Args:
        exclusion: `permanent`: a flagged client is never asked again; `round`: it is left out of
            this round only.

    Source: Xie, Fang, Gong, ICML 2024, algorithm 1. Differences: docs/deviations.md.
    """

    threshold: float = option(
        0.6,
        "largest error of a trusted client, and the early stop; 1 is met by any update, without a move",
        gt=0,
    )
    exclusion: Literal["permanent", "round"] = option("permanent", "how long a flag lasts")
    aggregator: Defense = option(FedAvg(), "rule that combines the trusted updates")
    reconstruction: Reconstruction = option(Reconstruction(), "how updates are reconstructed")

    papers: ClassVar[tuple[Paper, ...]] = (FEDREDEFENSE,)
    tested: ClassVar[str] = "real training passes and noise does not; memory and budgets by hand"
    elsewhere: ClassVar[str] = "in the released code one NaN lets all other clients pass"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def traits(self) -> Traits:
        """Its aggregator may ask for clean samples."""
        clean = self.aggregator.traits.clean_samples
        return Traits(selects=True, remembers_clients=True, clean_samples=clean)

    def __call__(self, updates: Tensor, view: ServerView) -> Verdict:
        """Aggregate the reconstructable ones of updates [n, P]; scores are the errors."""
        state = dict(view.state) or self._initial_state(view)
        result = self._reconstruct(updates, view, state)
        trusted = (result.errors <= self.threshold).cpu()
        aggregate, inner = self._aggregate(updates, view, trusted)
        excluded = ~trusted if self.exclusion == "permanent" else torch.zeros_like(trusted)
        learned = {**self._learn(state, view, result), **inner}
        scores = result.errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
        failed = diverged(updates, result.errors).cpu()
        return Verdict(aggregate, trusted, scores, learned, excluded, result.iterations, failed)

    def _aggregate(
        self, updates: Tensor, view: ServerView, trusted: Tensor
    ) -> tuple[Tensor, NamedTensors]:
        rule = without_broken(self.aggregator, len(updates), int(finite_rows(updates).sum()))
        if int(trusted.sum()) < rule.traits.fewest_participants:
            return torch.zeros_like(view.weights), nested(
                "aggregator", part_of(view.state, "aggregator")
            )
        chosen = updates if trusted.all() else updates[trusted]
        verdict = rule(chosen, view.select(trusted).within("aggregator"))
        return verdict.aggregate, nested("aggregator", verdict.state)

    def _initial_state(self, view: ServerView) -> dict[str, Tensor]:
        """Knowledge of all clients before anything is learned: the same X, flat labels."""
        classes, clients = view.model.classes, view.all_clients
        images = self.reconstruction.initial_images(view.model, view.generator).to(view.weights)
        return {
            "images": images.repeat(clients, 1, 1, 1, 1),
            "labels": images.new_zeros(clients, self.reconstruction.images(classes), classes),
            "step_size": images.new_zeros(clients),
            "known": torch.zeros(clients, dtype=torch.bool, device=images.device),
        }

    def _reconstruct(self, updates: Tensor, view: ServerView, state: NamedTensors) -> Reconstructed:
        options, clients = self.reconstruction, view.clients.to(updates.device)
        known = state["known"][clients]
        pace = options.pace(
            view.model, view.weights, updates, view.samples, view.training, view.generator
        )
        learned = known & (options.step_size != "bounded")
        start = Knowledge(
            state["images"][clients],
            state["labels"][clients],
            torch.where(learned, state["step_size"][clients], pace.step_sizes),
        )
        later = torch.full_like(clients, options.later_iterations)
        budgets = torch.where(known, later, options.first_iterations)
        return reconstruct(
            view.model,
            view.weights,
            updates,
            start,
            budgets,
            self.threshold,
            options,
            view.clients_per_chunk,
            pace.longest_slope,
        )

    def _learn(self, state: NamedTensors, view: ServerView, result: Reconstructed) -> NamedTensors:
        """Keep what was learned of clients with a finite error; of others nothing usable is left."""
        finite = result.errors.isfinite()
        clients = view.clients.to(finite.device)[finite]
        learned = {name: tensor.clone() for name, tensor in state.items()}
        for name, part in result.knowledge.take(finite)._asdict().items():
            learned[name][clients] = part
        learned["known"][clients] = True
        return learned


def diverged(updates: Tensor, errors: Tensor) -> Tensor:
    """Return whose reconstruction diverged, bool [n]: an error that is not finite says nothing of x.

    An update that is not finite, or whose squared norm is zero or overflows, has no finite error
    whatever is learned: its reconstruction did not diverge.

    Args:
        updates: x of each client [n, P].
        errors: at the last iteration [n].
    """
    squares = by_rows(lambda rows: rows.square().sum(1), updates)
    return ~errors.isfinite() & squares.isfinite() & (squares > 0)
