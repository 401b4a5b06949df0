"""Judge recorded updates offline: full error curves of the reconstruction, scores of other rules.

The reconstruction runs without early stop and without giving up, so that one computation answers for
every threshold and for every budget up to its own. Each client starts afresh, as in its first round.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fedred import rng
from fedred.config import resolve
from fedred.defenses import DEFENSES
from fedred.defenses.fedredefense import FedREDefense, diverged
from fedred.defenses.interface import Defense, ServerView
from fedred.errors import UserError
from fedred.execution import (
    Execution,
    choose_clients_per_chunk,
    choose_to_compile,
    forward_operations,
)
from fedred.files import checksum_of, opened_whole, write_tensors
from fedred.models import flat_model
from fedred.parameters import FlatModel
from fedred.reconstruction import Knowledge, Reconstruction, reconstruct
from fedred.recording import Recording

Tick = Callable[[int], None]
"""Is told how many iterations of one client were made."""
OWN = "fedredefense"


@dataclass(frozen=True)
class Placed:
    """A recording with the server's view of it, on the device where it is judged."""

    recording: Recording
    updates: Tensor
    view: ServerView

    def afresh(self) -> ServerView:
        """Return the view of a rule that has drawn no random number yet."""
        seed, round = self.recording.settings["seed"], self.recording.round
        return replace(self.view, generator=rng.generator(seed, "defense", round))


class Learned(NamedTuple):
    """errors [n, iterations] of each client after every iteration, and what gives the last."""

    errors: Tensor
    knowledge: Knowledge


class Outcome(NamedTuple):
    """All errors and scores of a recording as rows, and what was learned of its n participants."""

    frame: pd.DataFrame
    learned: Learned


def placed(
    recording: Recording, device: torch.device, execution: Execution, iterations: int
) -> Placed:
    """Return a recording on a device, with the choices of speed and memory made for its size.

    Args:
        recording: of one round.
        device: where to compute.
        execution: what the user chose.
        iterations: that each client will be reconstructed for.
    """
    settings = resolve(recording.settings)
    shape, classes = recording.input_shape, recording.classes
    model = flat_model(settings.model.build(), shape, classes).to(device)
    participants = max(1, len(recording.clients))
    chunk = execution.clients_per_chunk or choose_clients_per_chunk(
        model, device, participants, execution.jobs_per_gpu
    )
    operations = _operations(model, participants * iterations)
    compiled = choose_to_compile(execution.compile, device, operations)
    view = ServerView(
        model=replace(model, compiled=compiled),
        weights=recording.weights.to(device),
        round=recording.round,
        clients=recording.clients,
        all_clients=recording.all_clients,
        samples=recording.samples,
        training=settings.training.build(),
        generator=rng.generator(settings.seed, "defense", recording.round),
        clients_per_chunk=chunk,
    )
    return Placed(recording, recording.updates.to(device), view)


def _operations(model: FlatModel, iterations: int) -> float:
    """Return the operations of so many iterations: five steps on an image a class, there and back."""
    return 9.0 * 5 * model.classes * forward_operations(model) * iterations


def reconstructing(recording: Recording, wanted: Any = None) -> FedREDefense:
    """Return the defense whose reconstruction is asked for: `wanted`, else the recorded run's own.

    Raises:
        UserError: when neither is fedredefense.
    """
    defense = wanted or resolve(recording.settings).defense.build()
    if not isinstance(defense, FedREDefense):
        found = recording.settings["defense"]["name"] if wanted is None else type(wanted).__name__
        raise UserError(
            f"the defense is {found}, which reconstructs nothing: give --defense fedredefense, or "
            "the same with its options"
        )
    return defense


def learn(
    judged: Placed, options: Reconstruction, iterations: int, tick: Tick = lambda _: None
) -> Learned:
    """Reconstruct every client, and keep its error after every iteration.

    Args:
        judged: n participants.
        options: of the reconstruction; nobody is given up.
        iterations: made for every client, at least 1.
        tick: is told the work done.

    Returns:
        Errors, infinite from where they stop being finite numbers, and what gives the last of them.
    """
    view, updates = judged.afresh(), judged.updates
    curves = torch.full((len(updates), iterations), torch.inf)

    def watch(clients: Tensor, made: int, errors: Tensor) -> None:
        curves[clients.cpu(), made - 1] = errors.cpu().nan_to_num(nan=torch.inf, posinf=torch.inf)
        tick(len(clients))

    images = options.initial_images(view.model, view.generator).to(updates)
    pace = options.pace(
        view.model, view.weights, updates, view.samples, view.training, view.generator
    )
    n, labels = len(updates), (options.images(view.model.classes), view.model.classes)
    start = Knowledge(
        images.repeat(n, 1, 1, 1, 1), images.new_zeros(n, *labels), pace.step_sizes.to(updates)
    )
    budgets = torch.full((n,), iterations, device=updates.device)
    how = (options, view.clients_per_chunk, pace.longest_slope, watch)
    done = reconstruct(view.model, view.weights, updates, start, budgets, None, *how)
    tick(int((budgets - done.iterations).sum()))  # of clients whose error is no number any more
    return Learned(curves, done.knowledge)


def other_scores(judged: Placed) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the scores [n] of every other rule that scores a single round.

    Rules that remember rounds, own clean samples or need more participants are passed over; options
    are the defaults.
    """
    for name, kind in DEFENSES.items():
        rule: Defense = kind()
        traits = rule.traits
        enough = len(judged.updates) >= traits.fewest_participants
        if name == OWN or traits.remembers_clients or traits.clean_samples or not enough:
            continue
        verdict = rule(judged.updates, judged.afresh())
        if verdict.scores is not None and not verdict.state:
            yield name, verdict.scores.cpu().float().nan_to_num(nan=torch.inf, posinf=torch.inf)


def judge_offline(
    judged: Placed, defense: FedREDefense, iterations: int, tick: Tick = lambda _: None
) -> Outcome:
    """Return all errors and scores of a recording, and the images that reconstruct its updates.

    Args:
        judged: n participants.
        defense: how updates are reconstructed.
        iterations: made for every client.
        tick: is told the work done.

    Returns:
        Rows with rule, round, client, malicious, iteration and score, and what was learned. The score
        of fedredefense is the error after each iteration from 1; other rules have the one iteration 0.
    """
    rows = partial(_rows, judged.recording)
    learned = learn(judged, defense.reconstruction, iterations, tick)
    parts = [rows(OWN, made + 1, learned.errors[:, made]) for made in range(iterations)]
    parts += [rows(name, 0, scores) for name, scores in other_scores(judged)]
    return Outcome(pd.concat(parts, ignore_index=True), learned)


def _rows(recording: Recording, rule: str, iteration: int, scores: Tensor) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rule": rule,
            "round": recording.round,
            "client": recording.clients.numpy(),
            "malicious": recording.malicious.numpy(),
            "iteration": iteration,
            "score": scores.numpy(),
        }
    )


def diverged_clients(learned: Learned, recording: Recording) -> list[int]:
    """Return the ids of the clients whose reconstruction diverged: they have no error at the end."""
    clients: list[int] = recording.clients[
        diverged(recording.updates, learned.errors[:, -1])
    ].tolist()
    return clients


def write_judged(
    frame: pd.DataFrame,
    recording: Recording,
    threshold: float,
    path: Path,
    failed: Sequence[int] = (),
) -> None:
    """Write the rows that `judge_offline` returned, with the settings of the recorded run.

    Args:
        frame: the rows.
        recording: what was judged.
        threshold: of the defense, to be drawn.
        failed: of `diverged_clients`.
        path: parquet file.

    Raises:
        WriteError: when the file cannot be written.
    """
    about: dict[str, Any] = {
        "settings": recording.settings,
        "threshold": threshold,
        "diverged": list(failed),
    }
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({"fedred": json.dumps(about, sort_keys=True)})
    with opened_whole(path) as file:
        pq.write_table(table, file)


def write_images(learned: Learned, recording: Recording, path: Path) -> None:
    """Write the synthetic images that each client's update was reconstructed with.

    The file holds images [n, K, channels, height, width] in normalised pixel units, their soft labels
    [n, K, C] as logits and step_sizes [n]; clients, malicious and errors [n] at the end; and as text
    the settings of the recorded run and the round.

    Args:
        learned: of n participants.
        recording: what was judged.
        path: safetensors file.

    Raises:
        WriteError: when the file cannot be written.
    """
    tensors = {
        "images": learned.knowledge.images,
        "labels": learned.knowledge.labels,
        "step_sizes": learned.knowledge.step_size,
        "clients": recording.clients,
        "malicious": recording.malicious,
        "errors": learned.errors[:, -1],
    }
    about = {"settings": recording.settings, "round": recording.round}
    texts = {"kind": "reconstruction", "about": json.dumps(about, sort_keys=True)}
    texts["checksum"] = checksum_of(tensors, texts)
    write_tensors(tensors, texts, path)
