"""What is asked becomes tokens, or is refused with its line: by flags, and by files of questions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from support import tiny
from tokenizers import Tokenizer

from circuitcli import demo
from circuitcli.errors import CircuitError, InputError, UsageError
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import cache_acts, fetch_saes, questions
from circuitcli.stages.report import Silent
from circuitcli.stages.sequences import hushed, read_sample
from circuitcli.stages.stage import Job

BACKEND = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
END = "<|endoftext|>"
PROMPT = "In the beginning, God created the"
HEAVENS, EARTH = BACKEND.token_to_id("Ġheavens"), BACKEND.token_to_id("Ġearth")


class Told(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def fetched(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run of the tiny model, with the demo's tokenizer, of which only the SAEs are there."""
    job = start(tmp_path_factory.mktemp("questions") / "run", {"texts": {"source": "prompt", "prompt": [PROMPT]}})
    fetch_saes.run(job)
    return job


@pytest.fixture
def asking(fetched: Job) -> Callable[..., Job]:
    """The same with other settings: `asking([PROMPT], target=" earth")`."""

    def make(texts: list[str] | None = None, /, **question: Any) -> Job:
        prompt = {} if texts is None else {"texts": {"prompt": texts}}
        settings = resolve(to_dict(fetched.settings), prompt, {"attribute": question})
        return replace(fetched, settings=settings, report=Told())

    return make


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """A file of questions, of objects or of lines as they are."""

    def write(*rows: dict[str, Any] | str) -> str:
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


def refused(job: Job, kind: type[CircuitError], *words: str) -> CircuitError:
    with pytest.raises(CircuitError) as error:
        questions.asked(job)
    assert type(error.value) is kind, error.value
    said = f"{error.value.message}\n{error.value.hint}"
    assert len(said.splitlines()) == 2
    for word in words:
        assert word in said, said
    return error.value


def ids(text: str) -> tuple[int, ...]:
    """BOS and a text, by the tokenizer itself."""
    return (0, *BACKEND.encode(text, add_special_tokens=False).ids)


def test_each_prompt_of_the_run_is_asked_as_it_was_read(asking: Callable[..., Job], start: Any, tmp_path: Path) -> None:
    """Their tokens are those of cache-acts, and nodes are where it counts features."""
    prompts = [PROMPT, f"the light{END} of the earth", "and the void"]
    job = asking(prompts, target=" heavens")
    found = questions.asked(job)
    assert [one.prompt for one in found] == prompts
    assert [one.ids for one in found] == [ids(prompt) for prompt in prompts]
    assert {(one.target, one.against, one.counterfactual, one.counterfactual_ids) for one in found} == {
        (HEAVENS, None, None, None)
    }
    own = start(tmp_path / "run", {"texts": {"source": "prompt", "prompt": prompts}})
    for stage in (fetch_saes, cache_acts):
        stage.run(own)
    stored = load_file(own.run.path("acts/tokens.safetensors"))
    for one, tokens, length, special in zip(found, stored["tokens"], stored["lengths"], stored["special"], strict=True):
        assert list(one.ids) == tokens[:length].tolist()
        assert list(one.counts) == [i > 0 and not there for i, there in enumerate(special[:length])]
    assert [sum(one.counts) for one in found] == [
        len(ids(PROMPT)) - 1,
        len(ids(prompts[1])) - 2,
        len(ids(prompts[2])) - 1,
    ]


def test_without_a_target_the_likeliest_is_meant(asking: Callable[..., Job]) -> None:
    [one] = questions.asked(asking())
    assert (one.target, one.against) == (None, None)


def test_of_more_prompts_than_the_sample_those_that_are_read_are_asked(asking: Callable[..., Job]) -> None:
    job = asking([PROMPT, "and the void", "the light of the earth"])
    job = replace(job, settings=resolve(to_dict(job.settings), {"texts": {"num_sequences": 2}}))
    sample = read_sample(job.subject, hushed)
    assert [list(one.ids) for one in questions.asked(job)] == [
        row[:length].tolist() for row, length in zip(sample.tokens, sample.lengths, strict=True)
    ]


@pytest.mark.parametrize(
    ("spelled", "token"),
    [(" heavens", HEAVENS), (f"id:{HEAVENS}", HEAVENS), ("id:0", 0), (END, 0), ("the", BACKEND.token_to_id("the"))],
)
def test_a_token_by_its_text_or_its_id(spelled: str, token: int, asking: Callable[..., Job]) -> None:
    [one] = questions.asked(asking(target=spelled, against=" earth"))
    assert (one.target, one.against) == (token, EARTH)


def test_a_token_without_its_space_is_told_apart(asking: Callable[..., Job]) -> None:
    job = asking([PROMPT, "and the void"], target="the", against=" earth")
    questions.asked(job)
    assert job.report.lines == ["--target 'the' is the token without a space before it; ' the' is another one."]


TOKENS: dict[str, tuple[dict[str, str], list[str]]] = {
    "the other spelling": (
        {"target": "heavens"},
        ["--target 'heavens' isn't one token: it is he|aven|s.", "' heavens' is one: give --target ' heavens'."],
    ),
    "two words": ({"target": " heavens above"}, ["it is ␣heavens|␣above", f"id:{HEAVENS}", "id:N"]),
    "a number that is no token": ({"target": "12345"}, ["'12345' isn't one token", "as id:N"]),
    "control characters": ({"target": "\x1b[31m"}, ["'\\x1b[31m' isn't one token: it is ␛|"]),
    "an id beyond the vocabulary": ({"target": "id:4096"}, ["--target: there is no token 4096", "0 to 4095"]),
    "an id of many digits": ({"target": f"id:{'9' * 30}"}, ["isn't one token"]),
    "a rival that is none": ({"target": " earth", "against": "earthly"}, ["--against 'earthly' isn't one token"]),
    "the same by text and id": (
        {"target": " heavens", "against": f"id:{HEAVENS}"},
        ["--target and --against are the same token, ␣heavens"],
    ),
}


@pytest.mark.parametrize("name", TOKENS)
def test_what_is_no_token(name: str, asking: Callable[..., Job]) -> None:
    question, words = TOKENS[name]
    refused(asking(**question), UsageError, *words)


def test_a_space_too_many(asking: Callable[..., Job]) -> None:
    vocabulary = BACKEND.get_vocab()
    words = (text for text in sorted(vocabulary) if text.isalpha() and text.isascii() and len(text) > 3)
    word = next(text for text in words if f"Ġ{text}" not in vocabulary and len(BACKEND.encode(text).ids) == 1)
    refused(asking(target=f" {word}"), UsageError, f"--target ' {word}' isn't one token", f"give --target {word}.")


def test_a_counterfactual_of_as_many_tokens(asking: Callable[..., Job]) -> None:
    other = "In the beginning, Moses created the"
    assert len(ids(other)) == len(ids(PROMPT))
    job = asking(counterfactual=other)
    [one] = questions.asked(job)
    assert (one.counterfactual, one.counterfactual_ids) == (other, ids(other))
    assert questions.baseline(job, [one]) == "patch"
    assert questions.baseline(asking(), questions.asked(asking())) == "zero"
    assert questions.baseline(asking(baseline="resample"), [one]) == "resample"


def test_a_counterfactual_of_another_length_is_shown_beside_the_prompt(asking: Callable[..., Job]) -> None:
    other = "In the beginning, God created all the"
    job = asking(counterfactual=other)
    refused(job, InputError, f"has {len(ids(other))} tokens, prompt 0 has {len(ids(PROMPT))}", "side by side")
    lines = job.report.lines
    differ = next(i for i, (a, b) in enumerate(zip(ids(PROMPT), ids(other), strict=False)) if a != b)
    shown = [[part.strip() for part in line.replace("|", ":").split(":")] for line in lines[1:]]
    assert [int(row[0]) for row in shown] == list(range(differ - 3, len(ids(other))))
    marked = [line for line in lines if "←" in line]
    assert marked == [f"{differ:>4}: ␣the{' ' * (len('␣created') - 4)} | ␣all  ← the first that differs"]
    assert shown[-1][1:] == ["–", "␣the"]
    assert max(map(len, lines)) <= 80


def test_long_prompts_side_by_side_fit_a_screen(asking: Callable[..., Job]) -> None:
    """Where one is the beginning of the other, too: what differs first is that there is no more."""
    long = " ".join(["light"] * 20)
    job = asking([f"{long} and the void of the deep"], counterfactual=long)
    refused(job, InputError, "counterfactual has")
    assert len(job.report.lines) <= 42
    [marked] = [line for line in job.report.lines if "←" in line]
    assert " | –  ←" in marked


COUNTERFACTUALS = {
    "the prompt itself": (PROMPT, ["counterfactual is prompt 0 itself"]),
    "too short": (END, ["The counterfactual is not long enough"]),
    "beyond the context": ("light " * 40, ["The counterfactual has", f"reads {tiny.N_CTX}"]),
}


@pytest.mark.parametrize("name", COUNTERFACTUALS)
def test_what_is_no_counterfactual(name: str, asking: Callable[..., Job]) -> None:
    text, words = COUNTERFACTUALS[name]
    refused(asking(counterfactual=text), InputError, *words)


def test_a_file_asks_line_by_line(asking: Callable[..., Job], file: Callable[..., str]) -> None:
    """Its prompts needn't be the run's; null is as good as nothing, and a whole number is an id."""
    path = file(
        {"prompt": PROMPT, "target": " heavens", "against": " earth", "counterfactual": None},
        "",
        {"prompt": "the light\u2028of the", "target": EARTH, "against": " heavens"},
    )
    job = asking(prompts=path)
    first, second = questions.asked(job)
    assert (first.ids, first.target, first.against) == (ids(PROMPT), HEAVENS, EARTH)
    assert (second.ids, second.target, second.against) == (ids("the light\u2028of the"), EARTH, HEAVENS)
    assert questions.baseline(job, [first, second]) == "zero"


def test_a_files_counterfactuals_count_where_they_replace(asking: Callable[..., Job], file: Callable[..., str]) -> None:
    path = file({"prompt": "the light", "counterfactual": "the earth"})
    [one] = questions.asked(asking(prompts=path))
    assert one.counterfactual_ids == ids("the earth")
    [one] = questions.asked(asking(prompts=path, baseline="mean"))
    assert one.counterfactual_ids is None


FILES: dict[str, tuple[list[Any], list[str]]] = {
    "no JSON": (['{"prompt": "a'], ["line 1: it is not a JSON object"]),
    "a list": ([{"prompt": PROMPT}, "[1]"], ["line 2: it is not a JSON object"]),
    "nested without end": (["[" * 100_000], ["line 1: it is not a JSON object"]),
    "nothing": (["", "  "], ["has no question in it"]),
    "an unknown key": ([{"promt": "a"}], ["line 1: unknown key `promt`", "Did you mean `prompt`?"]),
    "no prompt": (["", {"target": " the"}], ["line 2: it has no `prompt`"]),
    "a blank prompt": ([{"prompt": " "}], ["line 1: `prompt` is blank"]),
    "a number for a prompt": ([{"prompt": 5}], ["`prompt` should be a text."]),
    "a truth for a token": ([{"prompt": PROMPT, "target": True}], ["`target` should be a text or a whole number"]),
    "a fraction for a token": ([{"prompt": PROMPT, "target": 1.5}], ["`target` should be a text or a whole number"]),
    "an empty token": ([{"prompt": PROMPT, "target": ""}], ["`target` is empty"]),
    "half a character": (['{"prompt": "\\ud800"}'], ["line 1: `prompt` holds half a character"]),
    "a rival alone": ([{"prompt": PROMPT, "against": " earth"}], ["line 1: `against` needs a `target`"]),
    "the same twice": (
        [{"prompt": PROMPT, "target": " earth", "against": EARTH}],
        ["line 1: `target` and `against` are the same token, ␣earth"],
    ),
    "no token": (
        [{"prompt": PROMPT}, {"prompt": PROMPT, "target": "heavens"}],
        ["line 2: `target` 'heavens' isn't one token: it is he|aven|s", 'give " heavens"'],
    ),
    "an id below 0": ([{"prompt": PROMPT, "target": -1}], ["line 1: `target`: there is no token -1"]),
    "one token": ([{"prompt": END}], ["line 1: The prompt is not long enough"]),
    "beyond the context": ([{"prompt": "light " * 40}], ["line 1: The prompt has", f"reads {tiny.N_CTX}"]),
    "two kinds of answers": (
        [{"prompt": PROMPT, "target": " earth", "against": " heavens"}, "", {"prompt": PROMPT}],
        ["line 3: it has no `against`, but line 1 has", "can't be averaged"],
    ),
    "some counterfactuals": (
        [{"prompt": PROMPT}, {"prompt": PROMPT, "counterfactual": "a"}],
        ["line 1: it has no `counterfactual`, but line 2 has"],
    ),
    "a counterfactual of another length": (
        [{"prompt": "the light", "counterfactual": "the light of"}],
        ["line 1: The counterfactual has 4 tokens, the prompt has 3", "leave `counterfactual` out of every line"],
    ),
    "a counterfactual that is the prompt": (
        [{"prompt": "the light", "counterfactual": "the light"}],
        ["line 1: The counterfactual is the prompt itself"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_will_not_do_names_the_line(
    name: str, asking: Callable[..., Job], file: Callable[..., str]
) -> None:
    rows, words = FILES[name]
    path = file(*rows)
    assert refused(asking(prompts=path), InputError, *words).message.startswith(path)


@pytest.mark.parametrize("baseline", ["patch", "auto"])
def test_a_patch_of_a_file_needs_counterfactuals(
    baseline: str, asking: Callable[..., Job], file: Callable[..., str]
) -> None:
    job = asking(prompts=file({"prompt": PROMPT}), baseline=baseline)
    if baseline == "auto":
        assert len(questions.asked(job)) == 1
    else:
        refused(job, InputError, "no `counterfactual`", "--baseline")


def test_a_file_that_cannot_be_read(asking: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}')
    for name, words in {
        "none.jsonl": ["can't be read: No such file"],
        "": ["it is a folder"],
        "latin.jsonl": ["line 2: it is not UTF-8"],
        "-": ["No such file", ".jsonl"],
    }.items():
        refused(asking(prompts=str(tmp_path / name) if name != "-" else "-"), InputError, *words)


def test_a_run_that_is_not_on_prompts_names_both_ways(fetched: Job, tiny_text: Path) -> None:
    job = replace(fetched, settings=resolve(to_dict(fetched.settings), {"texts": {"file": str(tiny_text)}}))
    error = refused(job, InputError, "isn't on prompts", "--prompts FILE", "--prompt TEXT --attribute")
    assert error.exit_code == 3
    with pytest.raises(InputError, match="isn't on prompts"):
        questions.identity(job)


def test_questions_are_identified_by_what_they_ask(asking: Callable[..., Job], file: Callable[..., str]) -> None:
    """Not by how a file is laid out, nor where it lies."""
    found = [
        questions.identity(job)
        for job in (
            asking(),
            asking(target=" heavens"),
            asking(target=" heavens", against=" earth"),
            asking([PROMPT, "and the void"]),
            asking(counterfactual="In the beginning, Moses created the"),
        )
    ]
    assert len(set(found)) == len(found)
    assert all(len(one) == 64 for one in found)
    written = questions.identity(asking(prompts=file({"prompt": PROMPT, "target": " heavens"})))
    assert written == found[1]
    laid_out = file("", f'{{ "target": " heavens",  "prompt": "{PROMPT}" }}', "")
    assert questions.identity(asking(prompts=laid_out)) == written
    assert questions.identity(asking(prompts=file({"prompt": PROMPT, "target": " earth"}))) != written
