"""Tables as parquet files, and their columns.

Files are opened here and not by pyarrow, which takes no name that isn't UTF-8, and takes a folder that is called
`a=b` for a column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from circuitcli.store import files

Columns = dict[str, Any]

_COMPRESSION = "zstd"
_MANY_ROWS = 1_000_000
_WORDS = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[str, Any] = {
    "layer": pa.int16(),
    "up_layer": pa.int16(),
    "down_layer": pa.int16(),
    "site": _WORDS,
    "up_site": _WORDS,
    "down_site": _WORDS,
    "token": pa.string(),
    "text": _WORDS,
    "kind": _WORDS,
    "method": _WORDS,
    "half": _WORDS,
    "curve": _WORDS,
    "errors": _WORDS,
    "part": _WORDS,
    "draw": pa.int16(),
    "m": pa.float64(),
    "id": pa.string(),
    "of": _WORDS,
    "cause": _WORDS,
}
_INTEGERS = ["feature", "up_feature", "down_feature", "seq", "pos", "down_pos", "rank", "n", "n_active", "token_id"]
_INTEGERS += ["prompt", "node", "source", "target", "example", "repeats", "survived", "next_id"]
# Columns that are of another kind in one table than in others.
_OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "stability/stability": {"source": pa.string(), "target": pa.string(), "drawn": pa.int8()},
    "validation/audit": {"without": pa.float64(), "alone": pa.float64(), "fires": pa.int32()},
}
_COLUMNS = {
    "acts/texts": "seq pos text",
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
    "attribution/nodes": "prompt node kind layer site feature pos activation replacement effect method "
    "atp ig relp exact drawn",
    "attribution/edges": "prompt source target weight method estimate exact drawn",
    "attribution/rows": "prompt target abs_in",
    "attribution/measured": "prompt node exact",
    "attribution/wired": "prompt source target exact",
    "validation/validation": "half example curve draw errors part n node m",
    "validation/screened": "kind layer site feature atp activation",
    "validation/measured": "example layer site feature exact",
    "validation/nodes": "node curve rank layer site feature score",
    "stability/stability": "of id source target drawn cause repeats survived survival effect_mean effect_std "
    "rank_min rank_median rank_max",
    "validation/compared": "example layer site feature exact",
    "validation/audit": "half example layer site feature m without alone fires activation",
    "validation/ranks": "layer site feature draw rank n exact",
    "validation/joint": "seq pos token_id token next_id base altered",
}


def schema(table: str) -> pa.Schema:
    """The columns of a table and their types: layers int16, sites a dictionary, counts int32, values float32."""
    kinds = {name: pa.int32() for name in _INTEGERS} | _TYPES | _OF_ITS_OWN.get(table, {})
    return pa.schema([(name, kinds.get(name, pa.float32())) for name in _COLUMNS[table].split()])


def write(path: Path, table: str, parts: Iterable[Columns]) -> int:
    """Write the parts, one after another, as one table; returns its rows. NaN becomes null."""
    whole = _whole(table, parts)
    with files.complete(path) as part, part.open("wb") as file:
        pq.write_table(whole, file, compression=_COMPRESSION)
    return int(whole.num_rows)


class Encoded(NamedTuple):
    """A table as a file has it: its bytes are those of the buffer, which goes to other processes uncopied."""

    data: pa.Buffer
    rows: int


def encoded(table: str, parts: Iterable[Columns]) -> Encoded:
    """What `write` would write."""
    whole, written = _whole(table, parts), pa.BufferOutputStream()
    pq.write_table(whole, written, compression=_COMPRESSION)
    return Encoded(written.getvalue(), int(whole.num_rows))


def decoded(table: Encoded) -> Columns:
    """Its columns, as `read` gives them."""
    with pq.ParquetFile(pa.BufferReader(table.data)) as file:
        return _columns(file.read())


def _whole(table: str, parts: Iterable[Columns]) -> pa.Table:
    fields = schema(table)
    return pa.concat_tables([fields.empty_table(), *(_table(part, fields) for part in parts)]).combine_chunks()


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
            words = value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind in "OU" else value
            array = pa.array(words, type=column.type, from_pandas=True)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=fields)


def read(path: Path, columns: list[str] | None = None) -> Columns:
    """The columns of a table as numpy arrays; null becomes NaN, sites and tokens become lists of strings."""
    with path.open("rb") as opened, pq.ParquetFile(opened) as file:
        return _columns(file.read(columns=columns, use_threads=_threaded(file)))


def where(path: Path, column: str, wanted: Collection[int]) -> Columns:
    """The rows whose whole number in a column is one of some; of groups of rows that can't have any nothing is read."""
    numbers = np.asarray(sorted(wanted), np.int64)
    with path.open("rb") as opened, pq.ParquetFile(opened) as file:
        index = file.schema_arrow.get_field_index(column)
        groups = []
        for group in range(file.num_row_groups):
            known = file.metadata.row_group(group).column(index).statistics
            between = np.searchsorted(numbers, known.max, "right") - np.searchsorted(numbers, known.min)
            groups += [group] * bool(between)
        found = _columns(file.read_row_groups(groups, use_threads=_threaded(file)))
    kept = np.isin(found[column], numbers)
    return {name: values[kept] for name, values in found.items()}


def stream(path: Path, columns: list[str] | None = None) -> Iterator[Columns]:
    """The same, a batch of rows at a time."""
    with path.open("rb") as file, pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=columns, use_threads=_threaded(table)):
            yield _columns(pa.Table.from_batches([batch]))


def _threaded(file: pq.ParquetFile) -> bool:
    """Whether threads gain anything. A process that ends soon after they began may abort (apache/arrow#34314)."""
    return bool(file.metadata.num_rows > _MANY_ROWS)


def rows(path: Path) -> int:
    """How many rows a table has."""
    with path.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)


def _columns(table: pa.Table) -> Columns:
    return {name: _array(table[name].combine_chunks()) for name in table.column_names}


def _array(column: pa.Array) -> np.ndarray:
    """A column as numpy has it. By to_numpy, or pq.read_table, pandas is imported, which takes longer than reading."""
    if pa.types.is_dictionary(column.type):
        words: np.ndarray = np.asarray(column.dictionary.to_pylist(), dtype=object)
        return np.asarray(words[_array(column.indices)])
    if pa.types.is_string(column.type):
        return np.asarray(column.to_pylist(), dtype=object)
    if not column.null_count:
        return np.asarray(np.from_dlpack(column))
    validity, data = column.buffers()  # of floats alone: a scalar to fill null with would be pandas again
    here = slice(column.offset, column.offset + len(column))
    values: np.ndarray = np.frombuffer(data, np.dtype(column.type.to_pandas_dtype()))[here].copy()
    values[np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[here] == 0] = np.nan
    return values
