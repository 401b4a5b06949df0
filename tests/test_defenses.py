"""Every defense meets the contract, and each does what its paper defines."""

import logging
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from fedred.defenses import DEFENSES
from fedred.defenses.fedavg import FedAvg
from fedred.defenses.fedredefense import FedREDefense
from fedred.defenses.interface import ServerView
from fedred.defenses.krum import Krum
from fedred.defenses.median import Median
from fedred.errors import UserError
from fedred.local_training import LocalTraining, batch_schedule, train_clients
from fedred.models import MLP, flat_model, initial_parameters
from fedred.reconstruction import Reconstruction

MODEL = flat_model(MLP(width=16), (1, 8, 8), 10)
TRAINING = LocalTraining(lr=0.05, batch_size=16)
CLIENTS, SAMPLES = 6, 80
FAST = Reconstruction(step_size="calibrated", image_lr=10, label_lr=10, first_iterations=30)

# What a member of DEFENSES needs to play, and what it does not promise. A rule that is not named
# here promises everything.
BUILT_WITH = {"fedredefense": {"reconstruction": FAST}}
"""Options other than the defaults: the released learning rates take hundreds of iterations."""
NOT_ROBUST = {"fedavg": "the mean follows every update"}
FEWEST_CLIENTS = {"krum": 3}
"""A score needs at least one neighbour besides the tolerated ones."""
NOT_TRANSLATABLE = {"fedredefense": "a displaced update is not the product of training"}
TOLERANCE = {"fedredefense": 1e-3}
"""Relative: clients that are computed at once differ by rounding from one order to another."""

ROBUST = [name for name in DEFENSES if name not in NOT_ROBUST]
TRANSLATABLE = [name for name in DEFENSES if name not in NOT_TRANSLATABLE]


def defense_of(name):
    return DEFENSES[name](**BUILT_WITH.get(name, {}))


@cache
def genuine():
    """Global weights and the updates of clients that trained on digits, for real."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(digits)
    order = np.random.default_rng(1).permutation(len(labels))[: CLIENTS * SAMPLES]
    data = [(images[part], labels[part]) for part in np.split(order, CLIENTS)]
    schedules = [
        batch_schedule(SAMPLES, TRAINING, np.random.default_rng(client))
        for client in range(CLIENTS)
    ]
    weights = initial_parameters(MODEL, np.random.default_rng(0))
    starts = weights.repeat(CLIENTS, 1)
    return weights, train_clients(MODEL, starts, data, schedules, TRAINING, CLIENTS) - weights


def noise(count, seed=3):
    """Random updates as long as the genuine ones."""
    source = np.random.default_rng(seed)
    drawn = torch.from_numpy(source.standard_normal((count, MODEL.size), "float32"))
    return drawn / drawn.norm(dim=1, keepdim=True) * genuine()[1].norm(dim=1).mean()


def view_of(n, samples=None, clients=None, state=None, round=1, all_clients=12):
    return ServerView(
        model=MODEL,
        weights=genuine()[0],
        round=round,
        clients=torch.arange(n) if clients is None else torch.tensor(clients),
        all_clients=all_clients,
        samples=torch.full((n,), SAMPLES) if samples is None else torch.tensor(samples),
        training=TRAINING,
        generator=np.random.default_rng(5),
        clients_per_chunk=16,
        state=state or {},
    )


def judged(name, updates, **options):
    return defense_of(name)(updates, view_of(len(updates), **options))


def close(name, actual, expected):
    tolerance = TOLERANCE.get(name, 1e-6)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-2 * tolerance)


def with_row(updates, row, value):
    changed = updates.clone()
    changed[row] = value
    return changed


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


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# Contract


@pytest.mark.parametrize("name", DEFENSES)
def test_verdict_has_the_declared_shapes(name):
    _, updates = genuine()
    verdict = judged(name, updates)
    assert verdict.aggregate.shape == (MODEL.size,)
    assert verdict.aggregate.dtype == torch.float32
    assert verdict.aggregate.isfinite().all()
    assert verdict.aggregate.any()
    assert verdict.trusted.shape == (CLIENTS,)
    assert verdict.trusted.dtype == torch.bool
    assert verdict.trusted.any()
    for part in (verdict.scores, verdict.excluded, verdict.iterations):
        assert part is None or part.shape == (CLIENTS,)
    assert all(isinstance(value, torch.Tensor) for value in verdict.state.values())


@pytest.mark.parametrize("name", DEFENSES)
def test_a_rule_is_a_function_of_its_arguments_and_changes_none_of_them(name):
    weights, updates = genuine()
    before, weights_before = updates.clone(), weights.clone()
    first, second = judged(name, updates), judged(name, updates)
    assert torch.equal(first.aggregate, second.aggregate)
    assert torch.equal(first.trusted, second.trusted)
    assert torch.equal(updates, before)
    assert torch.equal(weights, weights_before)
    state_before = {key: value.clone() for key, value in first.state.items()}
    first.aggregate.add_(1)
    judged(name, updates, state=first.state, round=2)
    assert torch.equal(updates, before), "the aggregate must not be a view of an update"
    assert all(torch.equal(first.state[key], value) for key, value in state_before.items())


@pytest.mark.parametrize("name", DEFENSES)
def test_permuting_clients_permutes_trusted_and_leaves_the_aggregate(name):
    updates = torch.cat([genuine()[1], noise(1)])
    whole = judged(name, updates)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(updates))
        shuffled = judged(name, updates[order], clients=order.tolist())
        assert torch.equal(shuffled.trusted, whole.trusted[order])
        close(name, shuffled.aggregate, whole.aggregate)


@pytest.mark.parametrize("name", DEFENSES)
def test_identical_updates_come_back(name):
    _, updates = genuine()
    verdict = judged(name, updates[:1].repeat(5, 1))
    assert verdict.trusted.any()
    close(name, verdict.aggregate, updates[0])


@pytest.mark.parametrize("name", DEFENSES)
def test_the_fewest_clients_are_enough_and_one_less_is_refused(name):
    fewest = FEWEST_CLIENTS.get(name, 1)
    _, updates = genuine()
    verdict = judged(name, updates[:1].repeat(fewest, 1))
    close(name, verdict.aggregate, updates[0])
    if fewest > 1:
        with pytest.raises(UserError, match=f"needs at least {fewest} participants"):
            judged(name, updates[: fewest - 1])


@pytest.mark.parametrize("row", [0, 3, 5])
@pytest.mark.parametrize("name", ROBUST)
def test_one_huge_update_does_not_move_a_robust_rule(name, row):
    _, updates = genuine()
    verdict = judged(name, with_row(updates, row, 1e9))
    others = updates[[client for client in range(CLIENTS) if client != row]]
    slack = 1e-6
    assert (verdict.aggregate <= others.max(0).values + slack).all()
    assert (verdict.aggregate >= others.min(0).values - slack).all()
    if DEFENSES[name].selects:
        assert not verdict.trusted[row]
        assert verdict.scores is None or verdict.scores.argmax() == row


def test_one_huge_update_moves_the_mean():
    _, updates = genuine()
    assert judged("fedavg", with_row(updates, 2, 1e9)).aggregate.min() > 1e8


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ROBUST)
def test_an_update_that_is_not_finite_never_reaches_the_aggregate_of_a_robust_rule(
    name, whole, value
):
    _, updates = genuine()
    broken = updates.clone()
    broken[1, slice(None) if whole else 7] = value
    verdict = judged(name, broken)
    others = updates[[0, 2, 3, 4, 5]]
    assert not verdict.trusted[1]
    assert verdict.trusted.any()
    assert (verdict.aggregate <= others.max(0).values + 1e-6).all()
    assert (verdict.aggregate >= others.min(0).values - 1e-6).all()
    if verdict.scores is not None:
        assert not verdict.scores.isnan().any()
        assert verdict.scores.argmax() == 1
    assert all(part.isfinite().all() for part in verdict.state.values())


@pytest.mark.parametrize("name", ROBUST)
def test_when_no_update_is_finite_the_model_stays_and_nobody_is_trusted(name):
    verdict = judged(name, torch.full((CLIENTS, MODEL.size), torch.nan))
    assert not verdict.trusted.any()
    assert torch.equal(verdict.aggregate, torch.zeros(MODEL.size))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_fedavg_passes_a_broken_update_on_and_says_so(value, caplog):
    with caplog.at_level(logging.WARNING):
        verdict = judged("fedavg", with_row(genuine()[1], 1, value), round=7)
    assert verdict.trusted.all()
    assert not verdict.aggregate.isfinite().any()
    assert "round 7: 1 updates are not finite" in caplog.text


@pytest.mark.parametrize("name", DEFENSES)
def test_finite_updates_cause_no_warning(name, caplog):
    with caplog.at_level(logging.WARNING):
        judged(name, genuine()[1])
    assert not caplog.text


@pytest.mark.parametrize("name", TRANSLATABLE)
def test_translation_moves_the_aggregate_by_the_same_vector(name):
    updates, shift = normal(0, 7, MODEL.size), normal(1, MODEL.size)
    plain, moved = judged(name, updates), judged(name, updates + shift)
    assert torch.equal(moved.trusted, plain.trusted)
    torch.testing.assert_close(moved.aggregate, plain.aggregate + shift)


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("rule", [Median(), Median("lower"), Krum(), Krum(squared=False)])
def test_small_differences_between_large_float32_updates_are_not_lost(rule, n):
    updates = (100 + 1e-3 * normal(2, n, MODEL.size)).float()
    exact, fast = (rule(rows, view_of(n)) for rows in (updates.double(), updates))
    torch.testing.assert_close(fast.aggregate.double(), exact.aggregate, rtol=1e-7, atol=0)
    assert torch.equal(fast.trusted, exact.trusted)
    if exact.scores is not None:
        torch.testing.assert_close(fast.scores.double(), exact.scores, rtol=1e-4, atol=0)


# FedAvg


def test_fedavg_is_the_mean_whatever_the_sample_counts():
    updates = normal(0, 5, 9)
    for samples in (None, [1, 2, 3, 4, 100]):
        aggregate = FedAvg()(updates, view_of(5, samples)).aggregate
        np.testing.assert_allclose(aggregate, updates.numpy().mean(0), rtol=1e-6, atol=1e-7)


def test_fedavg_by_samples_is_the_mean_over_all_samples():
    updates, samples = normal(0, 3, 9), [1, 5, 2]
    aggregate = FedAvg(by_samples=True)(updates, view_of(3, samples)).aggregate
    expected = np.repeat(updates.numpy(), samples, axis=0).mean(0)
    np.testing.assert_allclose(aggregate, expected, rtol=1e-6, atol=1e-7)


# Median


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_median_equals_numpy_and_its_lower_form_equals_torch(n, seed):
    updates = normal(seed, n, 5)
    middle = Median()(updates, view_of(n)).aggregate
    np.testing.assert_allclose(middle, np.median(updates.numpy(), axis=0), rtol=1e-12, atol=1e-15)
    lower = Median("lower")(updates, view_of(n)).aggregate
    assert torch.equal(lower, updates.median(0).values)
    assert n % 2 == 0 or torch.equal(lower, middle)


def test_median_by_hand():
    updates = torch.tensor([[4.0, -1.0], [1.0, 0.0], [9.0, 5.0], [2.0, 1.0]])
    assert Median()(updates, view_of(4)).aggregate.tolist() == [3.0, 0.5]
    assert Median("lower")(updates, view_of(4)).aggregate.tolist() == [2.0, 0.0]
    assert Median()(updates[:3], view_of(3)).aggregate.tolist() == [4.0, 0.0]


@pytest.mark.parametrize("even", ["middle", "lower"])
def test_median_leaves_broken_updates_out_of_the_count(even):
    updates = normal(0, 6, 5)
    broken = with_row(with_row(updates, 1, torch.inf), 4, torch.nan)
    whole = Median(even)(updates[[0, 2, 3, 5]], view_of(4)).aggregate
    verdict = Median(even)(broken, view_of(6))
    assert torch.equal(verdict.aggregate, whole)
    assert verdict.trusted.tolist() == [True, False, True, True, False, True]


# Krum


@settings(deadline=None)
@given(st.integers(3, 9), st.integers(0, 6), st.booleans(), st.integers(0, 10**6))
def test_krum_equals_the_definition(n, tolerated, squared, seed):
    tolerated = min(tolerated, n - 3)
    updates = normal(seed, n, 4)
    verdict = Krum(tolerated, squared)(updates, view_of(n))
    expected = plain_krum(updates, tolerated, squared)
    torch.testing.assert_close(verdict.scores, expected)
    winner = int(verdict.trusted.nonzero())
    assert expected[winner] == pytest.approx(float(expected.min()))
    assert torch.equal(verdict.aggregate, updates[winner])


def test_krum_by_hand_and_the_square_matters():
    """n = 4, f = 0: two neighbours. At 5: 4 + 5 and 16 + 25; at 9: 4 + 1 and 16 + 1."""
    updates = torch.tensor([[0.0], [5.0], [9.0], [10.0]])
    assert Krum(0)(updates, view_of(4)).scores.tolist() == [106.0, 41.0, 17.0, 26.0]
    assert Krum(0, squared=False)(updates, view_of(4)).scores.tolist() == [14.0, 9.0, 5.0, 6.0]
    between = torch.tensor([[0.0], [0.0], [6.5], [3.0], [10.0]])
    assert Krum(0)(between, view_of(5)).aggregate == 3.0
    assert Krum(0, squared=False)(between, view_of(5)).aggregate == 0.0


@pytest.mark.parametrize(("n", "most"), [(3, 0), (4, 0), (5, 1), (6, 1), (100, 48)])
def test_krum_tolerates_by_default_the_most_the_theorem_allows(n, most):
    """Proposition 4.2 needs 2 f + 2 < n."""
    assert 2 * most + 2 < n <= 2 * (most + 1) + 2
    updates = normal(0, n, 3)
    assert torch.equal(Krum().scores(updates), Krum(most).scores(updates))


@pytest.mark.parametrize(
    ("tolerated", "n"), [(0, 2), (1, 3), (4, 6), (30, 32), (None, 2), (None, 1)]
)
def test_krum_refuses_too_few_participants(tolerated, n):
    f = tolerated or 0
    sentence = (
        f"^krum with tolerated {f} needs at least {f + 3} participants, but the round has {n}$"
    )
    with pytest.raises(UserError, match=sentence):
        Krum(tolerated)(normal(0, n, 3), view_of(n))
    Krum(f)(normal(0, f + 3, 3), view_of(f + 3))


def test_krum_chooses_among_the_finite_as_long_as_neighbours_are_left():
    updates = normal(0, 7, 4)
    broken = with_row(with_row(updates, 0, torch.nan), 3, torch.inf)
    verdict = Krum(2)(broken, view_of(7))
    finite = [1, 2, 4, 5, 6]
    expected = plain_krum(updates[finite], 0)
    assert int(verdict.trusted.nonzero()) == finite[int(expected.argmin())]
    assert verdict.scores[[0, 3]].isinf().all()


def test_krum_treats_clients_alike_when_too_few_are_finite():
    """Two finite updates, two neighbours asked: whatever is decided must not depend on the order."""
    updates = torch.tensor([[0.0], [1.0], [torch.nan], [torch.nan], [torch.nan]])
    forward, backward = (Krum(1)(rows, view_of(5)) for rows in (updates, updates.flip(0)))
    assert forward.trusted.any() == backward.trusted.any()


# FedREDefense


def attacked():
    """Genuine updates of clients 0 to 5, noise of clients 6 to 8."""
    return torch.cat([genuine()[1], noise(3)])


def fedredefense(**options):
    return FedREDefense(**{"reconstruction": FAST, **options})


def test_fedredefense_trusts_training_and_flags_noise():
    updates = attacked()
    verdict = fedredefense()(updates, view_of(9))
    assert verdict.trusted.tolist() == [True] * 6 + [False] * 3
    assert torch.equal(verdict.scores <= 0.6, verdict.trusted)
    assert (verdict.iterations[:6] < FAST.first_iterations).all()
    assert (verdict.iterations[6:] == FAST.first_iterations).all()
    torch.testing.assert_close(verdict.aggregate, updates[:6].mean(0))


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.7, 0.99])
def test_fedredefense_trusts_exactly_the_errors_up_to_the_threshold(threshold):
    verdict = fedredefense(threshold=threshold)(attacked(), view_of(9))
    assert torch.equal(verdict.trusted, verdict.scores <= threshold)


def test_fedredefense_judges_the_others_as_always_beside_a_broken_update():
    updates = attacked()
    rest = [0, 1, 3, 4, 5, 6, 7, 8]
    without = fedredefense()(updates[rest], view_of(8, clients=rest))
    for value in (torch.nan, torch.inf, 0.0):
        verdict = fedredefense()(with_row(updates, 2, value), view_of(9))
        assert not verdict.trusted[2]
        assert verdict.excluded[2]
        assert verdict.scores[2] == torch.inf
        assert torch.equal(verdict.trusted[rest], without.trusted)
        torch.testing.assert_close(verdict.scores[rest], without.scores, rtol=1e-3, atol=0)
        close("fedredefense", verdict.aggregate, without.aggregate)


def test_fedredefense_keeps_the_model_when_all_are_flagged(caplog):
    with caplog.at_level(logging.WARNING):
        verdict = fedredefense()(noise(3), view_of(3, round=4))
    assert not verdict.trusted.any()
    assert torch.equal(verdict.aggregate, torch.zeros(MODEL.size))
    assert "round 4: 0 of 3 updates are trusted, too few; the model stays" in caplog.text


def test_fedredefense_excludes_for_good_or_for_the_round():
    permanent = fedredefense()(attacked(), view_of(9))
    assert torch.equal(permanent.excluded, ~permanent.trusted)
    assert permanent.excluded.any()
    passing = fedredefense(exclusion="round")(attacked(), view_of(9))
    assert not passing.excluded.any()
    assert torch.equal(passing.trusted, permanent.trusted)
    torch.testing.assert_close(passing.aggregate, permanent.aggregate)


def test_fedredefense_hands_the_trusted_updates_to_its_aggregator():
    updates = attacked()
    verdict = fedredefense(aggregator=Median())(updates, view_of(9))
    assert torch.equal(verdict.aggregate, Median()(updates[:6], view_of(6)).aggregate)
    samples = list(range(10, 100, 10))
    training = replace(FAST, step_size="released", initial_step_size=0.75)
    by_samples = fedredefense(reconstruction=training, aggregator=FedAvg(by_samples=True))
    verdict = by_samples(updates, view_of(9, samples))
    trusted = verdict.trusted.numpy()
    assert trusted.any()
    assert not trusted.all()
    expected = np.average(updates.numpy()[trusted], 0, np.array(samples)[trusted])
    np.testing.assert_allclose(verdict.aggregate, expected, rtol=1e-4, atol=1e-6)


def test_fedredefense_starts_from_what_it_has_learned():
    """Images, labels and step size: with one of them forgotten the first error would be another."""
    _, updates = genuine()
    rule = fedredefense(reconstruction=replace(FAST, step_size_lr=0.5))
    first = rule(updates, view_of(6))
    assert (first.iterations > 1).all()
    start = FAST.initial_step_sizes(TRAINING, torch.full((6,), SAMPLES), 10)
    assert (first.state["step_size"][:6] / start - 1).abs().min() > 0.01
    again = rule(updates, view_of(6, state=first.state, round=2))
    assert (again.iterations == 1).all()
    torch.testing.assert_close(again.scores, first.scores, rtol=1e-4, atol=0)


def test_fedredefense_learns_from_participants_alone():
    _, updates = genuine()
    first = fedredefense()(updates[:3], view_of(3, clients=[1, 4, 7], all_clients=9))
    assert first.state["known"].nonzero().flatten().tolist() == [1, 4, 7]
    second = fedredefense()(
        updates[3:5], view_of(2, clients=[2, 4], state=first.state, round=2, all_clients=9)
    )
    assert second.state["known"].nonzero().flatten().tolist() == [1, 2, 4, 7]
    others = [0, 1, 3, 5, 6, 7, 8]
    for name, before in first.state.items():
        assert len(before) == 9
        assert torch.equal(second.state[name][others], before[others]), name
    for name in ("images", "labels", "step_size"):
        assert not torch.equal(second.state[name][2], first.state[name][2]), name
        assert not torch.equal(second.state[name][4], first.state[name][4]), name


def test_fedredefense_starts_all_clients_from_the_same_images():
    one_iteration = replace(FAST, first_iterations=1)
    verdict = fedredefense(reconstruction=one_iteration)(genuine()[1], view_of(6))
    images = verdict.state["images"]
    assert (images == images[0]).all()
    expected = FAST.initial_images(MODEL, view_of(1).generator)
    assert torch.equal(images[0], expected)
    assert not verdict.state["labels"].any()


def test_fedredefense_has_one_budget_for_the_first_time_and_one_for_later():
    options = replace(FAST, first_iterations=3, later_iterations=5)
    rule, updates = fedredefense(threshold=1e-9, reconstruction=options), genuine()[1]
    first = rule(updates[:2], view_of(2, clients=[0, 3]))
    assert first.iterations.tolist() == [3, 3]
    second = rule(updates[:3], view_of(3, clients=[0, 1, 3], state=first.state, round=2))
    assert second.iterations.tolist() == [5, 3, 5]


def test_fedredefense_forgets_nothing_because_of_a_broken_update():
    _, updates = genuine()
    first = fedredefense()(updates, view_of(6))
    broken = with_row(updates, 2, torch.nan)
    second = fedredefense()(broken, view_of(6, state=first.state, round=2))
    for name, before in first.state.items():
        assert torch.equal(second.state[name][2], before[2]), name
    assert all(part.isfinite().all() for part in second.state.values())
    never = fedredefense()(broken, view_of(6))
    assert not never.state["known"][2]


def test_fedredefense_judges_one_client_alone_as_among_others():
    updates = attacked()
    together = fedredefense()(updates, view_of(9))
    for client in (0, 7):
        alone = fedredefense()(updates[[client]], view_of(1, clients=[client]))
        assert alone.trusted[0] == together.trusted[client]
        torch.testing.assert_close(alone.scores[0], together.scores[client], rtol=1e-3, atol=0)


# The server's view


def test_an_inner_rule_sees_the_chosen_participants_and_its_own_state():
    memory = {"images": torch.ones(3), "inner.last": torch.zeros(2)}
    view = view_of(3, [5, 6, 7], [2, 4, 9], state=memory)
    chosen = view.select(torch.tensor([True, False, True]), "inner")
    assert chosen.clients.tolist() == [2, 9]
    assert chosen.samples.tolist() == [5, 7]
    assert list(chosen.state) == ["last"]
    assert chosen.weights is view.weights


def test_the_server_does_not_know_who_is_malicious():
    known = set(ServerView.__dataclass_fields__)
    assert known.isdisjoint({"malicious", "labels", "attack", "data", "attackers"})
