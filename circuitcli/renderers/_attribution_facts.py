"""The `metadata` of an attribution graph: what was read, how, and where the viewers find its features."""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict
from typing import Any

from circuitcli.core.attributed import Question
from circuitcli.core.circuit import Circuit
from circuitcli.core.metadata import MEASURED
from circuitcli.core.neuronpedia import model_id
from circuitcli.renderers import _attribution_names as names
from circuitcli.renderers import _dictionaries, _question, _validated
from circuitcli.renderers._attribution_nodes import inert

FEATURES = "./data/features"  # as circuit-tracer's server names <graph_file_dir>/features
# Never one column alone: circuit-tracer's page would take every feature for one that fires everywhere, and hide it.
POSITION, BEHIND, EVERYWHERE = " ·", " (mean over contexts)", " (all positions)"


def metadata(circuit: Circuit) -> dict[str, Any]:
    """All of it; thresholds of pruning of a circuit of a prompt alone."""
    facts, source_set, question = circuit.metadata, _source_set(circuit), circuit.metadata.attribution
    model = names.plain_name(model_id(facts.model), "model")
    told = facts.to_dict()
    settings = {n: told[n] for n in (*MEASURED, "num_sequences", "seed", "min_effect") if n in told}
    threshold = _threshold(circuit)
    return {
        "slug": _slug(facts.run),
        "scan": model if source_set else f"custom-{model}",
        "transcoder_list": [FEATURES] * (1 + max((node.layer for node in names.features(circuit)), default=0)),
        "prompt_tokens": _tokens(circuit),
        "prompt": inert(_prompt(circuit)),
        "schema_version": 1,
        "node_threshold": threshold,
        "info": {
            "description": inert(" ".join(filter(None, (_described(circuit, question), _validated.sentence(circuit))))),
            "generator": {"name": "circuit", "version": facts.version},
            **_time(facts.created),
        },
        "generation_settings": settings | (_asked(question) if question else {}),
        **({"pruning_settings": {"node_threshold": threshold}} if question else {}),
        **({"feature_details": {"neuronpedia_source_set": source_set}} if source_set else {}),
    }


_MEANS = (
    "Sparse feature circuit. A link's weight is the mean of clean − ablated activation, in SAE "
    "units of the target, over contexts where the source fires. Features are of {noun}."
)


def _described(circuit: Circuit, question: Question | None) -> str:
    noun = _dictionaries.noun(circuit)
    if question is None:
        return " ".join(filter(None, (_MEANS.format(noun=noun), _sentence(_dictionaries.next_alone(circuit)))))
    whose = "an SAE doesn't" if noun == "SAEs" else "they don't"
    metric, unit = question.metric, question.unit
    said = (
        f"Attribution of {metric} = {question.clean:.3f} {unit}. A link's weight is −effect: what the source adds to "
        f"it through the target alone, as against {question.baseline}, in {unit}. Features are of {noun}; errors are "
        f"what {whose} reconstruct of {'its' if noun == 'SAEs' else 'a'} site."
    )
    return " ".join(part for part in (said, _question.calibration(circuit), _question.warning(circuit)) if part)


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _asked(question: Question) -> dict[str, Any]:
    """The question, and how much of its answer is drawn; its tokens are the graph's."""
    told = {name: fact for name, fact in asdict(question).items() if name not in ("tokens", "positions")}
    told["counterfactual"] = [inert(token) for token in question.counterfactual]
    return {name: inert(fact) if isinstance(fact, str) else fact for name, fact in told.items()}


def _threshold(circuit: Circuit) -> float:
    """The cumulative influence up to which nodes are drawn; 1 of circuits that aren't chosen by it."""
    drawn = [node.attribution.influence for node in circuit.nodes if node.attribution]
    return min(1.0, max(0.0, *drawn)) if drawn else 1.0


def _prompt(circuit: Circuit) -> str:
    facts = circuit.metadata
    if not facts.attribution:
        return f"Feature circuit of {facts.model}, {_dictionaries.noun(circuit)} {facts.release}: means over contexts"
    more = f" (and {len(facts.prompts) - 1:,} more)" if len(facts.prompts) > 1 else ""
    return (facts.prompts[0] if facts.prompts else "".join(facts.attribution.tokens)) + more


def _tokens(circuit: Circuit) -> list[str]:
    """A text for each column."""
    behind, question = names.behind(circuit), circuit.metadata.attribution
    known = [inert(token) for token in question.tokens] if question else []
    columns = known + [POSITION] * (behind - len(known))
    if question and len(columns) > 1 and behind not in names.columns(circuit).values():
        return columns
    return [*columns, EVERYWHERE if question else BEHIND]


def _source_set(circuit: Circuit) -> str | None:
    """The set of sources that Neuronpedia has all features under, as `<layer>-<set>`; None if there isn't one."""
    sites = {(node.layer, node.site) for node in names.features(circuit)}
    if len({layer for layer, _ in sites}) < len(sites):
        return None
    known = {(sae.layer, sae.site): sae.neuronpedia or "" for sae in circuit.metadata.saes}
    found = {re.fullmatch(rf"(?:[\w.-]+/)?{layer}-([\w.-]+)", known.get((layer, site), "")) for layer, site in sites}
    sets = {match[1] if match else None for match in found}
    return sets.pop() if len(sets) == 1 else None


def _slug(run: str) -> str:
    """A file's name of a run's; not that of the list of graphs."""
    slug = names.plain_name(run, "circuit")
    return "circuit" if slug == "graph-metadata" else slug


def _time(created: str) -> dict[str, int]:
    """When the graph was drawn, in milliseconds, if its date can be read."""
    try:
        when = datetime.datetime.fromisoformat(created)
    except ValueError:
        return {}
    return {"create_time_ms": round(when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp() * 1000)}
