"""Nodes: all that a run knows of single features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from circuitcli.core.circuit import Node, TokenEffect
from circuitcli.core.neuronpedia import page
from circuitcli.core.sites import FeatureId
from circuitcli.results.contexts import top_contexts
from circuitcli.results.reader import Reader
from circuitcli.store import acts, reduced, tables

# Tokens of each colour shown in a box.
TOKENS_SHOWN = 6


def nodes(reader: Reader, features: Sequence[FeatureId], tokens_shown: int = TOKENS_SHOWN) -> Iterable[Node]:
    """All that the run knows of some features, with so many promoted, and suppressed, tokens at most."""
    totals = reader.of_features(reduced.FEATURES, features)
    logits = reader.of_features(reduced.LOGITS, features)
    run, created = reader.measured
    for feature, node in zip(features, described(reader, features), strict=True):
        total = totals[feature]
        kl = float(total["kl_mean"][0]) if len(total["n"]) else np.nan
        promoted, suppressed = token_effects(logits[feature])
        yield replace(
            node,
            kl_mean=None if np.isnan(kl) else kl,
            n=int(total["n"][0]) if len(total["n"]) else 0,
            promoted=promoted[:tokens_shown],
            suppressed=suppressed[:tokens_shown],
            run=run,
            created=created,
        )


def described(reader: Reader, features: Sequence[FeatureId]) -> Iterable[Node]:
    """What is known of features before any of them is ablated: where in the text they fire, and what names them."""
    pins = set(reader.pinned)
    statistics = reader.of_features(acts.FEATURES, features)
    contexts = top_contexts(reader, features)
    entries = {entry.at: entry for entry in reader.saes}
    for feature in features:
        entry = entries[feature.site]
        source = entry.facts.neuronpedia
        yield Node(
            id=str(feature),
            kind="feature",
            layer=feature.site.layer,
            site=feature.site.name,
            feature=feature.index,
            density=float(statistics[feature]["density"][0]),
            max_activation=float(statistics[feature]["max_activation"][0]),
            kl_mean=None,
            n=0,
            pinned=feature in pins,
            contexts=tuple(contexts[feature]),
            promoted=(),
            suppressed=(),
            neuronpedia=page(reader.settings.model, source, feature.index) if source else None,
            writes=tuple(map(str, entry.written)) if entry.facts.elsewhere else (),
        )


def token_effects(rows: tables.Columns) -> tuple[tuple[TokenEffect, ...], tuple[TokenEffect, ...]]:
    """Promoted and suppressed tokens of one feature, strongest first, from its rows of effects/logits."""
    columns = (rows[name].tolist() for name in ("rank", "token", "token_id", "effect_mean", "prob_effect_mean"))
    ranked = sorted(zip(*columns, strict=True), key=lambda row: abs(row[0]))
    effects = [(row[0], TokenEffect(row[1], row[2], row[3], None if np.isnan(row[4]) else row[4])) for row in ranked]
    return tuple(effect for rank, effect in effects if rank > 0), tuple(effect for rank, effect in effects if rank < 0)
