"""Prompts are read whole, and special tokens are no text: by plain transformers and SAEs by hand (see `brute`)."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import tiny
from support.brute import Brute, rows
from support.commands import Result, contents
from tokenizers import Tokenizer

from circuitcli import demo
from circuitcli.stages.stage import Job

SITES = ["z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
WITHIN = 1e-4  # of the row's largest value
END = "<|endoftext|>"
LONG = "the light of the earth was upon the waters and the spirit of the deep was upon the face of the day"
MARKED = f"the light of the earth{END} was upon{END}{END} the waters and the deep night{END}"
ENCODER = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))


def ids(text: str) -> list[int]:
    """BOS and a text; special tokens that are written out in it are such."""
    return [0, *ENCODER.encode(text, add_special_tokens=False).ids]


@dataclass(frozen=True, eq=False)
class Case:
    """A finished run on one prompt, and its truth."""

    job: Job
    truth: Brute
    positions: str
    special: list[int]


@pytest.fixture(scope="module", params=[(text, p) for text in (LONG, MARKED) for p in ("top", "onward", "all")])
def case(request: Any, measure: Any, plain_model: Any, plain_saes: Any) -> Case:
    text, positions = request.param
    job = measure(
        {
            "saes": {"sites": SITES},
            "texts": {"file": "", "prompt": [text], "max_tokens": 12},
            "ablate": {"positions": positions, "intervention": "mean"},
        }
    )
    special = [place for place, token in enumerate(ids(text)) if token == 0 and place]
    return Case(job, Brute(job.run.root, plain_model, plain_saes, SITES, 1, {0: special}), positions, special)


def test_the_prompt_is_one_sequence(case: Case):
    stored = load_file(case.job.run.path("acts/tokens.safetensors"))
    [sequence] = case.truth.sequences
    assert sequence.tolist() == ids(case.job.settings.texts.prompt[0])
    assert 15 <= len(sequence) <= tiny.N_CTX
    assert len(sequence) > case.job.settings.texts.max_tokens
    assert ("special" in stored) == bool(case.special)
    assert case.special in ([], [6, 9, 10, 17])


def test_activations_and_statistics_are_those_of_the_whole(case: Case):
    for row in rows(case.job.run.root, "acts/features.parquet"):
        place, feature = (row["layer"], row["site"]), row["feature"]
        a = case.truth.counted_latents(place)[:, feature]
        if not case.truth.doubtful(place, 0)[:, feature].any():
            assert row["density"] == pytest.approx(float((a > 0).double().mean()), rel=1e-6)
            assert row["max_activation"] == pytest.approx(float(a.max()), rel=1e-3, abs=1e-5)
            assert row["mean_activation"] == pytest.approx(float(a.mean()), rel=1e-3, abs=1e-5)
    found = rows(case.job.run.root, "acts/contexts.parquet")
    assert not {row["pos"] for row in found} & {0, *case.special}
    assert max(row["pos"] for row in found) > case.job.settings.texts.max_tokens


def test_every_ablation_is_that_of_the_whole(case: Case):
    """KL, changes of latents, and nothing stored that isn't there by the second route."""
    stored = defaultdict(dict)
    for row in rows(case.job.run.root, "ablations/effects-*.parquet"):
        up = (row["up_layer"], row["up_site"]), row["up_feature"], row["pos"]
        down = (row["down_layer"], row["down_site"]), row["down_pos"]
        stored[up, down][row["down_feature"]] = (row["clean"], row["ablated"])
    horizon = None if case.positions == "onward" else 0
    compared, largest = 0, 0.0
    for row in rows(case.job.run.root, "ablations/contexts-*.parquet"):
        place, feature, pos = (row["layer"], row["site"]), row["feature"], row["pos"]
        assert row["seq"] == 0
        edited = slice(1, None) if pos < 0 else pos
        if case.truth.doubtful(place, 0)[edited, ..., feature].any():
            continue
        mean = float(case.truth.counted_latents(place)[:, feature].mean())
        outcome = case.truth.ablate(place, feature, 0, pos, mean, horizon)
        assert row["kl"] == pytest.approx(outcome.kl, rel=1e-3, abs=2e-6)
        largest = max(largest, outcome.kl)
        read = {down for up, down in stored if up == (place, feature, pos)}
        assert read <= set(outcome.reads)
        for down, latents in outcome.reads.items():
            ours = stored[(place, feature, pos), down]
            change = (latents.ablated - latents.clean).abs()
            for latent in range(len(change)):
                if not latents.doubtful[latent] and (latent in ours or change[latent] > 1e-4):
                    expected = (float(latents.clean[latent]), float(latents.ablated[latent]))
                    assert ours[latent] == pytest.approx(expected, rel=0, abs=WITHIN * latents.largest)
                    compared += 1
    assert compared > 50
    assert largest > 1e-3


def prompted(circuit: Any, run: Path, *prompts: str, more: tuple[str, ...] = ()) -> Result:
    typed = [part for text in prompts for part in ("--prompt", text)]
    return circuit("cache-acts", "--run", run, *typed, "--force", *more)


def test_a_prompt_may_fill_the_models_context_and_no_more(circuit: Any, run: Path):
    words = "light " * 40
    fits = ENCODER.decode(ENCODER.encode(words).ids[: tiny.N_CTX - 1])
    before = contents(run)
    longer = ENCODER.decode(ENCODER.encode(words).ids[: tiny.N_CTX])
    prompted(circuit, run, "the light", longer).refused(2, "Prompt 1 has 32 tokens and BOS", "reads 32", "--text")
    assert contents(run) == before
    without = ("--prepend-bos", "false")
    prompted(circuit, run, longer + " light", more=without).refused(2, "Prompt 0 has 33 tokens:", "reads 32")
    assert prompted(circuit, run, fits).code == 0
    assert load_file(run / "acts/tokens.safetensors")["lengths"].tolist() == [32]
    assert prompted(circuit, run, longer, more=without).code == 0
    assert load_file(run / "acts/tokens.safetensors")["lengths"].tolist() == [32]


def test_how_long_texts_may_be_says_nothing_of_prompts(circuit: Any, run: Path):
    assert prompted(circuit, run, LONG, more=("--max-tokens", "100")).code == 0  # more than the model reads


def test_estimates_and_positions_follow(circuit: Any, profile: Path, tmp_path: Path):
    text = tmp_path / "profile.toml"
    lines = [line for line in profile.read_text().splitlines() if not line.startswith("file = ")]
    text.write_text("\n".join(lines))
    args = ["run-all", "--profile", text, "--run", tmp_path / "new", "--prompt", LONG, "--json"]
    expected = circuit(*args, "--dry-run").document["cache_acts"]
    assert (expected["sequences"], expected["tokens"]) == (1, len(ids(LONG)))
    assert circuit(*args).code == 0
    [prompt] = circuit("effects", "--run", tmp_path / "new", "--by-position", "--json").document["prompts"]
    assert "".join(position["token"] for position in prompt["positions"]) == END + LONG


def test_of_more_prompts_than_the_sample_a_choice_is_read_and_told(circuit: Any, run: Path):
    prompts = [f"{LONG[: 8 + 5 * i]}" for i in range(5)]
    done = prompted(circuit, run, *prompts, more=("--num-sequences", "3"))
    assert "3 of 5 prompts" in done.err
    assert "--num-sequences 5" in done.err
    assert len(load_file(run / "acts/tokens.safetensors")["lengths"]) == 3


def test_a_special_token_in_a_prompt_is_told_once(circuit: Any, run: Path):
    done = prompted(circuit, run, MARKED, LONG)
    assert done.err.count("4 special tokens (<|endoftext|>) in the prompts") == 1
    assert "special" not in prompted(circuit, run, LONG).err
    before = contents(run)
    for short in (END, f"{END}{END}"):
        prompted(circuit, run, LONG, short).refused(3, "Prompt 1", "long enough")
    assert contents(run) == before


def test_bos_that_is_typed_is_not_put_there_twice(circuit: Any, run: Path):
    def sequence(text: str, *more: str) -> list[int]:
        assert prompted(circuit, run, text, more=more).code == 0
        return load_file(run / "acts/tokens.safetensors")["tokens"][0].tolist()

    assert sequence(f"{END}the light") == sequence("the light") == ids("the light")
    assert sequence(f"{END}the light", "--prepend-bos", "false") == ids("the light")
    assert "special" not in load_file(run / "acts/tokens.safetensors")


TEXTS = [f"{END}the light of the earth{END}was upon{END}{END}  {END}the deep", "and the night", f"the face{END}"]
PARTS = ["the light of the earth", "was upon", "the deep", "and the night", "the face"]


@pytest.mark.parametrize("sequences", ["3", "12"])
def test_a_special_token_in_a_text_ends_a_document(sequences: str, circuit: Any, run: Path, tmp_path: Path):
    def tokens(name: str, texts: list[str]) -> tuple[bytes, str]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        done = circuit("cache-acts", "--run", run, "--text", path, "--num-sequences", sequences, "--force")
        assert done.code == 0, done.err
        return (run / "acts/tokens.safetensors").read_bytes(), done.err

    (whole, said), (parts, nothing) = tokens("whole", TEXTS), tokens("parts", PARTS)
    assert whole == parts  # the very same sequences
    stored = load_file(run / "acts/tokens.safetensors")
    read = [row[:length].tolist() for row, length in zip(stored["tokens"], stored["lengths"], strict=True)]
    assert len(read) == min(int(sequences), len(PARTS))
    assert all(sequence in list(map(ids, PARTS)) for sequence in read)
    assert said.count("6 special tokens (<|endoftext|>) in the text: documents end there") == 1
    assert "special" not in nothing
