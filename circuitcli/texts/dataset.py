"""Texts of a Hugging Face dataset, streamed, or of a local folder of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from circuitcli.errors import HubError, InputError
from circuitcli.texts import _files

# Only so many texts are read before sampling among them: a stream may have no end.
MAX_DOCUMENTS = 20_000


class Dataset:
    """The `text` column of a dataset's `train` split, or of its only one."""

    def identity(self, value: Sequence[str]) -> str:
        """Its name, and its version; of a local folder the sha256 of its files."""
        folder = Path(os.path.expanduser(value[0]))
        if folder.is_dir():
            return " ".join(f"{p.name}:{_files.digest(p)}" for p in sorted(folder.rglob("*")) if p.is_file())
        return f"{value[0]} {_open(value[0]).info.version}"

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """Its first texts, up to MAX_DOCUMENTS."""
        for row in islice(_open(value[0]), MAX_DOCUMENTS):
            if not isinstance(row.get("text"), str):
                raise InputError(
                    f"The dataset {value[0]} has no column `text` of strings.", hint=f"It has {', '.join(row)}."
                )
            yield row["text"]


def _open(name: str) -> Any:
    import datasets

    try:
        splits = datasets.load_dataset(name, streaming=True)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"The dataset {name} can't be opened: {str(error).splitlines()[0]}.",
            hint="Give its name on the hub, or a local folder of .jsonl or .parquet files.",
        ) from None
    except (ConnectionError, OSError) as error:
        raise HubError(
            f"The hub couldn't be reached for the dataset {name}: {type(error).__name__}.", hint="Check the network."
        ) from None
    return splits["train"] if "train" in splits else next(iter(splits.values()))


plugin = Dataset()
