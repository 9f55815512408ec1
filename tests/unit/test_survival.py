"""How alike discoveries are: counts and Jaccard indices by plain sets, and what pictures show of survival."""

import dataclasses
import json
import math
import random
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import drawn
from support.circuits import validator

from circuitcli.core import document, merge
from circuitcli.core.circuit import Circuit
from circuitcli.core.metadata import RepeatFacts
from circuitcli.core.sampling import half
from circuitcli.core.seeding import PURPOSE_BOOTSTRAP
from circuitcli.core.stability import Discovery, discovery, jaccard, mean_jaccard, tally
from circuitcli.errors import InputError
from circuitcli.renderers import csv, dot, html, svg
from circuitcli.renderers import json as json_renderer
from circuitcli.stages.survival import rows, summary, survivors

LETTERS = "abcdefgh"
SETS = st.lists(st.sets(st.sampled_from(LETTERS)), min_size=2, max_size=6)


def test_jaccard_by_hand():
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 2 / 4
    assert jaccard({"a"}, {"b"}) == 0
    assert jaccard({"a"}, {"a"}) == jaccard(set(), set()) == 1
    assert jaccard({"a"}, set()) == 0


@given(SETS)
def test_mean_over_pairs_by_counting(sets: list[set[str]]):
    by_hand = []
    for a, b in combinations(sets, 2):
        both, either = [x for x in LETTERS if x in a and x in b], [x for x in LETTERS if x in a or x in b]
        by_hand.append(len(both) / len(either) if either else 1.0)
    assert mean_jaccard(sets, 0).value == pytest.approx(sum(by_hand) / len(by_hand))


def test_interval_resamples_repeats():
    """The same draws, each written out as a list of repeats; the pairs of a repeat with itself are none."""
    source = random.Random(3)
    sets = [{x for x in LETTERS if source.random() < 0.6} for _ in range(5)]
    counts = np.random.default_rng([7, PURPOSE_BOOTSTRAP]).multinomial(5, np.full(5, 0.2), size=1000)
    means = []
    for drawn_counts in counts:
        repeats = [i for i, count in enumerate(drawn_counts) for _ in range(count)]
        pairs = [(i, j) for i, j in combinations(repeats, 2) if i != j]
        if pairs:
            means.append(sum(jaccard(sets[i], sets[j]) for i, j in pairs) / len(pairs))
    found = mean_jaccard(sets, 7)
    assert (found.low, found.high) == pytest.approx((np.percentile(means, 2.5), np.percentile(means, 97.5)))
    assert (found.low or 0.0) < (found.value or 0.0) < (found.high or 0.0)


def test_interval_is_wider_than_that_of_pairs():
    """One repeat that is unlike the others is in many pairs: as if pairs were independent, the mean looks certain."""
    sets = [set("abcd")] * 9 + [set("efgh")]
    pairs = np.asarray([jaccard(a, b) for a, b in combinations(sets, 2)])
    resampled = np.random.default_rng(0).choice(pairs, (1000, len(pairs))).mean(1)
    found = mean_jaccard(sets, 0)
    assert (found.high or 0.0) - (found.low or 0.0) > 1.5 * (
        np.percentile(resampled, 97.5) - np.percentile(resampled, 2.5)
    )


def test_no_interval_of_two_and_no_mean_of_one():
    assert mean_jaccard([{"a", "b"}, {"b"}], 0).value == 0.5
    assert mean_jaccard([{"a", "b"}, {"b"}], 0).low is None
    assert mean_jaccard([{"a"}], 0).value is None


@given(SETS)
def test_tallies_by_counting(sets: list[set[str]]):
    values = [{name: float(ord(name) + i) for name in sorted(some)} for i, some in enumerate(sets)]
    found = tally(values)
    assert set(found) == set().union(*sets)
    for name, one in found.items():
        there = [ord(name) + i for i, some in enumerate(sets) if name in some]
        mean = sum(there) / len(there)
        assert one.survived == len(there)
        assert one.mean == pytest.approx(mean)
        assert one.std == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in there) / len(there)))


def test_what_isnt_known_has_no_mean():
    assert tally([{"a": math.nan}])["a"].survived == 1
    assert math.isnan(tally([{"a": math.nan}])["a"].mean)
    assert tally([{"a": math.nan}, {"a": 2.0}])["a"].mean == 2


def found(nodes: dict[str, float], *edges: tuple[str, str]) -> Discovery:
    return Discovery(nodes, dict.fromkeys(edges, 1.0), {name for name in nodes if name != "error"})


def test_ranks_are_by_size_among_features_alone():
    assert found({"a": 1.0, "b": -3.0, "error": 9.0, "c": math.nan}).ranks == {"b": 1, "a": 2}
    assert found({"b": 1.0, "a": -1.0}).ranks == {"a": 1, "b": 2}  # ties by name


def test_a_planted_instability_is_told():
    """Of four discoveries one lacks `b` and its edge, one has `c` on top, and all have `a`."""
    own = found({"a": 3.0, "b": 2.0}, ("a", "b"))
    many = [own, own, found({"a": 1.0}), found({"a": 3.0, "b": 2.0, "c": 4.0}, ("a", "b"), ("a", "c"))]
    table = rows("seed", many, own)
    told = {name: (table["survived"][i], table["drawn"][i]) for i, name in enumerate(table["id"])}
    assert told == {"a": (4, 1), "b": (3, 1), "c": (1, 0), "a → b": (3, 1), "a → c": (1, 0)}
    ranks = {
        name: tuple(table[f"rank_{of}"][i] for of in ("min", "median", "max")) for i, name in enumerate(table["id"])
    }
    assert ranks["a"] == (1, 1, 2)
    assert ranks["b"] == (2, 2, 3)
    assert math.isnan(ranks["a → b"][0])
    said = summary(many, own, "a", 0)
    assert (said["nodes_in_all"], said["edges_in_all"], said["on_top"], said["repeats"]) == (1, 0, 3, 4)
    assert said["nodes"]["value"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 1 / 2 + 2 / 3 + 1 / 3) / 6)


def test_what_never_comes_up_is_in_the_table():
    own = found({"a": 1.0}, ("a", "b"))
    table = rows("half", [found({}), found({"d": 1.0})], own)
    assert table["id"] == ["a", "d", "a → b"]
    assert table["survived"].tolist() == [0, 1, 0]


@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 5))
def test_halves_of_one_cut_are_disjoint_and_make_all(count: int, number: int, seed: int):
    first, second = (half(count, 2 * number - side, seed).tolist() for side in (1, 0))
    assert sorted(first + second) == list(range(count))
    assert len(second) - len(first) == count % 2
    assert first == sorted(first)


def test_cuts_differ():
    assert half(40, 1, 0).tolist() != half(40, 3, 0).tolist()
    assert half(40, 1, 0).tolist() != half(40, 1, 1).tolist()


def surviving(circuit: Circuit) -> Circuit:
    """A circuit of which the first edge comes up in every one of four discoveries, the others in one."""
    own, first = discovery(circuit), circuit.edges[0]
    ends = (first.source, first.target)
    small = Discovery({name: own.nodes[name] for name in ends if name in own.nodes}, {ends: 1.0}, set())
    return survivors(circuit, [own, small, small, small], {"seed": 4})


def test_survival_is_in_the_document_and_read_back():
    circuit = surviving(drawn.SMALL)
    tree = json.loads(json_renderer.plugin.files(circuit)["circuit.json"])
    validator().validate(tree)
    assert tree["metadata"]["repeats"] == {"total": 4, "seeds": 4, "halves": 0, "interventions": 0}
    assert [edge["survival"] for edge in tree["edges"]] == [1] + [0.25] * (len(circuit.edges) - 1)
    assert document.parse(tree, "circuit.json") == circuit
    plain = json.loads(json_renderer.plugin.files(drawn.SMALL)["circuit.json"])
    assert "survival" not in json.dumps(plain)  # older readers know no such key
    assert "repeats" not in plain["metadata"]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "often"])
def test_survival_that_is_no_share_is_refused(wrong: object):
    tree = json.loads(json_renderer.plugin.files(surviving(drawn.SMALL))["circuit.json"])
    tree["edges"][0]["survival"] = wrong
    with pytest.raises(InputError, match="survival should be"):
        document.parse(tree, "circuit.json")


def test_lines_are_as_wide_as_their_survival():
    """By its |effect| the first edge is drawn widest or not: by survival it is, and all others are alike."""
    circuit = surviving(drawn.SMALL)
    weakest = min(circuit.edges, key=lambda edge: abs(edge.effect_mean))
    at_most = dataclasses.replace(
        circuit,
        edges=tuple(dataclasses.replace(edge, survival=1.0 if edge is weakest else 0.25) for edge in circuit.edges),
    )
    widths = dict(re.findall(r'" -> "([^"]+)" \[.*penwidth=([\d.]+),', dot.source(at_most)))
    assert len(circuit.edges) > 1
    pens = sorted(float(pen) for pen in re.findall(r"penwidth=([\d.]+)", dot.source(at_most)))
    thin = dot.PEN[0] + 0.25 * (dot.PEN[1] - dot.PEN[0])
    assert pens == pytest.approx([thin] * (len(pens) - 1) + [dot.PEN[1]], abs=0.006)
    assert widths[weakest.target] == f"{dot.PEN[1]:.2f}"
    picture = svg.plugin.files(at_most)["circuit.svg"].decode()
    assert "comes up in more of 4 discoveries (4 seeds)" in picture
    assert "survives 25%" in picture
    assert "relative to the largest drawn" not in re.sub("shade[^<]*", "", picture)
    assert "survives" not in svg.plugin.files(drawn.SMALL)["circuit.svg"].decode()


def test_page_and_tables_have_it():
    circuit = surviving(drawn.SMALL)
    assert html.data(circuit)["survival"].endswith("4 discoveries (4 seeds)")
    assert html.data(drawn.SMALL)["survival"] == ""
    heads = [data.decode().splitlines()[0].split(",") for data in csv.plugin.files(circuit).values()]
    assert all(head[-1] == "survival" for head in heads)
    assert not any(b"survival" in data for data in csv.plugin.files(drawn.SMALL).values())


def test_a_merged_graph_has_none():
    both = merge.merge(surviving(drawn.SMALL), surviving(drawn.SMALL))
    assert both.metadata.repeats is None
    assert {part.survival for part in (*both.nodes, *both.edges)} == {None}


def test_words_of_repeats():
    facts = RepeatFacts(11, 5, 4, 3)
    metadata = dataclasses.replace(drawn.SMALL.metadata, repeats=facts)
    from circuitcli.renderers import _survival

    assert "11 discoveries (5 seeds, 4 halves, 3 interventions)" in _survival.legend(metadata)
