"""What a circuit was made from: the `metadata` of circuit.json. `renderers/circuit.schema.json` says it to others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from circuitcli.core.attributed import Question
from circuitcli.core.untrusted import Count, Number, Size, Text

# The version of the document of circuit.json.
SCHEMA_VERSION = 1
# What makes effects one quantity, besides the model and its SAEs.
MEASURED = ("intervention", "strength", "positions", "horizon")
# Keys that are left out where there is nothing to say.
_LEFT_OUT = ("strength", "diff", "attribution", "repeats")


@dataclass(frozen=True)
class SaeFacts:
    """One SAE that nodes are latents of."""

    layer: Count
    site: Text
    source: Text
    sha256: Text
    neuronpedia: Text | None


@dataclass(frozen=True)
class RunFacts:
    """One run that the graph was made from.

    `fingerprint` is what decided its ablations, `created` when they were done; `abs_effect_measured` is Σ|effect| of
    all that it measured; `start` says in words how the features that it started from were chosen.
    """

    run: Text
    fingerprint: Text
    created: Text
    release: Text
    num_sequences: Count
    seed: Count
    edges_measured: Count
    abs_effect_measured: Size
    start: Text = ""


@dataclass(frozen=True)
class DiffFacts:
    """The two graphs of a difference, by name, and how many edges of both are as they were or can't be told."""

    before: Text
    after: Text
    same: Count
    untold: Count


@dataclass(frozen=True)
class RepeatFacts:
    """How many discoveries the survival of nodes and edges is a share of.

    `total` is all of them, `seeds`, `halves` and `interventions` by what was varied; the run itself is in several of
    these, and once in the total.
    """

    total: Count
    seeds: Count
    halves: Count
    interventions: Count


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What features are features of, and what quantity effects are: what two circuits must share to be held together.

    Attributes:
        model: Its name, or its folder.
        model_identity: The commit or the hash of its weights.
        saes: Those that nodes are latents of, in the model's order.
        intervention: What took the place of an activation.
        strength: Of `steer`; None of interventions that have none.
        positions: `top`, `onward` or `all`.
        horizon: How many positions behind an edited one were read; 0: all of them.
        diff: Of a difference of two graphs, which can't be held against another.
    """

    model: Text
    model_identity: Text
    saes: tuple[SaeFacts, ...]
    intervention: Text
    strength: Number | None = None
    positions: Text
    horizon: Count
    diff: DiffFacts | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata(Basis):
    """What a graph was made from; numbers that several runs don't agree on are None.

    Attributes:
        schema_version: Of the document.
        release: Of the SAEs; those of all runs.
        layers, sites: That were chosen.
        num_sequences, seed: Of the sample.
        min_effect: No smaller effect is drawn.
        edges_measured: Effects that all runs measured.
        share_drawn: Σ|effect| of the drawn edges over Σ|effect| of all measured.
        run: The run that drew it.
        runs: All that it was made from.
        created, version: When it was drawn, and by which version of circuit.
        start: How the features that were ablated first were chosen, in words.
        prompts: The texts of runs on prompts.
        answers: The likeliest next tokens at the end of each.
        attribution: What was asked of prompts, of a circuit that answers it; else None.
        repeats: What survival is a share of, where it is known; else None.
    """

    schema_version: Count
    release: Text
    layers: tuple[Count, ...]
    sites: tuple[Text, ...]
    num_sequences: Count | None
    seed: Count | None
    min_effect: Size
    edges_measured: Count
    share_drawn: Size
    run: Text
    runs: tuple[RunFacts, ...]
    created: Text
    version: Text
    start: Text = ""
    prompts: tuple[Text, ...] = ()
    answers: tuple[Text, ...] = ()
    attribution: Question | None = None
    repeats: RepeatFacts | None = None

    def to_dict(self) -> dict[str, Any]:
        """The `metadata` of circuit.json: plain values, lists and objects."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        told = {name: value for name, value in plain.items() if value is not None or name not in _LEFT_OUT}
        return {"schema_version": self.schema_version, **told}
