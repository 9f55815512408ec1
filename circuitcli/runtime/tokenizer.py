"""A model's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from circuitcli.errors import InputError
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.foreign import json_object
from circuitcli.runtime.pieces import BYTE_TOKEN, Pieces
from circuitcli.runtime.unfit import model_errors, unfit


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the tokenizer of a model.

        Raises:
            InputError: The model has none.
        """
        from transformers import AutoTokenizer

        self._name, self._size = checkpoint.name, checkpoint.shape.d_vocab
        config = checkpoint.config()
        _check(checkpoint)
        with model_errors(checkpoint.name):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                checkpoint.folder, config=config, trust_remote_code=False, local_files_only=True
            )

    @property
    def bos(self) -> int | None:
        """The id of BOS, if there is one.

        Raises:
            InputError: The model has no such token.
        """
        found = self._tokenizer.bos_token_id
        return None if found is None else self._known([int(found)])[0]

    @property
    def eos(self) -> int | None:
        """The id of the token that ends a text, if there is one."""
        found = self._tokenizer.eos_token_id
        return None if found is None else int(found)

    @cached_property
    def special(self) -> frozenset[int]:
        """The special tokens, but for what stands for words that the vocabulary lacks, as ordinary as they are."""
        return frozenset(self._special.values()) - {self._tokenizer.unk_token_id}

    def encode(self, text: str) -> list[int]:
        """Token ids, none added; what is written like a special token is read as the characters that it is.

        Raises:
            InputError: The tokenizer gives one that the model hasn't.
        """
        return self._ids(text, parse=False)

    def encode_prompt(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, none added, and the places of special tokens: those that are written out in the text."""
        ids = self._ids(text, parse=True)
        # One that was typed is special, whatever else it stands for.
        special = self.special | {self._special[found] for found in self._written.findall(text)}
        return ids, [place for place, token in enumerate(ids) if token in special]

    def token(self, text: str) -> int | None:
        """The one token that stands for a text, as `text` has it: with the space before a word. None if there is none.

        Tokenizers may put a space in front of a text and spell its beginning in another way, so it is looked for behind
        others as well.
        """
        if text in self._special:
            return self._known([self._special[text]])[0]
        for ahead in ("", "\n", "a"):
            before, ids = self.encode(ahead), self.encode(ahead + text)
            if len(ids) == len(before) + 1 and ids[:-1] == before and self.text(ids[-1]) == text:
                return ids[-1]
        return None

    def split(self, text: str) -> tuple[list[str], list[str]]:
        """The parts of a text between special tokens that are written out in it, and these."""
        parts = self._written.split(text)
        return parts[::2], parts[1::2]

    def _ids(self, text: str, *, parse: bool) -> list[int]:
        with model_errors(self._name):
            found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not parse, verbose=False)
        return self._known(list(found.input_ids))

    def _known(self, tokens: list[int]) -> list[int]:
        """A tokenizer may have been given more tokens than the model has rows for; they matter once a text has one."""
        beyond = next((token for token in tokens if not 0 <= token < self._size), None)
        if beyond is not None:
            raise InputError(
                f"The tokenizer of {self._name} gives {self._entry(beyond)!r} the id {beyond}; the model's go to "
                f"{self._size - 1}.",
                hint="Use the tokenizer that belongs to its weights, or a text without that token.",
            )
        return tokens

    @cached_property
    def _special(self) -> dict[str, int]:
        """The special tokens, by how they are written; bytes, which some tokenizers count among them, are ordinary."""
        named = {token: self._tokenizer.convert_tokens_to_ids(token) for token in self._tokenizer.all_special_tokens}
        named |= {str(token): i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return {text: int(i) for text, i in named.items() if text and not BYTE_TOKEN.fullmatch(text)}

    @cached_property
    def _written(self) -> re.Pattern[str]:
        """Finds special tokens in a text, the longest first."""
        longest = sorted(self._special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest))})" if longest else "((?!))")

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


def _check(checkpoint: Checkpoint) -> None:
    """Refuse a configuration that names other files: they are in no identity, and on the hub weren't fetched."""
    path = checkpoint.folder / "tokenizer_config.json"
    if path.exists() and json_object(path).get("fast_tokenizer_files"):
        raise unfit(checkpoint.name, f"its {path.name} names the tokenizer's files itself (fast_tokenizer_files)")
