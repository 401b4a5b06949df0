"""Updates, views and comparisons for the tests of defenses."""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits

from fedred.defenses import DEFENSES
from fedred.defenses.interface import ServerView
from fedred.local_training import LocalTraining, batch_schedule, train_clients
from fedred.models import MLP, flat_model, initial_parameters
from fedred.reconstruction import Reconstruction

MODEL = flat_model(MLP(width=16), (1, 8, 8), 10)
TRAINING = LocalTraining(lr=0.05, batch_size=16)
CLIENTS, SAMPLES, CLEAN = 12, 80, 100
FAST = Reconstruction(step_size="calibrated", image_lr=10, label_lr=10, first_iterations=30)

BUILT_WITH = {"fedredefense": {"reconstruction": FAST}}
"""Options other than the defaults: the released learning rates take hundreds of iterations."""


def defense_of(name):
    return DEFENSES[name](**BUILT_WITH.get(name, {}))


@cache
def digits():
    """Images as the network sees them and labels, in a fixed random order."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))
    images = torch.from_numpy(pixels[order]).float().view(-1, 1, 8, 8) / 8 - 1
    return images, torch.from_numpy(labels[order])


@cache
def genuine(count=CLIENTS):
    """Global weights and the updates of clients that trained on digits, for real."""
    images, labels = digits()
    parts = [slice(client * SAMPLES, (client + 1) * SAMPLES) for client in range(count)]
    data = [(images[part], labels[part]) for part in parts]
    schedules = [
        batch_schedule(SAMPLES, TRAINING, np.random.default_rng(client)) for client in range(count)
    ]
    weights = initial_parameters(MODEL, np.random.default_rng(0))
    starts = weights.repeat(count, 1)
    return weights, train_clients(MODEL, starts, data, schedules, TRAINING, count) - weights


def clean_data():
    """Samples that no client holds."""
    images, labels = digits()
    return images[-CLEAN:], labels[-CLEAN:]


def noise(count, seed=3):
    """Random updates as long as the genuine ones."""
    source = np.random.default_rng(seed)
    drawn = torch.from_numpy(source.standard_normal((count, MODEL.size), "float32"))
    return drawn / drawn.norm(dim=1, keepdim=True) * genuine()[1].norm(dim=1).mean()


def view_of(n, samples=None, clients=None, state=None, round=1, all_clients=30, weights=None):
    return ServerView(
        model=MODEL,
        weights=genuine()[0] if weights is None else weights,
        round=round,
        clients=torch.arange(n) if clients is None else torch.tensor(clients),
        all_clients=all_clients,
        samples=torch.full((n,), SAMPLES) if samples is None else torch.tensor(samples),
        training=TRAINING,
        generator=np.random.default_rng(5),
        clients_per_chunk=16,
        clean=clean_data(),
        state=state or {},
    )


def judged(name, updates, **options):
    return defense_of(name)(updates, view_of(len(updates), **options))


def with_row(updates, row, value):
    changed = updates.clone()
    changed[row] = value
    return changed


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def plain_krum(updates, tolerated, squared=True):
    """The paper's definition, written as loops: scores float64 [n]."""
    rows, scores = updates.double().tolist(), []
    for i, one in enumerate(rows):
        costs = []
        for j, other in enumerate(rows):
            if i != j:
                cost = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
                costs.append(cost if squared else cost**0.5)
        scores.append(sum(sorted(costs)[: len(rows) - tolerated - 2]))
    return torch.tensor(scores, dtype=torch.float64)
