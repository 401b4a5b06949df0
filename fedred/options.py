"""Options of a method, declared once: default, legal range and meaning.

A method (attack, defense, model, data set, partition) is a frozen dataclass whose fields are made by
`option` and which calls `check_options` when it is built. The configuration schema, `fedred list`
and the generated documents read the same declarations, so that no range stands in two places.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedred.errors import UserError

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("greater than", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("less than", lambda value, bound: value < bound),
}


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
    """Refuse a method one of whose options lies outside what it declares.

    Raises:
        UserError: naming the class, the option, its value and what is legal.
    """
    hints = get_type_hints(type(method))
    for field in declared_options(method):
        value, bounds = getattr(method, field.name), field.metadata["bounds"]
        legal = _legal_in_words(value, hints[field.name], bounds)
        if legal:
            name = f"{type(method).__name__}.{field.name}"
            raise UserError(f"{name} is {value!r}: it must be {legal}")


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
