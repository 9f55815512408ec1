"""Records from JSON that anybody may have written: frozen dataclasses by pydantic, without coercion and unknown keys.

Their fields are of the types below, which are strict each for itself. A whole record can't be: pydantic's strict mode
takes no object for a dataclass, nor a list for a tuple, but from JSON text, and its own parser of that refuses lone
surrogates, which tokens may have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

T = TypeVar("T")

# Effects and activations are float32, and all readers of JSON agree on whole numbers up to this; sums don't overflow.
LARGEST = (2 - 2.0**-23) * 2.0**127
LARGEST_WHOLE = 2**53 - 1

Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST)]
Whole = Annotated[int, Strict(), Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
# A number of which there is none below 0.
Size = Annotated[Number, Field(ge=0)]
# A part of a whole.
Share = Annotated[Number, Field(ge=0, le=1.0)]
Count = Annotated[Whole, Field(ge=0)]

_SHOULD_BE = {
    "string_type": "should be a text",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a finite number",
    "tuple_type": "should be a list",
    "dataclass_type": "should be an object",
    "dict_type": "should be an object",
    "missing": "is missing",
    "unexpected_keyword_argument": "isn't known",
    "string_unicode": "has a key with half a character",
}


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
    try:
        found: T = _validator(kind)([value])[0]  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join([place, *(str(part)[:40] for part in first["loc"][1:])])
        raise Mismatch(where, _wanted(first["type"], first.get("ctx", {}))) from None


@cache
def _validator(kind: Any) -> Callable[[Any], Any]:
    """Of a list of one: what is no dataclass itself takes a configuration, and hands it down."""
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid")).validate_python


def _wanted(error: str, context: dict[str, Any]) -> str:
    if error == "literal_error":
        return f"should be {context['expected']}"
    if error not in ("greater_than_equal", "less_than_equal"):
        return _SHOULD_BE[error]
    bound = context["le"] if "le" in context else context["ge"]
    if bound == 0:
        return "should be at least 0"
    return f"should be a {'whole' if isinstance(bound, int) else 'finite'} number of at most {abs(bound):.4g}"
