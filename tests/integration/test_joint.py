"""A whole circuit ablated over text, by a second route: plain transformers with torch hooks, and SAEs by hand."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from support.commands import tsv
from support.plain import NAMES, Place, PlainModel, PlainSae
from support.validated import validate, with_joint
from torch import Tensor

from circuitcli.cli.console import Terminal
from circuitcli.cli.evidence_joint import document_joint, show_joint
from circuitcli.core.evidence import joint as cores
from circuitcli.core.evidence.joint import Changes
from circuitcli.core.evidence.keeping import Instead
from circuitcli.core.sites import Site
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.inputs import JobInputs
from circuitcli.stages.joint import MOST, Replacing, zero
from circuitcli.stages.joint import joint as of_judge
from circuitcli.stages.judging import Judge
from circuitcli.stages.stage import Job

PLACES: list[Place] = [(0, "z"), (0, "resid_mid"), (1, "attn_out"), (1, "mlp_out"), (2, "resid_post")]
CIRCUIT = {place: [1 + i, 7, 20, 33] for i, place in enumerate(PLACES)}
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run of the tiny model on prompts, one of them with a special token inside."""
    prompts = ["the light of the earth was void", f"and the deep{END} was upon the waters", "the face", "day and night"]
    job = start(tmp_path_factory.mktemp("joint") / "run", {"texts": {"source": "prompt", "prompt": prompts}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job


@pytest.fixture(scope="module")
def inputs(cached: Job) -> JobInputs:
    return JobInputs(cached)


def joint(
    inputs: JobInputs, circuit: Mapping[Site, np.ndarray], instead: Replacing = zero, most: int = MOST
) -> dict[str, Any]:
    """The columns of joint.parquet, of the whole sample."""
    sequences = range(len(inputs.passes.sample.lengths))
    found = of_judge(Judge(inputs, "zero"), circuit, sequences, instead, most=most)
    assert found is not None
    text = inputs.job.subject.tokenizer.text
    return {**vars(found), "token": [text(token) for token in found.token_id.tolist()]}


def ablated(
    plain: PlainModel,
    saes: Mapping[Place, PlainSae],
    tokens: Tensor,
    counts: Tensor,
    circuit: Mapping[Place, list[int]],
    become: Mapping[Place, Tensor],
) -> tuple[Tensor, bool]:
    """Log-probabilities [t, v] without a circuit, and whether rounding may decide any of its features.

    Site by site in the model's order: what a dictionary encodes is read behind all changes before it.
    """
    edits: list[tuple[Place, Tensor]] = []
    doubtful = False

    for place in sorted(circuit, key=lambda place: (place[0], NAMES.index(place[1]))):
        x, sae = plain.run(tokens, *edits)[0][place], saes[place]
        delta = sum(sae.edit(x, j, float(become[place][j])) for j in circuit[place])
        edits.append((place, delta * counts.unsqueeze(1)))
        doubtful |= bool(sae.doubtful(x)[counts][:, circuit[place]].any())
    return plain.run(tokens, *edits)[1], doubtful


def means(job: Job) -> dict[Place, Tensor]:
    """Each feature's mean over the run's text."""
    statistics = JobInputs(job).statistics
    return {(s.layer, s.name): torch.as_tensor(table["mean_activation"]) for s, table in statistics.items()}


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_the_largest_changes_are_those_of_plain_transformers(
    baseline: str, cached: Job, inputs: JobInputs, plain_model: PlainModel, plain_saes: dict[Place, PlainSae]
) -> None:
    """At every position that counts; probabilities within 1e-5."""
    become = means(cached) if baseline == "mean" else {place: torch.zeros(40) for place in PLACES}
    instead = {Site(*place): Instead(features=become[place].float()) for place in PLACES}
    circuit = {Site(*place): np.array(features) for place, features in CIRCUIT.items()}
    found = joint(inputs, circuit, lambda seq, one: instead if baseline == "mean" else {})
    stored = load_file(cached.run.path("acts/tokens.safetensors"))
    at = {place: i for i, place in enumerate(zip(found["seq"].tolist(), found["pos"].tolist(), strict=True))}
    compared, counted = 0, set()
    for seq, (row, length) in enumerate(zip(stored["tokens"], stored["lengths"], strict=True)):
        tokens, counts = torch.as_tensor(row[:length]).long(), torch.as_tensor(~stored["special"][seq, :length])
        counts[0] = False
        counted |= {(seq, pos) for pos in np.flatnonzero(counts.numpy()).tolist()}
        before = plain_model.run(tokens)[1].exp()
        after, doubtful = ablated(plain_model, plain_saes, tokens, counts, CIRCUIT, become)
        if doubtful:
            continue
        change = (after.exp() - before).abs()
        for pos in np.flatnonzero(counts.numpy()).tolist():
            i = at[seq, pos]
            token = int(found["token_id"][i])
            assert float(change[pos, token]) == pytest.approx(float(change[pos].max()), abs=2e-6)
            assert found["base"][i] == pytest.approx(float(before[pos, token]), abs=1e-5)
            assert found["altered"][i] == pytest.approx(float(after[pos, token].exp()), abs=1e-5)
            assert found["next_id"][i] == (int(tokens[pos + 1]) if pos + 1 < length else -1)
            compared += 1
    assert at.keys() == counted
    assert compared >= len(counted) / 2
    size = np.abs(found["altered"] - found["base"])
    assert (np.diff(size) <= 0).all()
    assert size[0] > 1e-3, "the circuit does something"


def test_of_many_the_largest_are_kept_and_an_empty_circuit_changes_nothing(cached: Job, inputs: JobInputs) -> None:
    circuit = {Site(*place): np.array(features) for place, features in CIRCUIT.items()}
    everything, few = (joint(inputs, circuit, most=most) for most in (100, 3))
    assert len(few["seq"]) == 3 < len(everything["seq"])
    assert all(list(few[name]) == list(everything[name])[:3] for name in everything)
    nothing = joint(inputs, {})
    assert np.array_equal(nothing["base"], nothing["altered"])


def test_positions_a_few_at_a_time_are_the_same(
    cached: Job, inputs: JobInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = {Site(1, "attn_out"): np.array([3, 4])}
    whole = joint(inputs, circuit)
    monkeypatch.setattr(cores, "_VALUES", 4096)
    few = joint(inputs, circuit)
    for name in ("seq", "pos", "token_id"):
        assert list(few[name]) == list(whole[name])
    assert few["altered"] == pytest.approx(whole["altered"], abs=1e-6)


def made(size: list[float]) -> Changes:
    """Changes from 0.5 by so much, at positions of their own."""
    change, each = np.asarray(size, np.float64), np.arange(len(size))
    return Changes(each // 5, each % 5, each, each, np.full(len(size), 0.5), 0.5 + change)


@given(
    st.lists(st.sampled_from([-0.4, -0.2, 0.0, 0.1, 0.2, 0.4]), min_size=1, max_size=60), st.integers(1, 12), st.data()
)
def test_a_little_at_a_time_is_all_at_once(size: list[float], most: int, data: st.DataObject) -> None:
    """What is held is never more than what is kept, however much there is."""
    whole = made(size)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(size) - 1)), max_size=8)))
    held = None
    for start, stop in zip([0, *cuts], [*cuts, len(size)], strict=True):
        part = Changes(*(column[start:stop] for column in vars(whole).values()))
        held = (part if held is None else held.and_(part)).largest(most)
        assert len(held.seq) <= most
    assert held is not None
    best = sorted(range(len(size)), key=lambda i: (-abs(whole.altered[i] - 0.5), i))[:most]
    assert held.token_id.tolist() == best


@pytest.fixture
def shown(cached: Job, inputs: JobInputs) -> Job:
    """A run whose validation has such a table."""
    job = validate(cached)
    circuit = {Site(*place): np.array(features) for place, features in CIRCUIT.items()}
    return with_joint(job, joint(inputs, circuit))


def test_what_is_shown_and_read(shown: Job, capsys: pytest.CaptureFixture[str]) -> None:
    results = shown.results()
    table = results.validation.joint()
    show_joint(results, Terminal(as_json=False, quiet=False))
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("# The next tokens that change most")
    header, *rows = tsv("\n".join([title, *lines]))
    assert header == ["context", "next token", "p", "ablated", "Δp", "really follows"]
    assert len(rows) == min(20, len(table))
    for row, told in zip(rows, table.itertuples(), strict=False):
        assert "«" in row[0]
        assert [float(cell) for cell in row[2:5]] == pytest.approx([told.base, told.altered, told.change], abs=1e-4)
        assert row[5] == ("yes" if told.follows else "no")
    tokenizer = shown.subject.tokenizer
    assert [tokenizer.text(i) for i in table["token_id"]] == list(table["token"])
    tokens = load_file(shown.run.path("acts/tokens.safetensors"))["tokens"]
    for told in table.itertuples():
        whole = "".join(tokenizer.pieces(tokens[told.seq, : told.pos + 1].tolist()))
        assert whole.endswith(told.text)
        assert told.follows == (tokens[told.seq, told.pos + 1 : told.pos + 2].tolist() == [told.token_id])
    told_in_json: list[dict[str, Any]] = json.loads(json.dumps(document_joint(results)))
    assert [one["altered"] for one in told_in_json] == list(table["altered"])


def test_a_validation_without_one_shows_none(cached: Job, capsys: pytest.CaptureFixture[str]) -> None:
    results = validate(cached).results()
    show_joint(results, Terminal(as_json=False, quiet=False))
    assert capsys.readouterr().out == ""
    assert document_joint(results) == []
    assert len(results.validation.joint()) == 0
