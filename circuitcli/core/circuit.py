"""A circuit: features as nodes, effects between them as edges.

Colours and words follow one rule everywhere: an effect is ablated − clean, so a positive effect means that
ablating the source *raises* the target (the source holds it down), a negative one that ablation *lowers* it
(the source drives it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from circuitcli.core.attributed import Attribution, Calibration, Method
from circuitcli.core.evidence.thresholds import CircuitTest
from circuitcli.core.evidence.validated import Validation
from circuitcli.core.metadata import Metadata
from circuitcli.core.untrusted import Flag, Number, Share, Text, Whole

# Fields of nodes and edges that not every circuit has: those of prompts alone, of a discovery that was repeated, or of
# dictionaries that write elsewhere than they read.
_OF_SOME = ("attribution", "method", "survival", "writes")
# What became of a node or an edge between two graphs.
Change = Literal["gained", "lost", "changed"]


@dataclass(frozen=True)
class Context:
    """Tokens around one (sequence, position), each with the feature's activation there.

    `firing` is the index in `tokens` of the position itself.
    """

    tokens: tuple[Text, ...]
    activations: tuple[Number, ...]
    firing: Whole
    seq: Whole
    pos: Whole


@dataclass(frozen=True)
class TokenEffect:
    """What ablating a feature does to one next token: mean of ablated − clean.

    `effect_mean` is that of its log-probability, in nats, `prob_effect_mean` of its probability; None where that isn't
    known.
    """

    token: Text
    token_id: Whole
    effect_mean: Number
    prob_effect_mean: Number | None = None


@dataclass(frozen=True)
class Node:
    """One feature as it is drawn.

    Attributes:
        id: `layer.site.index`; in a circuit of a prompt `layer.site.index@position`, `layer.site.error@position`,
            `token@position` and `target`, without `@position` where it stands for all; `target.15` of several targets.
        kind: `feature`, or in a circuit of a prompt `error`, `token` or `target`.
        layer, site, feature: Where it is; of what is no feature `feature` is 0, of tokens the layer is 0, of a target
            the number of layers, and the site of both is their kind.
        density: Share of the counted positions at which it fires.
        max_activation: Its largest activation in the sample, SAE units.
        kl_mean: Mean KL(clean ‖ ablated) of the next token, nats; None if it wasn't ablated with logits.
        n: Contexts at which it was ablated; 0 if it wasn't.
        pinned: Whether the user named it.
        contexts: Its top contexts, strongest first.
        promoted: Next tokens that ablating it lowers, the most lowered first.
        suppressed: Next tokens that ablating it raises, the most raised first.
        label: What it is called: an explanation, or the user's own words.
        group: The name of the group of nodes that the user put it in.
        pos: The position in a prompt that it stands for; None where it stands for all.
        neuronpedia: Address of its page on Neuronpedia, if its SAE is known there.
        run, created: The run that its numbers are from, and when it was measured; empty where that isn't known.
        change: In the graph of a difference: `gained` or `lost`; else None.
        attribution: What it does in a prompt; None in a circuit of mean effects.
        survival: The share of repeated discoveries in which it comes up; None where none was repeated.
        writes: The sites that a transcoder's feature writes, in the model's order, such as `4.mlp_out`; it reads
            `layer.site`. Empty of an SAE's, which writes where it reads.
    """

    id: Text
    kind: Text
    layer: Whole
    site: Text
    feature: Whole
    density: Number
    max_activation: Number
    kl_mean: Number | None
    n: Whole
    pinned: Flag
    contexts: tuple[Context, ...]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    label: Text | None = None
    group: Text | None = None
    pos: Whole | None = None
    neuronpedia: Text | None = None
    run: Text = ""
    created: Text = ""
    change: Change | None = None
    attribution: Attribution | None = None
    survival: Share | None = None
    writes: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """An earlier mean effect of an edge: what a later run measured anew. `run` and `created` say where and when."""

    effect_mean: Number
    ci_low: Number | None
    ci_high: Number | None
    n: Whole
    run: Text
    created: Text


@dataclass(frozen=True)
class Edge:
    """Mean effect of ablating `source` on the activation of `target` (SAE units of the target), over n contexts.

    `ci_low` and `ci_high` bound the 95% bootstrap interval; None when it has none. `older` are earlier measurements of
    the same effect, the newest first. `run` and `created` say where and when this one was made; empty where that isn't
    known. `change` is `gained`, `lost` or `changed` in the graph of a difference, else None. `survival` is as a node's.

    In a circuit of a prompt `effect_mean` is what replacing `source` does to the metric through `target` alone, in the
    metric's unit (`metadata.attribution`), `n` counts prompts, and `method` says how it was got; else that is None.
    """

    source: Text
    target: Text
    effect_mean: Number
    ci_low: Number | None
    ci_high: Number | None
    n: Whole
    older: tuple[Measurement, ...] = ()
    run: Text = ""
    created: Text = ""
    change: Change | None = None
    method: Method | None = None
    survival: Share | None = None


@dataclass(frozen=True)
class Circuit:
    """Nodes, the drawn edges, and what the graph was made from.

    `calibration` says of a circuit of a prompt how good its estimates are; empty where nothing was measured.
    `validation` says how much of the model's answer these features carry; None where that wasn't measured.
    `test` is what the circuit is held to; None where it is held to nothing.
    """

    metadata: Metadata
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    calibration: tuple[Calibration, ...] = ()
    validation: Validation | None = None
    test: CircuitTest | None = None

    def to_dict(self) -> dict[str, Any]:
        """The document of circuit.json: {metadata, nodes, edges}, and `calibration` of a circuit of a prompt.

        `validation` is there if the circuit was validated, `test` if it is held to something.
        """
        found: dict[str, Any] = {
            "metadata": self.metadata.to_dict(),
            "nodes": [told(node) for node in self.nodes],
            "edges": [told(edge) for edge in self.edges],
        }
        if self.metadata.attribution is not None:
            found["calibration"] = [asdict(row) for row in self.calibration]
        if self.validation is not None:
            found["validation"] = asdict(self.validation)
        if self.test is not None:
            found["test"] = self.test.document()
        return found


def told(part: Node | Edge) -> dict[str, Any]:
    """A node or edge as JSON has it; what only some circuits have is left out of others."""
    return {name: value for name, value in asdict(part).items() if value not in (None, ()) or name not in _OF_SOME}


def share_drawn(drawn: Sequence[Edge], measured_abs_total: float) -> float:
    """Σ|effect| of the drawn edges over that of all measured ones; 0 when nothing was measured."""
    return sum(abs(e.effect_mean) for e in drawn) / measured_abs_total if measured_abs_total else 0.0
