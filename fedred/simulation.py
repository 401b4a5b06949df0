"""The round loop: participants train, attackers forge, the server judges and aggregates."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedred import rng
from fedred.attacks.interface import Attack, AttackerView
from fedred.defenses.interface import Defense, ServerView, Verdict, finite_rows
from fedred.local_training import LocalTraining, batch_schedule, train_clients
from fedred.metrics import accuracy, attack_success_rate, auroc, detection_rates
from fedred.models import initial_parameters
from fedred.parameters import FlatModel

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Federation:
    """All that stays the same from round to round.

    Args:
        model: the network as a function of its parameters.
        clients: normalised images [samples, channels, height, width] and labels [samples] of each.
        test_images, test_labels: the test set, normalised.
        malicious: ground truth, bool [clients]; seen by the simulation and the metrics alone.
        attack, defense, training: the methods with their options.
        rounds: number of rounds.
        participation: participants in a round as a share of all clients, in (0, 1]; they are drawn from
            those not excluded.
        evaluate_every: rounds between two evaluations; the last round is always evaluated.
        clean: the server's own normalised images and labels, for a defense that asks for them.
        seed: of every random number.
        clients_per_chunk: clients trained or reconstructed at once; changes results by rounding alone.
        class_names: of the C classes, for whom reads the results.
    """

    model: FlatModel
    clients: tuple[tuple[Tensor, Tensor], ...]
    test_images: Tensor
    test_labels: Tensor
    malicious: Tensor
    attack: Attack
    defense: Defense
    training: LocalTraining
    rounds: int
    participation: float = 1.0
    evaluate_every: int = 1
    clean: tuple[Tensor, Tensor] | None = None
    seed: int = 0
    clients_per_chunk: int = 1
    class_names: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.test_images.device

    def to(self, device: torch.device) -> "Federation":
        """Return the same federation on another device."""
        return replace(
            self,
            model=self.model.to(device),
            clients=tuple((x.to(device), y.to(device)) for x, y in self.clients),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
            clean=self.clean and (self.clean[0].to(device), self.clean[1].to(device)),
        )


@dataclass(frozen=True)
class State:
    """All that changes from round to round; a checkpoint holds this and the history, nothing else."""

    round: int
    weights: Tensor
    previous_weights: Tensor
    initial_weights: Tensor
    excluded: Tensor
    defense: Mapping[str, Tensor] = field(default_factory=dict)
    attack: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What is written of a round: `summary` one number a name, `clients` one column [clients] a name."""

    summary: dict[str, float]
    clients: dict[str, Tensor]
    seconds: dict[str, float] = field(default_factory=dict)


def initial_state(federation: Federation) -> State:
    """Return the state before round 1: a fresh model, nobody excluded, nothing learned."""
    weights = initial_parameters(federation.model, rng.generator(federation.seed, "model"))
    weights = weights.to(federation.device)
    excluded = torch.zeros(len(federation.clients), dtype=torch.bool)
    return State(0, weights, weights, weights, excluded)


Observer = Callable[[Tensor, ServerView], None]
"""Is shown the updates [n, P] that the server received in a round, and what else it knows."""


def simulate(
    federation: Federation, state: State, observe: Observer | None = None
) -> Iterator[tuple[State, Record]]:
    """Play the rounds that are left, yielding the state and the record after each."""
    while state.round < federation.rounds:
        state, record = play_round(federation, state, observe)
        yield state, record


def play_round(
    federation: Federation, state: State, observe: Observer | None = None
) -> tuple[State, Record]:
    """Play one round: sample, train, forge, judge, aggregate, measure."""
    clock = Stopwatch(federation.device)
    round = state.round + 1
    participants = sample_participants(federation, state.excluded, round)
    updates = clock("training", local_updates(federation, state.weights, participants, round))
    sent, attack_state = clock("attack", forge(federation, state, participants, updates, round))
    view = server_view(federation, state, participants, round)
    verdict = clock("defense", judge(federation.defense, sent, view))
    after = State(
        round=round,
        weights=state.weights + verdict.aggregate,
        previous_weights=state.weights,
        initial_weights=state.initial_weights,
        excluded=exclude(state.excluded, participants, verdict),
        defense=verdict.state,
        attack=attack_state,
    )
    clients = client_columns(
        federation, state.excluded, after.excluded, participants, finite_rows(sent), verdict
    )
    summary = clock("evaluation", summarise(federation, state, after, clients))
    if observe:
        observe(sent, view)
    return after, Record(summary, clients, clock.seconds)


class Stopwatch:
    """Note how long each part of a round took: `value = clock("part", expression)`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, part: str, value: T) -> T:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else work is charged to whoever waits for it
        now = time.perf_counter()
        self.seconds[part], self.last = now - self.last, now
        return value


def participants_of(participation: float, clients: int) -> int:
    """Return the participants of a round: max(1, participation * clients, rounded half up)."""
    return max(1, math.floor(participation * clients + 0.5))


def sample_participants(federation: Federation, excluded: Tensor, round: int) -> Tensor:
    """Draw who takes part: ids int64 [n], ascending, never an excluded client.

    n = `participants_of`, or all that are left when they are fewer.
    """
    left = (~excluded).nonzero().flatten()
    wanted = participants_of(federation.participation, len(excluded))
    if wanted >= len(left):
        return left
    source = rng.generator(federation.seed, "participants", round)
    return left[np.sort(source.choice(len(left), wanted, replace=False))]


def local_updates(
    federation: Federation, weights: Tensor, participants: Tensor, round: int
) -> Tensor:
    """Train every participant from the global weights and return the updates [n, P].

    Attackers train on what their attack makes of their data, one pass after the other.
    """
    passes, schedules = [], []
    for client in participants.tolist():
        data = federation.clients[client]
        if federation.malicious[client]:
            images, labels = data
            stages = federation.attack.poison(images, labels, client, federation.model.classes)
        else:
            stages = [data]
        source = rng.generator(federation.seed, "batches", round, client)
        passes.append(stages)
        schedules.append([batch_schedule(len(y), federation.training, source) for _, y in stages])

    def train(starts: Tensor, rows: Sequence[int], stage: int) -> Tensor:
        return train_clients(
            federation.model,
            starts,
            [passes[row][stage] for row in rows],
            [schedules[row][stage] for row in rows],
            federation.training,
            federation.clients_per_chunk,
        )

    vectors = train(weights, range(len(passes)), 0)
    for stage in range(1, max(map(len, passes), default=0)):
        rows = [row for row, stages in enumerate(passes) if len(stages) > stage]
        vectors[rows] = train(vectors[rows], rows, stage)
    return vectors.sub_(weights)


def forge(
    federation: Federation,
    state: State,
    participants: Tensor,
    updates: Tensor,
    round: int,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Let the attacker replace its own clients' updates; return all updates and the attack's state."""
    own = federation.malicious[participants]
    if not own.any():
        return updates, state.attack
    view = attacker_view(federation, state, participants, updates, round)
    forged = federation.attack.forge(updates[own], view)
    malformed = receive(updates, own, forged.updates)
    if malformed:
        log.warning(
            "round %d: %d malicious clients sent no vector of %d numbers: they count as not finite",
            *(round, malformed, federation.model.size),
        )
    return updates, forged.state


def receive(updates: Tensor, senders: Tensor, sent: Tensor | Sequence[object]) -> int:
    """Put what clients sent into their rows of updates [n, P]; return how many rows are malformed.

    Nothing, or anything but a vector of P floats, becomes a row of NaN, which no rule trusts.

    Args:
        updates: changed in place.
        senders: bool [n].
        sent: for each sender what came, in order.
    """
    rows = senders.nonzero().flatten().tolist()
    malformed = 0
    for row, vector in itertools.zip_longest(rows, sent[: len(rows)]):
        whole = isinstance(vector, Tensor) and vector.shape == updates[row].shape
        if whole and vector.is_floating_point():
            updates[row] = vector
        else:
            updates[row] = torch.nan
            malformed += 1
    return malformed


def attacker_view(
    federation: Federation,
    state: State,
    participants: Tensor,
    updates: Tensor,
    round: int,
) -> AttackerView:
    """Collect what the attacker knows; honest updates only for an attack with full knowledge."""
    own = federation.malicious[participants]
    sees_honest = federation.attack.knowledge == "full" and not own.all()
    return AttackerView(
        model=federation.model,
        weights=state.weights,
        previous_weights=state.previous_weights,
        initial_weights=state.initial_weights,
        round=round,
        clients=tuple(participants[own].tolist()),
        participants=len(participants),
        samples=announced_samples(federation, participants[own]),
        training=federation.training,
        # Not a closure: it would hold the federation, and with it the ground truth.
        generator=partial(rng.generator, federation.seed, "attack", round),
        clients_per_chunk=federation.clients_per_chunk,
        honest_updates=updates[~own] if sees_honest else None,
        state=state.attack,
    )


def server_view(
    federation: Federation, state: State, participants: Tensor, round: int
) -> ServerView:
    """Collect what the server knows; the ground truth stays outside."""
    return ServerView(
        model=federation.model,
        weights=state.weights,
        round=round,
        clients=participants,
        all_clients=len(federation.clients),
        samples=announced_samples(federation, participants),
        training=federation.training,
        generator=rng.generator(federation.seed, "defense", round),
        clients_per_chunk=federation.clients_per_chunk,
        clean=federation.clean,
        state=state.defense,
    )


def announced_samples(federation: Federation, clients: Tensor) -> Tensor:
    """Return the number of training samples of each of these clients int64 [n]."""
    return torch.tensor([len(federation.clients[i][1]) for i in clients.tolist()], dtype=torch.long)


def judge(defense: Defense, updates: Tensor, view: ServerView) -> Verdict:
    """Let the defense decide; when all clients are excluded, nothing is left to decide."""
    if len(updates):
        return defense(updates, view)
    return Verdict(
        torch.zeros_like(view.weights), torch.zeros(0, dtype=torch.bool), state=view.state
    )


def exclude(excluded: Tensor, participants: Tensor, verdict: Verdict) -> Tensor:
    """Return who is excluded after a round, bool [clients]."""
    after = excluded.clone()
    if verdict.excluded is not None:
        after[participants] |= verdict.excluded.cpu()
    return after


def client_columns(
    federation: Federation,
    before: Tensor,
    after: Tensor,
    participants: Tensor,
    finite: Tensor,
    verdict: Verdict,
) -> dict[str, Tensor]:
    """Return the columns of `clients.parquet` for one round, each [clients].

    `flagged`: distrusted now or excluded before; `score` is NaN and `iterations` 0 where there is none;
    `broken`: sent an update that is not finite; `diverged`: its reconstruction did (see Verdict).
    """
    participated = torch.zeros_like(before)
    participated[participants] = True
    trusted = torch.zeros_like(before)
    trusted[participants] = verdict.trusted.cpu()
    score = torch.full(before.shape, torch.nan)
    if verdict.scores is not None:
        score[participants] = verdict.scores.float().cpu()
    iterations = torch.zeros(before.shape, dtype=torch.int32)
    if verdict.iterations is not None:
        iterations[participants] = verdict.iterations.int().cpu()
    broken, diverged = torch.zeros_like(before), torch.zeros_like(before)
    broken[participants] = ~finite.cpu()
    if verdict.diverged is not None:
        diverged[participants] = verdict.diverged.cpu()
    return {
        "malicious": federation.malicious,
        "participated": participated,
        "score": score,
        "trusted": trusted,
        "flagged": before | (participated & ~trusted),
        "excluded": after,
        "iterations": iterations,
        "broken": broken,
        "diverged": diverged,
    }


def summarise(
    federation: Federation, before: State, state: State, clients: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the row of `rounds.csv` for one round; NaN where a value is undefined or not measured.

    `model_stayed` and `model_finite` are 1 for yes and 0 for no.
    """
    due = state.round % federation.evaluate_every == 0 or state.round == federation.rounds
    test = (federation.model, state.weights, federation.test_images, federation.test_labels)
    here = clients["participated"]
    return {
        "round": state.round,
        "accuracy": accuracy(*test) if due else math.nan,
        "attack_success_rate": (
            attack_success_rate(*test, federation.attack.backdoor) if due else math.nan
        ),
        "participants": int(here.sum()),
        "trusted": int(clients["trusted"].sum()),
        "excluded": int(clients["excluded"].sum()),
        **detection_rates(clients["flagged"], clients["malicious"]),
        "auroc": scores_auroc(clients["score"][here], clients["malicious"][here]),
        "broken": int(clients["broken"].sum()),
        "diverged": int(clients["diverged"].sum()),
        "model_stayed": int(torch.equal(before.weights, state.weights)),
        "model_finite": int(state.weights.isfinite().all()),
    }


def scores_auroc(scores: Tensor, malicious: Tensor) -> float:
    """Return the AUROC of a round's scores, NaN for a rule that gives none."""
    return math.nan if scores.isnan().all() else auroc(scores, malicious)
