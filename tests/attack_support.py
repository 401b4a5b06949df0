"""Views, updates and data for the tests of attacks."""

from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st

from fedred.attacks import ATTACKS
from fedred.attacks.interface import AttackerView
from fedred.local_training import LocalTraining
from fedred.models import MLP, flat_model, initial_parameters
from fedred.reconstruction import Reconstruction
from fedred.rng import generator

CLASSES = 4
MODEL = flat_model(MLP(width=5), (1, 8, 8), CLASSES)
TRAINING = LocalTraining(lr=0.05, batch_size=16)
FAST = Reconstruction(step_size="calibrated", image_lr=10, label_lr=10, first_iterations=3)

BUILT_WITH = {"adaptive_reconstruction": {"reconstruction": FAST}}
"""Options other than the defaults: the released ones take hundreds of iterations."""

POINTS = st.tuples(
    st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 20), st.floats(-4, 3), st.floats(-2, 2)
)
"""Arguments of `points`."""


def attack_of(name, **options):
    return ATTACKS[name](**{**BUILT_WITH.get(name, {}), **options})


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def points(seed, m, size, log_scale, offset):
    """Updates float64 [m, P] of any scale, with a mean of any length beside their spread."""
    return 10**log_scale * (normal(seed, m, size) + offset)


def honest(m, seed=2):
    return (0.1 * normal(seed, m, MODEL.size) + 0.02).float()


def data_of(samples=6, shape=(1, 8, 8)):
    return normal(3, samples, *shape).float(), torch.arange(samples) % CLASSES


def initial_weights(size=MODEL.size):
    if size == MODEL.size:
        return initial_parameters(MODEL, np.random.default_rng(1))
    return normal(1, size).float()


def view_of(clients, round=1, seed=0, size=MODEL.size, dtype=torch.float32, **changes):
    """What attackers know in a round; the model has moved evenly along one random direction."""
    clients, initial = tuple(clients), initial_weights(size)
    step = 0.01 * normal(7, size).float()
    facts = {
        "model": MODEL,
        "weights": (initial + (round - 1) * step).to(dtype),
        "previous_weights": (initial + max(0, round - 2) * step).to(dtype),
        "initial_weights": initial.to(dtype),
        "round": round,
        "clients": clients,
        "participants": 4 * len(clients),
        "samples": torch.tensor([20 + 8 * (client % 5) for client in clients]),
        "training": TRAINING,
        "generator": partial(generator, seed, "attack", round),
        "clients_per_chunk": 16,
    }
    return AttackerView(**{**facts, **changes})


def full_view_of(clients, known, **changes):
    """What attackers know who see the updates of the honest participants, too."""
    clients = tuple(clients)
    together = {"honest_updates": known, "participants": len(clients) + len(known)}
    return view_of(clients, **{**together, **changes})


def forged(attack, own, **options):
    """What attackers 0 to m - 1 send."""
    return attack.forge(own, view_of(range(len(own)), **options)).updates


def forged_with_full_knowledge(attack, own, known, **options):
    return attack.forge(own, full_view_of(range(len(own)), known, **options)).updates


def farthest(updates, vector):
    return float((vector - updates).norm(dim=1).max())


def diameter(updates):
    return max(float((a - b).norm()) for a in updates for b in updates)


def bisected(holds):
    """The largest number for which a condition holds that holds up to it: double, then bisect."""
    inside, outside = 0.0, 1e-12
    while holds(outside):
        inside, outside = outside, 2 * outside
    for _ in range(100):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def kolmogorov_distance_allowed(size):
    """The distance of an empirical distribution from the true one, exceeded with p = 0.001."""
    return 1.95 / size**0.5
