"""Adaptive reconstruction: send what the server's own method can reproduce."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from fedred.attacks.interface import Attack, AttackerView, Backdoor, Forged, Knowledge, Pass
from fedred.attacks.min_max import MinMax
from fedred.options import check_options, option
from fedred.papers import FEDREDEFENSE, Paper
from fedred.reconstruction import Knowledge as Distilled
from fedred.reconstruction import Pace, Reconstruction, reconstruct, synthetic_update


@dataclass(frozen=True)
class AdaptiveReconstruction:
    """Distil the malicious update of another attack as the server would, and send the reconstruction.

    What is sent is itself the product of training on synthetic images, so that a reconstruction
    of error zero exists; the server, who starts from other images, has to find one under its
    threshold. The attacker distils afresh in every round and spends all of `first_iterations`.

    Source: none; the adaptive attacker of this project. How well it does: docs/results.md.
    """

    attack: Attack = option(MinMax(), "attack whose updates are distilled")
    reconstruction: Reconstruction = option(Reconstruction(), "how the attacker distils")

    papers: ClassVar[tuple[Paper, ...]] = (FEDREDEFENSE,)
    tested: ClassVar[str] = (
        "the server's error of what is sent is zero at the attacker's own images"
    )
    elsewhere: ClassVar[str] = "no public implementation is known"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def knowledge(self) -> Knowledge:
        """That of the distilled attack."""
        return self.attack.knowledge

    @property
    def backdoor(self) -> Backdoor | None:
        """That of the distilled attack."""
        return self.attack.backdoor

    def poison(self, images: Tensor, labels: Tensor, client: int, classes: int) -> list[Pass]:
        """Return the passes of the distilled attack."""
        return self.attack.poison(images, labels, client, classes)

    def forge(self, own_updates: Tensor, view: AttackerView) -> Forged:
        """Return the reconstructions of the malicious updates [m, P]; the state is the attack's."""
        wanted = self.attack.forge(own_updates, view)
        pace = self.pace(wanted.updates, view)
        distilled = self.distil(wanted.updates, pace, view)
        return wanted._replace(updates=self.replay(distilled, pace.longest_slope, view))

    def pace(self, wanted: Tensor, view: AttackerView) -> Pace:
        """Return the step sizes with which the server would reconstruct the wanted updates [m, P]."""
        source = view.generator(view.clients[0])
        return self.reconstruction.pace(
            view.model, view.weights, wanted, view.samples, view.training, source
        )

    def distil(self, wanted: Tensor, pace: Pace, view: AttackerView) -> Distilled:
        """Return images, labels and step sizes that lead towards the wanted updates [m, P].

        A client whose distillation ends without a finite error keeps what it started from.
        """
        options = self.reconstruction
        start = self._start(pace, view)
        budgets = torch.full((len(wanted),), options.first_iterations, device=wanted.device)
        found = reconstruct(
            view.model,
            view.weights,
            wanted,
            start,
            budgets,
            None,
            options,
            view.clients_per_chunk,
            pace.longest_slope,
        )
        start.put(found.errors.isfinite(), found.knowledge.take(found.errors.isfinite()))
        return start

    def replay(
        self, distilled: Distilled, longest_slope: Tensor | None, view: AttackerView
    ) -> Tensor:
        """Return the updates [m, P] that training on the distilled images makes."""
        how = (self.reconstruction.steps, longest_slope)

        def update(images: Tensor, labels: Tensor, step_size: Tensor) -> Tensor:
            own = Distilled(images, labels, step_size)
            return synthetic_update(view.model, view.weights, own, *how)

        replayed: Tensor = vmap(update, chunk_size=view.clients_per_chunk)(*distilled)
        return replayed

    def _start(self, pace: Pace, view: AttackerView) -> Distilled:
        """Each attacker's own random images, flat labels, and the announced protocol's step size."""
        classes, options = view.model.classes, self.reconstruction
        images = torch.stack(
            [options.initial_images(view.model, view.generator(client)) for client in view.clients]
        ).to(view.weights)
        labels = images.new_zeros(len(images), options.images(classes), classes)
        return Distilled(images, labels, pace.step_sizes)
