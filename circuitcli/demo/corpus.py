"""From a jsonl file to tokens: the split, the tokenizer, the shipped passages and the rows that training draws.

1. A share of the documents is held out at random; the first ones of the file always stay in training.
2. A byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) is learnt on the training documents.
3. Training documents are shuffled and joined into one stream, `<|endoftext|>` before each.
4. A row is BOS and the stream from a drawn place: half of the rows start where a document does, half anywhere.
5. Held-out documents are cut at sentence ends into passages; their wording is never changed.
"""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor

BOS = "<|endoftext|>"
BOS_ID = 0
"""The tokenizer is learnt with BOS as its only special token, which therefore comes first."""

_SENTENCE = re.compile(r".+?(?:[.!?][”’\"')]*(?=\s)|$)\s*", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """A piece of text and the name of the work it is from."""

    text: str
    source: str


@dataclass(frozen=True)
class Stream:
    """Documents joined for training: `tokens` int64 [n]; `starts` int64 [documents], the first token after each BOS."""

    tokens: Tensor
    starts: Tensor


def read(path: Path) -> list[Document]:
    """The documents of a jsonl file whose lines hold `text` and `source`."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return [Document(row["text"], row["source"]) for row in rows]


def write(documents: Iterable[Document], path: Path) -> None:
    """The inverse of `read`."""
    lines = (json.dumps({"text": d.text, "source": d.source}, ensure_ascii=False) + "\n" for d in documents)
    path.write_text("".join(lines), encoding="utf-8")


def split(
    documents: Sequence[Document], seed: int, share: float = 0.05, kept: int = 8
) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents. A random `share` is held out, never one of the first `kept` (Genesis 1)."""
    candidates = range(min(kept, len(documents) // 2), len(documents))
    held = set(random.Random(seed).sample(candidates, max(1, round(share * len(documents)))))
    train = [d for i, d in enumerate(documents) if i not in held]
    return train, [d for i, d in enumerate(documents) if i in held]


def learn_tokenizer(documents: Sequence[Document], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, `<|endoftext|>` being token 0."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=[BOS], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((d.text for d in documents), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[list[int]]:
    """The token ids of each document, without BOS."""
    return [e.ids for e in tokenizer.encode_batch([d.text for d in documents], add_special_tokens=False)]


def join(encoded: Sequence[Sequence[int]], seed: int, opening_copies: int = 1) -> Stream:
    """All documents in a random order, BOS before each; the first one `opening_copies` times."""
    places = [0] * (opening_copies - 1) + list(range(len(encoded)))
    order = random.Random(seed).sample(places, len(places))
    tokens: list[int] = []
    starts: list[int] = []
    for i in order:
        starts.append(len(tokens) + 1)
        tokens += [BOS_ID, *encoded[i]]
    return Stream(torch.tensor(tokens), torch.tensor(starts))


def draw_rows(stream: Stream, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Rows int64 [count, length]: BOS, then `length − 1` tokens of the stream; half start at a document's start."""
    last = len(stream.tokens) - length
    at_start = stream.starts[torch.randint(len(stream.starts), (count - count // 2,), generator=generator)]
    anywhere = torch.randint(last + 1, (count // 2,), generator=generator)
    first = torch.cat([at_start, anywhere]).clamp(max=last)
    rows = stream.tokens[first[:, None] + torch.arange(length - 1)]
    return torch.cat([torch.full((count, 1), BOS_ID), rows], dim=1)


def passages(
    documents: Sequence[Document], tokenizer: Tokenizer, seed: int, shortest: int = 30, longest: int = 120
) -> list[Document]:
    """Whole sentences of each document, joined while they stay within `longest` tokens; shuffled.

    Left out: a piece of fewer than `shortest` or more than `longest` tokens, and one that is less than 70% letters and
    spaces (tables). Every piece is a substring of its text.
    """
    pieces: list[Document] = []
    for document in documents:
        current = ""
        for sentence in [*_SENTENCE.findall(document.text), None]:
            joined = current + (sentence or "")
            if sentence is not None and _length(tokenizer, joined) <= longest:
                current = joined
                continue
            if shortest <= _length(tokenizer, current) <= longest and _is_prose(current):
                pieces.append(Document(current.strip(), document.source))
            current = sentence or ""
    random.Random(seed).shuffle(pieces)
    return pieces


def _length(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text.strip(), add_special_tokens=False).ids)


def _is_prose(text: str) -> bool:
    return sum(c.isalpha() or c.isspace() for c in text) >= 0.7 * len(text)
