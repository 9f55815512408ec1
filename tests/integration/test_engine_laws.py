"""Laws 3 and 4 over everything that the engine claims: families, sites, dictionaries, positions, lengths and batches.

The plain path runs whole sequences by hooks, one ablation at a time (`core.reference`), and is itself compared with
plain transformers in test_architectures.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import engine
from support.families import CONFIGS, FAMILIES, VOCAB, save_checkpoint
from support.random_saes import KINDS, random_sae, random_transcoder
from support.tiny import load_model

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.reference import ablate_one
from circuitcli.core.sites import SITES, Site

WITHIN = 1e-4  # of the row's largest value, and of a border where rounding may decide
# Other shapes than the checkpoints of test_architectures.py have, by what each family calls them.
OTHER: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_embd": 24, "n_head": 2},
    "llama": {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8},
    "neox": {"num_hidden_layers": 2, "num_attention_heads": 2, "rotary_pct": 1.0},
    "gemma2": {"sliding_window": 2, "num_key_value_heads": 4},
    "smollm2": {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1},
}


@cache
def model_of(family: str, other: bool) -> Any:
    config = type(CONFIGS[family])(**{**CONFIGS[family].to_diff_dict(), **(OTHER[family] if other else {})})
    return load_model(save_checkpoint(family, Path(mkdtemp()), config=config))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    family, other = draw(st.sampled_from(FAMILIES)), draw(st.booleans())
    shape = model_of(family, other).shape
    names = [name for name in SITES if not (shape.parallel and name == "resid_mid")]
    everywhere = [Site(layer, name) for layer in range(shape.n_layers) for name in names]
    coder = draw(st.sampled_from(["sae", "sae", "transcoder", "across layers"]))
    site = draw(st.sampled_from([s for s in everywhere[:-1] if coder == "sae" or s.name in ("resid_mid", "mlp_in")]))
    first = site if coder == "sae" else Site(site.layer, "mlp_out")  # that is written
    behind = [s for s in everywhere if s.order > first.order]
    if shape.parallel and site.name in ("z", "attn_out"):  # attention isn't upstream of its block's MLP
        behind = [s for s in behind if s not in (Site(site.layer, "mlp_in"), Site(site.layer, "mlp_out"))]
    return {
        "family": family,
        "other": other,
        "coder": coder,
        "site": site,
        "downstream": sorted(draw(st.sets(st.sampled_from(behind), min_size=1, max_size=3)), key=lambda s: s.order),
        "kind": draw(st.sampled_from(KINDS)),
        "norm": draw(st.sampled_from(["none", "layer_norm", "constant_norm"])),
        "d_sae": draw(st.sampled_from([1, 7, 40])),
        "lengths": draw(st.lists(st.integers(2, 9), min_size=1, max_size=4)),
        "positions": draw(st.sampled_from(["top", "onward", "all"])),
        "horizon": draw(st.sampled_from([1, 3, None])),
        "c": draw(st.sampled_from([0.0, 0.4])),
        "seed": draw(st.integers(0, 10_000)),
    }


def workload(case: dict[str, Any]) -> tuple[Any, dict[Site, Dictionary], Any, Any]:
    """Model, SAEs, text and rows of a case."""
    model = model_of(case["family"], case["other"])
    saes = {
        site: random_sae(model, site, case["kind"], Frame(case["norm"]), case["d_sae"], case["seed"] + i)
        for i, site in enumerate([case["site"], *case["downstream"]])
    }
    if case["coder"] != "sae":
        layers = range(case["site"].layer + 1, model.shape.n_layers) if case["coder"] == "across layers" else ()
        saes[case["site"]] = random_transcoder(
            model, case["site"], case["kind"], skip=True, d_sae=case["d_sae"], seed=case["seed"],
            further=[Site(layer, "mlp_out") for layer in layers],
        )  # fmt: skip
    draw = torch.Generator().manual_seed(case["seed"])
    lengths = torch.tensor(case["lengths"])
    tokens = torch.randint(1, VOCAB, (len(lengths), int(lengths.max())), generator=draw)
    n = 5
    seq = torch.randint(0, len(lengths), (n,), generator=draw)
    pos = 1 + (torch.rand(n, generator=draw) * (lengths[seq] - 1)).long()
    feature = torch.randint(0, case["d_sae"], (n,), generator=draw)
    whole = case["positions"] == "all"
    return model, saes, (tokens, lengths), engine.rows(feature, seq, -torch.ones_like(pos) if whole else pos, case["c"])


def horizon_of(case: dict[str, Any]) -> int | None:
    return case["horizon"] if case["positions"] == "onward" else 0


@given(case=cases())
@settings(max_examples=70)
def test_law_3_the_engine_is_the_plain_path(case: dict[str, Any]) -> None:
    model, saes, text, rows = workload(case)
    result = engine.ablated(model, saes, case["site"], rows, text, case["downstream"], horizon=horizon_of(case))
    tokens, lengths = text
    kl, logprob = torch.zeros(len(result.row)), torch.zeros(len(rows), VOCAB)
    for i, (row, read) in enumerate(zip(result.row.tolist(), result.pos.tolist(), strict=True)):
        feature, seq, pos = (int(part[row]) for part in (rows.feature, rows.seq, rows.pos))
        sequence = tokens[seq, : lengths[seq]]
        plain = ablate_one(model, saes, case["site"], feature, sequence, pos, case["c"], case["downstream"], read=read)
        for down, (clean, after) in plain.activations.items():
            found = result.changes[down]
            mine = found.row == i
            effect = torch.zeros_like(clean).index_put((found.feature[mine],), (found.ablated - found.clean)[mine])
            sure = ~saes[down].doubtful(plain.read[down], WITHIN * max(1.0, float(clean.max()))).any(0)
            bound = WITHIN * max(float(torch.maximum(clean, after).max()), 0.1)
            assert ((effect - (after - clean)).abs()[sure] <= bound).all(), (case, down)
        change = plain.logprob[1] - plain.logprob[0]
        logprob[row] += change
        kl[i] = -(plain.logprob[0].exp() * change).sum()
    assert result.kl is not None
    assert result.logprob_effect is not None
    largest = max(1.0, float(logprob.abs().max()))
    assert (result.logprob_effect - logprob).abs().max() <= WITHIN * largest * len(result.row)
    assert ((result.kl - kl).abs() <= WITHIN * kl.clamp(min=0.1)).all()


@given(case=cases())
@settings(max_examples=25)
def test_readings_are_where_they_should_be(case: dict[str, Any]) -> None:
    model, saes, text, rows = workload(case)
    result = engine.ablated(model, saes, case["site"], rows, text, case["downstream"], horizon=horizon_of(case))
    expected = []
    for i, (seq, pos) in enumerate(zip(rows.seq.tolist(), rows.pos.tolist(), strict=True)):
        last = int(text[1][seq]) - 1
        reach = {"top": pos, "onward": last if case["horizon"] is None else min(last, pos + case["horizon"])}
        first, stop = (last, last) if pos < 0 else (pos, reach[case["positions"]])
        expected += [(i, q) for q in range(first, stop + 1)]
    assert list(zip(result.row.tolist(), result.pos.tolist(), strict=True)) == expected


@given(case=cases(), size=st.integers(1, 4), order=st.permutations(range(5)))
@settings(max_examples=40)
def test_law_4_batches_and_order_change_nothing(case: dict[str, Any], size: int, order: list[int]) -> None:
    model, saes, text, rows = workload(case)
    more = {"horizon": horizon_of(case)}
    clean = engine.clean_of(model, saes, text)
    together = engine.ablated(model, saes, case["site"], rows, clean, case["downstream"], **more)
    assert together.kl is not None
    assert together.logprob_effect is not None
    for part in torch.tensor(order).split(size):
        apart = engine.ablated(model, saes, case["site"], rows[part], clean, case["downstream"], **more)
        scale = max(1.0, float(together.logprob_effect.abs().max()))
        assert (apart.logprob_effect - together.logprob_effect[part]).abs().max() <= 1e-5 * scale * len(together.row)
        for down in case["downstream"]:
            one, two = sparse(apart, down, part.tolist()), sparse(together, down, range(len(rows)))
            largest = max(1.0, *(abs(v) for pair in two.values() for v in pair), *(0.0,))
            for key in one.keys() & two.keys():
                assert max(abs(a - b) for a, b in zip(one[key], two[key], strict=True)) <= 1e-5 * largest, (case, key)
            for key in one.keys() ^ {key for key in two if key[0] in part.tolist()}:
                before, after = one.get(key) or two[key]  # at the bar for being a change, or a flip
                assert min(abs(after - before), before, after) <= 1e-4 * largest, (case, key)


def sparse(result: engine.Result, down: Site, names: Any) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Clean and ablated by (row, position, feature)."""
    found = result.changes[down]
    rows, pos = result.row[found.row].tolist(), result.pos[found.row].tolist()
    return {
        (list(names)[row], at, feature): (clean, ablated)
        for row, at, feature, clean, ablated in zip(
            rows, pos, found.feature.tolist(), found.clean.tolist(), found.ablated.tolist(), strict=True
        )
    }
