"""Matrices that stay in safetensors files: some rows of them, or all, are read when they are asked for.

A file is mapped a window at a time, and let go of behind it: a mapping that stays would have every page that was ever
touched, and those around it, in this process's memory.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}  # safetensors' names
_WINDOW = 2**28  # bytes of a file that are mapped at once
_HELD = 2**31  # bytes of whole encoders that are kept for when they are asked for next
_RAW = {8: np.int64, 4: np.int32, 2: np.int16}  # NumPy has no bfloat16


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of floats in a file.

    Attributes:
        path: The file.
        dtype: Of its numbers.
        offset: Bytes before the first of them.
        count, width: Rows, and numbers in each, as they lie in the file.
        stride: Numbers from one row to the next.
        turned: Whether the matrix that is meant is the transposed one: of an encoder whose features are rows there.
    """

    path: Path
    dtype: torch.dtype
    offset: int
    count: int
    width: int
    stride: int
    turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix that is meant."""
        return (self.width, self.count) if self.turned else (self.count, self.width)

    def part(self, start: int, stop: int) -> StoredMatrix:
        """Some of the rows as they lie in the file."""
        return replace(self, offset=self.offset + start * self.stride * self.dtype.itemsize, count=stop - start)

    def transposed(self) -> StoredMatrix:
        """The other way round."""
        return replace(self, turned=not self.turned)

    def whole(self) -> Float[Tensor, "n m"]:
        """All of it, float32, in order. Of encoders, which are asked for batch by batch, the last ones are kept."""
        if not self.turned:
            return self._read()
        found = _kept.pop(self, None)
        found = self._read().T.contiguous() if found is None else found
        _kept[self] = found
        while sum(one.nbytes for one in _kept.values()) > _HELD and len(_kept) > 1:
            _kept.popitem(last=False)
        return found

    def vectors(self, feature: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Rows as they lie in the file, float32."""
        wanted, place = feature.unique(return_inverse=True)
        found = torch.empty(len(wanted), self.width)
        for window, part in self._windows(wanted):
            here = (wanted >= window.start) & (wanted < window.stop)
            found[here] = self._floats(part[(wanted[here] - window.start).numpy()])
        return found[place]

    def _read(self) -> Float[Tensor, "n m"]:
        found = torch.empty(self.count, self.width)
        for window, part in self._windows():
            found[window] = self._floats(np.array(part))
        return found

    def _floats(self, raw: np.ndarray) -> Tensor:
        return torch.from_numpy(raw).view(self.dtype).float()

    def _windows(self, wanted: Int[Tensor, " k"] | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows that are mapped together, raw, and which these are; only those that hold wanted ones, which ascend."""
        size = self.dtype.itemsize
        step = max(1, _WINDOW // (self.stride * size))
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            if wanted is not None and not ((wanted >= start) & (wanted < stop)).any():
                continue
            length = (stop - start - 1) * self.stride + self.width  # not the rest of the last row: it may not be there
            flat = np.memmap(self.path, _RAW[size], "r", self.offset + start * self.stride * size, (length,))
            yield (
                slice(start, stop),
                np.lib.stride_tricks.as_strided(flat, (stop - start, self.width), (self.stride * size, size)),
            )


_kept: OrderedDict[StoredMatrix, Tensor] = OrderedDict()


def lying(path: Path, name: str) -> list[StoredMatrix]:
    """The matrices of a tensor in a safetensors file: one, or of [n, slots, d] one a slot; none of no floats."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
    about = header.get(name)
    if about is None or about["dtype"] not in DTYPES or len(about["shape"]) not in (2, 3):
        return []
    dtype, (count, *more), (begin, _) = DTYPES[about["dtype"]], about["shape"], about["data_offsets"]
    stride, width = math.prod(more), more[-1]
    slots = range(0, stride * dtype.itemsize, width * dtype.itemsize) if width else ()
    return [StoredMatrix(path, dtype, start + begin + slot, count, width, stride) for slot in slots]


def turned(path: Path, name: str) -> dict[str, StoredMatrix]:
    """An encoder whose features are rows in its file, by its name; nothing where no such matrix is there."""
    found = [one.transposed() for one in lying(path, name)]
    return {name: found[0]} if found else {}
