"""What commands show when a stage is done: the strongest features, edges and tokens, as plain records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcli.core.circuit import Context, Edge, TokenEffect
from circuitcli.core.sites import FeatureId, parse_feature, resolve_pins
from circuitcli.stages import effects as effects_stage
from circuitcli.stages.fetch_saes import entries_of
from circuitcli.stages.graph import largest_edges, rows_of, token_effects, top_contexts
from circuitcli.stages.stage import Job
from circuitcli.store import acts, tables


@dataclass(frozen=True)
class FeatureSummary:
    """A feature that fires strongly."""

    feature: str
    density: float
    max_activation: float
    context: Context


@dataclass(frozen=True)
class TokenSummary:
    """What ablating a feature does to the next token; kl_mean is in nats."""

    feature: str
    n: int
    kl_mean: float
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]


def top_features(job: Job, count: int) -> list[FeatureSummary]:
    """The pinned features, and the `count` with the largest maximum activation, evenly over the sites."""
    widths = {entry.at: entry.d_sae for entry in entries_of(job.run)}
    table = tables.read(job.run.verified("cache-acts", acts.FEATURES))
    share = -(-count // len(widths))
    features = resolve_pins(job.settings.features.pinned, widths)
    for site in widths:
        here = np.flatnonzero((table["layer"] == site.layer) & (table["site"] == site.name))
        strongest = here[np.argsort(-table["max_activation"][here], kind="stable")][:share]
        features += [FeatureId(site, int(table["feature"][i])) for i in strongest if table["n_active"][i]]
    features = sorted(set(features), key=lambda f: f.order)
    statistics, contexts = rows_of(table, features), top_contexts(job, features, job.tokenizer)
    return [
        FeatureSummary(
            str(feature),
            float(statistics[feature]["density"][0]),
            float(statistics[feature]["max_activation"][0]),
            contexts[feature][0],
        )
        for feature in features
        if contexts[feature]
    ]


def top_edges(job: Job, count: int) -> list[Edge]:
    """The `count` largest |mean effect|."""
    return largest_edges(tables.read(job.run.verified("effects", effects_stage.EFFECTS)), count)


def top_tokens(job: Job, count: int) -> list[TokenSummary]:
    """Promoted and suppressed tokens of the pinned features, else of the `count` with the largest mean KL."""
    totals = tables.read(job.run.verified("effects", effects_stage.FEATURES))
    logits = tables.read(job.run.verified("effects", effects_stage.LOGITS))
    if not len(logits["rank"]):
        return []
    names = [
        f"{layer}.{site}.{feature}"
        for layer, site, feature in zip(totals["layer"], totals["site"], totals["feature"], strict=True)
    ]
    pins = resolve_pins(job.settings.features.pinned, {e.at: e.d_sae for e in entries_of(job.run)})
    order = [names.index(str(pin)) for pin in pins] or np.argsort(-totals["kl_mean"], kind="stable")[:count].tolist()
    features = [parse_feature(names[i]) for i in order]
    rows = rows_of(logits, features)
    return [
        TokenSummary(str(feature), int(totals["n"][i]), float(totals["kl_mean"][i]), *token_effects(rows[feature]))
        for i, feature in zip(order, features, strict=True)
    ]
