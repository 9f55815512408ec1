"""What can go wrong between `datasets` and the hub, in this tool's words."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from circuitcli.errors import CircuitError, HubError, InputError, nearest
from circuitcli.runtime import hub

_FORMS = "Give owner/name, owner/name:configuration, or a folder of .jsonl, .parquet or .csv files."


class DatasetErrors:
    """A block in which a dataset is opened or read: errors whose meaning is known are told in this tool's words.

    Args:
        name: Of the dataset, or its folder.
        config: The configuration that was typed, if one was.
        configurations: Asks which there are.
    """

    def __init__(self, name: str, config: str | None, configurations: Callable[[], list[str]] = lambda: []) -> None:
        self._name, self._config = name, config
        self._configurations = configurations

    def __enter__(self) -> None:
        """Nothing is needed before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raise what is known of an error instead of it."""
        if isinstance(error, Exception) and not isinstance(error, CircuitError):
            known = self._known(error)
            if known is not None:
                raise known from None

    def _known(self, error: Exception) -> CircuitError | None:
        import pyarrow as pa
        import yaml
        from datasets import config, exceptions

        what, text = f"The dataset {self._name}", str(error)
        if isinstance(error, exceptions.DatasetNotFoundError) and "is a gated dataset" in text:
            return HubError(
                f"{what} is gated: its owners decide who reads it.",
                hint=f"Ask for access at https://huggingface.co/datasets/{self._name}, then run `hf auth login`.",
            )
        if config.HF_HUB_OFFLINE and isinstance(error, ConnectionError):
            return HubError(
                f"HF_HUB_OFFLINE is set, and {what[0].lower()}{what[1:]} is read from the hub.",
                hint="Unset HF_HUB_OFFLINE, or give a file with --text.",
            )
        if isinstance(error, RuntimeError) and text.startswith("Dataset scripts"):
            return InputError(
                f"{what} runs code of its own to load, which is refused.", hint="Give one that is plain files."
            )
        if isinstance(error, exceptions.DataFilesNotFoundError) or type(error).__name__ == "EmptyDatasetError":
            return InputError(f"{what} holds no files of text.", hint=_FORMS)
        explained = hub.explain(error, f"the dataset {self._name}")
        if explained is not None:
            return explained
        damaged = (EOFError, FileNotFoundError, ValueError, gzip.BadGzipFile, zlib.error)
        of_libraries = (pa.ArrowException, yaml.YAMLError, exceptions.DatasetsError)
        if isinstance(error, (*damaged, *of_libraries)) and not isinstance(error, MemoryError):
            return self._configuration(type(error)) or InputError(
                f"{what} can't be read: {text.splitlines()[0] if text else type(error).__name__}.",
                hint="Look at its files: each should be whole, with the same columns in all.",
            )
        return None

    def _configuration(self, failed: type[Exception]) -> InputError | None:
        """The error, if the configuration is to blame: there is none of that name, or none was named of several.

        Where what describes the dataset is damaged, asking for the configurations fails in the same way.
        """
        names: list[str] = []
        with suppress(failed):
            names = self._configurations()
        if not names or self._config in names or (self._config is None and len(names) < 2):
            return None
        wrong = f"no configuration `{self._config}`" if self._config else "several configurations"
        known = nearest(self._config or "", names, what="configurations")
        return InputError(
            f"The dataset {self._name} has {wrong}.", hint=f"Say --dataset {self._name}:CONFIGURATION. {known}"
        )
