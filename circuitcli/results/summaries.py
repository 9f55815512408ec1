"""What commands show when a stage is done: the strongest features, edges and tokens, as plain records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcli.core import rows
from circuitcli.core.circuit import Context, Edge, TokenEffect
from circuitcli.core.sites import FeatureId, Site
from circuitcli.results import edges, next_tokens
from circuitcli.results.contexts import top_contexts
from circuitcli.results.next_tokens import Followed
from circuitcli.results.nodes import token_effects
from circuitcli.results.reader import Reader
from circuitcli.store import acts, reduced


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


def top_features(reader: Reader, count: int) -> list[FeatureSummary]:
    """The pinned features, and the `count` with the largest maximum activation, evenly over the sites.

    Site by site, the strongest first.
    """
    table = reader.table(acts.FEATURES)
    share = -(-count // len(reader.widths))
    features = list(reader.pinned)
    for site in reader.widths:
        here = np.flatnonzero((table["layer"] == site.layer) & (table["site"] == site.name))
        strongest = here[np.argsort(-table["max_activation"][here], kind="stable")][:share]
        features += [FeatureId(site, int(table["feature"][i])) for i in strongest if table["n_active"][i]]
    features = sorted(set(features), key=lambda f: f.order)
    statistics, contexts = reader.of_features(acts.FEATURES, features), top_contexts(reader, features)
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


def top_edges(reader: Reader, count: int) -> tuple[list[Edge], list[Edge]]:
    """The `count` largest |mean effect| of the present plan's features, and of others that stay from earlier plans."""
    table, planned = reader.table(reduced.EFFECTS), reader.in_plan(reduced.EFFECTS)
    now, earlier = (edges.largest(rows.pick(table, mask), count) for mask in (planned, ~planned))
    return now, earlier


def top_tokens(reader: Reader, count: int) -> tuple[list[TokenSummary], list[TokenSummary]]:
    """Promoted and suppressed tokens of the pinned features, else of the `count` of the plan with the largest mean KL.

    And those of others that stay from earlier plans, again the `count` with the largest.
    """
    totals, planned = reader.table(reduced.FEATURES), reader.in_plan(reduced.FEATURES)
    if not len(reader.table(reduced.LOGITS)["rank"]):
        return [], []
    largest = np.argsort(-totals["kl_mean"], kind="stable")
    pins = [int(at[0]) for at in rows.rows_of(totals, reader.pinned).values()]
    now = pins or largest[planned[largest]][:count].tolist()
    earlier = largest[~planned[largest]][:count].tolist()
    shown = np.asarray([*now, *earlier], np.int64)
    columns = (totals[name][shown].tolist() for name in ("layer", "site", "feature"))
    features = [FeatureId(Site(layer, site), index) for layer, site, index in zip(*columns, strict=True)]
    named = dict(zip(shown.tolist(), features, strict=True))
    logits = reader.of_features(reduced.LOGITS, features)
    followed = next_tokens.followed(reader, features)

    def summary(i: int) -> TokenSummary:
        n, kl = int(totals["n"][i]), float(totals["kl_mean"][i])
        strongest = next(iter(followed.get(named[i], ())), None)
        return TokenSummary(str(named[i]), n, kl, *token_effects(logits[named[i]]), strongest)

    return [summary(i) for i in now], [summary(i) for i in earlier]
