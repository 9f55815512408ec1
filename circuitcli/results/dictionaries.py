"""The dictionaries of a run, as `saes/saes.json` has them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry, nested
from circuitcli.store.run import Run

SAES = "saes/saes.json"

_STAGE = "fetch-saes"
_ENTRY = Annotated[SaeEntry, BeforeValidator(lambda tree: nested(tree) if isinstance(tree, dict) else tree)]
_RECORDED = dict[Literal["saes"], Annotated[list[_ENTRY], Field(min_length=1)]]


@cache
def recorded() -> Any:
    """What saes.json may hold. Made when one is first read: it takes milliseconds, and few commands read any."""
    return TypeAdapter(_RECORDED, config=ConfigDict(extra="forbid"))


def entries_of(run: Run) -> list[SaeEntry]:
    """The SAEs that a run recorded, in the model's order.

    Raises:
        InputError: They aren't as this version records them.
    """
    path = run.verified(_STAGE, SAES)
    try:
        entries: list[SaeEntry] = recorded().validate_json(path.read_bytes())["saes"]
        return entries
    except ValidationError:
        raise InputError(
            f"{path} isn't as this version of circuit writes it.", hint=f"Run `circuit {_STAGE} --force` on this run."
        ) from None
