"""Files of torch.save, which are pickles: read as tensors and plain values, and never run.

torch's restricted unpickler makes nothing but those. A pickle that wants anything else is refused by the name of what
it wants.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 what torch.load raises; nothing is unpickled with it
from typing import Any

import torch

from circuitcli.errors import InputError
from circuitcli.runtime.device import out_of_memory
from circuitcli.runtime.foreign import ordinary, why

_WANTED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")
# What the restricted unpickler raises on bytes that are no pickle of its kind.
_BROKEN = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def load(path: Path, *, plain: Iterable[type] = (), device: str = "cpu", hint: str) -> Any:
    """What a file holds.

    Args:
        path: Of the file.
        plain: Empty classes that may stand for those of the same module and name: they hold values and do nothing.
        device: Where its tensors go; `meta` reads shapes alone.
        hint: What to ask for in the place of a pickle.

    Raises:
        InputError: It can't be read, or wants code.
    """
    ordinary(path, hint="Get it again.")
    try:
        with torch.serialization.safe_globals(list(plain)):
            return torch.load(path, map_location=device, weights_only=True, mmap=_can_be_mapped(path))
    except UnpicklingError as error:
        wanted = _WANTED.search(str(error))
        raise InputError(
            f"{path} can't be read without running code: it wants {wanted[1]}."
            if wanted
            else f"{path} isn't a pickle of tensors and plain values.",
            hint=f"Nothing in it was run, and no such file ever is. {hint}",
        ) from None
    except _BROKEN as error:
        if out_of_memory(error):
            raise
        raise InputError(f"{path} can't be read: {why(error)}.", hint="Get it again.") from None


def _can_be_mapped(path: Path) -> bool:
    """Whether it is a zip archive, as torch.save has written since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
