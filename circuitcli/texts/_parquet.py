"""A column of strings of a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from circuitcli.errors import InputError
from circuitcli.texts import _columns
from circuitcli.texts._open import Origin, text_errors

# A column may take so many bytes in one row group, unpacked.
MAX_CHUNK_BYTES = 2 << 30
# Rows that are held at once.
_BATCH_ROWS = 64


def column_of(origin: Origin, column: str) -> Iterator[str]:
    """Its texts, a few rows at a time."""
    try:
        with text_errors(origin), origin.seekable() as source, pq.ParquetFile(source) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            name = _columns.choose(column, {n: _is_text(kind) for n, kind in kinds.items()}, origin.name)
            if not _is_text(kinds[name]):
                raise InputError(
                    f"{origin.name}: the column `{name}` is {kinds[name]}, not string.",
                    hint="Name another one with --column.",
                )
            _check_sizes(file.metadata, name, origin)
            row = count(1)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
                for cell in batch.column(0):
                    yield _columns.text_of(cell.as_py(), name, f"{origin.name}, row {next(row)}")
    except MemoryError:
        raise
    except pa.ArrowException:
        raise InputError(f"{origin.name} is no parquet, or damaged.", hint="Get or write it again.") from None


def _check_sizes(metadata: Any, column: str, origin: Origin) -> None:
    """Nothing is unpacked yet: a small file may hold more than fits in memory.

    Raises:
        InputError: In a row group the column takes more than MAX_CHUNK_BYTES, or than its rows may at four bytes a
            character.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        most = min(MAX_CHUNK_BYTES, 4 * group.num_rows * _columns.MAX_TEXT_CHARACTERS)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema == column and chunk.total_uncompressed_size > most:
                raise InputError(
                    f"{origin.name}: the column `{column}` takes {chunk.total_uncompressed_size:,} bytes in one row "
                    f"group of {group.num_rows:,} rows; {most:,} may be.",
                    hint="Write it again with smaller row groups and shorter texts.",
                )


def _is_text(kind: pa.DataType) -> bool:
    return (
        _is_text(kind.value_type)
        if pa.types.is_dictionary(kind)
        else any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    )
