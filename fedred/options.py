"""Options of a method, declared once: default, legal range and meaning.

A method (attack, defense, model, data set, partition) is a frozen dataclass whose fields are made by
`option` and which calls `check_options` when it is built. What options must be to each other, or to the
number of participants, is declared in a class variable `relations`. The configuration schema, `fedred
list` and the generated documents read the same declarations, so that no range stands in two places.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedred.errors import UserError

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("greater than", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("less than", lambda value, bound: value < bound),
}

SIGNS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "<": ("smaller than", operator.lt),
    "<=": ("at most", operator.le),
    "!=": ("different from", operator.ne),
}
Sign = Literal["<", "<=", "!="]


@dataclasses.dataclass(frozen=True)
class Relation:
    """What one option must be to another of the same method, where both are given."""

    left: str
    sign: Sign
    right: str

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"

    @property
    def rule(self) -> str:
        """The relation as a sentence."""
        return f"{self.left} must be {SIGNS[self.sign][0]} {self.right}"

    def values(self, method: Any) -> tuple[Any, Any]:
        """Return both options of a method."""
        return getattr(method, self.left), getattr(method, self.right)

    def holds(self, method: Any) -> bool:
        """Tell whether the options of a method are in this relation, or one is not given."""
        left, right = self.values(method)
        return left is None or right is None or SIGNS[self.sign][1](left, right)


@dataclasses.dataclass(frozen=True)
class InRound:
    """What an option of a defense must be to the n participants of a round, where it is given.

    It is asked of a configuration. In a round fewer may be left, of whom the rule makes what it can.

    Args:
        option: name of the option.
        sign: as in `Relation`.
        words: the limit as a formula in n.
        limit: the method, n -> the limit.
        inside: the method, n -> how many updates a rule inside it judges.
    """

    option: str
    sign: Sign = "<="
    words: str = "n"
    limit: Callable[[Any, int], float] = lambda method, n: n
    inside: Callable[[Any, int], int] = lambda method, n: n

    def __str__(self) -> str:
        return f"{self.option} {self.sign} {self.words}"

    def broken(self, method: Any, participants: int) -> str:
        """Return what is wrong with the option of a method, or nothing."""
        value, limit = getattr(method, self.option), self.limit(method, participants)
        words, holds = SIGNS[self.sign]
        if value is None or holds(value, limit):
            return ""
        formula = "" if self.words == "n" else f" ({self.words})"
        judged = f"the rule judges {participants} updates in a round"
        return f"is {value!r}: {judged}, so it must be {words} {limit:g}{formula}"


def relations_of(method: Any) -> tuple[Relation, ...]:
    """Return the relations between options of a method (class)."""
    return tuple(each for each in declared_relations(method) if isinstance(each, Relation))


def relations_in_round(method: Any) -> tuple[InRound, ...]:
    """Return the relations of options of a method (class) with the participants of a round."""
    return tuple(each for each in declared_relations(method) if isinstance(each, InRound))


def declared_relations(method: Any) -> tuple[Relation | InRound, ...]:
    """Return all relations that a method (class) declares."""
    return tuple(vars(method).get("relations", ()))


def option(default: Any, help: str, **bounds: float) -> Any:
    """Declare a field of a method.

    Args:
        default: value used when the option is not given; a frozen dataclass is allowed.
        help: what the option means, in one line, with its unit.
        bounds: any of `ge`, `gt`, `le`, `lt`. A choice of words is declared by its type, `Literal`.
    """
    assert bounds.keys() <= BOUNDS.keys()
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


def range_in_words(bounds: dict[str, float]) -> str:
    """Return a range as a reader expects it, for instance `at least 0 and less than 1`."""
    return " and ".join(f"{BOUNDS[key][0]} {bound:g}" for key, bound in bounds.items())


def broken_bounds(value: Any, bounds: dict[str, float]) -> bool:
    """Tell whether a number lies outside its range."""
    return not all(BOUNDS[key][1](value, bound) for key, bound in bounds.items())


def declared_options(method: Any) -> Iterator[dataclasses.Field[Any]]:
    """Yield the fields of a method (class or instance) that were declared with `option`."""
    return (field for field in dataclasses.fields(method) if "bounds" in field.metadata)


def check_options(method: Any) -> None:
    """Refuse a method one of whose options lies outside what it declares, or contradicts another.

    Raises:
        UserError: naming the class, the option, its value and what is legal.
    """
    kind = type(method).__name__
    hints = get_type_hints(type(method))
    for field in declared_options(method):
        value, bounds = getattr(method, field.name), field.metadata["bounds"]
        legal = _legal_in_words(value, hints[field.name], bounds)
        if legal:
            raise UserError(f"{kind}.{field.name} is {value!r}: it must be {legal}")
    for relation in relations_of(type(method)):
        if not relation.holds(method):
            left, right = relation.values(method)
            told = f"{kind}.{relation.left} is {left!r} and {kind}.{relation.right} is {right!r}"
            raise UserError(f"{told}: {relation.rule}")


def _legal_in_words(value: Any, hint: Any, bounds: dict[str, float]) -> str:
    """Return what is legal when the value is not, else nothing."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return "" if value in kinds else " or ".join(map(repr, kinds))
    if value is None:
        return "" if type(None) in kinds else "given"
    if broken_bounds(value, bounds):
        return range_in_words(bounds)
    return "finite" if isinstance(value, float) and not math.isfinite(value) else ""
