"""What stands over a picture of a circuit of a prompt, in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.circuits import ASKED, NASTY, PLAIN, QUESTION

from circuitcli.core import compare
from circuitcli.core.attributed import Calibration, Measure
from circuitcli.core.circuit import Circuit
from circuitcli.renderers import _legend, _question

EDGES = "Edges are estimates (relp: r = 0.97 [0.95, 0.98] with 60 measured ones, signs agree 95%)."


def asked(nodes: str = "exact", edges: str = "relp", **question: Any) -> Circuit:
    """ASKED, its effects got by these methods."""
    metadata = dataclasses.replace(ASKED.metadata, attribution=dataclasses.replace(QUESTION, **question))
    by = [
        dataclasses.replace(n, attribution=dataclasses.replace(n.attribution, method=nodes))
        if n.attribution is not None and n.attribution.method
        else n
        for n in ASKED.nodes
    ]
    along = tuple(dataclasses.replace(edge, method=edges) for edge in ASKED.edges)  # type: ignore[arg-type]
    return dataclasses.replace(ASKED, metadata=metadata, nodes=tuple(by), edges=along)


def calibrated(circuit: Circuit, **r: float | None) -> Circuit:
    """With rows `nodes_atp=0.3, edges_relp=0.9` of correlations."""
    rows = []
    for key, value in r.items():
        of, method = key.split("_")
        pearson = Measure(value)
        rows.append(dataclasses.replace(ASKED.calibration[0], of=of, method=method, n=60, pearson=pearson))
    return dataclasses.replace(circuit, calibration=tuple(rows))


def test_the_question_is_a_sentence_with_its_answer() -> None:
    prompt = "after “In the beginning, God created the”?"
    assert _question.question(ASKED) == f"Why “ heavens” {prompt} log p(␣heavens) = −0.70 (49.7%)"
    difference = asked(against=" earth", metric="logit(␣heavens) − logit(␣earth)", unit="logits", clean=0.0123)
    assert _question.question(difference) == (
        f"Why “ heavens” rather than “ earth” {prompt} logit(␣heavens) − logit(␣earth) = 0.0123 (49.7%)"
    )
    many = asked(prompts=40, target=" heavens, earth", metric="log p(target)")
    answer = "mean log p(target) = −0.70 (mean p = 49.7%)"
    assert _question.question(many) == f"Why ␣heavens, earth after 40 prompts? {answer}"
    likely = asked(targets=10, target=" heavens, earth, …", metric="logit(10 likeliest) − mean logit", prob=0.528)
    answer = "logit(10 likeliest) − mean logit = −0.70 (p = 52.8% together)"
    assert _question.question(likely) == f"Why ␣heavens, earth, … {prompt} {answer}"


def test_of_a_long_prompt_its_end_is_told() -> None:
    text = " ".join(f"word{i}" for i in range(100))
    long = dataclasses.replace(ASKED, metadata=dataclasses.replace(ASKED.metadata, prompts=(text,)))
    said = _question.question(long).split("”")[1] + "”"
    assert said.startswith(" after “… word")
    assert said.endswith(" word98 word99”")
    assert len(said) < 100


def test_what_is_shown_is_counted_with_its_share() -> None:
    assert _question.shown(ASKED) == (
        "6 of 420 nodes: 61% of Σ|effect| in nats, replaced by zero · 7 of 2,100 edges: 44% of Σ|weight|"
    )
    assert "replaced by their values in the counterfactual" in _question.shown(asked(baseline="patch"))
    assert "replaced by their means" in _question.shown(asked(baseline="mean"))
    assert "replaced by their values at random positions" in _question.shown(asked(baseline="resample"))


def test_how_it_was_made_is_told_with_its_scores() -> None:
    assert _question.made(ASKED) == "method auto · edges by relp · replacement 0.71, completeness 0.83 before pruning"
    held = asked(frozen=True, positions="sum", replacement=None, completeness=None)
    assert _question.made(held) == (
        "method auto · edges by relp · attention patterns and norms' scales held · nodes stand for all positions"
    )


def test_where_all_was_measured_it_is_said() -> None:
    assert _question.calibration(asked(edges="exact")) == "All effects of nodes and all edges were measured."
    assert _question.calibration(ASKED) == f"All effects of nodes were measured. {EDGES}"
    assert _question.warning(ASKED) == _question.warning(asked(edges="exact")) == ""


def test_estimates_are_told_with_how_good_they_are() -> None:
    poor = calibrated(asked(nodes="atp", exact=0), nodes_atp=0.31, edges_relp=0.9)
    nodes = "Effects of nodes are estimates (atp: r = 0.31 with 60 measured ones, signs agree 95%)."
    edges = "Edges are estimates (relp: r = 0.90 with 60 measured ones, signs agree 95%)."
    assert _question.calibration(poor) == f"{nodes} {edges}"
    some = calibrated(asked(nodes="atp", exact=60), nodes_atp=0.31, edges_relp=0.9)
    assert _question.calibration(some).startswith(
        "60 of 420 effects of nodes were measured, the others are estimates (atp: r = 0.31"
    )


def test_estimates_that_chose_the_nodes_are_told() -> None:
    screened = calibrated(asked(exact=60, edges="exact"), nodes_atp=0.2, nodes_relp=0.93)
    assert _question.calibration(screened) == (
        "60 of 420 effects of nodes were measured, all that are drawn among them. Estimates chose them "
        "(atp: r = 0.20 with 60 measured ones, signs agree 95%; relp: r = 0.93 with 60 measured ones, signs agree 95%)."
        " All edges were measured."
    )
    assert _question.warning(screened) == ""
    blind = calibrated(asked(exact=60, edges="exact"), nodes_atp=0.2, nodes_relp=0.4)
    assert "the best of them (relp) has r = 0.40 only" in _question.warning(blind)
    assert "`--method exact`" in _question.warning(blind)


@pytest.mark.parametrize(("r", "warned"), [(0.49, True), (0.5, False), (-0.9, True), (None, True)])
def test_poor_estimates_are_warned_of(r: float | None, warned: bool) -> None:
    circuit = calibrated(asked(nodes="atp", exact=0, edges="exact"), nodes_atp=r)
    assert bool(_question.warning(circuit)) == warned


def test_a_warning_names_what_is_better() -> None:
    better = calibrated(asked(nodes="atp", exact=0), nodes_atp=0.31, nodes_relp=0.92, nodes_ig=0.8, edges_relp=0.1)
    assert _question.warning(better) == (
        "Estimates of nodes by atp hardly agree with what was measured (r = 0.31): "
        "`--method relp` does better (r = 0.92), `--method exact` measures them. "
        "Estimates of edges by relp hardly agree with what was measured (r = 0.10): `--edges exact` measures them."
    )
    nothing = dataclasses.replace(ASKED, calibration=())
    assert _question.warning(nothing) == (
        "How good the estimates of edges by relp are isn't known: `--edges exact` measures them."
    )
    assert "none was measured to compare" in _question.calibration(nothing)


def test_rows_of_single_kinds_of_sites_do_not_count() -> None:
    only = tuple(dataclasses.replace(row, kind="mlp") for row in ASKED.calibration)
    assert "isn't known" in _question.warning(dataclasses.replace(ASKED, calibration=only))
    assert isinstance(only[0], Calibration)


def test_a_circuit_of_mean_effects_says_none_of_it() -> None:
    said = (_question.question, _question.shown, _question.made, _question.calibration, _question.warning)
    assert [say(PLAIN) for say in said] == [""] * 5
    assert "positions top · 200 sequences" in _legend.settings(PLAIN)
    assert _legend.settings(ASKED).endswith("zero ablation · 2026-11-23 · circuit 0.1.0")
    assert _legend.title(PLAIN) == "Feature circuit of gpt2"
    assert _legend.title(ASKED) == _question.question(ASKED)
    assert _legend.share(ASKED) == _question.shown(ASKED)


def test_of_a_difference_only_the_question_is_known() -> None:
    both = compare.drawn(ASKED, dataclasses.replace(ASKED, edges=ASKED.edges[1:]), ("monday", "tuesday"))
    said = (_question.shown, _question.made, _question.calibration, _question.warning)
    assert [say(both) for say in said] == [""] * 4
    assert _question.question(both) == _question.question(ASKED)


@pytest.mark.parametrize("text", NASTY)
def test_whatever_a_text_is_it_becomes_one_printable_line(text: str) -> None:
    given = dict.fromkeys(("metric", "unit", "target", "against", "baseline", "method"), text)
    circuit = asked(**given, tokens=(text,))
    metadata = dataclasses.replace(circuit.metadata, prompts=())
    for say in (_question.question, _question.shown, _question.made, _question.calibration, _question.warning):
        said = say(dataclasses.replace(circuit, metadata=metadata))
        assert all(char.isprintable() for char in said)
        assert len(said) < 600


def test_where_the_largest_were_measured_what_is_told_of_estimates_is_of_the_rest() -> None:
    """They stand for the others alone: one that fails at the largest may be trusted where it is shown."""
    poor, good = (Measure(r, r - 0.1, r + 0.1) for r in (0.1, 0.85))
    of_edges = next(row for row in ASKED.calibration if row.of == "edges")
    rows = tuple(
        dataclasses.replace(of_edges, kind=kind, pearson=r, n=n)
        for kind, r, n in (("all", poor, 60), ("rest", good, 40))
    )
    drawn = dataclasses.replace(ASKED, calibration=rows)
    assert "relp: r = 0.85 [0.75, 0.95] with 40 measured ones" in _question.calibration(drawn)
    assert _question.warning(drawn) == ""
    assert "r = 0.10" in _question.warning(dataclasses.replace(ASKED, calibration=rows[:1]))


def test_correlations_have_two_decimals_however_small() -> None:
    small = calibrated(asked(nodes="atp", exact=0), nodes_atp=-0.0967)
    assert "(atp: r = −0.10 with" in _question.calibration(small)
    assert "(r = −0.10)" in _question.warning(small)
