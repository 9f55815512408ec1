"""The prompts of three tasks that the demo can do: `python docs/tasks/make.py` writes those of docs/evidence.md anew.

Every prompt begins with text that neither the demo nor its SAEs were trained on, `circuitcli/demo/text.jsonl`, and its
counterfactual differs from it in few words before its end, of as many tokens:

brace      an open bracket: “} or )”, as “{” or “(” stands some words before; where the Jargon File refers to an entry
phrase     a set phrase of the Bible, behind sentences of it: “The children of” goes on with “ Israel”
agreement  the number of the verb, behind sentences of the Bible: “The kings of Israel” goes on with “ were”

The passages are dealt into two lots. Tasks and settings were chosen on the first one (`--lot 0`); the prompts of the
second one, which are beside this file, were measured once, afterwards.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from circuitcli import demo

PROMPTS = 100
BRACKETS = 24, 64  # tokens before the word that stands in braces, at least and at most, if a sentence begins there
SENTENCES = 12, 32  # tokens of what stands before a phrase, more than and fewer than
PHRASES = {
    " The children of": " Israel", " The land of": " Egypt", " The Son of": " Man", " The Spirit of": " God",
    " The daughter of": " Zion", " Then Yahweh of": " Armies",
}  # fmt: skip
SUBJECTS = [
    ("The son of David", "The sons of David"),
    ("The king of Israel", "The kings of Israel"),
    ("The man of the city", "The men of the city"),
    ("The man who came to him", "The men who came to him"),
    ("The priest of Yahweh", "The priests of Yahweh"),
    ("The city of Judah", "The cities of Judah"),
    ("The word of the prophet", "The words of the prophet"),
    ("The servant of the king", "The servants of the king"),
]
Question = dict[str, str]


def main() -> None:
    """Write a file for each task."""
    parser = argparse.ArgumentParser(description="Write the prompts of three tasks on the demo.")
    parser.add_argument("--lot", type=int, choices=(0, 1), default=1, help="the passages that they begin with")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to")
    typed = parser.parse_args()
    typed.out.mkdir(parents=True, exist_ok=True)
    for name, questions in tasks(typed.lot).items():
        lines = [json.dumps(one, ensure_ascii=False) for one in questions]
        (typed.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def tasks(lot: int) -> dict[str, list[Question]]:
    """The questions of each task."""
    passages = [json.loads(line) for line in demo.TEXT.read_text(encoding="utf-8").splitlines()]
    random.Random(7).shuffle(passages)
    mine = passages[lot::2]
    jargon, bible = ([one["text"] for one in mine if name in one["source"]] for name in ("Jargon", "Bible"))
    count = _Count()
    phrases = [(a, b, PHRASES[a], PHRASES[b]) for a in PHRASES for b in PHRASES if a != b]
    numbers = [(f" {one}", f" {more}", " was", " were") for one, more in SUBJECTS]
    numbers += [(more, one, were, was) for one, more, was, were in numbers]
    return {
        "brace": _drawn(lot, brackets(jargon, count)),
        "phrase": _drawn(lot, behind(bible, phrases, lot, count)),
        "agreement": _drawn(lot, behind(bible, numbers, lot, count)),
    }


def brackets(passages: Sequence[str], count: "_Count") -> Iterator[Question]:
    """Text up to where a brace closes, and the same with a parenthesis open instead."""
    fewest, most = BRACKETS
    for text in passages:
        for reference in re.finditer(r" \{[^{}()\n]+(?=\})", text):
            starts = [0, *(found.end() for found in re.finditer(r"[.!?]\s+|\n+", text[: reference.start()]))]
            before = [text[start : reference.start()] for start in reversed(starts)]
            context = next((one for one in before if fewest <= count(one) <= most), None)
            if context is not None:
                word = reference[0][2:]
                yield _question(f"{context} {{{word}", f"{context} ({word}", "}", ")", count)


def behind(
    passages: Sequence[str], pairs: Sequence[tuple[str, str, str, str]], lot: int, count: "_Count"
) -> Iterator[Question]:
    """Two sentences of each passage, and one of the pairs behind them: how it begins, another way, and both ends."""
    fewest, most = SENTENCES
    draw = random.Random(lot)
    for text in passages:
        sentences = re.split(r"(?<=[.!?”])\s+", text)
        twos = (" ".join(sentences[i : i + 2]) for i in range(len(sentences) - 1))
        context = next((two for two in twos if fewest < count(two) < most and two[-1] in ".”"), None)
        if context is not None:
            begins, other, target, against = draw.choice(pairs)
            yield _question(context + begins, context + other, target, against, count)


def _question(prompt: str, counterfactual: str, target: str, against: str, count: "_Count") -> Question:
    if count(prompt) != count(counterfactual):
        return {}
    return {"prompt": prompt, "target": target, "against": against, "counterfactual": counterfactual}


def _drawn(lot: int, questions: Iterator[Question]) -> list[Question]:
    """Some of them, each prompt once, at random; without those whose counterfactual has more or fewer tokens."""
    found = list({one["prompt"]: one for one in questions if one}.values())
    random.Random(lot).shuffle(found)
    return found[:PROMPTS]


class _Count:
    """How many tokens a text has for the demo."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))

    def __call__(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


if __name__ == "__main__":
    main()
