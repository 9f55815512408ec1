"""A model's tokenizer."""

from __future__ import annotations

from typing import Any

from circuitcli.runtime.checkpoint import BROKEN, Checkpoint, unfit


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

    def text(self, token: int) -> str:
        """What one token stands for."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
