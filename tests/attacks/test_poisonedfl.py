"""PoisonedFL pushes along fixed signs, as far as the model moves, and notices a lost push."""

import numpy as np
import pytest
import torch
from attack_support import MODEL, forged, honest, normal, view_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedred.attacks.poisonedfl import PoisonedFL, follows

SIZE = 200


def rounds(attack, movements, seed=0):
    """Play rounds in which the model moves as told; yield each round's view and what was sent."""
    weights, previous, state = torch.zeros(SIZE).double(), torch.zeros(SIZE).double(), {}
    for round, movement in enumerate(movements, start=1):
        view = view_of(
            [3, 8], round, seed, SIZE, weights=weights, previous_weights=previous, state=state
        )
        sent = attack.forge(normal(round, 2, SIZE), view)
        yield view, sent
        step = movement(sent) if callable(movement) else movement
        previous, weights, state = weights, weights + step, sent.state


def factors(attack, movements):
    return [float(sent.state["factor"]) for _, sent in rounds(attack, movements)]


def random_movements(count):
    return [normal(100 + number, SIZE) for number in range(count)]


def along(sent):
    return sent.state["signs"]


def against(sent):
    return -sent.state["signs"]


def magnitude(movement, last):
    """v of the paper, in NumPy: what others moved, each coordinate's length, of length 1."""
    others = movement
    if np.any(last):
        others = movement - last * np.linalg.norm(movement) / np.linalg.norm(last)
    return np.abs(others) / np.linalg.norm(others)


def test_signs_are_fixed_over_rounds_and_equal_for_all_attackers():
    played = list(rounds(PoisonedFL(), random_movements(6)))
    signs = played[0][1].state["signs"]
    assert set(signs.tolist()) == {-1.0, 1.0}
    for _, sent in played[1:]:
        assert torch.equal(sent.updates.sign(), signs.expand(2, -1))
        assert torch.equal(sent.updates[0], sent.updates[1])


def test_signs_are_those_of_fair_coins_and_differ_between_seeds():
    (_, one), (_, other) = (
        next(iter(rounds(PoisonedFL(), random_movements(1), seed=seed))) for seed in (0, 1)
    )
    for signs in (one.state["signs"], other.state["signs"], along(one) * along(other)):
        assert abs(float(signs.sum())) < 4 * SIZE**0.5


def test_what_is_sent_is_c_times_as_long_as_the_last_movement():
    for view, sent in list(rounds(PoisonedFL(factor=3.0), random_movements(5)))[1:]:
        length = (view.weights - view.previous_weights).norm()
        torch.testing.assert_close(sent.updates.norm(dim=1), 3 * length.repeat(2))


def test_magnitudes_equal_the_papers_formula():
    last = np.zeros(SIZE)
    for view, sent in list(rounds(PoisonedFL(), random_movements(6)))[1:]:
        movement = (view.weights - view.previous_weights).numpy()
        expected = 8 * np.linalg.norm(movement) * magnitude(movement, last)
        np.testing.assert_allclose(sent.updates[0].abs(), expected, rtol=1e-9)
        last = sent.updates[0].numpy()


def test_before_the_model_has_moved_the_honest_updates_are_sent():
    own = honest(3)
    assert torch.equal(forged(PoisonedFL(), own, round=1), own)
    assert not torch.equal(forged(PoisonedFL(), own, round=2), own)


def test_own_updates_do_not_matter_once_the_model_has_moved():
    one, other = (forged(PoisonedFL(), honest(3, seed), round=2) for seed in (0, 1))
    assert torch.equal(one, other)


def test_a_movement_that_is_the_attackers_own_push_gives_no_nan():
    """g - x ||g|| / ||x|| is zero then, but for rounding."""

    def own_push(sent):
        return sent.updates[0] / 2

    for view, sent in list(rounds(PoisonedFL(), [*random_movements(1), own_push, own_push]))[1:]:
        length = (view.weights - view.previous_weights).norm()
        assert sent.updates.isfinite().all()
        assert float(sent.updates[0].norm()) <= 8 * float(length) * (1 + 1e-9)


def test_a_movement_along_the_signs_keeps_c():
    assert factors(PoisonedFL(period=3), [along] * 12) == [8.0] * 12


def test_a_movement_against_the_signs_reduces_c_after_each_period_never_below_smallest():
    """Tested in rounds 4, 7, 10, ...: 8, 5.6, 3.92; 2.744 would fall below 3."""
    found = factors(PoisonedFL(period=3, smallest=3.0), [against] * 12)
    assert found == pytest.approx([8] * 3 + [5.6] * 3 + [3.92] * 6)


def test_the_default_period_is_fifty_rounds():
    found = factors(PoisonedFL(), [against] * 102)
    assert found == pytest.approx([8] * 50 + [5.6] * 50 + [3.92] * 2)


def test_the_sign_test_sees_the_movement_of_the_whole_period():
    """Two steps back and a long one forth lead forth; the next period starts from there."""

    def far_along(sent):
        return 5 * along(sent)

    movements = [against, against, far_along, against, against, along, along]
    found = factors(PoisonedFL(period=3), movements)
    assert found == pytest.approx([8] * 6 + [5.6])


def test_c_makes_what_is_sent_shorter():
    played = list(rounds(PoisonedFL(period=2), [against] * 4))
    for (view, sent), factor in zip(played[1:], (8, 5.6, 5.6), strict=True):
        length = (view.weights - view.previous_weights).norm()
        assert float(sent.updates[0].norm() / length) == pytest.approx(factor)


def test_the_sign_test_by_hand():
    """Of eight fair coins seven or more agree with probability 9 / 256, six with 37 / 256."""
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
    for wrong, passes in ((0, True), (1, True), (2, True), (3, False), (8, False)):
        movement = signs * torch.tensor([-1.0] * wrong + [1.0] * (8 - wrong))
        assert follows(movement, signs, 0.1) == passes


def test_a_coordinate_that_did_not_move_agrees_with_nothing():
    assert not follows(torch.zeros(50), torch.ones(50), 0.01)
    assert follows(torch.ones(50), torch.ones(50), 0.01)


@given(st.integers(1, 10**6), st.sampled_from([0.001, 0.01, 0.05, 0.3]))
def test_the_threshold_is_the_quantile_of_fair_coins_for_any_size(size, significance):
    needed = int(binom.ppf(1 - significance, size, 0.5))
    assert binom.cdf(needed, size, 0.5) >= 1 - significance > binom.cdf(needed - 1, size, 0.5)
    signs = torch.ones(size)
    for agreeing, passes in ((needed, True), (needed - 1, False)):
        movement = torch.ones(size)
        movement[agreeing:] = -1
        assert follows(movement, signs, significance) == passes


@pytest.mark.parametrize("size", [101, 1000, MODEL.size])
@pytest.mark.parametrize("significance", [0.01, 0.05])
def test_a_random_movement_passes_about_as_often_as_the_significance_says(size, significance):
    """Reaching the quantile is a little likelier than the level, by the quantile's own weight."""
    signs = normal(0, size).sign()
    trials = 4000
    hits = sum(follows(row, signs, significance) for row in normal(1, trials, size))
    weight = binom.pmf(binom.ppf(1 - significance, size, 0.5), size, 0.5)
    low, high = binom.ppf([1e-4, 1 - 1e-4], trials, [significance, significance + weight])
    assert low <= hits <= high
