"""Cards: all that a run knows of one feature, from its files alone; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from circuitcli.core import rows
from circuitcli.core.circuit import Edge, Node, told
from circuitcli.core.sites import FeatureId, Site
from circuitcli.errors import quoted
from circuitcli.results import next_tokens
from circuitcli.results.edges import strongest
from circuitcli.results.labels import Labels, labelled
from circuitcli.results.next_tokens import Followed
from circuitcli.results.nodes import nodes
from circuitcli.results.reader import Reader
from circuitcli.runtime.neuronpedia import Explained
from circuitcli.store import reduced

# Causes, and consequences, of one feature that its card names.
EDGES = 10
# Ablations whose effects on the likeliest next tokens it shows.
ANSWERS = 3


@dataclass(frozen=True)
class Card:
    """One feature, what drives it, and what it drives.

    Attributes:
        feature: As a graph has it; all promoted and suppressed tokens that the run keeps.
        causes: The largest |mean effects| of other features on it.
        consequences: Its largest |mean effects| on others; None if it wasn't ablated.
        planned: Whether the run's present settings lead to it; what was ablated for others stays, and is shown.
        next_tokens: In a run on prompts, what the ablations that change them most do to the likeliest next tokens.
        labels: Of the features among causes and consequences, as far as they have one.
        explained: What Neuronpedia said of it when the graph was drawn, if it was asked.
        note: Why something is missing, and what to do; None if nothing is.
    """

    feature: Node
    causes: tuple[Edge, ...]
    consequences: tuple[Edge, ...] | None
    planned: bool
    next_tokens: tuple[Followed, ...]
    labels: dict[str, str]
    explained: Explained | None
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: its node and edges as circuit.json has them."""
        driven = None if self.consequences is None else [told(edge) for edge in self.consequences]
        own = {"feature": told(self.feature), "causes": [told(edge) for edge in self.causes], "consequences": driven}
        return asdict(self) | own


def foremost(reader: Reader, count: int) -> list[FeatureId]:
    """The pinned features, else the `count` of the plan that matter most: by mean KL, else by Σ |effect| downstream."""
    if reader.pinned:
        return reader.pinned
    totals = rows.pick(reader.table(reduced.FEATURES), reader.in_plan(reduced.FEATURES))
    weight = totals["out_abs_effect"] if np.isnan(totals["kl_mean"]).all() else totals["kl_mean"]
    most = rows.pick(totals, np.argsort(-weight, kind="stable")[:count])
    columns = (most[name].tolist() for name in ("layer", "site", "feature"))
    return [FeatureId(Site(layer, site), index) for layer, site, index in zip(*columns, strict=True)]


def cards(reader: Reader, features: Sequence[FeatureId], most: int = EDGES) -> list[Card]:
    """A card for each feature."""
    table, known = reader.table(reduced.EFFECTS), labelled(reader.run)
    causes, consequences = (strongest(table, end, features, most) for end in ("down_", "up_"))
    planned, followed = set(reader.planned), next_tokens.followed(reader, features)
    return [
        Card(
            replace(node, label=known.labels.get(node.id)),
            causes[feature],
            consequences[feature] if node.n else None,
            planned=feature in planned,
            next_tokens=tuple(followed.get(feature, ())[:ANSWERS]),
            labels=_labels(known, causes[feature], consequences[feature] if node.n else ()),
            explained=known.explained.get(node.id),
            note=_missing(reader, node),
        )
        for feature, node in zip(features, nodes(reader, features, reader.settings.effects.logit_tokens), strict=True)
    ]


def _labels(known: Labels, causes: Sequence[Edge], consequences: Sequence[Edge]) -> dict[str, str]:
    """Of the features at the other ends, as far as they have one."""
    others = [*(edge.source for edge in causes), *(edge.target for edge in consequences)]
    return {name: known.labels[name] for name in others if name in known.labels}


def _missing(reader: Reader, node: Node) -> str | None:
    """What the run doesn't know of a feature, and what to do."""
    if node.kl_mean is not None:
        return None
    if node.n:
        return f"{node.id} was ablated with --no-logits, so that its tokens and KL are unknown."
    if not node.density:
        return f"{node.id} fires nowhere in the sample, so that it can't be ablated: give other text, or more of it."
    pins = " ".join(f"--pin {pin}" for pin in (*reader.settings.features.pinned, node.id))
    return (
        f"{node.id} wasn't ablated, so that its consequences, tokens and KL are unknown: "
        f"run `circuit ablate --run {quoted(reader.run.root)} {pins}`, then this again."
    )
