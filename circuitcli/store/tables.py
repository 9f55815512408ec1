"""Tables as parquet files, and their columns.

Files are opened here and not by pyarrow, which takes no name that isn't UTF-8, and takes a folder that is called
`a=b` for a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from circuitcli.store import files

Columns = dict[str, Any]

_COMPRESSION = "zstd"
_SITE = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[str, Any] = {
    "layer": pa.int16(),
    "up_layer": pa.int16(),
    "down_layer": pa.int16(),
    "site": _SITE,
    "up_site": _SITE,
    "down_site": _SITE,
    "token": pa.string(),
}
_INTEGERS = ["feature", "up_feature", "down_feature", "seq", "pos", "down_pos", "rank", "n", "n_active", "token_id"]
_COLUMNS = {
    "acts/contexts": "layer site feature rank seq pos activation",
    "acts/features": "layer site feature n_active density max_activation mean_activation",
    "ablations/effects": "up_layer up_site up_feature seq pos down_layer down_site down_feature down_pos clean ablated",
    "ablations/contexts": "layer site feature seq pos activation kl",
    "ablations/logits": "layer site feature token_id effect_mean prob_effect_mean",
    "acts/next": "seq pos rank token_id token logprob prob",
    "ablations/next": "layer site feature seq pos down_pos rank token_id effect prob_effect",
    "effects/next": "layer site feature seq pos down_pos rank token_id token logprob prob effect prob_effect",
    "effects/effects": "up_layer up_site up_feature down_layer down_site down_feature "
    "n effect_mean effect_std ci_low ci_high",
    "effects/logits": "layer site feature token_id token effect_mean prob_effect_mean n rank",
    "effects/features": "layer site feature n kl_mean out_abs_effect",
}


def schema(table: str) -> pa.Schema:
    """The columns of a table and their types: layers int16, sites a dictionary, counts int32, values float32."""
    kinds = {name: pa.int32() for name in _INTEGERS} | _TYPES
    return pa.schema([(name, kinds.get(name, pa.float32())) for name in _COLUMNS[table].split()])


def write(path: Path, table: str, parts: list[Columns]) -> int:
    """Write the parts, one after another, as one table; returns its rows. NaN becomes null."""
    whole = _whole(table, parts)
    with files.complete(path) as part, part.open("wb") as file:
        pq.write_table(whole, file, compression=_COMPRESSION)
    return int(whole.num_rows)


def size(table: str, parts: list[Columns]) -> tuple[int, int]:
    """How many rows the parts have as one table, and how many bytes it would take on disk; nothing is written."""
    whole, written = _whole(table, parts), pa.BufferOutputStream()
    pq.write_table(whole, written, compression=_COMPRESSION)
    return int(whole.num_rows), int(written.getvalue().size)


def _whole(table: str, parts: list[Columns]) -> pa.Table:
    fields = schema(table)
    whole = pa.concat_tables([_table(part, fields) for part in parts]) if parts else fields.empty_table()
    return whole.combine_chunks()


def _table(part: Mapping[str, Any], fields: pa.Schema) -> pa.Table:
    length = max(len(value) for value in part.values() if isinstance(value, np.ndarray | list))
    arrays = []
    for column in fields:
        value = part[column.name]
        if isinstance(value, str):
            array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int32)), pa.array([value]))
        elif isinstance(value, int | float):
            array = pa.repeat(pa.scalar(value, type=column.type), length)
        else:
            array = pa.array(value, type=column.type, from_pandas=True)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=fields)


def read(path: Path, columns: list[str] | None = None) -> Columns:
    """The columns of a table as numpy arrays; null becomes NaN, sites and tokens become lists of strings."""
    with path.open("rb") as file:
        return _columns(pq.read_table(file, columns=columns))


def stream(path: Path, columns: list[str] | None = None) -> Iterator[Columns]:
    """The same, a batch of rows at a time."""
    with path.open("rb") as file, pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=columns):
            yield _columns(pa.Table.from_batches([batch]))


def rows(path: Path) -> int:
    """How many rows a table has."""
    with path.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)


def _columns(table: pa.Table) -> Columns:
    columns: Columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        columns[name] = column.to_numpy()
    return columns
