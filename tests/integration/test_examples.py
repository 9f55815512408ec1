"""What a circuit is judged on becomes tokens and readings, or is refused with its line: prompts, choices and text."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.plain import PlainModel
from tokenizers import Tokenizer

from circuitcli import demo
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.evidence.examples import Example, combined
from circuitcli.core.evidence.readings import Divergence, Next
from circuitcli.errors import CircuitError, InputError, UsageError
from circuitcli.runtime.model import BridgeModel
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import cache_acts, examples, fetch_saes
from circuitcli.stages.checks import check
from circuitcli.stages.report import Silent
from circuitcli.stages.stage import Job

BACKEND = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
END = "<|endoftext|>"
PROMPT, OTHER = "In the beginning, God created the", "In the beginning, Moses created the"
HEAVENS, EARTH = BACKEND.token_to_id("Ġheavens"), BACKEND.token_to_id("Ġearth")
CHOICES = {"question": "And God made the", "choices": [" light", " day", " earth"], "answer": 2}

LONG = "the" + " the" * 30  # and BOS: as much as the tiny model reads


class Told(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run of the tiny model on text, of which the activations are there."""
    job = start(tmp_path_factory.mktemp("examples") / "run", {"saes": {"sites": ["resid_post"]}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job


@pytest.fixture
def judged(cached: Job) -> Callable[..., Job]:
    """The same with settings of [validate]: `judged(metric="kl")`."""

    def make(**validate: Any) -> Job:
        return replace(cached, settings=resolve(to_dict(cached.settings), {"validate": validate}), report=Told())

    return make


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """A file of objects, or of lines as they are."""

    def write(*rows: dict[str, Any] | str, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


def refused(job: Job, *words: str, kind: type[CircuitError] = InputError) -> CircuitError:
    with pytest.raises(CircuitError) as error:
        examples.examples(job)
    assert type(error.value) is kind, error.value
    said = f"{error.value.message}\n{error.value.hint}"
    assert len(said.splitlines()) == 2
    for word in words:
        assert word in said, said
    return error.value


def ids(text: str) -> tuple[int, ...]:
    """BOS and a text, by the tokenizer itself."""
    return (0, *BACKEND.encode(text, add_special_tokens=False).ids)


def log_probs(model: PlainModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """By plain transformers in float64."""
    return model.run(torch.tensor(tokens))[1]


def measured(model: BridgeModel, one: Example) -> float:
    """An example's m of the model as it is, by its readings."""
    found = []
    for sequence in one.sequences:
        final = model.run(torch.tensor([sequence.ids]), [], final=True).final
        assert final is not None
        assert sequence.reading is not None
        found.append(sequence.reading.of(model, final, final[0]))
    return float(combined(found))


def test_prompts_with_targets(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    path = file(
        {"prompt": PROMPT, "target": " heavens"},
        {"prompt": f"the light{END} of the", "target": EARTH},
        {"prompt": "a b"},
    )
    job = judged(prompts=path)
    first, second, third = examples.examples(job)
    assert [one.name for one in (first, second, third)] == [PROMPT, f"the light{END} of the", "a b"]
    [sequence] = first.sequences
    assert (sequence.ids, sequence.reading, sequence.other_ids) == (ids(PROMPT), Next(Metric(HEAVENS)), None)
    assert sequence.counts == (False, *[True] * (len(ids(PROMPT)) - 1))
    [special] = second.sequences
    assert [i for i, counts in enumerate(special.counts) if not counts] == [0, special.ids.index(0, 1)]
    assert third.sequences[0].reading is None, "of the model's likeliest token, which the model has to say"
    assert {one.unit for one in (first, second, third)} == {"nats"}
    assert examples.baseline(job) == "zero"


def test_two_tokens_and_a_counterfactual(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    row = {"prompt": PROMPT, "target": " heavens", "against": " earth", "counterfactual": OTHER}
    job = judged(prompts=file(row))
    [one] = examples.examples(job)
    assert one.sequences[0].reading == Next(Metric(HEAVENS, EARTH))
    assert (one.unit, one.sequences[0].other_ids) == ("logits", ids(OTHER))
    assert examples.baseline(job) == "patch"
    [one] = examples.examples(judged(prompts=file(row), baseline="mean"))
    assert one.sequences[0].other_ids is None


def test_a_divergence_has_no_target(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    job = judged(prompts=file({"prompt": PROMPT, "target": " heavens"}, {"prompt": "a b"}), metric="kl")
    found = examples.examples(job)
    assert [one.sequences[0].reading for one in found] == [
        Divergence((len(ids(PROMPT)) - 1,)), Divergence((len(ids("a b")) - 1,)),
    ]  # fmt: skip
    assert {one.unit for one in found} == {"nats a token"}
    assert [line for line in job.report.lines if "no target counts" in line]
    job = judged(prompts=file({"prompt": PROMPT}), metric="kl")
    examples.examples(job)
    assert job.report.lines == []


def test_choices(
    judged: Callable[..., Job], file: Callable[..., str], bridge: BridgeModel, plain_model: PlainModel
) -> None:
    """m is log p of the right one less that of the likeliest wrong one, as plain transformers have it."""
    job = judged(prompts=file(CHOICES, {**CHOICES, "answer": " day"}))
    by_number, by_text = examples.examples(job)
    assert [one.name for one in (by_number, by_text)] == ["And God made the"] * 2
    assert [s.ids for s in by_number.sequences] == [ids(f"And God made the{c}") for c in (" earth", " light", " day")]
    assert [s.ids for s in by_text.sequences] == [ids(f"And God made the{c}") for c in (" day", " light", " earth")]
    assert {one.unit for one in (by_number, by_text)} == {"nats"}
    assert job.report.lines == []
    said = log_probs(plain_model, ids("And God made the"))[-1]
    light, day, earth = (float(said[BACKEND.token_to_id(f"Ġ{word}")]) for word in ("light", "day", "earth"))
    assert measured(bridge, by_number) == pytest.approx(earth - max(light, day), abs=1e-4)
    assert measured(bridge, by_text) == pytest.approx(day - max(light, earth), abs=1e-4)


def test_choices_of_differing_length_count_per_token_and_that_is_said(
    judged: Callable[..., Job], file: Callable[..., str], bridge: BridgeModel, plain_model: PlainModel
) -> None:
    """In every question, as their differences are averaged."""
    uneven = {"question": "And God made the", "choices": [" light", " void of the deep"], "answer": 1}
    job = judged(prompts=file(CHOICES, uneven))
    even, other = examples.examples(job)
    assert job.report.lines == [
        "Choices differ in their number of tokens in 1 of 2 questions: log-probabilities are per token, in all of them."
    ]
    assert {even.unit, other.unit} == {"nats a token"}
    question, tokens = ids("And God made the"), ids("And God made the void of the deep")
    said = log_probs(plain_model, tokens)
    long = [float(said[place - 1, tokens[place]]) for place in range(len(question), len(tokens))]
    short = float(said[len(question) - 1, BACKEND.token_to_id("Ġlight")])
    assert len(long) == 5
    assert measured(bridge, other) == pytest.approx(sum(long) / 5 - short, abs=1e-4)


def test_choices_after_a_counterfactual(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    row = {**CHOICES, "counterfactual": "And Moses made the"}
    job = judged(prompts=file(row))
    [one] = examples.examples(job)
    assert examples.baseline(job) == "patch"
    assert [s.other_ids for s in one.sequences] == [ids(f"And Moses made the{c}") for c in (" earth", " light", " day")]
    [one] = examples.examples(judged(prompts=file(row), metric="kl"))
    [alone] = one.sequences
    assert (alone.ids, alone.other_ids) == (ids("And God made the"), ids("And Moses made the"))
    assert alone.reading == Divergence((len(alone.ids) - 1,))


def test_text_that_is_not_in_the_sample(judged: Callable[..., Job], tiny_text: Path, cached: Job) -> None:
    """Those documents whose lots come next, each from its beginning, in their order."""
    documents = [json.loads(line)["text"] for line in tiny_text.read_text().splitlines()]
    lots = np.random.default_rng(0)
    drawn = np.argsort([lots.random() for _ in documents])
    stored = load_file(cached.run.path("acts/tokens.safetensors"))
    sample = {tuple(row[:n].tolist()) for row, n in zip(stored["tokens"], stored["lengths"], strict=True)}
    assert sample == {ids(documents[i])[:12] for i in drawn[:12]}
    wanted = [ids(documents[i])[:12] for i in sorted(drawn[12:19])]
    found = examples.examples(judged(num_examples=7))
    assert [one.sequences[0].ids for one in found] == wanted
    assert not sample & set(wanted)
    assert [one.name for one in found] == [BACKEND.decode(tokens[1:]) for tokens in wanted]
    everything = examples.examples(judged())
    assert len(everything) == len(documents) - 12
    assert not sample & {one.sequences[0].ids for one in everything}


def test_what_is_measured_of_text(judged: Callable[..., Job], bridge: BridgeModel, plain_model: PlainModel) -> None:
    one = examples.examples(judged(num_examples=2))[0]
    [sequence] = one.sequences
    said = log_probs(plain_model, sequence.ids)
    each = [float(said[place, sequence.ids[place + 1]]) for place in range(1, len(sequence.ids) - 1)]
    assert measured(bridge, one) == pytest.approx(sum(each) / len(each), abs=1e-4)
    assert one.unit == "nats a token"
    [other] = examples.examples(judged(num_examples=2, metric="kl"))[0].sequences
    assert other.reading == Divergence(tuple(range(1, len(sequence.ids))))
    assert other.counts == (False, *[True] * (len(sequence.ids) - 1))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_a_file_of_text(name: str, judged: Callable[..., Job], file: Callable[..., str], tiny_text: Path) -> None:
    """What the run's sample has is left out, and that is said."""
    texts = ["the light of the void", "upon the face of the deep", "and"]
    lines = {
        "a.jsonl": [{"text": one} for one in texts],
        "a.txt": [line for one in texts for line in (one, "")],
        "a.csv": ["note,body", *(f"5,{one}" for one in texts)],
    }[name]
    job = judged(prompts=file(*lines, name=name), **({"column": "body"} if name == "a.csv" else {}))
    assert [one.sequences[0].ids for one in examples.examples(job)] == [ids(text) for text in texts[:2]]
    assert job.report.lines == []
    everything = [json.loads(line) for line in tiny_text.read_text().splitlines()]
    job = judged(prompts=file(*everything))
    assert len(examples.examples(job)) == len(everything) - 12
    assert job.report.lines == ["12 texts are left out: the run's sample has the same."]


def test_special_tokens_end_a_text(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    job = judged(prompts=file({"text": f"the light of{END}the void was"}))
    assert [one.name for one in examples.examples(job)] == ["the light of", "the void was"]
    assert job.report.lines == [f"1 special token ({END}) in the text: documents end there, and none of them is read."]


def test_of_more_a_random_choice(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    path = file(*({"prompt": f"the light {i}"} for i in range(9)))
    job = judged(prompts=path, num_examples=4)
    names = [one.name for one in examples.examples(job)]
    assert len(names) == 4
    assert names == sorted(names)
    assert job.report.lines == ["4 of 9 examples are taken, at random: give --num-examples 9."]
    other = replace(job, settings=resolve(to_dict(job.settings), {"seed": 1}))
    assert [one.name for one in examples.examples(other)] != names
    assert [one.name for one in examples.examples(job)] == names


def test_a_run_that_was_asked_something_is_judged_on_that(
    start: Callable[..., Job], file: Callable[..., str], tmp_path: Path
) -> None:
    question = {"texts": {"source": "prompt", "prompt": [PROMPT, "and the void"]}, "attribute": {"target": " earth"}}
    job = start(tmp_path / "run", question)
    fetch_saes.run(job)
    assert [one.name for one in examples.examples(job)] == [PROMPT, "and the void"]
    assert examples.examples(job)[0].sequences[0].reading == Next(Metric(EARTH))
    own = {"attribute": {"target": "", "prompts": file({"prompt": "the light"})}}
    [one] = examples.examples(replace(job, settings=resolve(to_dict(job.settings), own)))
    assert one.name == "the light"
    typed = resolve(to_dict(job.settings), {"attribute": {"target": "earthly"}})
    refused(replace(job, settings=typed), "--target 'earthly' isn't one token", kind=UsageError)


FILES: dict[str, tuple[list[Any], list[str]]] = {
    "no JSON": (["{"], ["line 1: it is not a JSON object", '"choices"', '"text"']),
    "no JSON further on": ([{"prompt": PROMPT}, "{"], ["line 2: it is not a JSON object"]),
    "prompts, then choices": (
        [{"prompt": PROMPT}, "", CHOICES],
        ["line 3: it is a multiple-choice question, but line 1 is a prompt", "a file of its own"],
    ),
    "choices, then text": ([CHOICES, {"text": "a"}], ["line 2: it is a text, but line 1 is a multiple-choice"]),
    "text, then a prompt": ([{"text": "a b"}, {"prompt": "a"}], ["line 2 has no `text`"]),
    "a typing error": ([{"prompt": PROMPT}, {"promt": "a"}], ["line 2: unknown key `promt`", "`prompt`"]),
    "no token": ([{"prompt": PROMPT, "target": " heavens above"}], ["line 1: `target` ' heavens above' isn't one"]),
    "two metrics": (
        [{"prompt": PROMPT, "target": " heavens", "against": " earth"}, {"prompt": PROMPT}],
        ["line 2: it has no `against`"],
    ),
    "a counterfactual of another length": (
        [{"prompt": "the light", "counterfactual": "the light of"}],
        ["line 1: The counterfactual has 4 tokens, the prompt has 3"],
    ),
    "some counterfactuals": ([CHOICES, {**CHOICES, "counterfactual": "a"}], ["line 1: it has no `counterfactual`"]),
    "one choice": ([{**CHOICES, "choices": [" a"]}], ["line 1: it has 1 choice.", "two or more"]),
    "no choice": ([{**CHOICES, "choices": []}], ["line 1: it has 0 choices."]),
    "the same twice": ([{**CHOICES, "choices": [" a", " b", " a"]}], ["line 1: the choice ' a' is there twice"]),
    "choices that are none": ([{**CHOICES, "choices": [" a", 5]}], ["`choices` should be a list of texts"]),
    "one text of choices": ([{**CHOICES, "choices": " a"}], ["`choices` should be a list of texts"]),
    "an empty choice": ([{**CHOICES, "choices": [" a", ""]}], ["line 1: `choices` is empty"]),
    "half a character": (['{"question": "a b", "choices": ["\\ud800", "b"], "answer": 0}'], ["holds half a character"]),
    "an answer beyond": ([{**CHOICES, "answer": 3}], ["line 1: the answer 3 is none of the choices", "from 0 to 2"]),
    "an answer below": ([{**CHOICES, "answer": -1}], ["the answer -1 is none"]),
    "another answer": ([{**CHOICES, "answer": "earth"}], ["the answer 'earth' is none of the choices"]),
    "a truth": ([{**CHOICES, "answer": True}], ["`answer` should be a text or a whole number"]),
    "no answer": ([{"question": "a b", "choices": ["a", "b"]}], ["line 1: it has no `answer`"]),
    "no question": ([{"choices": ["a", "b"], "answer": 0}], ["line 1: it has no `question`"]),
    "a blank question": ([{**CHOICES, "question": " "}], ["line 1: `question` is blank"]),
    "a space at the end": (
        [{**CHOICES, "question": "And God made the ", "choices": ["light", "earth"], "answer": 0}],
        ["line 1: The question's last tokens are others with the choice 'light'", '" Paris"'],
    ),
    "too long": ([{**CHOICES, "question": LONG}], ["line 1: The question with the choice", "reads 32"]),
    "a counterfactual of a question": (
        [{**CHOICES, "counterfactual": "And Moses had made the"}],
        ["line 1: The counterfactual has 7 tokens, the question has 6"],
    ),
    "short texts": ([{"text": "a"}, {"text": "b"}], ["no document of three tokens", "--prompts FILE"]),
    "columns": ([{"a": "x y", "b": "z w"}], ["several columns of strings: a, b", "--column"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_will_not_do_names_the_line(
    name: str, judged: Callable[..., Job], file: Callable[..., str]
) -> None:
    rows, words = FILES[name]
    path = file(*rows)
    error = refused(judged(prompts=path), *words)
    assert path in error.message
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": PROMPT}], ["has no `counterfactual`", "--baseline"]),
        ([CHOICES], ["has no `counterfactual`", "--baseline"]),
        ([{"text": "the light of"}], ["Text has no counterfactual"]),
        ([], ["Text has no counterfactual"]),
    ],
)
def test_a_patch_needs_counterfactuals(
    rows: list[Any], words: list[str], judged: Callable[..., Job], file: Callable[..., str]
) -> None:
    refused(judged(prompts=file(*rows) if rows else "", baseline="patch"), *words)


def test_a_file_that_cannot_be_read(judged: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}')
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name, words in {
        "none.jsonl": ["can't be read: No such file", "--prompts"],
        "": ["it is a folder", "--prompts"],
        "latin.jsonl": ["line 2: it is not UTF-8"],
        "empty.jsonl": ["is empty"],
    }.items():
        refused(judged(prompts=str(tmp_path / name)), *words)


def test_a_source_that_is_not_what_it_was(judged: Callable[..., Job], tiny_text: Path, tmp_path: Path) -> None:
    """Other documents than then would be drawn, which may be those of the sample."""
    other = tmp_path / "other.jsonl"
    other.write_text(tiny_text.read_text() + '{"text": "the void was upon the deep"}\n')
    job = judged()
    settings = resolve(to_dict(job.settings), {"texts": {"file": str(other)}})
    refused(replace(job, settings=settings), "isn't what it was", "--prompts FILE")
    settings = resolve(to_dict(job.settings), {"texts": {"file": "-"}})
    refused(replace(job, settings=settings), "came from stdin", "--prompts FILE")


def test_a_source_that_has_no_more(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(tmp_path / "run", {"saes": {"sites": ["resid_post"]}, "texts": {"num_sequences": 40}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    refused(job, "The run's text has no document", "--prompts FILE")


def test_data_is_identified_by_what_it_says(judged: Callable[..., Job], file: Callable[..., str]) -> None:
    """Not by how a file is laid out, nor where it lies; and without a tokenizer."""
    files = [
        file({"prompt": PROMPT}, name="a.jsonl"),
        file({"prompt": PROMPT, "target": " earth"}, name="b.jsonl"),
        file(CHOICES, name="c.jsonl"),
        file({**CHOICES, "answer": 0}, name="d.jsonl"),
        file({"text": PROMPT}, name="e.jsonl"),
        file({"text": OTHER}, name="f.jsonl"),
        "",
    ]
    found = [examples.identity(judged(prompts=one)) for one in files]
    assert len(set(found)) == len(files)
    assert all(len(one) == 64 for one in found)
    again = file("", f'{{ "prompt":  "{PROMPT}" }}', name="g.jsonl")
    assert examples.identity(judged(prompts=again)) == found[0]
    assert examples.identity(judged(prompts=files[4], column="text")) != found[4]
    job = judged()
    assert examples.identity(job) == found[-1]
    assert "subject" not in vars(job), "what loads a tokenizer"


def test_a_feature_that_is_none_is_refused_before_a_run_is_touched(judged: Callable[..., Job]) -> None:
    with pytest.raises(UsageError, match="4:x"):
        check(judged(pinned=["4:x"]).settings)
