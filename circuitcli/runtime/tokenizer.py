"""A model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from circuitcli.runtime.checkpoint import BROKEN, Checkpoint, unfit
from circuitcli.runtime.pieces import Pieces


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the tokenizer of a model.

        Raises:
            InputError: The model has none.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                checkpoint.folder, trust_remote_code=False, local_files_only=True
            )
        except BROKEN as error:
            raise unfit(checkpoint.name, error) from None

    @property
    def bos(self) -> int | None:
        """The id of BOS, if there is one."""
        found = self._tokenizer.bos_token_id
        return None if found is None else int(found)

    def encode(self, text: str) -> list[int]:
        """Token ids, no special token added."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def pieces(self, tokens: Sequence[int], start: int = 0, stop: int | None = None) -> list[str]:
        """The tokens of a sequence, or those from `start` to before `stop`, as text: together they are what it says."""
        return self._pieces.of(tokens, start, stop)

    def text(self, token: int) -> str:
        """One entry of the vocabulary as text, with the space before a word."""
        return self._pieces.alone(token)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._decode, self._entry, self.encode("a"))

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _entry(self, token: int) -> str | None:
        try:
            found = self._tokenizer.convert_ids_to_tokens(token)
        except (IndexError, OverflowError):  # of an id beyond the vocabulary most say None, and some raise
            return None
        return None if found is None else str(found)
