"""Partitions by their definitions: who holds what, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedred.errors import UserError
from fedred.partition import (
    LEAST_CONCENTRATED,
    MOST_CONCENTRATED,
    PARTITIONS,
    BalancedDirichlet,
    ClientIndices,
    Dirichlet,
    Iid,
    Partition,
    QuantitySkew,
    Shards,
    doubly_stochastic,
    largest_remainder,
    load_partition,
    partition,
    save_partition,
)
from fedred.rng import generator

CLASSES = 5
METHODS: dict[str, Partition] = {
    "iid": Iid(clients=7),
    "dirichlet": Dirichlet(clients=7, alpha=1.0),
    "balanced_dirichlet": BalancedDirichlet(clients=7, alpha=0.3),
    "shards": Shards(clients=7),
    "quantity_skew": QuantitySkew(clients=7, alpha=1.0),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def labels_of(samples: int, seed: int = 0, classes: int = CLASSES) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, samples)


def equal_classes(each: int, classes: int = 10) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(classes), each))


def split(
    method: Partition, labels: np.ndarray | torch.Tensor, classes: int, seed: int = 0
) -> ClientIndices:
    return partition(method, labels, classes, seed, "checksum")


def same(one: ClientIndices, other: ClientIndices) -> bool:
    return len(one.indices) == len(other.indices) and all(
        torch.equal(a, b) for a, b in zip(one.indices, other.indices, strict=True)
    )


def test_every_method_is_tested() -> None:
    assert METHODS.keys() == PARTITIONS.keys()
    assert all(type(method) is PARTITIONS[name] for name, method in METHODS.items())


@every_method
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(100, 400), seed=st.integers(0, 2**32))
def test_each_sample_has_one_holder_and_counts_are_right(
    method: Partition, samples: int, seed: int
) -> None:
    labels = labels_of(samples, seed)
    result = split(method, labels, CLASSES, seed)
    assert len(result.indices) == 7
    assert torch.equal(torch.cat(result.indices).sort().values, torch.arange(samples))
    for part, counts in zip(result.indices, result.counts, strict=True):
        assert part.dtype == torch.int64
        assert bool((part.diff() > 0).all())
        assert counts.tolist() == [int((labels[part.numpy()] == c).sum()) for c in range(CLASSES)]
    assert torch.equal(result.sizes, result.counts.sum(1))
    assert int(result.sizes.min()) >= 1


@every_method
def test_split_is_a_function_of_the_seed(method: Partition) -> None:
    labels = labels_of(300)
    before = labels.copy()
    assert same(split(method, labels, CLASSES, 3), split(method, labels, CLASSES, 3))
    assert not same(split(method, labels, CLASSES, 3), split(method, labels, CLASSES, 4))
    assert np.array_equal(labels, before)
    assert same(
        split(method, torch.from_numpy(labels), CLASSES, 3), split(method, labels, CLASSES, 3)
    )


@pytest.mark.parametrize("name", PARTITIONS)
def test_samples_per_client_draws_a_random_subset(name: str) -> None:
    method = PARTITIONS[name](clients=6, samples_per_client=20)  # type: ignore[call-arg]
    labels = labels_of(1000)
    result, other = split(method, labels, CLASSES, 0), split(method, labels, CLASSES, 1)
    held = torch.cat(result.indices)
    assert len(held) == len(set(held.tolist())) == 120
    assert int(held.max()) > 500
    assert set(held.tolist()) != set(torch.cat(other.indices).tolist())
    for part, counts in zip(result.indices, result.counts, strict=True):
        assert np.bincount(labels[part.numpy()], minlength=CLASSES).tolist() == counts.tolist()


def test_methods_with_one_seed_share_their_subset() -> None:
    labels = labels_of(1000)
    iid = split(Iid(clients=6, samples_per_client=20), labels, CLASSES)
    skewed = split(Dirichlet(clients=6, samples_per_client=20), labels, CLASSES)
    assert set(torch.cat(iid.indices).tolist()) == set(torch.cat(skewed.indices).tolist())


def test_iid_is_equal_in_size_and_near_the_whole_in_labels() -> None:
    result = split(Iid(clients=8), equal_classes(1001), 10)
    assert int(result.sizes.max() - result.sizes.min()) <= 1
    shares = result.counts / result.sizes[:, None]
    # 1251 draws of probability 0.1 have a standard error of 0.0085
    assert float((shares - 0.1).abs().max()) < 5 * 0.0085


def test_dirichlet_mean_share_is_one_in_clients() -> None:
    labels = equal_classes(100, 4)
    method = Dirichlet(clients=5, alpha=1.0)
    counts = torch.stack([split(method, labels, 4, seed).counts for seed in range(300)])
    shares = counts.double() / 100
    # a share ~ Beta(1, 4) has a standard deviation of 0.163
    assert float((shares.mean(0) - 0.2).abs().max()) < 5 * 0.163 / 300**0.5
    assert float(shares.std(0).mean()) == pytest.approx(0.163, rel=0.1)


@pytest.mark.parametrize("method", [Dirichlet, BalancedDirichlet])
def test_small_alpha_is_more_skewed(method: type[Dirichlet | BalancedDirichlet]) -> None:
    def largest_share(alpha: float) -> float:
        counts = split(method(clients=10, alpha=alpha), equal_classes(500), 10).counts
        return float((counts.max(1).values / counts.sum(1)).mean())

    assert largest_share(0.1) > largest_share(1.0) > largest_share(100.0)
    assert largest_share(1e6) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("method", [Dirichlet, BalancedDirichlet])
def test_the_largest_alpha_favours_no_client(method: type[Dirichlet | BalancedDirichlet]) -> None:
    """Of 143 samples a class, 200 clients get one or none: by chance, not by their ids."""
    labels = equal_classes(143)
    largest = method(clients=200, alpha=MOST_CONCENTRATED)
    sizes = torch.stack([split(largest, labels, 10, seed).sizes for seed in range(40)]).double()
    assert int(sizes.min()) >= 1
    halves = sizes[:, :100].sum(1) - sizes[:, 100:].sum(1)
    # 143 of 200 without replacement: the difference of the halves has a variance of 143 * 57 / 199
    assert float(halves.mean().abs()) < 5 * (10 * 143 * 57 / 199 / 40) ** 0.5


@pytest.mark.parametrize("method", [Dirichlet, BalancedDirichlet, QuantitySkew])
def test_the_smallest_alpha_favours_no_client(
    method: type[Dirichlet | BalancedDirichlet | QuantitySkew],
) -> None:
    """All of a class go to one client, to each of six with the same chance."""
    smallest = method(clients=6, alpha=LEAST_CONCENTRATED)
    draws, random = 3000, generator(0, "partition")
    first = random.dirichlet(np.full(smallest.clients, smallest.alpha), draws).argmax(1)
    found = np.bincount(first, minlength=6)
    assert ((found - draws / 6) ** 2).sum() / (draws / 6) < 30  # chi-squared, 5 degrees of freedom
    with pytest.raises(UserError, match="must be at least 1e-300"):
        method(clients=6, alpha=5e-324)


def test_quantity_skew_keeps_labels_and_skews_sizes() -> None:
    result = split(QuantitySkew(clients=10, alpha=0.5), equal_classes(2000), 10)
    assert int(result.sizes.max()) > 3 * int(result.sizes.median())
    largest = result.counts[result.sizes.argmax()]
    assert float((largest / largest.sum() - 0.1).abs().max()) < 0.03
    even = split(QuantitySkew(clients=10, alpha=1e6), equal_classes(2000), 10)
    assert int(even.sizes.max() - even.sizes.min()) < 40


@pytest.mark.parametrize("alpha", [0.1, 0.5, 10.0])
@pytest.mark.parametrize(("classes", "clients"), [(10, 100), (10, 10), (10, 3)])
def test_doubly_stochastic_sums_are_equal(alpha: float, classes: int, clients: int) -> None:
    shares = generator(0, "partition").dirichlet(np.full(clients, alpha), classes)
    balanced = doubly_stochastic(shares)
    assert np.allclose(balanced.sum(1), 1, rtol=1e-12)
    assert np.allclose(balanced.sum(0), classes / clients, rtol=1e-3)
    assert np.array_equal(balanced > 0, shares > 0)


def test_doubly_stochastic_only_scales_rows_and_columns() -> None:
    """Then every 2x2 cross ratio stays what it was."""
    shares = generator(0, "partition").dirichlet(np.full(6, 1.0), 4)
    balanced = doubly_stochastic(shares)

    def cross_ratio(m: np.ndarray) -> np.ndarray:
        ratio: np.ndarray = m[0, 0] * m[1:, 1:] / (m[1:, :1] * m[:1, 1:])
        return ratio

    assert np.allclose(cross_ratio(balanced), cross_ratio(shares))


def test_doubly_stochastic_leaves_a_client_without_share_empty() -> None:
    balanced = doubly_stochastic(np.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]))
    assert np.isfinite(balanced).all()
    assert balanced[:, 2].tolist() == [0, 0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), clients=st.integers(2, 40), alpha=st.sampled_from([0.1, 0.5, 5]))
def test_balanced_sizes_are_nearly_equal(seed: int, clients: int, alpha: float) -> None:
    method = BalancedDirichlet(clients=clients, alpha=alpha)
    sizes = split(method, equal_classes(200), 10, seed).sizes
    assert int(sizes.max() - sizes.min()) <= 10


def test_balanced_takes_each_class_in_order() -> None:
    labels = labels_of(500)
    result = split(BalancedDirichlet(clients=6), labels, CLASSES)
    for label in range(CLASSES):
        of_class = [part[labels[part.numpy()] == label] for part in result.indices]
        assert torch.cat(of_class).tolist() == np.flatnonzero(labels == label).tolist()


def test_balanced_counts_are_the_shares_of_the_definition() -> None:
    """The definition, client by client: counts differ from share * class size by less than 1."""
    labels = labels_of(2000)
    result = split(BalancedDirichlet(clients=6, alpha=0.5), labels, CLASSES, seed=9)
    shares = generator(9, "partition").dirichlet(np.full(6, 0.5), CLASSES)
    for _ in range(1000):
        shares = shares / shares.sum(axis=0)
        shares = shares / shares.sum(axis=1)[:, None]
    exact = shares.T * np.bincount(labels)
    assert np.abs(result.counts.numpy() - exact).max() < 1


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, CLASSES),
    clients=st.integers(CLASSES, 20),
    seed=st.integers(0, 2**32),
    samples=st.integers(120, 400),
)
def test_shards_hold_at_most_k_classes(k: int, clients: int, seed: int, samples: int) -> None:
    labels = labels_of(samples, seed)
    result = split(Shards(clients=clients, classes_per_client=k), labels, CLASSES, seed)
    assert int((result.counts > 0).sum(1).max()) <= k
    assert int(result.sizes.sum()) == samples


def test_shards_of_equal_classes_are_equal() -> None:
    result = split(Shards(clients=100, classes_per_client=2), equal_classes(500), 10)
    assert set(result.sizes.tolist()) == {50}


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=30),
    total=st.integers(0, 100_000),
)
def test_largest_remainder_deals_out_everything(weights: list[float], total: int) -> None:
    shares = np.array(weights) / sum(weights)
    whole = largest_remainder(shares, total)
    assert whole.sum() == total
    assert (np.abs(whole - shares * total) < 1 + 1e-9).all()


REFUSED = {
    "more clients than samples": (
        Iid(clients=31),
        "there are 31 clients for 30 training samples: use 30 at most",
    ),
    "more samples per client than there are": (
        Iid(clients=4, samples_per_client=8),
        "4 clients with 8 samples each need 32 samples, but the training set has 30",
    ),
    "min_samples too large": (
        Dirichlet(clients=4, min_samples=8),
        "4 clients with 8 samples each at least (min_samples) need 32 samples, but there are 30",
    ),
    "an empty client": (
        Dirichlet(clients=20, alpha=0.001),
        "would hold 0 of 30 samples with alpha 0.001, fewer than the 1 it needs",
    ),
    "an empty client by size": (
        QuantitySkew(clients=20, alpha=0.001),
        "would hold 0 of 30 samples with alpha 0.001, fewer than the 1 it needs",
    ),
    "an empty client though balanced": (
        BalancedDirichlet(clients=30, alpha=0.0001),
        "would hold 0 of 30 samples with alpha 0.0001, fewer than the 1 it needs",
    ),
    "more classes per client than classes": (
        Shards(clients=2, classes_per_client=4),
        "classes_per_client is 4 but the data set has 3 classes",
    ),
    "more shards than samples": (
        Shards(clients=16, classes_per_client=2),
        "16 clients with 2 shards each need 32 samples, but there are 30",
    ),
    "fewer shards than classes": (
        Shards(clients=1, classes_per_client=2),
        "1 clients with 2 classes each hold 2 classes at most, but the samples have 3",
    ),
}


@pytest.mark.parametrize(("method", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_impossible_splits_are_refused(method: Partition, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        split(method, np.arange(30) % 3, 3)


def test_a_larger_alpha_is_advised_only_where_it_helps() -> None:
    for alpha, advised in ((0.001, True), (1e12, False)):
        with pytest.raises(UserError) as refused:
            split(Dirichlet(clients=30, alpha=alpha), np.arange(30) % 3, 3)
        assert ("a larger alpha" in str(refused.value)) == advised


def test_an_empty_client_is_named() -> None:
    with pytest.raises(UserError, match=r"^client \d+ would hold"):
        split(Dirichlet(clients=20, alpha=0.001), np.arange(30) % 3, 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("iid", {"clients": 0}),
        ("iid", {"samples_per_client": 0}),
        ("dirichlet", {"alpha": 0.0}),
        ("dirichlet", {"alpha": float("nan")}),
        ("dirichlet", {"alpha": 1e300}),
        ("balanced_dirichlet", {"alpha": 1e300}),
        ("quantity_skew", {"alpha": 2e12}),
        ("dirichlet", {"min_samples": 0}),
        ("balanced_dirichlet", {"alpha": -1.0}),
        ("shards", {"classes_per_client": 0}),
        ("quantity_skew", {"alpha": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PARTITIONS[name](**options)


def test_file_round_trip(tmp_path: Path) -> None:
    before = split(Dirichlet(clients=7), labels_of(300), CLASSES)
    path = tmp_path / "new" / "partition.safetensors"
    save_partition(before, path)
    after = load_partition(path)
    assert same(before, after)
    assert torch.equal(before.counts, after.counts)
    assert after.dataset_checksum == "checksum"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "partition.safetensors"
    save_partition(split(Iid(clients=7), labels_of(300), CLASSES), path)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the partition .*none does not exist"):
        load_partition(tmp_path / "none")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_torn_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"^{re.escape(str(saved))} is not a whole partition"):
        load_partition(saved)


def test_changed_byte(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1000] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(saved))):
        load_partition(saved)


def test_foreign_file(saved: Path) -> None:
    save_file({"weights": torch.zeros(3)}, saved)
    with pytest.raises(UserError, match="is not a partition of fedred"):
        load_partition(saved)
    save_file({"indices": torch.zeros(3)}, saved, {"kind": "partition"})
    with pytest.raises(UserError, match="is not a whole partition"):
        load_partition(saved)
