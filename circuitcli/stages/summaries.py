"""What commands show when a stage is done: the strongest features, edges and tokens, as plain records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcli.core.circuit import Context, Edge, TokenEffect
from circuitcli.core.sites import FeatureId, parse_feature, resolve_pins
from circuitcli.stages import effects as effects_stage
from circuitcli.stages import next_tokens
from circuitcli.stages.fetch_saes import entries_of
from circuitcli.stages.graph import largest_edges, rows_of, token_effects, top_contexts
from circuitcli.stages.next_tokens import Followed
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
    next_tokens: Followed | None = None  # by the ablation that changes the likeliest most, in a run on prompts


def top_features(job: Job, count: int) -> list[FeatureSummary]:
    """The pinned features, and the `count` with the largest maximum activation, evenly over the sites.

    Site by site, the strongest first.
    """
    widths = {entry.at: entry.d_sae for entry in entries_of(job.run)}
    table = tables.read(job.run.verified("cache-acts", acts.FEATURES))
    share = -(-count // len(widths))
    features = resolve_pins(job.settings.features.pinned, widths)
    for site in widths:
        here = np.flatnonzero((table["layer"] == site.layer) & (table["site"] == site.name))
        strongest = here[np.argsort(-table["max_activation"][here], kind="stable")][:share]
        features += [FeatureId(site, int(table["feature"][i])) for i in strongest if table["n_active"][i]]
    features = sorted(set(features), key=lambda f: f.order)
    statistics, contexts = rows_of(table, features), top_contexts(job, features)
    return [
        FeatureSummary(
            str(feature),
            float(statistics[feature]["density"][0]),
            float(statistics[feature]["max_activation"][0]),
            contexts[feature][0],
        )
        for feature in sorted(
            (f for f in features if contexts[f]),
            key=lambda f: (f.site.order, -float(statistics[f]["max_activation"][0])),
        )
    ]


def top_edges(job: Job, count: int) -> tuple[list[Edge], list[Edge]]:
    """The `count` largest |mean effect| of the present plan's features, and of others that stay from earlier plans."""
    table = tables.read(job.run.verified("effects", effects_stage.EFFECTS))
    planned = effects_stage.planned(job, table)
    now, earlier = (largest_edges(effects_stage.rows_where(table, mask), count) for mask in (planned, ~planned))
    return now, earlier


def top_tokens(job: Job, count: int) -> tuple[list[TokenSummary], list[TokenSummary]]:
    """Promoted and suppressed tokens of the pinned features, else of the `count` of the plan with the largest mean KL.

    And those of others that stay from earlier plans, again the `count` with the largest.
    """
    totals = tables.read(job.run.verified("effects", effects_stage.FEATURES))
    logits = tables.read(job.run.verified("effects", effects_stage.LOGITS))
    if not len(logits["rank"]):
        return [], []
    planned = effects_stage.planned(job, totals)
    names = [
        f"{layer}.{site}.{feature}"
        for layer, site, feature in zip(totals["layer"], totals["site"], totals["feature"], strict=True)
    ]
    pins = resolve_pins(job.settings.features.pinned, {e.at: e.d_sae for e in entries_of(job.run)})
    largest = np.argsort(-totals["kl_mean"], kind="stable")
    now = [names.index(str(pin)) for pin in pins] or largest[planned[largest]][:count].tolist()
    earlier = largest[~planned[largest]][:count].tolist()
    rows = rows_of(logits, [parse_feature(names[i]) for i in (*now, *earlier)])
    followed = next_tokens.followed(job)

    def summary(i: int) -> TokenSummary:
        n, kl = int(totals["n"][i]), float(totals["kl_mean"][i])
        feature = parse_feature(names[i])
        strongest = next(iter(followed.get(feature, ())), None)
        return TokenSummary(names[i], n, kl, *token_effects(rows[feature]), strongest)

    return [summary(i) for i in now], [summary(i) for i in earlier]
