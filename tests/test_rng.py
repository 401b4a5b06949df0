"""Every random stream is a pure function of (seed, purpose, round, client), and no two are alike."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedred.rng import Purpose, generator

KEYS = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(get_args(Purpose)),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)


def numbers(key, count=4):
    return generator(*key).integers(0, 2**63, count)


@given(KEYS)
def test_same_arguments_give_the_same_stream_whatever_was_drawn_before(key):
    first = numbers(key)
    generator(*key).random(100)
    assert np.array_equal(numbers(key), first)


@given(KEYS, KEYS)
def test_different_arguments_give_different_streams(one, other):
    assume(one != other)
    assert not np.array_equal(numbers(one), numbers(other))


@given(KEYS, st.data())
def test_each_argument_alone_changes_the_stream(key, data):
    for place in range(4):
        other = list(key)
        other[place] = data.draw(KEYS)[place]
        assert np.array_equal(numbers(key), numbers(other)) == (tuple(other) == key)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_round_and_client_are_not_interchangeable(round, client):
    assume(round != client)
    swapped = generator(0, "batches", client, round).random(4)
    assert not np.array_equal(generator(0, "batches", round, client).random(4), swapped)


def test_global_random_state_is_neither_read_nor_changed():
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = numbers((1, "model", 0, 0))
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert np.array_equal(numbers((1, "model", 0, 0)), first)


def test_many_clients_share_no_number():
    """Among 2,000 streams of 64-bit numbers a repetition has probability 1e-11."""
    firsts = {int(numbers((0, "batches", r, c), 1)[0]) for r in range(20) for c in range(100)}
    assert len(firsts) == 2000


def test_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match="unknown purpose of randomness 'luck'"):
        generator(0, "luck")


@pytest.mark.parametrize("key", [(-1, "model"), (0, "model", -1), (0, "model", 0, -1)])
def test_negative_numbers_are_refused(key):
    with pytest.raises(ValueError, match="negative"):
        generator(*key)
