"""From JSON values to frozen dataclasses by their types, and by nothing else: no coercion, no unknown keys.

pydantic's strict mode takes no dictionary for a dataclass but from JSON text, and its parser refuses lone surrogates,
which tokens may have.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
# A number of which there is none below 0.
Count = Annotated[int, 0]
Size = Annotated[float, 0]


class Mismatch(Exception):
    """A value isn't of its type; `place` is where, `wanted` what it should be."""

    def __init__(self, place: str, wanted: str) -> None:
        super().__init__(f"{place}: {wanted}")
        self.place = place
        self.wanted = wanted


def read(kind: type[T], value: Any, place: str) -> T:
    """A value of a dataclass from what JSON has of it. A whole number will do for a float; a list makes a tuple.

    Raises:
        Mismatch: The first thing that isn't of its type, with its place.
    """
    found: T = _read(kind, value, place)
    return found


def _read(kind: Any, value: Any, place: str) -> Any:
    if kind in _PLAIN:
        return _plain(kind, value, place)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, place)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found, least = _read(parts[0], value, place), parts[1]
        if found < least:
            raise Mismatch(place, f"should be at least {least}")
        return found
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        [part] = (part for part in parts if part is not NoneType)
        return _read(part, value, place)
    if origin is Literal:
        if type(value) is not str or value not in parts:
            raise Mismatch(place, f"should be one of {', '.join(parts)}")
        return value
    if type(value) is not list:
        raise Mismatch(place, "should be a list")
    items = [_read(parts[0], item, f"{place}.{i}") for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items


# What JSON has, and its name.
_PLAIN = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number"}
# Effects and activations are float32, and all readers of JSON agree on whole numbers up to this; sums don't overflow.
LARGEST = {float: (2 - 2.0**-23) * 2.0**127, int: 2**53 - 1}


def _plain(kind: Any, value: Any, place: str) -> Any:
    if kind is float and type(value) is int and abs(value) <= LARGEST[int]:
        return float(value)
    if type(value) is not kind:
        raise Mismatch(place, f"should be {_PLAIN[kind]}")
    if kind in LARGEST and not abs(value) <= LARGEST[kind]:
        raise Mismatch(place, f"should be {_PLAIN[kind]} of at most {LARGEST[kind]:.4g}")
    return value


def _record(kind: Any, value: Any, place: str) -> Any:
    if type(value) is not dict:
        raise Mismatch(place, "should be an object")
    types, required = _fields(kind)
    unknown = next((key for key in value if key not in types), None)
    if unknown is not None:
        raise Mismatch(f"{place}.{unknown[:40]}", "isn't known")
    missing = next((key for key in required if key not in value), None)
    if missing is not None:
        raise Mismatch(f"{place}.{missing}", "is missing")
    return kind(**{key: _read(types[key], item, f"{place}.{key}") for key, item in value.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The types of a dataclass's fields by name, and the names of those without a default."""
    required = (field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING)
    return get_type_hints(kind, include_extras=True), tuple(required)
