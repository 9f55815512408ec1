"""Merged circuits: laws over random circuits, and one case by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from support.circuits import METADATA, NAMES, PLAIN, RUN, circuits, edge, node

from circuitcli.core.circuit import Circuit
from circuitcli.core.merge import measurements, merge
from circuitcli.core.metadata import DiffFacts, SaeFacts
from circuitcli.errors import InputError

LATER = "2026-11-24T10:00:00+00:00"


@settings(max_examples=80)
@given(circuits(), circuits(), circuits())
def test_joining_is_associative(a: Circuit, b: Circuit, c: Circuit) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@settings(max_examples=80)
@given(circuits(), circuits())
def test_joining_is_idempotent(a: Circuit, b: Circuit) -> None:
    whole = merge(a, b)
    assert merge(whole, whole) == whole
    assert merge(whole, b) == whole


def test_a_graph_added_to_itself_is_that_graph() -> None:
    whole = merge(PLAIN, PLAIN)
    assert whole.metadata.share_drawn == pytest.approx(METADATA.share_drawn)
    assert whole == replace(PLAIN, metadata=replace(METADATA, share_drawn=whole.metadata.share_drawn))


@settings(max_examples=60)
@given(circuits(), circuits())
def test_numbers_don_t_depend_on_the_order(a: Circuit, b: Circuit) -> None:
    """Only what people wrote, and which run was drawn last, does."""

    def numbers(circuit: Circuit) -> object:
        facts = replace(circuit.metadata, run="")
        return facts, [replace(one, label=None, group=None) for one in circuit.nodes], circuit.edges

    assert numbers(merge(a, b)) == numbers(merge(b, a))


@settings(max_examples=60)
@given(circuits(), circuits())
def test_nothing_is_lost_and_nothing_made_up(a: Circuit, b: Circuit) -> None:
    """By brute force: every measurement of either is there once, and no other; the newest is the one that counts."""
    whole = merge(a, b)
    for one in whole.edges:
        found = [
            m
            for c in (a, b)
            for e in c.edges
            if (e.source, e.target) == (one.source, one.target)
            for m in measurements(e)
        ]
        kept = measurements(one)
        assert {(m.run, m.effect_mean) for m in kept} == {(m.run, m.effect_mean) for m in found}
        assert len({(m.run, m.effect_mean) for m in kept}) == len(kept)
        assert [m.created for m in kept] == sorted((m.created for m in kept), reverse=True)
        for m in kept:
            assert m.created == min(f.created for f in found if (f.run, f.effect_mean) == (m.run, m.effect_mean))
    assert {(e.source, e.target) for e in whole.edges} == {(e.source, e.target) for c in (a, b) for e in c.edges}
    assert {n.id for n in whole.nodes} == {n.id for c in (a, b) for n in c.nodes}
    assert [abs(e.effect_mean) for e in whole.edges] == sorted((abs(e.effect_mean) for e in whole.edges), reverse=True)


def tuesday() -> Circuit:
    """A later run that measured one edge anew, and found another."""
    run = replace(RUN, run="tuesday", created=LATER, edges_measured=100, abs_effect_measured=2.0, seed=7)
    about = {"run": "tuesday", "created": LATER}
    edges = (
        edge("0.resid_post.4", "1.mlp_out.5", 0.9, 0.8, 1.0, **about),
        edge("1.mlp_out.5", "2.resid_post.7", -0.7, -0.75, -0.6, **about),
    )
    nodes = (
        node("0.resid_post.4", pinned=True, **about),
        node("1.mlp_out.5", density=0.5, **about),
        node("2.resid_post.7", density=0.5, n=0, kl_mean=None, label="cats", **about),
    )
    sae = SaeFacts(0, "resid_post", "hf://0", "0resid_post", None)
    saes = (sae, *(one for one in METADATA.saes if one.layer < 3))
    facts = replace(METADATA, run="tuesday", runs=(run,), saes=saes, layers=(0, 1, 2), seed=7, edges_measured=100)
    return Circuit(facts, nodes, edges)


def test_a_repeated_edge_keeps_the_newer_measurement_and_remembers_the_older() -> None:
    whole = merge(PLAIN, tuesday())
    found = {(e.source, e.target): e for e in whole.edges}
    assert list(found)[:2] == [("0.resid_post.4", "1.mlp_out.5"), ("1.mlp_out.5", "2.resid_post.7")]
    again = found["1.mlp_out.5", "2.resid_post.7"]
    assert (again.effect_mean, again.run, again.created) == (-0.7, "tuesday", LATER)
    [older] = again.older
    assert (older.effect_mean, older.ci_low, older.run, older.created) == (-0.84, -0.9, "monday", RUN.created)
    assert found["2.resid_post.7", "3.resid_post.8"].older == ()


def test_a_node_is_the_newest_that_was_ablated() -> None:
    found = {one.id: one for one in merge(PLAIN, tuesday()).nodes}
    assert list(found) == ["0.resid_post.4", *NAMES]
    assert (found["1.mlp_out.5"].density, found["1.mlp_out.5"].run) == (0.5, "tuesday")
    seven = found["2.resid_post.7"]  # on Tuesday it was a target only
    assert (seven.density, seven.n, seven.run, seven.label) == (0.0123, 40, "monday", "cats")


def test_metadata_of_a_union_says_what_is_known() -> None:
    facts = merge(PLAIN, tuesday()).metadata
    assert (facts.layers, facts.run, facts.num_sequences, facts.seed) == ((0, 1, 2, 3), "tuesday", 200, None)
    assert [run.run for run in facts.runs] == ["monday", "tuesday"]
    assert facts.edges_measured == 1334
    # Each edge once, by its newest measurement, over what both runs measured.
    assert facts.share_drawn == pytest.approx((0.9 + 0.7 + 0.42 + 0.21 + 0.05) / (4.0 + 2.0))
    assert [(sae.layer, sae.site) for sae in facts.saes] == [
        (0, "resid_post"),
        *((s.layer, s.site) for s in METADATA.saes),
    ]


def test_a_run_that_was_drawn_again_counts_once() -> None:
    again = replace(RUN, created=LATER)
    facts = merge(PLAIN, replace(PLAIN, metadata=replace(METADATA, runs=(again,)))).metadata
    assert facts.runs == (again,)
    assert facts.edges_measured == RUN.edges_measured


def test_a_run_with_other_pins_counts_again_so_that_the_share_is_never_too_large() -> None:
    """The same run, drawn with one feature pinned and then with another: each time it measured that one alone."""
    first, second = PLAIN.edges[:2], PLAIN.edges[2:]
    runs = tuple(
        replace(RUN, created=time, abs_effect_measured=total) for time, total in ((RUN.created, 2.0), (LATER, 1.0))
    )
    parts = [
        replace(PLAIN, edges=edges, metadata=replace(METADATA, runs=(run,)))
        for edges, run in zip((first, second), runs, strict=True)
    ]
    facts = merge(*parts).metadata
    assert facts.share_drawn == pytest.approx(sum(abs(e.effect_mean) for e in PLAIN.edges) / 3.0)
    assert facts.runs == runs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "pythia", "model_identity": "d" * 40}, ("different models", "gpt2", "pythia", "dddddddd")),
        (
            {"saes": (replace(METADATA.saes[1], sha256="other", source="hf://other"),)},
            ("different SAEs at 1.resid_post", "hf://other", "hf://1"),
        ),
        ({"intervention": "mean"}, ("intervention zero and mean",)),
        ({"positions": "all"}, ("positions top and all",)),
        ({"horizon": 3}, ("horizon 0 and 3",)),
        ({"diff": DiffFacts("a", "b", 0, 0)}, ("difference",)),
    ],
    ids=["model", "sae", "intervention", "positions", "horizon", "diff"],
)
def test_what_can_t_be_one_graph_is_refused(changes: dict, words: tuple[str, ...]) -> None:
    other = replace(PLAIN, metadata=replace(METADATA, **changes))
    with pytest.raises(InputError) as raised:
        merge(PLAIN, other)
    assert raised.value.exit_code == 3
    assert all(word in raised.value.message for word in words)
    with pytest.raises(InputError):
        merge(other, PLAIN)
