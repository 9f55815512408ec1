"""What changed between two graphs: by hand, against brute force, and drawn."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from support.circuits import ASKED, EDGES, METADATA, NAMES, PLAIN, circuits, edge, node, validator

from circuitcli import plugins
from circuitcli.core.circuit import Circuit, Edge
from circuitcli.core.compare import compare, drawn
from circuitcli.core.merge import merge
from circuitcli.core.metadata import DiffFacts
from circuitcli.errors import InputError
from circuitcli.renderers import _change, _legend
from circuitcli.renderers.html import _asset


def with_edges(*edges: Edge) -> Circuit:
    return replace(PLAIN, edges=edges)


@settings(max_examples=60)
@given(circuits())
def test_a_graph_and_itself_have_no_difference(circuit: Circuit) -> None:
    found = compare(circuit, circuit)
    assert found.empty
    assert found.same == len(circuit.edges)


def test_without_intervals_it_is_still_itself() -> None:
    assert compare(PLAIN, PLAIN).empty  # its last edge has none


A, B = NAMES[:2]


@pytest.mark.parametrize(
    ("before", "after", "became"),
    [
        ((1.0, 0.9, 1.1), (1.3, 1.2, 1.4), "changed"),
        ((1.3, 1.2, 1.4), (1.0, 0.9, 1.1), "changed"),
        ((-1.0, -1.1, -0.9), (1.0, 0.9, 1.1), "changed"),
        ((1.0, 0.9, 1.2), (1.3, 1.2, 1.4), "same"),  # they touch
        ((1.0, 0.5, 1.5), (1.3, 1.2, 1.4), "same"),
        ((1.0, None, None), (1.3, 1.2, 1.4), "untold"),
        ((1.0, None, None), (9.0, None, None), "untold"),
        ((1.0, None, None), (1.0, None, None), "same"),
    ],
)
def test_changed_means_intervals_apart(before: tuple, after: tuple, became: str) -> None:
    found = compare(with_edges(edge(A, B, *before)), with_edges(edge(A, B, *after)))
    assert (len(found.changed), len(found.untold), found.same) == (
        became == "changed",
        became == "untold",
        int(became == "same"),
    )
    assert found.empty == (became == "same")


@settings(max_examples=60)
@given(circuits(), circuits())
def test_gained_and_lost_are_differences_of_sets(a: Circuit, b: Circuit) -> None:
    found, turned = compare(a, b), compare(b, a)
    ends_a, ends_b = ({(e.source, e.target) for e in c.edges} for c in (a, b))
    ids_a, ids_b = ({n.id for n in c.nodes} for c in (a, b))
    assert {(e.source, e.target) for e in found.gained} == ends_b - ends_a
    assert {(e.source, e.target) for e in found.lost} == ends_a - ends_b
    assert {n.id for n in found.nodes_gained} == ids_b - ids_a
    assert {n.id for n in found.nodes_lost} == ids_a - ids_b
    assert len(found.changed) + len(found.untold) + found.same == len(ends_a & ends_b)
    assert (found.gained, found.lost) == (turned.lost, turned.gained)
    assert {(e.source, e.target) for e, _ in found.changed} == {(e.source, e.target) for e, _ in turned.changed}


def test_other_models_and_other_saes_are_refused_other_interventions_are_not() -> None:
    for changes in ({"model_identity": "d"}, {"saes": (replace(METADATA.saes[0], sha256="x"),)}):
        with pytest.raises(InputError):
            compare(PLAIN, replace(PLAIN, metadata=replace(METADATA, **changes)))
    assert compare(PLAIN, replace(PLAIN, metadata=replace(METADATA, intervention="mean"))).empty


def difference() -> Circuit:
    """One node and edge gained, one edge lost, one changed, one as it was."""
    after = (
        edge("1.mlp_out.5", "1.resid_post.6", 2.0, 1.9, 2.1),
        EDGES[2],
        edge("2.resid_post.7", "3.resid_post.9", -1.0, -1.1, -0.9),
        EDGES[3],
    )
    nodes = (*PLAIN.nodes, node("3.resid_post.9"))
    return drawn(PLAIN, Circuit(METADATA, nodes, after), ("monday", "<tuesday>"))


def test_the_drawing_has_everything_of_both_marked() -> None:
    found = difference()
    assert {(e.source, e.target): e.change for e in found.edges} == {
        ("1.mlp_out.5", "1.resid_post.6"): "changed",
        ("1.resid_post.6", "2.resid_post.7"): None,
        ("2.resid_post.7", "3.resid_post.9"): "gained",
        ("2.resid_post.7", "3.resid_post.8"): None,
        ("1.mlp_out.5", "2.resid_post.7"): "lost",
    }
    assert {n.id: n.change for n in found.nodes} == {**dict.fromkeys(NAMES), "3.resid_post.9": "gained"}
    older = {(e.source, e.target): [m.effect_mean for m in e.older] for e in found.edges}
    assert older.pop(("1.mlp_out.5", "1.resid_post.6")) == [0.42]  # what the first graph had
    assert set(map(len, older.values())) == {0}
    assert found.metadata.diff == DiffFacts("monday", "<tuesday>", same=2, untold=0)
    validator().validate(found.to_dict() | {"nodes": [], "edges": []})
    with pytest.raises(InputError):
        merge(found, PLAIN)


def test_three_colours_and_grey() -> None:
    [source] = plugins.load("renderers", "dot").files(difference()).values()
    lines = [line for line in source.decode().splitlines() if " -> " in line and "invis" not in line]
    hues = {line.split('"')[1] + line.split('"')[3]: line.split('color="')[1][:7] for line in lines}
    assert hues == {
        "1.mlp_out.51.resid_post.6": _change.COLORS["changed"],
        "1.resid_post.62.resid_post.7": _change.UNCHANGED,
        "2.resid_post.73.resid_post.9": _change.COLORS["gained"],
        "2.resid_post.73.resid_post.8": _change.UNCHANGED,
        "1.mlp_out.52.resid_post.7": _change.COLORS["lost"],
    }
    assert [line.split('"')[1] for line in lines if "style=dashed" in line] == ["1.mlp_out.5"]
    text = source.decode()
    assert "Edges: 1 gained, 1 lost, 1 changed, 2 as they were" in text
    assert "From monday to &lt;tuesday&gt;: what changed" in text


# Brettel-like projection for deuteranopia and protanopia (Viénot et al. 1999), on linear RGB.
BLIND = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


DARK = _asset("page.css").split(':root[data-theme="dark"]')[1].split("}")[0]
PALETTES = {
    "light": (*_change.COLORS.values(), _change.UNCHANGED),
    "dark": tuple(re.findall(r"--(?:gained|lost|changed|unchanged): (#\w+);", DARK)),
}


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("kind", BLIND)
def test_colour_blind_people_can_tell_them_apart(kind: str, palette: str) -> None:
    def seen(color: str) -> tuple[float, ...]:
        rgb = [(int(color[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return tuple(max(sum(w * c for w, c in zip(row, rgb, strict=True)), 0) ** (1 / 2.2) for row in BLIND[kind])

    colors = [seen(color) for color in PALETTES[palette]]
    assert len(colors) == 4
    apart = [
        sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) ** 0.5 for i, p in enumerate(colors) for q in colors[:i]
    ]
    assert min(apart) > 0.2


def asked(circuit: Circuit = ASKED, **changes: object) -> Circuit:
    """The same circuit of a prompt, with another question."""
    question = replace(circuit.metadata.attribution, **changes)
    return replace(circuit, metadata=replace(circuit.metadata, attribution=question))


def test_of_a_prompt_other_numbers_are_changes() -> None:
    edges = tuple(replace(e, effect_mean=2 * e.effect_mean) if e.target == "target" else e for e in ASKED.edges)
    nodes = tuple(
        replace(n, attribution=replace(n.attribution, effect=n.attribution.effect + 0.5)) if n.id == "token@6" else n
        for n in ASKED.nodes[1:]
    )
    found = compare(ASKED, replace(ASKED, nodes=nodes, edges=edges))
    assert [(a.effect_mean, b.effect_mean) for a, b in found.changed] == [(-1.0, -2.0), (0.3, 0.6)]
    assert [(a.attribution.effect, b.attribution.effect) for a, b in found.nodes_changed] == [(-0.8, -0.8 + 0.5)]
    assert [node.id for node in found.nodes_lost] == ["token@5"]
    assert (found.untold, found.same, found.empty) == ((), len(ASKED.edges) - 2, False)
    picture = drawn(ASKED, replace(ASKED, nodes=nodes, edges=edges), ("a", "b"))
    assert {n.id: n.change for n in picture.nodes if n.change} == {"token@6": "changed", "token@5": "lost"}
    assert picture.calibration == ASKED.calibration
    assert "changed: another effect or weight" in dict(_legend.changes(picture)).values()
    validator().validate(json.loads(json.dumps(picture.to_dict())))


def test_what_batches_change_is_no_change_of_a_prompt() -> None:
    noisy = tuple(replace(e, effect_mean=e.effect_mean * 1.00001) for e in ASKED.edges)
    assert compare(ASKED, replace(ASKED, edges=noisy)).empty
    assert compare(ASKED, ASKED).same == len(ASKED.edges)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (asked(metric="log p(␣earth)"), "log p(␣heavens) and log p(␣earth)"),
        (asked(positions="sum"), "separate and sum"),
        (asked(tokens=("In", " the")), "of different prompts"),
        (replace(ASKED, metadata=replace(ASKED.metadata, prompts=("x",))), "of different prompts"),
        (PLAIN, "a question about a prompt, the other has mean effects"),
    ],
)
def test_different_questions_are_refused(other: Circuit, told: str) -> None:
    for pair in ((ASKED, other), (other, ASKED)):
        with pytest.raises(InputError) as refused:
            compare(*pair)
        assert all(part in refused.value.message for part in told.split(" and "))
        assert refused.value.hint


def test_the_same_question_may_be_answered_otherwise() -> None:
    assert compare(ASKED, asked(method="atp", baseline="mean", frozen=True)).empty


def test_circuits_of_prompts_are_added_to_none() -> None:
    for pair in ((ASKED, ASKED), (PLAIN, ASKED), (ASKED, PLAIN)):
        with pytest.raises(InputError, match="answers a question about a prompt"):
            merge(*pair)
