"""What attribution graphs say of one node, in the graph, and of the feature that it is, in a JSON of its own."""

from __future__ import annotations

from typing import Any

from circuitcli.core.circuit import Context, Node
from circuitcli.core.tokens import visible
from circuitcli.renderers import _attribution_names as names
from circuitcli.renderers._text import TOKEN_LIMIT, readable

# As the viewers know them; for the first they show a feature's contexts and tokens.
TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "target": "logit",
}
_MARKUP = str.maketrans({"<": "‹", ">": "›"})  # the viewers put some of the text into pages as it is


def entry(
    node: Node, name: str, number: int, column: int, influence: float, *, likeliest: bool = False
) -> dict[str, Any]:
    """A node of the graph.

    Args:
        node: The node.
        name: Its id there.
        number: Its `feature`.
        column: Its `ctx_idx`.
        influence: A cumulative share.
        likeliest: Whether it is the likeliest of the targets: the viewers know one.
    """
    asked, kind = node.attribution, names.kind(node)
    said = {
        "node_id": name,
        "feature": number,
        "layer": names.layer(node),
        "ctx_idx": column,
        "feature_type": TYPES[kind],
        "jsNodeId": name,
        "clerp": title(node),
        "influence": influence,
        "activation": asked.activation if asked and kind == "feature" else None,
    }
    if asked and kind == "target":
        said |= {"is_target_logit": likeliest, "token_prob": asked.prob or 0.0}
    return said


def title(node: Node) -> str:
    """What the viewers write on a node: its label, else its name and the token that it fires on most."""
    kind, token = names.kind(node), inert(node.attribution.token[:TOKEN_LIMIT]) if node.attribution else ""
    if node.attribution and kind == "target":
        return _of_target(node.label, token, node.attribution.prob or 0.0)
    if node.label:
        return inert(node.label)
    if kind == "token":
        return f"Emb: “{token}”"
    if kind == "error":
        return f"Err: {inert(node.site)} “{token}”"
    name = f"{node.layer}.{node.site}.{node.feature}" if node.attribution else node.id
    context = node.contexts[0] if node.contexts else None
    return inert(f"{name} {visible(context.tokens[context.firing], TOKEN_LIMIT)}" if context else name)


def _of_target(label: str | None, token: str, prob: float) -> str:
    """The viewers read its token from between quotes, and from behind `(p=` its probability."""
    called = inert(label) if label else 'Output "{}"'.format(token.replace('"', "”"))
    return f"{called.replace('(p=', '(p =')} (p={prob:.3f})"


def feature(node: Node) -> dict[str, Any]:
    """The JSON of one feature: its top contexts, and the tokens that it promotes and suppresses."""
    return {
        "transcoder_id": readable(f"{node.layer}.{node.site}"),
        "index": node.feature,
        "examples_quantiles": [
            {"quantile_name": "Top contexts", "examples": [_example(context) for context in node.contexts]}
        ],
        "top_logits": [readable(effect.token) for effect in node.promoted],
        "bottom_logits": [readable(effect.token) for effect in node.suppressed],
        "act_min": 0.0,
        "act_max": node.max_activation,
        "quantile_values": [],
        "histogram": [],
        "activation_frequency": node.density,
    }


def _example(context: Context) -> dict[str, Any]:
    return {
        "tokens": [readable(token) for token in context.tokens],
        "tokens_acts_list": list(context.activations),
        "train_token_ind": context.firing,
        "is_repeated_datapoint": False,
    }


def inert(text: str) -> str:
    """Text that is no markup, wherever a page puts it."""
    return readable(text).translate(_MARKUP)
