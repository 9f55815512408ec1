"""Plug point: how the files of dictionaries lie in a folder, and what their tensors are called. One file a layout.

Which dictionaries a folder holds, and where each reads, is told from the names of files and from small files of
configuration; weights are read by `read` alone, and mapped, so that what isn't used is never in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from circuitcli.saes._files import Files
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from circuitcli.saes._stored import StoredMatrix


@dataclass(frozen=True, eq=False)
class Held:
    """What the files of one dictionary hold, before it is checked.

    Attributes:
        spec: What they say of it.
        weights: Its tensors, by their names in the files; a part of one has the part's index behind its name.
        where: The file that messages name.
        stored: The safetensors files that the tensors lie in, and which of each are its own.
        lies: Where matrices of a cross-layer transcoder lie in these, which stay there, by their names in `weights`.
    """

    spec: Spec
    weights: Mapping[str, Tensor]
    where: str
    stored: Mapping[Path, Collection[str]] = field(default_factory=dict)
    lies: Mapping[str, StoredMatrix] = field(default_factory=dict)


@runtime_checkable
class Layout(Protocol):
    """A way in which dictionaries are saved."""

    files: str
    """What it looks for, in words that follow "Looked for"."""

    def find(self, place: Place) -> list[Located]:
        """The dictionaries of this layout in a place; none if there are none.

        Raises:
            InputError: There are such files, and they say nonsense, or what isn't supported.
            HubError: A configuration couldn't be had.
        """
        ...

    def read(self, files: Files) -> Held:
        """What the files of one of them hold.

        Raises:
            InputError: They can't be read, or are of something that isn't supported.
        """
        ...
