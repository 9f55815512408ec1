"""`circuit validate` by a second route: plain transformers in float64 with torch hooks, and SAEs written out.

Every m in the table, f and completeness of the found circuit at each size, in all three variants; and MIB's areas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from support.plain import NAMES, Place, PlainModel, PlainSae
from tokenizers import Tokenizer
from torch import Tensor

from circuitcli import demo
from circuitcli.results.dictionaries import entries_of
from circuitcli.results.results import Results
from circuitcli.stages import cache_acts, fetch_saes, validate
from circuitcli.stages.stage import Job
from circuitcli.store import tables, validations

BACKEND = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
PROMPTS = [
    "the light of the earth was void", "and the deep was upon the waters", "day and night were called",
    "let there be light in the heaven", "and God said unto the earth", "the evening and the morning",
    "the face of the deep waters", "and the spirit of God moved",
]  # fmt: skip
TARGETS = (" heavens", " earth")
Key = tuple[int, str, str, int]  # example, errors, part, n
Kept = Mapping[Place, Tensor]


@pytest.fixture(scope="module")
def validated(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Dictionaries of three kinds, and what measuring finds on prompts with two tokens each."""
    folder = tmp_path_factory.mktemp("plain")
    asked = folder / "questions.jsonl"
    told = [{"prompt": prompt, "target": TARGETS[0], "against": TARGETS[1]} for prompt in PROMPTS]
    asked.write_text("\n".join(map(json.dumps, told)))
    settings = {"prompts": str(asked), "circuit": "none", "draws": 1, "nodes": 5, "sizes": [20], "candidates": 40}
    job = start(folder / "run", {"saes": {"sites": ["attn_out", "mlp_out", "resid_post"]}, "validate": settings})
    for stage in (fetch_saes, cache_acts, validate):
        stage.run(job)
    return job.results()


def decoded(sae: PlainSae, x: Tensor, features: Tensor) -> Tensor:
    """What a dictionary makes of features, in the frame of activations [t, d_in]."""
    said = features @ sae.weights["W_dec"] + sae.weights["b_dec"]
    if sae.config["normalize_activations"] != "layer_norm":
        return said
    return said * x.std(-1, keepdim=True, unbiased=True) + x.mean(-1, keepdim=True)


def m_of(
    model: PlainModel, saes: Mapping[Place, PlainSae], tokens: Tensor, kept: Kept | None, errors: str
) -> tuple[float, bool]:
    """logit(target) − logit(against) with a circuit alone; and whether rounding may decide a feature of it."""
    edits: list[tuple[Place, Tensor]] = []
    doubtful = False

    for place in [] if kept is None else sorted(kept, key=lambda place: (place[0], NAMES.index(place[1]))):
        x, sae = model.run(tokens, *edits)[0][place], saes[place]
        a = sae.encode(x)
        keeps_error = errors == "kept" or (errors == "sites" and bool(kept[place].any()))
        before = decoded(sae, x, a) if keeps_error else x
        delta = decoded(sae, x, torch.where(kept[place], a, 0.0)) - before
        delta[0] = 0
        edits.append((place, delta))
        doubtful |= bool(sae.doubtful(x)[1:].any())
    said = model.run(tokens, *edits)[1][-1]
    first, second = (BACKEND.encode(token, add_special_tokens=False).ids[0] for token in TARGETS)
    return float(said[first] - said[second]), doubtful  # of log p as of logits


@pytest.fixture(scope="module")
def brute(
    validated: Results, plain_model: PlainModel, plain_saes: dict[Place, PlainSae]
) -> dict[Key, tuple[float, bool]]:
    """Every circuit of what was found, on every example that it was measured on."""
    places = [(entry.at.layer, entry.at.name) for entry in entries_of(validated.run)]
    here = {place: plain_saes[place] for place in places}
    nodes = pd.DataFrame(tables.read(validated.run.path(validations.NODES))).query("curve == 'exact'")
    order = list(zip(zip(nodes["layer"], nodes["site"], strict=True), nodes["feature"], strict=True))
    table = pd.DataFrame(tables.read(validated.run.path(validations.MEASURED)))
    wanted = table[table["curve"].isin(["", "exact"]) & table["part"].isin(["circuit", "complement", "nothing"])]
    found: dict[Key, tuple[float, bool]] = {}
    for example in range(len(PROMPTS)):
        told = validations.examples(validated.run)[example]
        tokens = torch.tensor([0, *BACKEND.encode(told.name, add_special_tokens=False).ids])
        found[example, "kept", "everything", 0] = m_of(plain_model, here, tokens, None, "kept")
        for row in wanted[wanted["example"] == example].itertuples():
            inside = {place: torch.zeros(len(sae.weights["W_dec"])) > 0 for place, sae in here.items()}
            for place, feature in order[: row.n] if row.part != "nothing" else []:
                inside[place][feature] = True
            kept = {place: ~one for place, one in inside.items()} if row.part == "complement" else inside
            found[example, row.errors, row.part, row.n] = m_of(plain_model, here, tokens, kept, row.errors)
    return found


def test_m_of_every_circuit(validated: Results, brute: dict[Key, tuple[float, bool]]):
    table = pd.DataFrame(tables.read(validated.run.path(validations.MEASURED)))
    table = table[table["curve"].isin(["", "exact"])].set_index(["example", "errors", "part", "n"])
    compared = 0
    for key, (m, doubtful) in brute.items():
        if not doubtful:
            assert float(table.loc[key, "m"]) == pytest.approx(m, abs=1e-5), key
            compared += 1
    assert compared > 0.8 * len(brute)


def test_faithfulness_and_completeness(validated: Results, brute: dict[Key, tuple[float, bool]]):
    """Sparse feature circuits' formula on the evaluation half: (mean m(C) − mean m(∅)) / (mean m(M) − mean m(∅))."""
    halves = [one.half for one in validations.examples(validated.run)]
    evaluation = [i for i, half in enumerate(halves) if half == "evaluation"]
    curves = validated.validation.curves()
    curves = curves[(curves["half"] == "evaluation") & (curves["curve"] == "exact")]
    compared = 0
    for row in curves.itertuples():
        for part, said in (("circuit", row.faithfulness), ("complement", row.completeness)):
            keys = [(i, row.errors, part, row.n) for i in evaluation]
            nothing = [(i, row.errors, "nothing", 0) for i in evaluation]
            if any(brute[key][1] for key in (*keys, *nothing)):
                continue
            m, least = (np.mean([brute[key][0] for key in some]) for some in (keys, nothing))
            most = np.mean([brute[i, "kept", "everything", 0][0] for i in evaluation])
            assert said == pytest.approx((m - least) / (most - least), rel=1e-5, abs=1e-5), (row.errors, part, row.n)
            compared += 1
    assert compared >= len(curves)
