"""Cards: all that a run knows of one feature, from its files alone; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from circuitcli.core.circuit import Edge, Node
from circuitcli.core.sites import FeatureId, Site, parse_feature, resolve_pins
from circuitcli.errors import quoted
from circuitcli.runtime.neuronpedia import Explained
from circuitcli.stages import effects as effects_stage
from circuitcli.stages import next_tokens
from circuitcli.stages.edits import edits
from circuitcli.stages.fetch_saes import entries_of
from circuitcli.stages.graph import edges_of, nodes
from circuitcli.stages.labels import Labels, saved
from circuitcli.stages.next_tokens import Followed
from circuitcli.stages.stage import Job
from circuitcli.store import ablations, tables

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


def named(job: Job, names: Sequence[str]) -> list[FeatureId]:
    """The features of the run that were typed, in the model's order, each once.

    Raises:
        UsageError: One of them is no feature of the run's SAEs.
    """
    return resolve_pins(names, _widths(job), word="feature")


def foremost(job: Job, count: int) -> list[FeatureId]:
    """The pinned features, else the `count` of the plan that matter most: by mean KL, else by Σ |effect| downstream."""
    pins = named(job, job.settings.features.pinned)
    if pins:
        return pins
    totals = tables.read(job.run.verified("effects", effects_stage.FEATURES))
    totals = effects_stage.rows_where(totals, effects_stage.planned(job, totals))
    weight = totals["out_abs_effect"] if np.isnan(totals["kl_mean"]).all() else totals["kl_mean"]
    columns = (totals[name].tolist() for name in ("layer", "site", "feature"))
    features = [FeatureId(Site(layer, site), index) for layer, site, index in zip(*columns, strict=True)]
    return [features[i] for i in np.argsort(-weight, kind="stable")[:count]]


def cards(job: Job, features: Sequence[FeatureId], most: int = EDGES) -> list[Card]:
    """A card for each feature."""
    table = tables.read(job.run.verified("effects", effects_stage.EFFECTS))
    known, planned = labelled(job), set(ablations.chosen(job.run))
    keep, followed = job.settings.effects.logit_tokens, next_tokens.followed(job)
    return [
        replace(
            _card(job, replace(node, label=known.labels.get(node.id)), table, known, most),
            planned=feature in planned,
            next_tokens=tuple(followed.get(feature, ())[:ANSWERS]),
        )
        for feature, node in zip(features, nodes(job, features, keep), strict=True)
    ]


def labelled(job: Job) -> Labels:
    """What the run's features are called: as people wrote it, else as it was found when the graph was drawn."""
    found = saved(job.run)
    typed = {name: edit.label for name, edit in edits(job, None).items() if edit.label}
    return replace(found, labels=found.labels | typed)


def _card(job: Job, node: Node, table: tables.Columns, known: Labels, edges: int) -> Card:
    feature = parse_feature(node.id)
    causes = edges_of(table, strongest(table, "down", feature, edges))
    consequences = edges_of(table, strongest(table, "up", feature, edges)) if node.n else None
    others = [*(edge.source for edge in causes), *(edge.target for edge in consequences or ())]
    return Card(
        node,
        causes,
        consequences,
        planned=False,
        next_tokens=(),
        labels={name: known.labels[name] for name in others if name in known.labels},
        explained=known.explained.get(node.id),
        note=_missing(job, node),
    )


def strongest(table: tables.Columns, end: str, feature: FeatureId, count: int) -> list[int]:
    """The `count` rows of effects/effects with the largest |mean| that have a feature at one end, `up` or `down`."""
    here = (table[f"{end}_feature"] == feature.index) & (table[f"{end}_layer"] == feature.site.layer)
    rows = np.flatnonzero(here & (table[f"{end}_site"] == feature.site.name) & (table["effect_mean"] != 0))
    order = np.argsort(-np.abs(table["effect_mean"][rows]), kind="stable")
    return [int(i) for i in rows[order[:count]]]


def _missing(job: Job, node: Node) -> str | None:
    """What the run doesn't know of a feature, and what to do."""
    if node.kl_mean is not None:
        return None
    if node.n:
        return f"{node.id} was ablated with --no-logits, so that its tokens and KL are unknown."
    if not node.density:
        return f"{node.id} fires nowhere in the sample, so that it can't be ablated: give other text, or more of it."
    pins = " ".join(f"--pin {pin}" for pin in (*job.settings.features.pinned, node.id))
    return (
        f"{node.id} wasn't ablated, so that its consequences, tokens and KL are unknown: "
        f"run `circuit ablate --run {quoted(job.run.root)} {pins}`, then this again."
    )


def _widths(job: Job) -> dict[Site, int]:
    return {entry.at: entry.d_sae for entry in entries_of(job.run)}
