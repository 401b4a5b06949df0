"""Bucketing judges the means of random groups, and spreads the verdict to their members."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from defense_support import normal, view_of, with_row

from fedred.defenses.bucketing import Bucketing
from fedred.defenses.fedavg import FedAvg
from fedred.defenses.interface import Traits, Verdict
from fedred.defenses.krum import Krum
from fedred.defenses.median import Median
from fedred.errors import UserError

SEEN = []


@dataclass(frozen=True)
class Spy:
    """Keeps what it is shown; distrusts the first bucket."""

    traits = Traits(selects=True)

    def __call__(self, updates, view):
        SEEN.append((updates, view))
        trusted = torch.ones(len(updates), dtype=torch.bool)
        trusted[0] = False
        numbers = torch.arange(len(updates))
        return Verdict(updates.mean(0), trusted, numbers.double(), {}, ~trusted, numbers)


def shown(n, size, samples=None):
    """Return one-hot updates' verdict and which clients are in which bucket."""
    SEEN.clear()
    verdict = Bucketing(size, Spy())(torch.eye(n), view_of(n, samples))
    rows, view = SEEN[0]
    return verdict, [row.nonzero().flatten().tolist() for row in rows], rows, view


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(6, 2, [2, 2, 2]), (7, 3, [3, 3, 1]), (4, 9, [4])]
)
def test_every_client_is_in_one_bucket_and_a_bucket_is_a_mean(n, size, sizes):
    _, buckets, rows, _ = shown(n, size)
    assert [len(bucket) for bucket in buckets] == sizes
    assert sorted(itertools.chain(*buckets)) == list(range(n))
    for bucket, row in zip(buckets, rows, strict=True):
        torch.testing.assert_close(row[bucket], torch.full((len(bucket),), 1 / len(bucket)))


def test_what_is_said_of_a_bucket_holds_for_its_clients():
    verdict, buckets, _, _ = shown(7, 2)
    for number, bucket in enumerate(buckets):
        for client in bucket:
            assert verdict.trusted[client] == (number != 0)
            assert verdict.excluded[client] == (number == 0)
            assert verdict.scores[client] == verdict.iterations[client] == number


def test_the_samples_of_a_bucket_are_those_of_its_clients():
    samples = [1, 10, 100, 1000, 10_000]
    _, buckets, _, view = shown(5, 2, samples)
    assert view.samples.tolist() == [sum(samples[i] for i in bucket) for bucket in buckets]


def test_buckets_are_drawn_from_the_servers_source():
    assert shown(9, 2)[1] == shown(9, 2)[1]
    assert shown(9, 2)[1] != [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


@pytest.mark.parametrize("inner", [FedAvg(), Median(), Krum(2)])
def test_buckets_of_one_are_the_rule_alone(inner):
    updates = normal(0, 9, 5)
    alone, bucketed = inner(updates, view_of(9)), Bucketing(1, inner)(updates, view_of(9))
    torch.testing.assert_close(bucketed.aggregate, alone.aggregate)
    assert torch.equal(bucketed.trusted, alone.trusted)


def test_buckets_of_two_halve_the_variance():
    """Lemma 1 of the paper: the variance of the rows falls by the size of the buckets."""
    updates = normal(1, 2000, 5)
    SEEN.clear()
    Bucketing(2, Spy())(updates, view_of(2000))
    ratio = SEEN[0][0].var(0).sum() / updates.var(0).sum()
    assert 0.45 < float(ratio) < 0.55


def test_one_attacker_spoils_its_own_bucket_alone():
    updates = with_row(normal(2, 9, 5), 4, 1e9)
    verdict = Bucketing(2, Krum(1))(updates, view_of(9))
    assert not verdict.trusted[4]
    assert (verdict.aggregate.abs() < 10).all()


def test_bucketing_fails_when_attackers_reach_half_of_the_buckets():
    """Four of nine would be a minority for the median alone."""
    updates = normal(3, 9, 5)
    updates[5:] = 1e6
    assert (Median()(updates, view_of(9)).aggregate < 10).all()
    assert (Bucketing(3, Median())(updates, view_of(9)).aggregate > 1e5).any()


def test_bucketing_needs_participants_for_as_many_buckets_as_the_rule_needs():
    rule = Bucketing(3, Krum(1))
    assert rule.traits.fewest_participants == 10
    assert rule(normal(0, 10, 3), view_of(10)).trusted.any()
    with pytest.raises(UserError, match=r"Bucketing.* needs at least 10 participants"):
        rule(normal(0, 9, 3), view_of(9))
