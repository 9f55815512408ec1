"""Known models, as files: they compute what their programs say on any prompt, and their parts are what builders say."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from circuitcli.core.sites import Site
from circuitcli.known import KNOWN, Known
from circuitcli.known.files import write
from circuitcli.known.program import Attention, Block, Program, Unit
from circuitcli.saes._locate import in_folder
from circuitcli.saes._read import sae

BY_NAME = {known.name: known for known in KNOWN}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("known")
    for known in KNOWN:
        write(known, root / known.name)
    return {known.name: root / known.name for known in KNOWN}


def load(folder: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32)


def says(folders: dict[str, Path], name: str, prompts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Logits [t, v] at every word of each prompt, by plain transformers."""
    model = load(folders[name])
    words = BY_NAME[name].program.vocabulary
    found = []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([[0, *(words.index(word) for word in prompt)]])
            found.append(model(ids).logits[0, 1:].double().numpy())
    return found


def drawn(name: str, words: str, count: int = 30) -> list[list[str]]:
    draw = random.Random(name)
    longest = BY_NAME[name].program.positions - 1
    return [draw.choices(words, k=draw.randint(1, longest)) for _ in range(count)]


def one_hot(name: str, word: str | None) -> np.ndarray:
    words = BY_NAME[name].program.vocabulary
    return np.asarray([float(one == word) for one in words])


def test_copying_says_the_word_before(folders: dict[str, Path]) -> None:
    prompts = drawn("copying", "abcd")
    for prompt, logits in zip(prompts, says(folders, "copying", prompts), strict=True):
        for p in range(len(prompt)):
            assert logits[p] == pytest.approx(one_hot("copying", prompt[p - 1] if p else None), abs=1e-5)


def test_induction_says_what_followed_the_word_before(folders: dict[str, Path]) -> None:
    """Of several places where the word was, the mean of what followed each."""
    prompts = drawn("induction", "abcd")
    for prompt, logits in zip(prompts, says(folders, "induction", prompts), strict=True):
        for p, word in enumerate(prompt):
            followed = [prompt[k] for k in range(1, p + 1) if prompt[k - 1] == word]
            expected = [one_hot("induction", one) for one in followed]
            assert logits[p] == pytest.approx(np.mean(expected, 0) if expected else 0 * logits[p], abs=1e-5)


def test_share_is_the_share_so_far(folders: dict[str, Path]) -> None:
    prompts = drawn("share", "xa")
    for prompt, logits in zip(prompts, says(folders, "share", prompts), strict=True):
        for p in range(len(prompt)):
            share = prompt[: p + 1].count("x") / (p + 1)
            assert logits[p] == pytest.approx(share * one_hot("share", "yes"), abs=1e-5)


def test_reversing_says_what_came_before_the_separator_backwards(folders: dict[str, Path]) -> None:
    """Whatever follows the separator."""
    prompts = [
        [*one[:before], "|", *one[before:]][:7] for before in (1, 2, 3) for one in drawn("reversing", "abcd", 12)
    ]
    prompts = [one for one in prompts if "|" in one[1:]]
    assert len(prompts) > 15
    for prompt, logits in zip(prompts, says(folders, "reversing", prompts), strict=True):
        at = prompt.index("|")
        for p in range(len(prompt)):
            behind = p - at
            word = prompt[at - 1 - behind] if 0 <= behind < at else None
            assert logits[p] == pytest.approx(one_hot("reversing", word), abs=1e-5)


def test_cancelling_has_slope_zero_and_a_value(folders: dict[str, Path]) -> None:
    prompts = drawn("cancelling", "xa")
    for prompt, logits in zip(prompts, says(folders, "cancelling", prompts), strict=True):
        for word, row in zip(prompt, logits, strict=True):
            assert row == pytest.approx(0.5 * (word == "x") * one_hot("cancelling", "yes"), abs=1e-5)
    model = load(folders["cancelling"])
    stream = model.transformer.wte.weight[1:2].unsqueeze(0) + model.transformer.wpe.weight[1]
    x = stream.detach().requires_grad_()
    middle = x + model.transformer.h[0].attn(model.transformer.h[0].ln_1(x))[0]
    out = middle + model.transformer.h[0].mlp(model.transformer.h[0].ln_2(middle))
    said = model.lm_head(model.transformer.ln_f(out))[0, 0, BY_NAME["cancelling"].program.vocabulary.index("yes")]
    (slope,) = torch.autograd.grad(said, x)
    feature = torch.as_tensor(BY_NAME["cancelling"].program.written[1], dtype=torch.float32)
    assert said.item() == pytest.approx(0.5, abs=1e-5)
    assert (slope[0, 0] @ feature).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_norm_takes_the_mean_and_does_nothing_else(folders: dict[str, Path], known: Known) -> None:
    norm = load(folders[known.name]).transformer.ln_f
    x = torch.randn(50, known.program.d_model, generator=torch.Generator().manual_seed(0))
    assert (norm(x) - (x - x.mean(-1, keepdim=True))).abs().max() < 2e-7 * x.abs().max()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_dictionaries_have_the_stream_without_an_error(folders: dict[str, Path], known: Known) -> None:
    """And their features are the directions: a word's at its position is 1."""
    model, program = load(folders[known.name]), known.program
    tokenizer = AutoTokenizer.from_pretrained(folders[known.name] / "model")
    ids = tokenizer(known.prompt, return_tensors="pt").input_ids
    assert [program.vocabulary[i] for i in ids[0]] == known.prompt.split()
    ids = torch.cat([torch.zeros(1, 1, dtype=torch.long), ids], 1)
    with torch.no_grad():
        streams = model(
            ids, output_hidden_states=True
        ).hidden_states  # the last one is behind ln_f, which changes nothing
    found = {one.site: sae(one.files({})) for one in in_folder(folders[known.name] / "saes")}
    assert {str(site) for site in found} == set(known.sites)
    for site, dictionary in found.items():
        if site.name == "resid_mid":
            continue
        x = streams[site.layer + (site.name == "resid_post")][0]
        a = dictionary.encode(x)
        assert (dictionary.decode(a, x) - x).abs().max() < 1e-5
        assert ((a == 0) | (a >= 0.01)).all()
        if site == Site(0, "resid_pre"):
            expected = torch.zeros_like(a)
            for pos, word in enumerate(ids[0].tolist()):
                expected[pos, word] = expected[pos, program.at(f"pos:{pos}")] = 1
            assert torch.allclose(a, expected, atol=1e-6)


def test_a_program_writes_directions_whose_sum_is_zero_and_reads_them_apart() -> None:
    program = Program(("a",), 2, ("v", "w"), (), {"a": {"v": 2.0}})
    assert program.features == ("tok:<s>", "tok:a", "pos:0", "pos:1", "v", "w")
    assert program.written.sum(1) == pytest.approx(0)
    assert np.array_equal(program.written[:, :-1], np.eye(6))
    assert np.array_equal(program.unembedding()[1] @ program.written.T, [0, 0, 0, 0, 2, 0])
    mlp = program.mlp((Unit({"v": 1.0, "tok:a": 3.0}, -0.5, {"w": 2.0, "v": -1.0}),))
    x = program.written[1] + 0.25 * program.written[4]
    assert np.maximum(x @ mlp["read"] + mlp["bias"], 0) @ mlp["write"] == pytest.approx(
        2.75 * (2 * program.written[5] - program.written[4])
    )
    head = program.attention(Attention((("v", "w"), (None, "tok:a")), (("v", "w"),), bos=-1.0))
    at = dict(zip(program.features, program.written, strict=True))
    scores = (np.stack([at["v"], at["w"]]) @ head["query"] + head["bias"]) @ (
        np.stack([at["w"], at["tok:a"], at["tok:<s>"], at["v"]]) @ head["key"]
    ).T
    assert scores == pytest.approx(np.asarray([[60, 60, -60, 0], [0, 60, -60, 0]]))
    assert at["v"] @ head["value"] @ head["out"] == pytest.approx(at["w"])


def test_an_answer_is_read_from_its_lines() -> None:
    program = Program(("a",), 2, ("v",), (Block(),), {})
    known = Known(
        "n", "s", program, ("0.resid_pre",), "a", "a", "<s>", 0.0,
        "\n  token@1  -1/4\n 0.resid_pre.tok:a@1 2 \n\n token@1 -> 0.resid_pre.v@1 1\n 0.resid_pre.v@1 -> target -1\n",
    )  # fmt: skip
    assert known.nodes == {"token@1": -0.25, "0.resid_pre.1@1": 2.0}
    assert known.edges == {("token@1", "0.resid_pre.4@1"): 1.0, ("0.resid_pre.4@1", "target"): -1.0}
    assert known.named(("0.resid_pre.4@1", "target")) == "0.resid_pre.v@1 → target"
    with pytest.raises(ValueError, match="tuple"):
        _ = replace(known, circuit="0.resid_pre.nothing@1 1").nodes
