"""Every attack meets the contract, and each does what its paper defines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedred.attacks import ATTACKS
from fedred.attacks.fang_trim import FangTrim
from fedred.attacks.interface import AttackerView
from fedred.attacks.label_flip import LabelFlip
from fedred.attacks.min_max import MinMax, largest_factor, perturbation
from fedred.attacks.mpaf import MPAF
from fedred.attacks.none import NoAttack
from fedred.attacks.scaling import Scaling
from fedred.attacks.trigger import PixelTrigger
from fedred.models import MLP, flat_model, initial_parameters
from fedred.rng import generator

MODEL = flat_model(MLP(width=5), (1, 8, 8), 4)
FORGES_WITHOUT_SPREAD = {
    "mpaf": "the pull needs no honest update",
    "scaling": "the factor needs no spread",
}
"""Attacks whose lone attacker does not send its honest update, and why."""

DIRECTIONS = ["deviation", "unit", "sign"]
POINTS = st.tuples(
    st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 20), st.floats(-4, 3), st.floats(-2, 2)
)


def view_of(clients, round=1, state=None, seed=0):
    initial = initial_parameters(MODEL, np.random.default_rng(1))
    moved = initial + 0.01 * (round - 1)
    return AttackerView(
        model=MODEL,
        weights=moved,
        previous_weights=initial,
        initial_weights=initial,
        round=round,
        clients=tuple(clients),
        generator=lambda client: generator(seed, "attack", round, client),
        state=state or {},
    )


def honest(m, seed=2):
    source = np.random.default_rng(seed)
    return torch.from_numpy(0.1 * source.standard_normal((m, MODEL.size), "float32") + 0.02)


def data_of(samples=6, shape=(1, 8, 8), seed=3):
    source = np.random.default_rng(seed)
    images = torch.from_numpy(source.standard_normal((samples, *shape), "float32"))
    return images, torch.arange(samples) % 4


def points(seed, m, size, log_scale, offset):
    """Updates float64 [m, P] of any scale, with a mean of any length beside their spread."""
    source = np.random.default_rng(seed)
    return 10**log_scale * torch.from_numpy(source.standard_normal((m, size)) + offset)


def farthest(updates, vector):
    return float((vector - updates).norm(dim=1).max())


def diameter(updates):
    return max(float((a - b).norm()) for a in updates for b in updates)


def bisected_factor(updates, push):
    """The slow twin of `largest_factor`: double until the constraint breaks, then bisect."""
    mean, limit = updates.mean(0), diameter(updates)
    inside, outside = 0.0, 1e-12
    while farthest(updates, mean + outside * push) <= limit:
        inside, outside = outside, 2 * outside
    for _ in range(100):
        middle = (inside + outside) / 2
        holds = farthest(updates, mean + middle * push) <= limit
        inside, outside = (middle, outside) if holds else (inside, middle)
    return inside


# Contract


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_forged_updates_are_finite_and_have_the_shape_of_the_own(name, m):
    forged = ATTACKS[name]().forge(honest(m), view_of(range(m), round=2))
    assert forged.updates.shape == (m, MODEL.size)
    assert forged.updates.dtype == torch.float32
    assert forged.updates.isfinite().all()
    assert all(isinstance(value, torch.Tensor) for value in forged.state.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_forging_is_a_function_of_its_arguments_and_changes_none_of_them(name):
    own, view = honest(4), view_of(range(4), round=2)
    before, weights = own.clone(), view.weights.clone()
    one, two = (ATTACKS[name]().forge(own, view).updates.clone() for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(own, before)
    assert torch.equal(view.weights, weights)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_attackers_does_not_matter(name):
    own, order = honest(4), [2, 0, 3, 1]
    forged = ATTACKS[name]().forge(own, view_of([5, 6, 7, 9], round=2)).updates
    clients = [[5, 6, 7, 9][i] for i in order]
    shuffled = ATTACKS[name]().forge(own[order], view_of(clients, round=2)).updates
    torch.testing.assert_close(shuffled, forged[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_lone_attacker_without_spread_sends_its_honest_update(name):
    own = honest(1)
    forged = ATTACKS[name]().forge(own, view_of([3], round=2)).updates
    assert torch.equal(forged, own) == (name not in FORGES_WITHOUT_SPREAD)


@pytest.mark.parametrize("name", ATTACKS)
def test_equal_honest_updates_give_finite_forgeries(name):
    for own in (honest(1).repeat(3, 1), torch.zeros(3, MODEL.size)):
        assert ATTACKS[name]().forge(own, view_of(range(3), round=2)).updates.isfinite().all()


@pytest.mark.parametrize("name", ATTACKS)
def test_poisoned_data_is_trainable_and_the_clients_own_data_stays(name):
    images, labels = data_of()
    images_before, labels_before = images.clone(), labels.clone()
    passes = ATTACKS[name]().poison(images, labels, 3, 4)
    assert passes
    for new_images, new_labels in passes:
        assert new_images.shape[1:] == images.shape[1:]
        assert len(new_images) == len(new_labels) > 0
        assert new_labels.dtype == torch.int64
        assert new_labels.min() >= 0
        assert new_labels.max() < 4
    assert torch.equal(images, images_before)
    assert torch.equal(labels, labels_before)


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name]().backdoor])
def test_a_backdoor_has_a_trigger_that_copies(name):
    backdoor = ATTACKS[name]().backdoor
    images, _ = data_of()
    before = images.clone()
    triggered = backdoor.apply(images)
    assert backdoor.target >= 0
    assert not torch.equal(triggered, before)
    assert torch.equal(images, before)
    assert torch.equal(backdoor.apply(triggered), triggered)


# None


def test_no_attack_is_the_identity():
    own, (images, labels) = honest(3), data_of()
    assert torch.equal(NoAttack().forge(own, view_of(range(3))).updates, own)
    ((same_images, same_labels),) = NoAttack().poison(images, labels, 0, 4)
    assert torch.equal(same_images, images)
    assert torch.equal(same_labels, labels)


# Label flip


@pytest.mark.parametrize(("map", "expected"), [("next", [1, 2, 3, 0]), ("reverse", [3, 2, 1, 0])])
def test_label_flip_maps(map, expected):
    images, labels = data_of(4)
    ((same, flipped),) = LabelFlip(map).poison(images, labels, 0, 4)
    assert flipped.tolist() == expected
    assert torch.equal(same, images)


@given(st.integers(2, 20), st.lists(st.integers(0, 19), min_size=1))
def test_label_flip_never_keeps_a_label_by_next_and_reverse_is_an_involution(classes, values):
    labels = torch.tensor(values) % classes
    images = torch.zeros(len(labels), 1, 2, 2)

    def flip(map, labels):
        return LabelFlip(map).poison(images, labels, 0, classes)[0][1]

    assert (flip("next", labels) != labels).all()
    assert torch.equal(flip("reverse", flip("reverse", labels)), labels)
    turned = labels
    for _ in range(classes):
        turned = flip("next", turned)
    assert torch.equal(turned, labels)


def test_label_flip_sends_what_was_trained():
    own = honest(3)
    assert torch.equal(LabelFlip().forge(own, view_of(range(3))).updates, own)


# Fang


@settings(max_examples=50, deadline=None)
@given(POINTS, st.floats(0, 5), st.floats(0, 5))
def test_fang_keeps_every_coordinate_inside_its_interval(shape, near, width):
    updates = points(*shape)
    m, far = len(updates), near + width
    forged = FangTrim(near, far).forge(updates, view_of(range(m))).updates
    mean, deviation = updates.numpy().mean(0), updates.numpy().std(0, ddof=1)
    low = np.where(mean > 0, mean - far * deviation, mean + near * deviation)
    high = np.where(mean > 0, mean - near * deviation, mean + far * deviation)
    slack = 1e-9 * (np.abs(mean) + (far + 1) * deviation)
    assert ((low - slack <= forged.numpy()) & (forged.numpy() <= high + slack)).all()


def test_fang_fills_its_interval_uniformly_and_draws_for_each_attacker():
    own = honest(5)
    forged = FangTrim().forge(own, view_of(range(5))).updates
    mean, deviation = own.mean(0), own.std(0)
    depth = (forged - mean).abs() / deviation
    share = ((depth - 3).sort(1).values).double()
    uniform = torch.linspace(0, 1, share.shape[1], dtype=torch.float64)
    assert (share - uniform).abs().max() < 1.95 / share.shape[1] ** 0.5  # Kolmogorov, p = 0.001
    assert torch.corrcoef(depth).fill_diagonal_(0).abs().max() < 0.25


def test_fang_draws_anew_each_round_and_from_each_seed():
    own = honest(3)
    first = FangTrim().forge(own, view_of(range(3))).updates
    assert not torch.equal(FangTrim().forge(own, view_of(range(3), round=2)).updates, first)
    assert not torch.equal(FangTrim().forge(own, view_of(range(3), seed=1)).updates, first)


def test_fang_moves_against_the_sign_of_the_mean():
    own = honest(4)
    shift = FangTrim().forge(own, view_of(range(4))).updates - own.mean(0)
    assert torch.equal(shift.sign(), torch.where(own.mean(0) > 0, -1.0, 1.0).expand(4, -1))


# Min-Max


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_min_max_constraint_holds_at_gamma_and_fails_beyond(direction, shape):
    updates = points(*shape)
    mean, push = updates.mean(0), perturbation(updates, direction)
    gamma, limit = largest_factor(updates, mean, push), diameter(updates)
    assert gamma > 0
    assert farthest(updates, mean + gamma * push) <= limit * (1 + 1e-9)
    assert farthest(updates, mean + gamma * (1 + 1e-4) * push) > limit


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=30, deadline=None)
@given(POINTS)
def test_min_max_factor_equals_bisection(direction, shape):
    updates = points(*shape)
    push = perturbation(updates, direction)
    expected = bisected_factor(updates, push)
    assert largest_factor(updates, updates.mean(0), push) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_sends_one_vector_on_the_edge_of_the_honest_diameter(direction):
    own = honest(6)
    forged = MinMax(direction).forge(own, view_of(range(6))).updates
    assert (forged == forged[0]).all()
    assert farthest(own.double(), forged[0].double()) == pytest.approx(diameter(own), rel=1e-5)


def test_min_max_by_hand():
    """On a line at 0, 0, 3: mu 1, sigma sqrt(3), diameter 3; -sigma ends at 0 + 3 - 3 = 0."""
    own = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    for direction in DIRECTIONS:
        forged = MinMax(direction).forge(own, view_of(range(3))).updates
        torch.testing.assert_close(forged, torch.zeros_like(own), atol=1e-12, rtol=0)
    push = perturbation(own, "deviation")
    assert push.item() == pytest.approx(-(3**0.5))
    assert largest_factor(own, own.mean(0), push) == pytest.approx(1 / 3**0.5)


def test_min_max_directions_by_definition():
    own = honest(5)
    mean = own.numpy().mean(0)
    deviation = own.numpy().std(0, ddof=1)
    for direction, expected in {
        "deviation": -deviation,
        "unit": -mean / np.linalg.norm(mean),
        "sign": -np.sign(mean),
    }.items():
        np.testing.assert_allclose(perturbation(own, direction), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_of_updates_with_mean_zero_is_finite(direction):
    own = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    forged = MinMax(direction).forge(own, view_of(range(2))).updates
    assert forged.isfinite().all()
    assert farthest(own, forged[0]) <= diameter(own) * (1 + 1e-6)


# MPAF


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_mpaf_closed_form(scale):
    view = view_of([4, 8], round=3)
    forged = MPAF(scale).forge(honest(2), view).updates
    expected = scale * (view.initial_weights - view.weights)
    torch.testing.assert_close(forged, expected.repeat(2, 1))
    assert expected.abs().min() > 0


def test_mpaf_of_the_initial_model_is_zero_in_round_1():
    assert not MPAF().forge(honest(2), view_of([4, 8])).updates.any()


def test_mpaf_throws_the_own_updates_away():
    view = view_of([4, 8], round=3)
    one, other = (MPAF().forge(honest(2, seed), view).updates for seed in (0, 1))
    assert torch.equal(one, other)


def test_mpaf_pulls_all_rounds_towards_one_remembered_random_model():
    attack, state, bases = MPAF(scale=2.0, base="random"), {}, []
    for round in (1, 2, 3):
        view = view_of([4, 8] if round < 3 else [8], round, state)
        forged = attack.forge(honest(len(view.clients)), view)
        assert (forged.updates == forged.updates[0]).all()
        bases.append(forged.updates[0] / 2 + view.weights)
        state = forged.state
    torch.testing.assert_close(bases[1], bases[0])
    torch.testing.assert_close(bases[2], bases[0])
    assert (bases[0] - view.initial_weights).abs().max() > 0.01
    forgotten = attack.forge(honest(2), view_of([4, 8], 2)).updates[0] / 2 + view_of([4], 2).weights
    assert (forgotten - bases[0]).abs().max() > 0.01


# Scaling


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("m", [1, 4])
def test_scaling_sends_exactly_factor_times_the_trained_update(factor, m):
    own = honest(m)
    assert torch.equal(Scaling(factor).forge(own, view_of(range(m))).updates, own * factor)


def test_scaling_trains_on_triggered_images_of_the_target_and_then_on_clean_ones():
    images, labels = data_of()
    attack = Scaling(target=2)
    (triggered, targets), (clean, own_labels) = attack.poison(images, labels, 0, 4)
    assert torch.equal(triggered, PixelTrigger(2).apply(images))
    assert torch.equal(targets, torch.full_like(labels, 2))
    assert torch.equal(clean, images)
    assert torch.equal(own_labels, labels)
    assert attack.backdoor == PixelTrigger(2)


# Trigger


def test_trigger_pixels_on_28x28_are_those_of_the_released_code():
    images = torch.zeros(2, 3, 28, 28)
    changed = PixelTrigger(0).apply(images).nonzero()
    expected = {(i, 0, *p) for i in (0, 1) for p in ((26, 26), (24, 26), (26, 24), (25, 25))}
    assert {tuple(position) for position in changed.tolist()} == expected
    assert (PixelTrigger(0).apply(images) <= 1).all()


@given(st.integers(8, 64), st.integers(8, 64))
def test_trigger_keeps_four_distinct_pixels_inside_every_image_from_8x8_on(height, width):
    pixels = PixelTrigger(0).pixels(height, width)
    assert all(0 <= row < height and 0 <= column < width for row, column in pixels)
    assert len(set(pixels)) == 4


@pytest.mark.parametrize("side", range(8, 65))
def test_trigger_changes_four_pixels_of_a_square_image_and_nothing_else(side):
    images = torch.full((1, 3, side, side), 0.25)
    triggered = PixelTrigger(0).apply(images)
    assert int((triggered != images).sum()) == 4
    assert torch.equal(triggered[:, 1:], images[:, 1:])
