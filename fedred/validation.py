"""Mistakes in settings, each told in one sentence: where it stands, what is there, what is allowed."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from fedred.errors import UserError, printable, shortened, suggestion
from fedred.yaml_reading import dotted, means_a_number

MOST_MISTAKES = 20
"""Told at once."""

Where = Callable[..., str]
"""Keys below the place of a mistake -> the whole path, as the user wrote it."""
MAPPING = "it must be a mapping of keys to values"
WORDS = {
    "int_type": "it must be a whole number",
    "float_type": "it must be a number",
    "bool_type": "it must be true or false",
    "string_type": "it must be a text",
    "string_unicode": "it must be a text that can be written",
    "list_type": "it must be a list",
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "finite_number": "it must be a finite number",
    "greater_than_equal": "it must be at least {ge:g}",
    "greater_than": "it must be greater than {gt:g}",
    "less_than_equal": "it must be at most {le:g}",
    "less_than": "it must be less than {lt:g}",
    "literal_error": "it must be {expected}",
    "too_short": "it must hold at least {min_length} value",
    "string_too_short": "it must have at least {min_length} character",
    "string_too_long": "it must have at most {max_length} characters",
    "string_pattern_mismatch": "it must consist of small letters, digits and underscores",
}
"""The checks of pydantic that settings meet -> what is allowed, with its numbers."""


def mistake(told: Callable[[Where], str]) -> Exception:
    """Return a refusal for a validator to raise, from a function of its place to its sentence."""
    return PydanticCustomError("mistake", "mistake", {"told": told})


def mistake_at(told: str, *below: str) -> Exception:
    """Return a refusal whose sentence is the place, or one below it, and what is told of it."""
    return mistake(lambda where: f"{where(*below)}{told}")


def validated(
    model: Any,
    raw: Any,
    path: str,
    places: Mapping[str, str] | None = None,
    complete: bool = True,
) -> Any:
    """Check raw data against a model.

    Args:
        model: a pydantic model.
        raw: the data.
        path: where the data stands in the file, for the sentences.
        places: where parts of the data stand, if elsewhere: their dotted path -> that in the file.
        complete: whether settings are checked against each other, not just each alone.

    Raises:
        UserError: with one sentence for each mistake, each in a line of its own.
    """
    try:
        return model.model_validate(raw, context={"complete": complete})
    except ValidationError as error:
        sentences = (_sentence(detail, raw, path, places or {}) for detail in error.errors())
        lines = list(dict.fromkeys(map(printable, sentences)))
        more = [f"and {len(lines) - MOST_MISTAKES} more mistakes"][: len(lines) > MOST_MISTAKES]
        raise UserError("\n".join(lines[:MOST_MISTAKES] + more)) from None


def spelled(value: object) -> str:
    """Return a value as it may stand in a sentence after `is`."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    return shortened(repr(value))


def _sentence(detail: ErrorDetails, raw: Any, path: str, places: Mapping[str, str]) -> str:
    location = _readable_location(detail["loc"], raw)

    def where(*below: str) -> str:
        return _written([*location, *below], path, places)

    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "mistake":
        return str(context["told"](where))
    if kind == "value_error":
        return f"{where()}: {context['error']}"
    if kind == "missing":
        return f"{where()} is missing: it is required"
    if kind == "string_type" and detail["loc"][-1] == "[key]":
        key = "null" if value is None else spelled(value)
        return f"{_written(location[:-1], path, places)}: the key {key} must be a text: use quotes"
    if kind in ("int_type", "float_type") and isinstance(value, str) and means_a_number(value):
        return f"{where()} is the text {spelled(value)}: write it without quotes"
    return f"{where()} is {spelled(value)}: {WORDS[kind].format(**context)}{_near(detail)}"


def _written(location: Iterable[str], path: str, places: Mapping[str, str]) -> str:
    """Return where a part of the data stands: below the longest path that is known, else below `path`."""
    parts = list(location)
    for length in range(len(parts), 0, -1):
        if place := places.get(".".join(parts[:length])):
            return dotted([*place.split("."), *parts[length:]])
    return dotted([*path.split("."), *parts] if path else parts)


def _near(detail: ErrorDetails) -> str:
    expected = detail.get("ctx", {}).get("expected", "")
    return suggestion(detail["input"], re.findall(r"'([^']*)'", str(expected)))


def _readable_location(location: tuple[int | str, ...], raw: Any) -> list[str]:
    """Drop the names of methods that pydantic puts into a path although no key bears them."""
    result = []
    for part in location:
        if isinstance(raw, Mapping) and part not in raw and part == raw.get("name"):
            continue
        if isinstance(raw, str) and part == raw:
            continue
        if part == "[key]":
            continue
        result.append(str(part))
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
    return result
