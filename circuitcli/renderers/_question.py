"""What a circuit of a prompt says over its picture: what was asked, what is shown of it, and how good its numbers are.

Plain text, on one line each, in which nothing is left that a reader can't see; escape it for the place where it goes.
Of a circuit of mean effects, which answers no question, all of it is empty; of the difference of two circuits all but
the question, since there are no numbers of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from circuitcli.core.attributed import ALL, REST, Calibration, Question
from circuitcli.core.circuit import Circuit
from circuitcli.core.tokens import visible
from circuitcli.core.words import amount
from circuitcli.renderers._html import words
from circuitcli.renderers._node import number, percent, running

POOR = 0.5  # a correlation of estimates and measured effects below which nobody should trust the estimates
PROMPT_END = 80  # characters of a prompt that are told: its last, which is what the target follows
TOKEN_LIMIT = 40

Of = Literal["nodes", "edges"]
# What `circuit attribute` calls the choice of a method.
FLAGS: dict[Of, str] = {"nodes": "--method", "edges": "--edges"}
# What replaces activations, in words, by its name in the settings.
_REPLACED = {
    "mean": "their means",
    "resample": "their values at random positions of the text",
    "patch": "their values in the counterfactual",
}


def question(circuit: Circuit) -> str:
    """`Why “ heavens” after “… God created the”? log p(␣heavens) = −0.70 (49.7%)`."""
    asked = circuit.metadata.attribution
    if asked is None:
        return ""
    rather = "" if asked.against is None else f" rather than {_tokens(asked.against, asked)}"
    metric, chance = words(asked.metric, 2 * TOKEN_LIMIT), percent(asked.prob, 3)
    answer = f"{metric} = {decimal(asked.clean)} ({chance})"
    if asked.targets > 1:
        answer = f"{metric} = {decimal(asked.clean)} (p = {chance} together)"
    if asked.prompts > 1:  # the mean of log p isn't the log of the mean
        answer = f"mean {metric} = {decimal(asked.clean)} (mean p = {chance})"
    return f"Why {_tokens(asked.target, asked)}{rather} after {_prompt(circuit, asked)}? {answer}"


def shown(circuit: Circuit) -> str:
    """`57 of 420 nodes: 61% of Σ|effect| in nats, replaced by zero · 93 of 2,100 edges: 44% of Σ|weight|`."""
    asked = _asked(circuit)
    if asked is None:
        return ""
    drawn = sum(node.kind != "target" for node in circuit.nodes)
    replaced = _REPLACED.get(asked.baseline) or words(asked.baseline)
    return (
        f"{drawn:,} of {amount(asked.nodes, 'node')}: {percent(asked.share)} of Σ|effect| in {words(asked.unit)}, "
        f"replaced by {replaced} · "
        f"{len(circuit.edges):,} of {amount(asked.edges, 'edge')}: {percent(asked.edge_share)} of Σ|weight|"
    )


def made(circuit: Circuit) -> str:
    """`method auto · edges by relp · replacement 0.71, completeness 0.83 before pruning`."""
    asked = _asked(circuit)
    if asked is None:
        return ""
    scores = [("replacement", asked.replacement), ("completeness", asked.completeness)]
    told = ", ".join(f"{name} {decimal(value)}" for name, value in scores if value is not None)
    parts = (
        f"method {words(asked.method)}",
        f"edges by {words(asked.edge_method)}",
        "attention patterns and norms' scales held" if asked.frozen else "",
        "transcoders in place of MLPs" if asked.replaced else "",
        "nodes stand for all positions" if asked.positions == "sum" else "",
        told and f"{told} before pruning",
    )
    return " · ".join(part for part in parts if part)


def calibration(circuit: Circuit) -> str:
    """How the numbers were got: that they were measured, or how well their estimates agree with measured ones."""
    asked = _asked(circuit)
    if asked is None:
        return ""
    if asked.replaced:
        rows = _quality(circuit, "nodes", sorted(_rows(circuit, "nodes")))
        whole = f"Effects and edges are those of the replacement model. It predicts ablation in the real one: {rows}."
        return f"{whole} {_fidelity(asked)}".rstrip()
    by, chosen = _estimates(circuit, "nodes"), asked.exact < asked.nodes
    along = _estimates(circuit, "edges")
    if not by and not chosen and not along and circuit.edges:
        return "All effects of nodes and all edges were measured."
    measured = f"{asked.exact:,} of {asked.nodes:,} effects of nodes were measured"
    if not by and not chosen:
        said = ["All effects of nodes were measured."]
    elif not by:
        said = [f"{measured}, all that are drawn among them. {_chosen_by(circuit)}".rstrip()]
    else:
        of = f"{measured}, the others" if asked.exact else "Effects of nodes"
        said = [f"{of} are estimates ({_quality(circuit, 'nodes', by)})."]
    if along:
        exact = any(edge.method == "exact" for edge in circuit.edges)
        said.append(f"{'Some edges' if exact else 'Edges'} are estimates ({_quality(circuit, 'edges', along)}).")
    elif circuit.edges:
        said.append("All edges were measured.")
    return " ".join(said)


def warning(circuit: Circuit) -> str:
    """What a reader must know before believing the picture, and what to do about it; empty where all is well."""
    asked = _asked(circuit)
    if asked is None:
        return ""
    if asked.replaced:
        return _far(circuit)
    said = [told for of in FLAGS for method in _estimates(circuit, of) if (told := _doubt(circuit, of, method))]
    best = max(_correlated(circuit, "nodes"), key=_r, default=None)
    if not _estimates(circuit, "nodes") and asked.exact < asked.nodes and best is not None and _r(best) < POOR:
        said.append(
            f"Estimates chose which nodes were measured, and the best of them ({best.method}) has "
            f"r = {_rounded(_r(best))} only: others may matter as much. Try `--method exact`."
        )
    return " ".join(said)


def decimal(value: float) -> str:
    """Two decimals; of what is small three digits."""
    return number(value) if 0 < abs(value) < 0.1 else f"{value:.2f}".replace("-", "−")


def _asked(circuit: Circuit) -> Question | None:
    """The question, of a circuit that answers it alone."""
    return None if circuit.metadata.diff else circuit.metadata.attribution


def _tokens(text: str, asked: Question) -> str:
    """The token that was asked about, in quotes; of several prompts theirs, as tokens are shown alone, or several."""
    if asked.prompts > 1 or asked.targets > 1:
        return ", ".join(visible(token, TOKEN_LIMIT) for token in text.split(", "))
    return f"“{running(text, TOKEN_LIMIT, firing=True)}”"


def _prompt(circuit: Circuit, asked: Question) -> str:
    """The end of a prompt in quotes, or how many prompts there were."""
    if asked.prompts > 1:
        return amount(asked.prompts, "prompt")
    whole = words(circuit.metadata.prompts[0] if circuit.metadata.prompts else "".join(asked.tokens), PROMPT_END)
    end = whole[-PROMPT_END:]
    return f"“{whole}”" if end == whole else f"“… {end.partition(' ')[2] or end}”"


def _estimates(circuit: Circuit, of: Of) -> list[str]:
    """The estimates by which effects of nodes, or edges, that are drawn were got."""
    effects = [node.attribution for node in circuit.nodes if node.attribution is not None]
    drawn = circuit.edges if of == "edges" else effects
    return sorted({one.method for one in drawn if one.method and one.method != "exact"})


def _rows(circuit: Circuit, of: Of) -> dict[str, Calibration]:
    """How good each estimate is where it stands: of the rest, where the largest were measured, else of all."""
    told = [row for kind in (ALL, REST) for row in circuit.calibration if row.of == of and row.kind == kind]
    return {row.method: row for row in told}


def _correlated(circuit: Circuit, of: Of) -> list[Calibration]:
    return [row for row in _rows(circuit, of).values() if row.pearson.value is not None]


def _rounded(correlation: float) -> str:
    """Two decimals: more of a small one would be noise."""
    return f"{correlation:.2f}".replace("-", "−")


def _r(row: Calibration) -> float:
    return -1.0 if row.pearson.value is None else row.pearson.value


def _quality(circuit: Circuit, of: Of, methods: Iterable[str]) -> str:
    """`relp: r = 0.97 [0.95, 0.98] with 60 measured ones, signs agree 95%`."""
    rows = _rows(circuit, of)
    return "; ".join(f"{method}: {_agreement(rows.get(method))}" for method in methods)


def _agreement(row: Calibration | None) -> str:
    if row is None or not row.n:
        return "none was measured to compare"
    r = row.pearson
    interval = "" if r.low is None or r.high is None else f" [{_rounded(r.low)}, {_rounded(r.high)}]"
    correlation = "r isn't defined" if r.value is None else f"r = {_rounded(r.value)}{interval}"
    signs = "" if row.sign.value is None else f", signs agree {percent(row.sign.value)}"
    return f"{correlation} with {row.n:,} measured {'one' if row.n == 1 else 'ones'}{signs}"


def _fidelity(asked: Question) -> str:
    """How far a replacement model is from the real one."""
    far = asked.fidelity
    if far is None:
        return ""
    told = ""
    if far.real is not None and far.replacement is not None:
        told = f"; cross-entropy {decimal(far.replacement)} in place of {decimal(far.real)} nats"
    return (
        f"Without its errors it is {decimal(far.kl_last)} nats (KL) from the real one at the last position, "
        f"{decimal(far.kl)} on average, and says the same token at {percent(far.top1)} of positions{told}."
    )


def _far(circuit: Circuit) -> str:
    """Where a replacement model hardly predicts what the real one does."""
    rows = list(_rows(circuit, "nodes").values())
    if all(row.pearson.value is None or row.pearson.value >= POOR for row in rows):
        return ""
    return (
        "The replacement model hardly predicts what ablating the model's own features does: `circuit attribute` "
        "without `--replace` measures that."
    )


def _chosen_by(circuit: Circuit) -> str:
    rows = sorted(_rows(circuit, "nodes"))
    return f"Estimates chose them ({_quality(circuit, 'nodes', rows)})." if rows else ""


def _doubt(circuit: Circuit, of: Of, method: str) -> str:
    """Why an estimate isn't to be trusted, and which one is better; empty of one that is good enough."""
    row = _rows(circuit, of).get(method)
    measure = f"`{FLAGS[of]} exact` measures them"
    if row is None or row.pearson.value is None:
        return f"How good the estimates of {of} by {method} are isn't known: {measure}."
    if row.pearson.value >= POOR:
        return ""
    best = max(_correlated(circuit, of), key=_r)
    better = f"`{FLAGS[of]} {best.method}` does better (r = {_rounded(_r(best))}), " if _r(best) >= POOR else ""
    return (
        f"Estimates of {of} by {method} hardly agree with what was measured "
        f"(r = {_rounded(row.pearson.value)}): {better}{measure}."
    )
