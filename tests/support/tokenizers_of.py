"""Small tokenizers of every kind, trained here by `tokenizers` on a few lines, and saved as models have them."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordLevelTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from circuitcli.results import passages
from circuitcli.results.reader import Reader
from circuitcli.runtime.tokenizer import Tokenizer as OurTokenizer
from circuitcli.store import acts

LINES = [
    "The light of the earth was upon the face of the waters, and the spirit's face wasn't void.",
    "running, singing and walking: a naïve café — “light” for the king’s day",
    "Es war einmal ein König; 日本 и мир\n\tindented  twice, (in brackets) and 1,234.5 more.",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
Kind = tuple[Tokenizer, dict[str, str]]


def byte_level() -> Kind:
    """GPT-2, NeoX, Llama 3."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        LINES, BpeTrainer(vocab_size=360, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    return made, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


def sentencepiece(*, prefix: bool) -> Kind:
    """Llama 2 (with a space put in front, and taken away again) and Gemma (without): bytes where a character lacks."""
    made = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    specials = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(LINES, BpeTrainer(vocab_size=360, special_tokens=specials, limit_alphabet=24))
    return made, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def unigram(prepend: str) -> Kind:
    """T5 and other unigrams of sentencepiece."""
    made = Tokenizer(Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    made.decoder = decoders.Metaspace(prepend_scheme=prepend)
    made.train_from_iterator(LINES, UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>"))
    return made, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def word_piece() -> Kind:
    """BERT."""
    made = Tokenizer(WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(LINES, WordPieceTrainer(vocab_size=140, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    return made, {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}


def suffixed() -> Kind:
    """GPT-1: a mark where words end."""
    made = Tokenizer(BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    made.train_from_iterator(
        LINES, BpeTrainer(vocab_size=140, special_tokens=["<unk>", "<s>"], end_of_word_suffix="</w>")
    )
    return made, {"unk_token": "<unk>", "bos_token": "<s>"}


def words() -> Kind:
    """Toy models: whole words, and no decoder."""
    made = Tokenizer(WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(LINES, WordLevelTrainer(special_tokens=["[UNK]", "[BOS]"]))
    return made, {"unk_token": "[UNK]", "bos_token": "[BOS]"}


KINDS: dict[str, Callable[[], Kind]] = {
    "byte-level": byte_level,
    "Llama 2": lambda: sentencepiece(prefix=True),
    "Gemma": lambda: sentencepiece(prefix=False),
    "unigram": lambda: unigram("always"),
    "unigram, first word": lambda: unigram("first"),
    "word-piece": word_piece,
    "suffixed": suffixed,
    "words": words,
}


def save(kind: str, folder: Path, **more: Any) -> Path:
    """Write one as it lies beside a model's weights."""
    made, named = KINDS[kind]()
    PreTrainedTokenizerFast(tokenizer_object=made, **named, **more).save_pretrained(folder)
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str]) -> None:
    """All tokens of any model are of these."""

    def pieces(self: OurTokenizer, tokens: Sequence[int], start: int = 0, stop: int | None = None) -> list[str]:
        return [self.text(token) for token in tokens[start:stop]]

    monkeypatch.setattr(OurTokenizer, "text", lambda self, token: texts[token % len(texts)])
    monkeypatch.setattr(OurTokenizer, "pieces", pieces)

    def read(reader: Reader, sequences: Collection[int] | None = None) -> dict[int, list[str]]:
        """As it is kept, but for halves of characters, which no file can hold."""
        sample = acts.read_sample(reader.run.path(acts.TOKENS))
        wanted = range(len(sample.lengths)) if sequences is None else sequences
        return {s: [texts[token % len(texts)] for token in sample.tokens[s, : sample.lengths[s]]] for s in wanted}

    monkeypatch.setattr(passages, "read", read)
