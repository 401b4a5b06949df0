"""Clients in chunks, and fewer at once when memory runs out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedred.chunks import in_chunks


@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_every_client_is_computed_once_and_in_order_whatever_fits(clients, at_once, fits):
    done, tried = [], []

    def compute(chunk, most):
        assert len(chunk) <= most <= at_once
        assert most == at_once or most <= -(-max(tried) // 2)
        tried.append(len(chunk))
        if len(chunk) > fits:
            raise torch.OutOfMemoryError
        done.extend(chunk)

    in_chunks(clients, at_once, compute)
    assert done == list(range(clients))
    assert all(size <= at_once for size in tried)
    if clients and fits >= at_once:
        assert max(tried) - min(tried) <= len(tried)
        assert len(tried) == -(-clients // at_once)


def test_running_out_of_memory_is_said_and_one_client_too_many_is_an_error(caplog):
    def compute(chunk, _):
        if len(chunk) > 3 or chunk.start >= 6:
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError, match="too much"):
        in_chunks(10, 8, compute)
    assert "out of memory: now 3 clients at once" in caplog.text
    assert "out of memory: now 1 clients at once" in caplog.text


@pytest.mark.parametrize(
    ("message", "halves"),
    [("GET was unable to find an engine to execute this computation", True), ("a bug", False)],
)
def test_a_convolution_without_an_engine_is_out_of_memory_and_other_errors_are_errors(
    message, halves
):
    done = []

    def compute(chunk, _):
        if len(chunk) > 2:
            raise RuntimeError(message)
        done.extend(chunk)

    if halves:
        in_chunks(6, 6, compute)
        assert done == list(range(6))
    else:
        with pytest.raises(RuntimeError, match=message):
            in_chunks(6, 6, compute)
