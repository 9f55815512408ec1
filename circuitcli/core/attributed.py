"""What a circuit of a prompt says beside one of mean effects: records of circuit.json.

In a circuit of a prompt nodes are features and dictionary errors at positions, the prompt's tokens at the bottom and
the targets on top, mostly one. All effects are of one metric m (`Question`), in its unit: replaced − clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from circuitcli.core.untrusted import Count, Flag, Number, Size, Text

# How an effect was got: measured, or estimated by a gradient.
Method = Literal["exact", "atp", "ig", "relp"]
EXACT = "exact"
ESTIMATES = ("atp", "ig", "relp")
KINDS = ("feature", "error", "token", "target")  # of nodes
ALL, REST = "all", "rest"  # of rows of calibration, beside kinds of sites


def node_name(kind: str, layer: int, site: str, feature: int, pos: int) -> str:
    """The id of a node: `4.resid_post.112@7`, `4.resid_post.error@7`, `token@3`, `target`.

    Without `@position` where it stands for all, `pos` is −1 then.
    """
    names = {"feature": f"{layer}.{site}.{feature}", "error": f"{layer}.{site}.error"}
    return names.get(kind, kind) + ("" if pos < 0 or kind == "target" else f"@{pos}")


def target_name(token_id: int) -> str:
    """The id of one of several targets: `target.15`."""
    return f"target.{token_id}"


@dataclass(frozen=True)
class Attribution:
    """What a node is, and does, in a prompt; of several prompts means over those that have it.

    Attributes:
        token: The token at its position, a target's own; empty where it stands for several positions.
        activation: Of a feature, SAE units; of an error or a token the norm of what it adds to its site; of a target
            its clean logit or log-probability.
        replacement: What a feature's activation was replaced by; None of other nodes.
        effect: m(replaced) − m(clean), in the metric's unit; None of targets.
        method: How the effect was got; None of targets.
        estimate: What the estimate that chose it says, where the effect was measured; None where there is none.
        influence: The cumulative share of all influence at which it comes in: small of the most influential.
        prob: Of a target: its probability.
        token_id: Of a target or token.
    """

    token: Text
    activation: Number
    replacement: Number | None
    effect: Number | None
    method: Method | None
    influence: Number
    estimate: Number | None = None
    prob: Number | None = None
    token_id: Count | None = None


@dataclass(frozen=True)
class Measure:
    """A number and its 95% bootstrap interval; None where it isn't defined."""

    value: Number | None
    low: Number | None = None
    high: Number | None = None


@dataclass(frozen=True)
class Calibration:
    """How good estimates are, on a sample of which the exact values were measured.

    Attributes:
        of: Whether effects of nodes or edges.
        method: The estimate.
        kind: `all`, or at which sites: `resid`, `attention`, `mlp`; or `rest`: all but the largest, which are measured
            whatever they are, so that estimates stand for these alone.
        n: Measured.
        total: Of so many.
        pearson, spearman: Correlations of estimates and exact values, weighted by how they were drawn.
        sign: The share whose signs agree.
        slope: exact ≈ slope · estimate, least squares.
        recall: The share of the `top` largest exact ones that are among the `top` largest estimates.
        top: So many.
    """

    of: Literal["nodes", "edges"]
    method: Method
    kind: Text
    n: Count
    total: Count
    pearson: Measure
    spearman: Measure
    sign: Measure
    slope: Measure
    recall: Measure
    top: Count


@dataclass(frozen=True)
class Fidelity:
    """A local replacement model without its errors beside the real one, on one prompt; means of several.

    Attributes:
        kl_last: KL(real ‖ replacement) of the next token at the prompt's last position, nats.
        kl: Its mean over the positions that count.
        top1: The share of these at which both have the same likeliest next token.
        real, replacement: The mean −log p of the prompt's own next tokens, nats; None where it has none.
    """

    kl_last: Size
    kl: Size
    top1: Size
    real: Number | None
    replacement: Number | None


@dataclass(frozen=True)
class Question:
    """What was asked, and how it was answered: the `attribution` of a circuit's metadata.

    Attributes:
        metric: In words: `log p(␣heavens)`, `logit(␣heavens) − logit(␣earth)`, `logit(10 likeliest) − mean logit`.
        unit: `nats` or `logits`.
        target, against: The tokens' texts; the latter None of a log-probability. Of several targets, or of several
            prompts with targets of their own, joined by `, `, some of them.
        clean: The mean of m over the prompts, unedited.
        prob: The target's probability, or all of theirs; a mean likewise.
        baseline: What replaces: zero, mean, resample or patch.
        method: That was asked for: auto, exact, atp, ig or relp.
        edge_method: Of the edges: atp, relp or exact.
        frozen: Whether attention patterns and norms' scales were held.
        positions: `separate` or `sum`.
        tokens: The prompt's, if nodes have positions; of several prompts the first one's.
        counterfactual: Likewise, of `patch`.
        prompts: How many.
        nodes: All that there are; `exact` of them were measured.
        abs_effect: Σ |effect| of all of them; `share` of it is that of the nodes drawn (targets don't count).
        edges: All between the nodes that were considered; `edge_share` is the drawn edges' share of Σ |weight|.
        replacement, completeness: Scores of the graph before it is pruned, as circuit-tracer has them: the share of
            the influence of tokens over that of tokens and errors; and how much of what nodes are fed isn't errors.
        replaced: Whether it is asked of the local replacement model, in which transcoders stand for MLPs.
        fidelity: How far that is from the real model without its errors.
        targets: How many next tokens are explained together: m is the mean of theirs, as likely as each is.
    """

    metric: Text
    unit: Text
    target: Text
    against: Text | None
    clean: Number
    prob: Number
    baseline: Text
    method: Text
    edge_method: Text
    frozen: Flag
    positions: Text
    tokens: tuple[Text, ...]
    counterfactual: tuple[Text, ...]
    prompts: Count
    nodes: Count
    exact: Count
    abs_effect: Size
    share: Size
    edges: Count
    edge_share: Size
    replacement: Number | None = None
    completeness: Number | None = None
    replaced: Flag = False
    fidelity: Fidelity | None = None
    targets: Count = 1
