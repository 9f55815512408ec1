"""A run whose question is answered by made-up numbers: its activations are real, its attribution is written here.

What reads attributions is tested on this, whatever computes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuitcli.core.sites import SITES, Site
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store import acts, attributions, tables
from circuitcli.store.attributions import Prompt
from circuitcli.store.records import Record
from circuitcli.store.run import Run

PROMPTS = ("the light of the earth was upon the waters", "and the spirit of the deep was void")
TARGETS, AGAINST = (" heavens", " earth"), " waters"
LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class Made:
    """How the numbers are made up.

    Attributes:
        prompts: How many there are.
        positions: `separate` or `sum`.
        measured: The share of nodes whose effects were measured; 1: all.
        candidates: Of each prompt so many of the strongest features and errors have edges.
        edges_measured: The share of edges that were measured.
        quality: How well estimates agree with exact effects: 1 they are the same, 0 they have nothing to do with them.
        against: Whether m is a difference of logits.
        counterfactual: Whether a counterfactual's activations replace.
        targets: The target of each prompt, in turn.
        seed: Of all draws.
    """

    prompts: int = 1
    positions: str = "separate"
    measured: float = 1.0
    candidates: int = 40
    edges_measured: float = 0.2
    quality: float = 0.9
    against: bool = False
    counterfactual: bool = False
    targets: tuple[str, ...] = TARGETS[:1]
    estimates: tuple[str, ...] = ("atp", "relp")
    seed: int = 0


def settings(sites: list[str], **more: Any) -> dict[str, Any]:
    """Of a run on these prompts whose graph is of its attribution."""
    return {
        "saes": {"sites": sites},
        "texts": {"source": "prompt", "prompt": list(PROMPTS), "file": ""},
        "graph": {"of": "attribution", "formats": ["json"]},
        **more,
    }


def answer(job: Job, made: Made = Made()) -> Job:
    """Write the attribution of a run whose activations are cached; a job on the stages that draw it."""
    draw = np.random.default_rng(made.seed)
    parts = [_prompt(job.run, made, prompt, draw) for prompt in range(made.prompts)]
    run = Run(job.run.root, STAGES.folders)
    answered = replace(job, run=run, stages=STAGES.drawing("attribution"))
    asked, nodes, edges, rows = (list(column) for column in zip(*parts, strict=True))
    files = attributions.write(run, asked, nodes, edges, rows)
    facts = {
        "method": "exact" if made.measured == 1 else "auto",
        "measured": int(sum((part["drawn"] > 0).sum() for part in nodes)),
        "nodes": int(sum(len(part["kind"]) - 1 for part in nodes)),
        "edges": int(sum(len(part["weight"]) for part in edges)),
        "edge_method": "relp",
        "estimate": made.estimates[-1] if made.estimates else "",
        "baseline": "patch" if made.counterfactual else "zero",
        "frozen": False,
        "positions": made.positions,
    }
    spec = answered.stages["attribute"]
    inputs = {**answered.chosen(spec.decides), "made": made.seed}
    record = Record(f"{made!r}", inputs, answered.chosen(spec.chooses), files, facts, {}, "cpu", 0.0)
    run.save_record("attribute", replace(record, finished="2026-11-26T04:00:00+00:00"))
    return answered


def _prompt(run: Run, made: Made, prompt: int, draw: np.random.Generator) -> tuple[Prompt, Any, Any, Any]:
    sample = acts.read_sample(run.path(acts.TOKENS))
    length = int(sample.lengths[prompt])
    texts = tables.where(run.path(acts.TEXTS), "seq", [prompt])["text"].tolist()
    asked = Prompt(
        prompt=PROMPTS[prompt],
        tokens=tuple(texts),
        ids=tuple(sample.tokens[prompt, :length].tolist()),
        counts=(False, *[True] * (length - 1)),
        target=made.targets[prompt % len(made.targets)],
        target_id=7 + prompt % len(made.targets),
        against=AGAINST if made.against else None,
        against_id=9 if made.against else None,
        counterfactual=PROMPTS[prompt][::-1] if made.counterfactual else None,
        counterfactual_tokens=tuple(texts[::-1]) if made.counterfactual else None,
        clean=-0.7 - prompt,
        prob=0.5 / (1 + prompt),
        unit="logits" if made.against else "nats",
    )
    nodes = _nodes(run, made, prompt, length, draw)
    return asked, nodes, *_edges(nodes, made, prompt, draw)


def _nodes(run: Run, made: Made, prompt: int, length: int, draw: np.random.Generator) -> dict[str, Any]:
    """Tokens, features where they fire and errors, site by site, and the target."""
    rows = [("token", 0, "token", 0, pos, 1.0) for pos in range(1, length)]
    sites = {tuple(name.split("/")[1].split(".")) for name in run.require("cache-acts").files if name.count("/") == 2}
    for layer, name in sorted(sites, key=lambda site: (int(site[0]), SITES.index(site[1]))):
        for shard in acts.shards(run, Site(int(layer), name)):
            here = shard.where(shard.seq == prompt)
            fired = zip(here.pos.tolist(), here.feature.tolist(), here.value.tolist(), strict=True)
            rows += [("feature", int(layer), name, feature, pos, value) for pos, feature, value in fired]
        rows += [("error", int(layer), name, 0, pos, 2.0) for pos in range(1, length)]
    rows.append(("target", LAYERS, "target", 0, length - 1, -0.7))
    kind, layer, site, feature, pos, activation = map(np.asarray, zip(*rows, strict=True))
    n, inner = len(rows), np.arange(len(rows)) < len(rows) - 1
    exact = draw.standard_normal(n) ** 3 / 10
    measured = inner & (draw.random(n) < made.measured)
    estimates = {
        name: np.where(inner, made.quality * exact + (1 - made.quality) * draw.standard_normal(n), np.nan)
        if name in made.estimates
        else np.full(n, np.nan)
        for name in ("atp", "ig", "relp")
    }
    shown = np.where(measured, exact, estimates[made.estimates[-1]] if made.estimates else np.nan)
    return {
        "prompt": np.full(n, prompt),
        "node": np.arange(n),
        "kind": kind.astype(object),
        "layer": layer,
        "site": site.astype(object),
        "feature": feature,
        "pos": pos,
        "activation": activation,
        "replacement": np.where(kind == "feature", 0.0, np.nan),
        "effect": np.where(inner, shown, np.nan),
        "method": np.where(inner, np.where(measured, "exact", "relp"), "").astype(object),
        **estimates,
        "exact": np.where(measured, exact, np.nan),
        "drawn": np.where(measured, 1 / max(made.measured, 1e-9), 0.0),
    }


def _edges(nodes: dict[str, Any], made: Made, prompt: int, draw: np.random.Generator) -> tuple[Any, Any]:
    """Between the strongest nodes, tokens and the target, from one place to a later one; and what goes into each."""
    inner = np.isin(nodes["kind"], ["feature", "error"])
    strongest = np.argsort(-np.where(inner, np.abs(np.nan_to_num(nodes["effect"])), -1))[: made.candidates]
    joined = np.sort(np.concatenate([strongest, np.flatnonzero(~inner)]))
    ends = {"token": -1, "target": 99}
    places = zip(nodes["kind"], nodes["layer"], nodes["site"], strict=True)
    place = np.asarray([ends[kind] if kind in ends else layer * 9 + SITES.index(site) for kind, layer, site in places])
    up, down = (ends.reshape(-1) for ends in np.meshgrid(joined, joined, indexing="ij"))
    there = (place[up] < place[down]) & (nodes["pos"][up] <= nodes["pos"][down]) & (draw.random(len(up)) < 0.5)
    source, target = up[there], down[there]
    exact = draw.standard_normal(len(source)) ** 3 / 20
    estimate = made.quality * exact + (1 - made.quality) * draw.standard_normal(len(source)) / 5
    measured = draw.random(len(source)) < made.edges_measured
    large = measured & (np.abs(estimate) > 0.1)  # these weigh what was measured
    edges = {
        "prompt": np.full(len(source), prompt),
        "source": source,
        "target": target,
        "weight": np.where(large, exact, estimate),
        "method": np.where(large, "exact", "relp").astype(object),
        "estimate": estimate,
        "exact": np.where(measured, exact, np.nan),
        "drawn": np.where(measured, 1 / max(made.edges_measured, 1e-9), 0.0),
    }
    into = joined[nodes["kind"][joined] != "token"]
    all_in = np.bincount(target, np.abs(edges["weight"]), len(place))[into] * 1.25
    return edges, {"prompt": np.full(len(into), prompt), "target": into, "abs_in": all_in}
