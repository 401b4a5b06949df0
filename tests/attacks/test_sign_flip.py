"""Sign flip sends the opposite of what was trained."""

import numpy as np
import pytest
import torch
from attack_support import POINTS, forged, honest, points
from hypothesis import given

from fedred.attacks.sign_flip import SignFlip


def test_own_update_and_what_is_sent_cancel():
    own = honest(4)
    assert not (own + forged(SignFlip(), own)).any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_what_is_sent_is_scale_times_as_long_and_points_the_other_way(scale):
    own = honest(3).double()
    sent = forged(SignFlip(scale), own)
    torch.testing.assert_close(sent.norm(dim=1), scale * own.norm(dim=1))
    torch.testing.assert_close((sent * own).sum(1), -sent.norm(dim=1) * own.norm(dim=1))


@given(POINTS)
def test_the_mean_of_what_is_sent_is_that_of_byzfl(shape):
    """byzfl flips the mean; here every attacker flips its own, which has the same mean."""
    byzfl = pytest.importorskip("byzfl")
    own = points(*shape)
    expected = byzfl.SignFlipping()(own.numpy())
    sent = forged(SignFlip(), own, size=own.shape[1]).numpy()
    slack = 1e-12 * float(own.abs().max())
    np.testing.assert_allclose(sent.mean(0), expected, rtol=1e-9, atol=slack)


def test_a_lone_attacker_sends_what_byzfl_sends():
    byzfl = pytest.importorskip("byzfl")
    own = honest(1).double()
    assert torch.equal(
        forged(SignFlip(), own)[0], torch.from_numpy(byzfl.SignFlipping()(own.numpy()))
    )
