"""Who holds which training sample: each way to split a data set is a frozen dataclass."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedred.errors import UserError
from fedred.files import (
    Tensors,
    Texts,
    checksum_of,
    read_tensors,
    require_checksum,
    told,
    write_tensors,
)
from fedred.options import Relation, check_options, option
from fedred.papers import FEDREDEFENSE, LI_SILOS, MCMAHAN, Paper
from fedred.rng import generator

DRAWS = 100
NORMALISATIONS = 1000
BALANCE_TOLERANCE = 1e-9
# Shares are drawn apart up to here; beyond, rounding makes them equal, and one client always comes first.
MOST_CONCENTRATED = 1e12
LEAST_CONCENTRATED = 1e-300  # below, its rounding prefers the last client
NEARLY_EVEN = 100
"""Concentration from which on a larger one changes shares by a tenth at most."""

Parts = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class ClientIndices:
    """Which training samples each client holds; the position in `indices` is the client's id.

    Args:
        indices: for each client int64 [its samples], ascending; no sample is held twice.
        counts: int64 [clients, C], how many samples of each class a client holds.
        dataset_checksum: `Dataset.checksum` of the data set that was split.
        class_names: of the C classes, for pictures.
        made_by: `description` of the method and seed that dealt the samples.
    """

    indices: tuple[Tensor, ...]
    counts: Tensor
    dataset_checksum: str
    class_names: tuple[str, ...] = ()
    made_by: str = ""

    @property
    def sizes(self) -> Tensor:
        """Number of samples of each client, int64 [clients]."""
        return torch.tensor([len(part) for part in self.indices], dtype=torch.int64)

    @property
    def checksum(self) -> str:
        """SHA-256 of the whole content."""
        return checksum_of(*_content(self))


class Partition(Protocol):
    """What a member of PARTITIONS is: options at construction, `split` deals out the samples."""

    papers: ClassVar[tuple[Paper, ...]]

    @property
    def clients(self) -> int: ...

    @property
    def samples_per_client(self) -> int | None: ...

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples."""


def _clients() -> Any:
    return option(100, "number of clients", ge=1)


def _alpha(default: float) -> Any:
    help = "concentration; the smaller, the more skewed"
    return option(default, help, ge=LEAST_CONCENTRATED, le=MOST_CONCENTRATED)


def _samples_per_client() -> Any:
    help = "samples a client holds on average, drawn at random from all; null: all samples are used"
    return option(None, help, ge=1)


def _min_samples() -> Any:
    return option(1, "samples that every client must hold; until then the shares are redrawn", ge=1)


EACH_CAN_HOLD = Relation("min_samples", "<=", "samples_per_client")


@dataclass(frozen=True)
class Iid:
    """A random equal share each: sizes differ by one at most."""

    clients: int = _clients()
    samples_per_client: int | None = _samples_per_client()

    papers: ClassVar[tuple[Paper, ...]] = (MCMAHAN,)

    def __post_init__(self) -> None:
        check_options(self)

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples."""
        return np.array_split(generator.permutation(len(labels)), self.clients)


@dataclass(frozen=True)
class Dirichlet:
    """Each class is dealt out by its own shares ~ Dirichlet(alpha): labels and sizes are skewed.

    When a client would hold fewer than `min_samples`, the shares are drawn anew, at most 100 times.
    """

    clients: int = _clients()
    samples_per_client: int | None = _samples_per_client()
    alpha: float = _alpha(0.5)
    min_samples: int = _min_samples()

    relations: ClassVar[tuple[Relation, ...]] = (EACH_CAN_HOLD,)
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "Yurochkin et al., ICML 2019",
            "Yurochkin, Mikhail and Agarwal, Mayank and Ghosh, Soumya and Greenewald, Kristjan "
            "and Hoang, Nghia and Khazaeni, Yasaman",
            "Bayesian Nonparametric Federated Learning of Neural Networks",
            "International Conference on Machine Learning",
            2019,
        ),
        LI_SILOS,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples.

        Raises:
            UserError: when a client would hold fewer than `min_samples` in every draw.
        """
        members = [generator.permutation(part) for part in _members(labels, classes)]

        def draw() -> Parts:
            shares = generator.dirichlet(np.full(self.clients, self.alpha), classes)
            return _deal(members, shares)

        return _redraw(draw, self.clients, len(labels), self.alpha, self.min_samples)


@dataclass(frozen=True)
class BalancedDirichlet:
    """The paper's split: shares ~ Dirichlet(alpha) for each class, made doubly stochastic.

    Labels are skewed, sizes are not: when all classes are equally large, two clients differ by no
    more than rounding, about C samples. Each client takes its share of a class in order, client 0
    first. Differs from the released code in rounding (largest remainder, where that code cuts at
    the rounded-down cumulated share) and in the random source; a draw that leaves a client empty
    is repeated, 100 times at most.

    Source: Xie, Fang, Gong, ICML 2024, section 5 and released code.
    """

    clients: int = _clients()
    samples_per_client: int | None = _samples_per_client()
    alpha: float = _alpha(0.1)

    papers: ClassVar[tuple[Paper, ...]] = (FEDREDEFENSE,)

    def __post_init__(self) -> None:
        check_options(self)

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples.

        Raises:
            UserError: when a client would be empty in every draw.
        """
        members = _members(labels, classes)

        def draw() -> Parts:
            shares = generator.dirichlet(np.full(self.clients, self.alpha), classes)
            return _deal(members, doubly_stochastic(shares))

        return _redraw(draw, self.clients, len(labels), self.alpha, min_samples=1)


@dataclass(frozen=True)
class Shards:
    """Each client holds k shards; a shard is of one class, so no client has more than k classes.

    Each class is cut into shards in proportion to its size, clients * k in all, which are dealt out
    at random. Differs from the source where a class is no multiple of the shard: there a shard may
    hold two classes, here shards differ in size.
    """

    clients: int = _clients()
    samples_per_client: int | None = _samples_per_client()
    classes_per_client: int = option(
        2, "shards of each client, its largest number of classes", ge=1
    )

    relations: ClassVar[tuple[Relation, ...]] = (
        Relation("classes_per_client", "<=", "samples_per_client"),
    )
    papers: ClassVar[tuple[Paper, ...]] = (MCMAHAN,)

    def __post_init__(self) -> None:
        check_options(self)

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples.

        Raises:
            UserError: for more classes per client than classes, more shards than samples, or too
                few shards to hold every class.
        """
        members = [generator.permutation(part) for part in _members(labels, classes)]
        numbers = self._shards_of_each_class(np.array([len(part) for part in members]))
        shards = [
            shard
            for part, number in zip(members, numbers, strict=True)
            if number
            for shard in np.array_split(part, number)
        ]
        dealt = generator.permutation(len(shards)).reshape(self.clients, self.classes_per_client)
        return [np.concatenate([shards[shard] for shard in row]) for row in dealt]

    def _shards_of_each_class(self, sizes: np.ndarray) -> np.ndarray:
        """Return how many shards [C]: one a class, then one by one where they are largest."""
        self._refuse_impossible(sizes)
        numbers = (sizes > 0).astype(np.int64)
        for _ in range(self.clients * self.classes_per_client - numbers.sum()):
            numbers[np.argmax(sizes / np.maximum(numbers, 1))] += 1
        return numbers

    def _refuse_impossible(self, sizes: np.ndarray) -> None:
        k, shards = self.classes_per_client, self.clients * self.classes_per_client
        present, samples = np.count_nonzero(sizes), sizes.sum()
        if k > len(sizes):
            raise UserError(f"classes_per_client is {k} but the data set has {len(sizes)} classes")
        if shards > samples:
            raise UserError(
                f"{self.clients} clients with {k} shards each need {shards} samples, "
                f"but there are {samples}: use fewer clients or fewer classes_per_client"
            )
        if shards < present:
            raise UserError(
                f"{self.clients} clients with {k} classes each hold {shards} classes at most, but "
                f"the samples have {present}: use more clients or more classes_per_client"
            )


@dataclass(frozen=True)
class QuantitySkew:
    """Sizes ~ Dirichlet(alpha), labels as in the whole: only the number of samples is skewed.

    When a client would hold fewer than `min_samples`, the sizes are drawn again, 100 times at most.
    """

    clients: int = _clients()
    samples_per_client: int | None = _samples_per_client()
    alpha: float = _alpha(0.5)
    min_samples: int = _min_samples()

    relations: ClassVar[tuple[Relation, ...]] = (EACH_CAN_HOLD,)
    papers: ClassVar[tuple[Paper, ...]] = (LI_SILOS,)

    def __post_init__(self) -> None:
        check_options(self)

    def split(self, labels: np.ndarray, classes: int, generator: np.random.Generator) -> Parts:
        """Return for each client the positions in `labels` [samples] of its samples.

        Raises:
            UserError: when a client would hold fewer than `min_samples` in every draw.
        """
        members = [generator.permutation(len(labels))]

        def draw() -> Parts:
            return _deal(members, generator.dirichlet(np.full(self.clients, self.alpha), 1))

        return _redraw(draw, self.clients, len(labels), self.alpha, self.min_samples)


PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "balanced_dirichlet": BalancedDirichlet,
    "shards": Shards,
    "quantity_skew": QuantitySkew,
}


def partition(
    method: Partition, labels: np.ndarray | Tensor, classes: int, seed: int, dataset_checksum: str
) -> ClientIndices:
    """Split training samples over clients: a pure function of its arguments.

    Args:
        method: a member of PARTITIONS with its options.
        labels: int [samples], 0 to C - 1.
        classes: number of classes C.
        seed: of the run; the subset and the split have streams of their own.
        dataset_checksum: `Dataset.checksum` of the data set.

    Raises:
        UserError: when there are too few samples, or a client would hold too few.
    """
    labels = np.asarray(labels)
    chosen = _subset(method, len(labels), seed)
    parts = method.split(labels[chosen], classes, generator(seed, "partition"))
    indices = [np.sort(chosen[part]) for part in parts]
    counts = np.stack([np.bincount(labels[part], minlength=classes) for part in indices])
    return ClientIndices(
        indices=tuple(torch.from_numpy(part.astype(np.int64)) for part in indices),
        counts=torch.from_numpy(counts.astype(np.int64)),
        dataset_checksum=dataset_checksum,
        made_by=description(method, seed),
    )


def description(method: Partition, seed: int) -> str:
    """Return the method with all its options, and the seed, to tell one partition from another."""
    return f"{method!r} with seed {seed}"


def _subset(method: Partition, samples: int, seed: int) -> np.ndarray:
    """Return the ascending positions of the samples that are split at all."""
    clients, each = method.clients, method.samples_per_client
    wanted = samples if each is None else clients * each
    if wanted > samples:
        raise UserError(
            f"{clients} clients with {each} samples each need {wanted} samples, but the training "
            f"set has {samples}: use fewer clients or a smaller samples_per_client"
        )
    if clients > samples:
        raise UserError(
            f"there are {clients} clients for {samples} training samples: use {samples} at most"
        )
    return np.sort(generator(seed, "subset").permutation(samples)[:wanted])


def doubly_stochastic(shares: np.ndarray) -> np.ndarray:
    """Scale a matrix [C, clients] until its rows sum to 1 and its columns to C / clients.

    Columns and rows are normalised in turn, at most 1000 times. Very skewed shares may not be
    balanced by then, or ever; the rows sum to 1 in any case. A client without any share stays so.

    Args:
        shares: at least 0, each row with a positive sum.

    Source: Sinkhorn and Knopp, Pacific Journal of Mathematics 1967.
    """
    column_sum = len(shares) / shares.shape[1]
    for _ in range(NORMALISATIONS):
        columns = shares.sum(axis=0)
        shares = np.divide(shares, columns, out=np.zeros_like(shares), where=columns > 0)
        shares = shares / shares.sum(axis=1, keepdims=True)
        if np.abs(shares.sum(axis=0) - column_sum).max() < BALANCE_TOLERANCE * column_sum:
            break
    return shares


def _members(labels: np.ndarray, classes: int) -> Parts:
    """Return for each class the ascending positions of its samples."""
    return [np.flatnonzero(labels == label) for label in range(classes)]


def _deal(members: Parts, shares: np.ndarray) -> Parts:
    """Cut each row of members by its row of shares [rows, clients], in order; join by client."""
    pieces = [
        np.split(part, np.cumsum(largest_remainder(share, len(part)))[:-1])
        for part, share in zip(members, shares, strict=True)
    ]
    return [np.concatenate(of_client) for of_client in zip(*pieces, strict=True)]


def largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Round shares * total to whole numbers that sum to total, each less than 1 off.

    Args:
        shares: [parts], at least 0, with sum 1.
        total: number of things to deal out.

    Returns:
        int64 [parts].
    """
    exact = shares * total
    whole: np.ndarray = np.floor(exact).astype(np.int64)
    missing = total - whole.sum()
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole


def _redraw(
    draw: Callable[[], Parts], clients: int, samples: int, alpha: float, min_samples: int
) -> Parts:
    """Draw until every client holds `min_samples`; the error tells of the last draw."""
    if clients * min_samples > samples:
        raise UserError(
            f"{clients} clients with {min_samples} samples each at least (min_samples) need "
            f"{clients * min_samples} samples, but there are {samples}: use fewer clients"
        )
    for _ in range(DRAWS):
        parts = draw()
        sizes = [len(part) for part in parts]
        if min(sizes) >= min_samples:
            return parts
    smallest = int(np.argmin(sizes))
    raise UserError(
        f"client {smallest} would hold {sizes[smallest]} of {samples} samples with alpha "
        f"{alpha:g}, fewer than the {min_samples} it needs, and {DRAWS} draws were no better: use "
        + ("a larger alpha or fewer clients" if alpha < NEARLY_EVEN else "fewer clients")
    )


def save_partition(partition: ClientIndices, path: Path) -> None:
    """Write a partition to one safetensors file, whole or not at all.

    Raises:
        UserError: when the file cannot be written.
    """
    tensors, texts = _content(partition)
    described = {"kind": "partition", "checksum": partition.checksum}
    write_tensors(tensors, texts | described, path)


def load_partition(path: Path) -> ClientIndices:
    """Return a partition that `save_partition` wrote.

    Raises:
        UserError: for a file that is missing, torn, of another kind, or changed since.
    """
    tensors, texts = read_tensors(path, "partition")
    with told(f"{path} is not a whole partition: delete it and build it again"):
        parts = torch.split(tensors["indices"], tensors["sizes"].tolist())
        partition = ClientIndices(
            indices=tuple(parts),
            counts=tensors["counts"],
            dataset_checksum=texts["dataset_checksum"],
            class_names=tuple(json.loads(texts["classes"])),
            made_by=texts["made_by"],
        )
        computed = partition.checksum
    require_checksum(path, computed, texts)
    with told(f"{path} is not a whole partition: delete it and build it again"):
        _require_sound(partition)
    return partition


def _require_sound(partition: ClientIndices) -> None:
    """Refuse what no method deals, whatever checksum a file claims.

    Raises:
        ValueError: naming the part.
    """
    counts, held = partition.counts, torch.cat(partition.indices)
    if held.dtype != torch.int64 or held.dim() != 1 or len(np.unique(held)) < len(held):
        raise ValueError("its indices must be whole numbers, each held once")
    if int(partition.sizes.min()) < 1 or int(held.min()) < 0:
        raise ValueError("every client must hold samples, counted from 0")
    if counts.dtype != torch.int64 or counts.dim() != 2 or int(counts.min()) < 0:
        raise ValueError("its counts must be whole numbers for each client and class")
    if not torch.equal(counts.sum(1), partition.sizes):
        raise ValueError("its counts are not those of its indices")
    names = partition.class_names
    if len(names) not in (0, counts.shape[1]) or not all(isinstance(n, str) for n in names):
        raise ValueError("its classes must be one name for each class")


def _content(partition: ClientIndices) -> tuple[Tensors, Texts]:
    tensors = {
        "indices": torch.cat(partition.indices),
        "sizes": partition.sizes,
        "counts": partition.counts,
    }
    classes = json.dumps(partition.class_names)
    return tensors, {
        "dataset_checksum": partition.dataset_checksum,
        "classes": classes,
        "made_by": partition.made_by,
    }
