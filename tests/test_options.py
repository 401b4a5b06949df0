"""Options refuse what lies outside their declared range, in a sentence that names it."""

import math
import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks import ATTACKS
from fedred.config import FAMILIES, resolve
from fedred.defenses import DEFENSES
from fedred.documents import config_readme
from fedred.errors import UserError
from fedred.local_training import LocalTraining
from fedred.models import MODELS
from fedred.options import (
    InRound,
    Relation,
    check_options,
    declared_options,
    declared_relations,
    option,
    range_in_words,
    relations_in_round,
    relations_of,
)
from fedred.partition import PARTITIONS
from fedred.plan import make_plan
from fedred.reconstruction import Reconstruction

METHODS = [
    *ATTACKS.values(),
    *DEFENSES.values(),
    *MODELS.values(),
    *PARTITIONS.values(),
    LocalTraining,
    Reconstruction,
]
OUTSIDE = {
    "ge": lambda bound: bound - 1,
    "gt": lambda bound: bound,
    "le": lambda bound: bound + 1,
    "lt": lambda bound: bound,
}
BROKEN = [
    pytest.param(
        method, field.name, OUTSIDE[key](bound), id=f"{method.__name__}-{field.name}-{key}"
    )
    for method in METHODS
    for field in declared_options(method)
    for key, bound in field.metadata["bounds"].items()
]


@dataclass(frozen=True)
class Probe:
    share: float = option(0.5, "a share", ge=0, lt=1)
    rate: float = option(1.0, "a rate", gt=0, le=8)
    limit: int | None = option(None, "a limit", ge=2)
    free: float = option(0.0, "any number")
    note: str = "not an option"

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_legal(method):
    assert method() == method()


@pytest.mark.parametrize(("method", "name", "value"), BROKEN)
def test_every_declared_bound_is_checked_when_a_method_is_built(method, name, value):
    with pytest.raises(UserError, match=rf"^{method.__name__}\.{name} is {value}: it must be "):
        replace(method(), **{name: value})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"share": -0.1}, "Probe.share is -0.1: it must be at least 0 and less than 1"),
        ({"share": 1}, "Probe.share is 1: it must be at least 0 and less than 1"),
        ({"rate": 0.0}, "Probe.rate is 0.0: it must be greater than 0 and at most 8"),
        ({"rate": 8.5}, "Probe.rate is 8.5: it must be greater than 0 and at most 8"),
        ({"limit": 1}, "Probe.limit is 1: it must be at least 2"),
        ({"rate": math.nan}, "Probe.rate is nan: it must be greater than 0 and at most 8"),
        ({"rate": math.inf}, "Probe.rate is inf: it must be greater than 0 and at most 8"),
    ],
)
def test_the_sentence_names_class_option_value_and_range(options, sentence):
    with pytest.raises(UserError) as refusal:
        Probe(**options)
    assert str(refusal.value) == sentence


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 8, exclude_min=True), st.integers(2))
def test_the_whole_range_is_legal(share, rate, limit):
    assert Probe(share, rate, limit).limit == limit


def test_none_stands_for_an_option_not_given():
    assert Probe(limit=None).limit is None


def test_only_declared_options_are_options():
    assert [field.name for field in declared_options(Probe)] == ["share", "rate", "limit", "free"]
    assert [field.name for field in declared_options(Probe())] == ["share", "rate", "limit", "free"]


def test_an_option_without_bounds_takes_any_number():
    assert Probe(free=-1e300).free == -1e300


def test_range_in_words():
    assert range_in_words({"ge": 0, "lt": 1}) == "at least 0 and less than 1"
    assert range_in_words({"gt": 1e-5}) == "greater than 1e-05"


# --- what options must be to each other ---

RELATED = [
    pytest.param(method, relation, id=f"{method.__name__}: {relation}")
    for method in METHODS
    for relation in relations_of(method)
]
SETTING = {
    method: (family, name)
    for family, methods in FAMILIES.items()
    for name, method in methods.items()
}


def pairs(method, relation):
    """Values of both options, each legal alone, below, at and above each other."""
    kinds = {field.name: field.metadata["bounds"] for field in declared_options(method)}
    largest = max(bounds.get(key, 0) for bounds in kinds.values() for key in ("ge", "gt"))
    low, high = largest + 1, largest + 2
    assert {relation.left, relation.right} <= kinds.keys()
    return [(low, high), (low, low), (high, low)]


def in_words_of_mathematics(left, sign, right):
    return {"<": left < right, "<=": left <= right, "!=": left != right}[sign]


@pytest.mark.parametrize(("method", "relation"), RELATED)
def test_every_relation_holds_or_is_refused_with_both_options(method, relation):
    for left, right in pairs(method, relation):
        options = {relation.left: left, relation.right: right}
        if in_words_of_mathematics(left, relation.sign, right):
            assert vars(replace(method(), **options)).items() >= options.items()
            continue
        with pytest.raises(UserError) as refused:
            replace(method(), **options)
        for name, value in options.items():
            assert f"{method.__name__}.{name} is {value}" in str(refused.value)
        assert f": {relation.left} must be " in str(refused.value)


@pytest.mark.parametrize(("method", "relation"), RELATED)
def test_a_configuration_names_both_options_where_they_are_written(method, relation):
    family, name = SETTING[method]
    left, right = next(
        pair
        for pair in pairs(method, relation)
        if not in_words_of_mathematics(pair[0], relation.sign, pair[1])
    )
    base = {family: {"name": name, relation.left: left}, "malicious": 1}
    grid = {f"{family}.{relation.right}": [right]}
    with pytest.raises(UserError) as refused:
        make_plan({"experiments": {"one": {"base": base, "grid": grid}}})
    told = str(refused.value)
    assert re.match(
        rf"experiments\.one\.base\.{family}\.{relation.left} is {left}(\.0)? and "
        rf"experiments\.one\.grid\.{family}\.{relation.right}\[0\] is {right}(\.0)?: "
        rf"{relation.left} must be .* {relation.right}$",
        told,
    )


def test_an_option_that_is_not_given_contradicts_none():
    assert PARTITIONS["dirichlet"](samples_per_client=None, min_samples=10**6)


def test_a_base_is_judged_with_its_grid():
    experiment = {
        "base": {"attack": {"name": "fang_trim", "near": 5}, "malicious": 150, "rounds": 2},
        "grid": {"attack.far": [6, 7], "partition.clients": [200], "rounds": [2, 3]},
    }
    assert len(make_plan({"experiments": {"one": experiment}}).runs) == 4


ASKED = {
    "multi_krum": lambda n, k: ({"selected": k}, k <= n),
    "bucketing": lambda n, k: ({"size": k}, k <= n),
    "deepsight": lambda n, k: ({"cluster_size": max(2, k)}, max(2, k) <= n),
    "dnc": lambda n, k: ({"filtered": k / 2}, n // 3 == 0 or int(k / 2 * (n // 3)) < n),
}
"""Options of a rule from a number k, and whether n participants can be asked so, by definition."""


def test_every_relation_with_the_participants_is_tested():
    assert set(ASKED) == {name for name in DEFENSES if relations_in_round(DEFENSES[name])}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("around", [None, "fedredefense"])
def test_a_rule_is_asked_what_so_many_participants_can_answer(name, around):
    for n in range(4, 13):
        for k in range(1, 15):
            options, possible = ASKED[name](n, k)
            defense = {"name": name, **options}
            if around and name == "bucketing":
                return  # it cannot stand inside another rule
            if around:
                defense = {"name": around, "aggregator": defense}
            settings = {"partition": {"clients": n}, "defense": defense}
            if possible:
                assert resolve(settings)
                continue
            with pytest.raises(UserError) as refused:
                resolve(settings)
            place = "defense.aggregator" if around else "defense"
            ((option, value),) = options.items()
            told = (
                f"{place}.{option} is {value}: the rule judges {n} updates in a round, so it must"
            )
            assert str(refused.value).startswith(told)


def test_a_rule_in_buckets_judges_the_buckets():
    inner = {"name": "multi_krum", "selected": 3}
    for n in range(9, 16):
        settings = {
            "partition": {"clients": n},
            "defense": {"name": "bucketing", "size": 5, "aggregator": inner},
        }
        if math.ceil(n / 5) >= 3:
            assert resolve(settings)
        else:
            with pytest.raises(UserError, match=r"selected is 3|needs at least"):
                resolve(settings)


def test_an_aggregator_that_so_many_participants_never_feed_is_refused():
    settings = {
        "partition": {"clients": 6},
        "defense": {"name": "fedredefense", "aggregator": {"name": "krum", "tolerated": 4}},
    }
    with pytest.raises(UserError, match=r"defense\.aggregator krum needs at least 7 participants"):
        resolve(settings)


def test_clean_samples_are_no_more_than_the_clients_hold():
    partition = {"name": "iid", "clients": 6, "samples_per_client": 10}
    for root_samples, possible in ((60, True), (61, False)):
        settings = {
            "partition": partition,
            "defense": {"name": "fltrust", "root_samples": root_samples},
        }
        if possible:
            assert resolve(settings)
        else:
            with pytest.raises(UserError, match="asks for 61 clean samples, but 6 clients hold 10"):
                resolve(settings)


def test_relations_name_options_of_their_method():
    for method in METHODS:
        names = {field.name for field in declared_options(method)}
        for relation in declared_relations(method):
            sides = {relation.option} if isinstance(relation, InRound) else {*pair(relation)}
            assert sides <= names


def pair(relation: Relation):
    return relation.left, relation.right


def test_relations_stand_in_the_reference():
    page = config_readme()
    for method in METHODS:
        for relation in declared_relations(method):
            assert f"`{relation}`" in page
