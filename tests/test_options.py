"""Options refuse what lies outside their declared range, in a sentence that names it."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedred.attacks import ATTACKS
from fedred.defenses import DEFENSES
from fedred.errors import UserError
from fedred.local_training import LocalTraining
from fedred.models import MODELS
from fedred.options import check_options, declared_options, option, range_in_words
from fedred.reconstruction import Reconstruction

METHODS = [
    *ATTACKS.values(),
    *DEFENSES.values(),
    *MODELS.values(),
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
