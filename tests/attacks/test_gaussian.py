"""Gaussian noise has the promised distribution, and attackers draw independently."""

import pytest
import torch
from attack_support import forged, normal, view_of
from scipy.stats import kstest, norm

from fedred.attacks.gaussian import Gaussian

SIZE = 20_000


def uneven(m=5):
    """Updates whose spread differs from coordinate to coordinate by a factor of 100."""
    return (0.3 + torch.logspace(-2, 0, SIZE) * normal(0, m, SIZE)).float()


def correlations(rows):
    return torch.corrcoef(rows.double()).fill_diagonal_(0).abs().max()


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_noise_is_normal_in_units_of_the_spread(std):
    own = uneven()
    noise = forged(Gaussian(std), own, size=SIZE) / torch.from_numpy(own.numpy().std(0, ddof=1))
    for row in noise:
        assert kstest(row.numpy(), norm(0, std).cdf).pvalue > 1e-3


def test_noise_is_normal_in_the_absolute_unit():
    for row in forged(Gaussian(200.0, "absolute"), uneven(), size=SIZE):
        assert kstest(row.numpy(), norm(0, 200).cdf).pvalue > 1e-3


def test_the_two_units_differ():
    """Else the tests above would hold for either."""
    own = uneven()
    for row in forged(Gaussian(), own, size=SIZE):
        assert kstest(row.numpy(), norm.cdf).pvalue < 1e-6


def test_attackers_are_uncorrelated_among_each_other_and_with_their_own_updates():
    own = uneven()
    noise = forged(Gaussian(), own, size=SIZE) / own.std(0)
    standardised = (own - own.mean(0)) / own.std(0)
    assert correlations(noise) < 5 / SIZE**0.5
    assert torch.corrcoef(torch.cat([noise, standardised]))[:5, 5:].abs().max() < 5 / SIZE**0.5


def test_noise_is_drawn_anew_in_each_round_and_from_each_seed():
    attack, own = Gaussian(1.0, "absolute"), uneven(1)
    first = forged(attack, own, size=SIZE)
    for other in ({"round": 2}, {"seed": 1}):
        again = forged(attack, own, size=SIZE, **other)
        assert correlations(torch.cat([first, again])) < 5 / SIZE**0.5


def test_the_noise_of_a_client_does_not_depend_on_who_else_attacks():
    own = uneven(3)
    attack = Gaussian(1.0, "absolute")
    together = attack.forge(own, view_of([2, 5, 9], size=SIZE)).updates
    alone = attack.forge(own[1:2], view_of([5], size=SIZE)).updates
    assert torch.equal(alone[0], together[1])


def test_the_absolute_unit_needs_no_spread():
    own = uneven(1)
    assert (
        kstest(forged(Gaussian(1.0, "absolute"), own, size=SIZE)[0].numpy(), norm.cdf).pvalue > 1e-3
    )
    assert torch.equal(forged(Gaussian(1.0, "spread"), own, size=SIZE), own)


def test_a_coordinate_without_spread_gets_no_noise():
    own = uneven()
    own[:, 7] = 0.25
    assert not forged(Gaussian(), own, size=SIZE)[:, 7].any()
