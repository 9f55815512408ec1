"""Texts of a Hugging Face dataset, streamed, or of a local folder of one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from circuitcli.errors import InputError
from circuitcli.runtime.foreign import refuse_pointer
from circuitcli.texts import TextRequest, _columns
from circuitcli.texts._dataset_errors import DatasetErrors
from circuitcli.texts._open import find

# Only so many rows are read before sampling among them: a stream may have no end.
MAX_DOCUMENTS = 20_000
# The kinds of files that hold plain columns. Others want libraries of their own, and some of them are pickled.
READERS = ("arrow", "cache", "csv", "json", "parquet", "text")


class _Name(NamedTuple):
    """NAME or DIR, and CONFIG if one was typed."""

    name: str
    config: str | None
    folder: Path | None

    def __str__(self) -> str:
        return f"{self.name}:{self.config}" if self.config else self.name


class Dataset:
    """A column of a dataset's `train` split, or of its first one."""

    def identity(self, request: TextRequest) -> str:
        """Its name, its configuration and its commit on the hub; of a local folder the sha256 of its files."""
        name = _parse(request.values[0])
        builder = _builder(name)
        version = builder.hash if name.folder is None else _sha256(name.folder)
        return f"{name.name} {builder.config.name} {version}"

    def documents(self, request: TextRequest) -> Iterator[str]:
        """Its texts, of the first MAX_DOCUMENTS rows."""
        name = _parse(request.values[0])
        what, blank = f"The dataset {name}", True
        with DatasetErrors(name.name, name.config):
            rows = enumerate(islice(_stream(_builder(name)), MAX_DOCUMENTS), 1)
            first = list(islice(rows, _columns.FIRST_ROWS))
            column = _columns.choose_in_rows(request.column, [row for _, row in first], what) if first else ""
            for number, row in chain(first, rows):
                text = _columns.text_of(row.get(column), column, f"{what}, row {number}")
                if text:
                    blank = False
                    yield text
        if blank:
            raise InputError(f"{what} has no text in its first rows.", hint="Name another column with --column.")


def _parse(value: str) -> _Name:
    """NAME, NAME:CONFIG, DIR or DIR:CONFIG.

    Raises:
        InputError: It is no folder, and can't be a name on the hub.
    """
    name, _, config = value.rpartition(":") if ":" in value else (value, "", "")
    for path, rest in ((value, ""), (name, config)):
        folder = Path(os.path.expanduser(path))
        if folder.is_dir():
            return _Name(path, rest or None, folder)
    if Path(os.path.expanduser(value)).is_file():
        raise InputError(f"The dataset {value} is a file.", hint=f"Give it with --text {value}.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or name in READERS:
        raise InputError(
            f"There is no folder {value}, and the hub has no dataset of that name.",
            hint="Give owner/name, owner/name:configuration, or a folder of .jsonl, .parquet or .csv files.",
        )
    return _Name(name, config or None, None)


def _builder(name: _Name) -> Any:
    """What `datasets` knows of a dataset before it reads any text. On the hub it is asked once: one commit for all."""
    return _on_the_hub(name) if name.folder is None else _load(name)


@lru_cache(maxsize=1)
def _on_the_hub(name: _Name) -> Any:
    return _load(name)


def _load(name: _Name) -> Any:
    import datasets

    with DatasetErrors(name.name, name.config, lambda: datasets.get_dataset_config_names(_path(name))):
        for pattern in _patterns(name.folder) if name.folder else []:
            if "://" in pattern:  # they would be asked for at once
                raise _outside(name, pattern)
        builder = datasets.load_dataset_builder(_path(name), name.config)
    if name.folder:
        inside = {str(name.folder.resolve() / path) for path in _contents(name.folder)}
        for file in chain.from_iterable((builder.config.data_files or {}).values()):
            if os.path.normpath(file) not in inside:
                raise _outside(name, file)
            refuse_pointer(Path(file), f"The file {file} of the dataset {name}")
    if builder.name not in READERS:
        raise InputError(
            f"The dataset {name} is of the kind {builder.name}, which isn't text.",
            hint="Give one of .jsonl, .parquet, .csv or .txt files.",
        )
    return builder


def _patterns(folder: Path) -> list[str]:
    """Which files a folder says that it has, in each of its configurations, where it says so."""
    import yaml
    from datasets import config
    from datasets.data_files import sanitize_patterns
    from datasets.load import DatasetCard
    from datasets.utils.metadata import MetadataConfigs

    card, more = folder / config.REPOCARD_FILENAME, folder / config.REPOYAML_FILENAME
    said = DatasetCard.load(card).data.to_dict() if card.is_file() else {}
    if more.is_file():
        said.update(yaml.safe_load(more.read_text(encoding="utf-8")) or {})
    configurations = MetadataConfigs.from_dataset_card_data(said).values()
    named = [sanitize_patterns(one["data_files"]) for one in configurations if one.get("data_files") is not None]
    return [str(pattern) for splits in named for patterns in splits.values() for pattern in patterns]


def _outside(name: _Name, file: str) -> InputError:
    return InputError(
        f"The dataset {name} reads {file}, which isn't in its folder.",
        hint="Move it there, where neither it nor its folder is hidden, nor that a link; or give it with --text.",
    )


def _path(name: _Name) -> str:
    return name.name if name.folder is None else str(name.folder.resolve())


def _stream(builder: Any) -> Any:
    """The rows of one split as dictionaries, with pictures and sound left as they are stored."""
    splits = builder.as_streaming_dataset()
    rows = splits["train"] if "train" in splits else next(iter(splits.values()))
    return rows.decode(False) if rows.features else rows


def _sha256(folder: Path) -> str:
    """Of the paths and contents of a folder's files, hidden ones apart."""
    whole = hashlib.sha256()
    for inside in sorted(_contents(folder)):
        path = folder / inside
        if path.stat().st_size:
            whole.update(f"{inside.as_posix()} {find(str(path)).sha256()}\n".encode())
    return whole.hexdigest()


def _contents(folder: Path) -> Iterator[Path]:
    """The files of a folder, hidden ones apart, as paths inside it; folders that are links aren't entered."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield inside


plugin = Dataset()
