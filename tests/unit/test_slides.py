"""Circuits of prompts as slides: what is on them, where it stands, and that what they say is so."""

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import geometry, prompts
from support.circuits import ASKED, PLAIN

from circuitcli import plugins
from circuitcli.core import compare
from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit
from circuitcli.core.tokens import visible
from circuitcli.renderers import _question, _slide_parts
from circuitcli.renderers._change import COLORS
from circuitcli.renderers._html import LOWERS, RAISES, width, wrapped
from circuitcli.renderers._slide_grid import Item, Room, Size, Strip, grid
from circuitcli.runtime.layout import program

CASES = {
    "asked": ASKED,
    "10 nodes": prompts.prompt(10, 8),
    "40 nodes": prompts.prompt(40, 12),
    "40 of a long prompt": prompts.prompt(40, 60),
    "200 nodes": prompts.prompt(200, 12, layers=12),
    "200 of a long prompt": prompts.prompt(200, 60, layers=24, measured=False),
    "groups": prompts.prompt(60, 16, groups=6),
    "no spaces": prompts.of_characters(24),
    "no positions": prompts.summed(),
    "hostile": prompts.hostile(),
}
each = pytest.mark.parametrize("case", CASES)


@cache
def slide(case: str) -> ET.Element:
    return drawn(CASES[case])


def drawn(circuit: Circuit) -> ET.Element:
    return ET.fromstring(plugins.load("renderers", "svg").files(circuit)["circuit.svg"])


def source(circuit: Circuit) -> str:
    return plugins.load("renderers", "dot").files(circuit)["circuit.dot"].decode()


def groups(root: ET.Element, kind: str) -> dict[str, ET.Element]:
    """The drawn nodes or edges by the name in their titles."""
    found = [one for one in root.iter(f"{geometry.SVG}g") if one.get("class") == kind]
    return {str(one.findtext(f"{geometry.SVG}title")).split(": ")[0]: one for one in found}


def by_id(root: ET.Element, name: str) -> dict[int, ET.Element]:
    """What is drawn besides nodes: `position-5`, say, by its number."""
    found = [one for one in root.iter(f"{geometry.SVG}g") if str(one.get("id")).startswith(f"{name}-")]
    return {int(str(one.get("id")).rpartition("-")[2]): one for one in found}


def headline(root: ET.Element) -> ET.Element:
    [found] = [one for one in root.iter(f"{geometry.SVG}g") if one.get("id") == "headline"]
    return found


def texts(part: ET.Element) -> list[str]:
    return [str(text.text) for text in part.iter(f"{geometry.SVG}text")]


def boxes(root: ET.Element) -> dict[str, geometry.Frame]:
    return geometry.frames(root)


@each
def test_it_is_16_by_9(case: str) -> None:
    root = slide(case)
    assert (root.get("width"), root.get("height")) == ("1280pt", "720pt")
    assert [float(part) for part in str(root.get("viewBox")).split()] == [0, 0, 1280, 720]


def test_the_png_has_twice_the_dots() -> None:
    data = plugins.load("renderers", "png").files(ASKED)["circuit.png"]
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (2560, 1440)


@each
def test_boxes_and_texts_are_on_the_page_and_apart(case: str) -> None:
    root = slide(case)
    found = boxes(root)
    for left, top, right, bottom in found.values():
        assert 0 <= left < right <= 1280
        assert -720 <= top < bottom <= 0
    for (a, one), (b, other) in product(found.items(), repeat=2):
        beside = one[2] + 5 <= other[0] or other[2] + 5 <= one[0]
        assert a == b or beside or one[3] + 5 <= other[1] or other[3] + 5 <= one[1], (a, b)
    for text in root.iter(f"{geometry.SVG}text"):
        x, long = float(text.get("x", "nan")), float(text.get("textLength", "0"))
        assert text.get("text-anchor") == "start"
        assert 0 <= x <= x + long <= 1280


@each
def test_no_arrow_runs_behind_a_box(case: str) -> None:
    root = slide(case)
    arrows = list(geometry.arrows(root))
    assert len(arrows) >= 5
    assert geometry.hidden(boxes(root), iter(arrows)) == []


@each
def test_graphviz_leads_arrows_around_boxes(case: str) -> None:
    """It gives up where anything comes too near to anything else, and says so."""
    done = subprocess.run([program(), "-Tsvg"], input=source(CASES[case]).encode(), capture_output=True, check=True)
    assert b"touch" not in done.stderr


@each
def test_its_names_fit_their_boxes(case: str) -> None:
    for name, group in groups(slide(case), "node").items():
        frame = boxes(slide(case)).get(name)
        for text in group.iter(f"{geometry.SVG}text") if frame else ():
            x, long = float(text.get("x", "nan")), float(text.get("textLength", "0"))
            assert frame[0] <= x, (name, text.text)
            assert x + long <= frame[2] + 1, (name, text.text)


@each
def test_layers_go_upwards_between_tokens_and_target(case: str) -> None:
    circuit = CASES[case]
    place, node = boxes(slide(case)), {one.id: one for one in circuit.nodes}
    middles = {name: (top + bottom) / 2 for name, (_, top, _, bottom) in place.items()}
    tokens = [y for name, y in middles.items() if name in node and node[name].kind == "token"]
    inner = [y for name, y in middles.items() if name not in node or node[name].kind in ("feature", "error")]
    assert not tokens or min(tokens) > max(inner)
    assert middles["target"] < min(inner)
    headings = [
        [int(n) for n in re.findall(r"\d+", texts(row)[0])] for _, row in sorted(by_id(slide(case), "row").items())
    ]
    assert headings == sorted(headings)
    assert all(one[-1] <= other[0] for one, other in pairwise(headings))
    heights = [float(row.find(f"{geometry.SVG}text").get("y")) for _, row in sorted(by_id(slide(case), "row").items())]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize(
    "case", ["asked", "10 nodes", "40 nodes", "40 of a long prompt", "200 nodes", "groups", "no spaces"]
)
def test_all_tokens_are_there_in_their_order(case: str) -> None:
    """Boxes of tokens, heads of columns and running text between them, from left to right."""
    circuit, root = CASES[case], slide(case)
    found = {**by_id(root, "token"), **by_id(root, "tokens")}
    found |= {int(name[6:]): one for name, one in groups(root, "node").items() if name.startswith("token@")}
    shown = {pos: [text for text in texts(one) if not re.match(r"[≈+−]", text)] for pos, one in found.items()}
    left = {pos: float(one.find(f"{geometry.SVG}text").get("x")) for pos, one in found.items()}
    assert sorted(found) == sorted(found, key=left.__getitem__)
    read = "".join("".join(shown[pos]) for pos in sorted(shown))
    assert re.sub("[␣ ]", "", read) == re.sub(" ", "", "".join(circuit.metadata.attribution.tokens))


def test_positions_are_written_below_the_columns_that_have_boxes() -> None:
    numbers = {pos: texts(one) for pos, one in by_id(slide("asked"), "position").items()}
    assert numbers == {pos: [str(pos)] for pos in (5, 6, 7)}
    places = {name: (f[0] + f[2]) / 2 for name, f in boxes(slide("asked")).items()}
    assert places["token@5"] == pytest.approx(places["1.resid_post.6@5"], abs=1)
    assert places["token@6"] == pytest.approx(places["1.resid_post.error@6"], abs=1)
    assert places["token@5"] < places["token@6"] < places["target"]


def test_boxes_say_name_or_label_and_effect() -> None:
    said = {name: texts(group) for name, group in groups(slide("asked"), "node").items() if name.strip()}
    assert said == {
        "token@5": ["␣God", "−1.50"],
        "token@6": ["␣created", "−0.80"],
        "1.resid_post.6@5": ["a god", "−0.90"],
        "1.resid_post.error@6": ["1.resid_post.error", "+0.20"],
        "2.resid_post.7@7": ["2.resid_post.7", "−1.10"],
        "2.resid_post.9@7": ["2.resid_post.9", "+0.30"],
        "target": ["␣heavens", "p = 49.7%"],
    }
    dotted = {
        name for name, g in groups(slide("asked"), "node").items() if "stroke-dasharray" in ET.tostring(g).decode()
    }
    assert dotted == {"1.resid_post.error@6"}
    tip = groups(slide("asked"), "node")["1.resid_post.6@5"].findtext(f"{geometry.SVG}title")
    assert tip == "1.resid_post.6@5: ␣God, activation 2.5 → 0, effect −0.9 nats (exact), influence up to 40%"


@pytest.mark.parametrize(("token", "shown"), [(" a, b,  c", "␣a, b, ␣c"), (", ", ",␣"), ("", "target"), (",", ",")])
def test_a_target_s_tokens(token: str, shown: str) -> None:
    target = replace(ASKED.nodes[-1], attribution=replace(ASKED.nodes[-1].attribution, token=token))
    root = drawn(replace(ASKED, nodes=(*ASKED.nodes[:-1], target)))
    assert texts(groups(root, "node")["target"])[0] == shown


def test_estimates_are_marked() -> None:
    def guessed(name: str) -> Circuit:
        nodes = [
            replace(n, attribution=replace(n.attribution, method="atp")) if n.id == name else n for n in ASKED.nodes
        ]
        return replace(ASKED, nodes=tuple(nodes))

    for name in ("2.resid_post.9@7", "token@5"):
        root = drawn(guessed(name))
        marked = {which for which, g in groups(root, "node").items() if any(t.startswith("≈ ") for t in texts(g))}
        assert marked == {name}


def test_arrows_are_red_where_replacing_lowers_and_thick_where_much() -> None:
    lines = {name: group.find(f"{geometry.SVG}path").attrib for name, group in groups(slide("asked"), "edge").items()}
    weights = {f"{e.source} → {e.target}": e.effect_mean for e in ASKED.edges}
    assert set(lines) == set(weights)
    for name, weight in weights.items():
        assert lines[name]["stroke"] == (LOWERS if weight < 0 else RAISES)
    by_weight = sorted(weights, key=lambda name: abs(weights[name]))
    for key in ("stroke-width", "stroke-opacity"):
        widths = [float(lines[name].get(key, 1)) for name in by_weight]
        assert widths == sorted(widths)
        assert widths[0] < widths[-1]
    tip = groups(slide("asked"), "edge")["2.resid_post.7@7 → target"].findtext(f"{geometry.SVG}title")
    assert tip == "2.resid_post.7@7 → target: −1 (relp)"


@each
def test_the_headline_asks_and_says_how_good_the_numbers_are(case: str) -> None:
    circuit = CASES[case]
    lines = texts(headline(slide(case)))
    read = " ".join(lines)
    for sentence in (_question.question(circuit), _question.shown(circuit), _question.calibration(circuit)):
        assert sentence in read
    assert _question.warning(circuit) in read


def test_a_warning_stands_out() -> None:
    poor = [replace(row, pearson=Measure(0.2, 0.1, 0.3)) for row in ASKED.calibration]
    head = headline(drawn(replace(ASKED, calibration=tuple(poor))))
    [warned] = [text for text in head.iter(f"{geometry.SVG}text") if "hardly agree" in str(text.text)]
    assert (warned.get("font-weight"), warned.get("fill")) == ("bold", "#9a5b00")


def growing(circuit: Circuit) -> list[str]:
    """By hand: from the target downwards, always the most influential of the nodes that have an edge to one before."""
    influence = {n.id: (n.attribution.influence, -abs(n.attribution.effect or 0), n.id) for n in circuit.nodes}
    found = ["target"]
    while True:
        ahead = {e.source for e in circuit.edges if e.target in found} - set(found)
        if not ahead:
            return found
        found.append(min(ahead, key=lambda name: influence[name]))


@pytest.mark.parametrize("case", ["10 nodes", "40 nodes", "40 of a long prompt", "200 nodes"])
def test_the_most_influential_that_lead_to_the_target_are_shown(case: str) -> None:
    shown = set(boxes(slide(case)))
    order = growing(CASES[case])
    assert shown == set(order[: len(shown)])
    assert len(shown) > 10


def test_what_is_left_out_is_said() -> None:
    circuit, root = CASES["200 nodes"], slide("200 nodes")
    shown = set(boxes(root)) - {"target"}
    effects = {n.id: abs(n.attribution.effect) for n in circuit.nodes if n.id != "target"}
    weights = {f"{e.source} → {e.target}": abs(e.effect_mean) for e in circuit.edges}
    arrows = set(groups(root, "edge"))
    of_nodes = sum(effects[name] for name in shown) / sum(effects.values())
    of_edges = sum(weights[name] for name in arrows) / sum(weights.values())
    [said] = [t for t in texts(headline(root)) if t.startswith("On this slide")]
    assert said == (
        f"On this slide, the most influential first: {len(shown)} of these {len(effects)} nodes ({of_nodes:.0%} of "
        f"their Σ|effect|) and {len(arrows)} of these {len(weights)} edges ({of_edges:.1%} of their Σ|weight|)"
    )
    assert not [t for t in texts(headline(slide("asked"))) if t.startswith("On this slide")]
    outgoing = {name.split(" → ")[0] for name in arrows}
    assert outgoing == shown


def test_a_group_is_one_box_with_the_sums_of_its_members() -> None:
    inside = ("1.resid_post.6@5", "2.resid_post.9@7")
    nodes = [replace(n, group="about gods" if n.id in inside else None) for n in ASKED.nodes]
    circuit = replace(ASKED, nodes=tuple(nodes))
    found = _slide_parts.folded(circuit)
    home = {n: "group about gods" if n in inside else n for n in (n.id for n in ASKED.nodes)}
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for e in ASKED.edges:
        if home[e.source] != home[e.target]:
            sums[home[e.source], home[e.target]] += e.effect_mean
    assert {(a.source, a.target): a.weight for a in found.arrows} == pytest.approx(sums)
    root = drawn(circuit)
    said = texts(groups(root, "node")["group about gods"])
    assert said == ["about gods", "2 nodes Σ −0.60"]
    assert not set(inside) & set(groups(root, "node"))
    assert set(groups(root, "edge")) == {f"{a} → {b}" for a, b in sums}


def test_a_group_of_one_is_a_node_and_no_name_hides_another() -> None:
    nodes = [replace(n, group="alone" if n.id == "2.resid_post.7@7" else None) for n in ASKED.nodes]
    assert set(boxes(drawn(replace(ASKED, nodes=tuple(nodes))))) == {n.id for n in ASKED.nodes}
    odd = {"2.resid_post.9@7": "group g"}
    named = [replace(n, id=odd.get(n.id, n.id), group="g" if n.kind == "token" else None) for n in ASKED.nodes]
    edges = [replace(e, source=odd.get(e.source, e.source), target=odd.get(e.target, e.target)) for e in ASKED.edges]
    found = _slide_parts.folded(replace(ASKED, nodes=tuple(named), edges=tuple(edges)))
    assert len({part.id for part in found.parts}) == len(found.parts) == 6


def test_the_order_of_nodes_and_edges_changes_nothing() -> None:
    circuit = CASES["groups"]
    turned = replace(circuit, nodes=circuit.nodes[::-1], edges=circuit.edges[::-1])
    assert source(turned) == source(circuit)


def test_a_thousand_nodes_make_a_slide_too() -> None:
    circuit = prompts.prompt(1000, 30, layers=12)
    assert len(circuit.nodes) > 800
    assert 10 < len(boxes(drawn(circuit))) <= 31


def test_of_many_targets_as_many_as_fit() -> None:
    """Also where there is no more room: a long prompt without spaces, long names, a warning in two lines."""
    nodes = [replace(ASKED.nodes[-1], id=f"target {i}", label="x" * 90) for i in range(60)]
    wide = tuple("\u4e2d" * 30 for _ in range(400))
    question = replace(ASKED.metadata.attribution, tokens=wide, exact=3, metric="m" * 400)
    poor = tuple(replace(row, pearson=Measure(0.1)) for row in ASKED.calibration)
    circuit = replace(
        ASKED, metadata=replace(ASKED.metadata, attribution=question), nodes=tuple(nodes), edges=(), calibration=poor
    )
    root = drawn(circuit)
    assert len(boxes(root)) == 10
    assert "On this slide: 10 of 60 targets" in texts(headline(root))


def test_of_several_targets_the_likeliest_are_drawn_each_with_an_arrow() -> None:
    several = prompts.several()
    last = several.nodes[-1]
    more = [
        replace(
            last, id=f"target.{20 + i}", attribution=replace(last.attribution, token=f" t{i}", prob=0.01 + i / 1000)
        )
        for i in range(12)
    ]
    weak = [replace(several.edges[-1], target=one.id, effect_mean=1e-6) for one in more]
    circuit = replace(several, nodes=(*several.nodes, *more), edges=(*several.edges, *weak))
    whole = _slide_parts.folded(circuit)
    found = _slide_parts.chosen(whole, lambda parts: True, 50)
    targets = [part.id for part in found.parts if part.first.kind == "target"]
    assert targets == ["target.7", "target.12", "target.3", *(f"target.{31 - i}" for i in range(7))]
    assert {arrow.target for arrow in found.arrows} >= set(targets)
    assert len(found.arrows) < len(whole.arrows)


def test_a_slide_of_nothing() -> None:
    root = drawn(replace(ASKED, nodes=(), edges=()))
    assert boxes(root) == {}
    assert "On this slide" not in " ".join(texts(root))


def test_tokens_without_a_visible_character_have_no_text_on_the_axis() -> None:
    blank = replace(ASKED.metadata.attribution, tokens=("<s>", "In", " the", " beginning", ",", " God", "", " "))
    root = drawn(replace(ASKED, metadata=replace(ASKED.metadata, attribution=blank), nodes=ASKED.nodes[:1], edges=()))
    assert list(by_id(root, "tokens")) == [0]


def test_far_positions_take_no_time() -> None:
    nodes = tuple(replace(n, pos=None if n.pos is None else 2**20 - 1 - n.pos) for n in ASKED.nodes)
    assert len(boxes(drawn(replace(ASKED, nodes=nodes)))) == len(nodes)


def test_nothing_of_it_is_markup() -> None:
    made = plugins.load("renderers", "svg").files(CASES["hostile"])["circuit.svg"]
    tags = {one.tag.removeprefix(geometry.SVG) for one in ET.fromstring(made).iter()}
    assert tags == {"svg", "g", "title", "text", "path", "polygon"}
    assert not re.search(rb"[\x00-\x08\x0b-\x1f]", made)
    assert plugins.load("renderers", "png").files(CASES["hostile"])["circuit.png"].startswith(b"\x89PNG")


def test_any_graphviz_draws_the_dot_file_as_a_slide() -> None:
    """Without a flag for the engine, which the source names; circuits of mean effects name none."""
    done = subprocess.run([program(), "-Tjson"], input=source(ASKED).encode(), capture_output=True, check=True)
    placed = {one["name"]: one["pos"] for one in json.loads(done.stdout)["objects"]}
    asked = dict(re.findall(r'^  "([^"·]+)" \[pos="([^"!]+)!"', source(ASKED), re.MULTILINE))
    assert set(asked) == {n.id for n in ASKED.nodes}
    for name, at in asked.items():
        assert [float(x) for x in placed[name].split(",")] == pytest.approx([float(x) for x in at.split(",")], abs=1)
    assert "layout=" not in source(PLAIN)


def test_a_difference_of_two_answers_has_its_colours() -> None:
    after = replace(ASKED, edges=ASKED.edges[1:], nodes=ASKED.nodes)
    root = drawn(compare.drawn(ASKED, after, ("monday", "tuesday")))
    lost = groups(root, "edge")["token@5 → 1.resid_post.6@5"].find(f"{geometry.SVG}path").attrib
    assert lost["stroke"] == COLORS["lost"]
    assert "stroke-dasharray" in lost
    read = texts(headline(root))
    assert read[:2] == ["From monday to tuesday: what changed", "Edges: 0 gained, 1 lost, 0 changed, 6 as they were"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 7), st.integers(30, 120)),
        min_size=1,
        max_size=24,
    ),
    st.integers(300, 1200),
    st.integers(100, 600),
)
def test_what_fits_a_grid_is_apart_and_within_it(chosen: list[Any], wide: int, high: int) -> None:
    items = [Item(str(i), (a, b, "x"), column, w, 40) for i, (a, b, column, w) in enumerate(chosen)]
    strips = [Strip(column, 50) for column in sorted({item.column for item in items})]
    alone = {(-1, 0, "token"): 30.0}
    found = grid(items, strips, Size(120, 10, 10, 20), Room(wide, high), alone)
    if found is None:
        return
    assert found.width <= wide
    assert sum(map(found.high, range(len(found.rows)))) + 20 * (len(found.rows) - 1) <= high
    placed = [item.id for lines in found.lines for line in lines for item, _ in line]
    assert sorted(placed) == sorted(item.id for item in items)
    spans = {strip.column: span for strip, span in zip(strips, found.spans, strict=True)}
    for sites, lines in zip(found.rows, found.lines, strict=True):
        assert list(sites) == sorted(sites)
        for line in lines:
            assert all(item.site in sites for item, _ in line)
            ordered = sorted(line, key=lambda pair: pair[1])
            for (one, x), (other, y) in pairwise(ordered):
                assert x + one.width / 2 + 9.9 <= y - other.width / 2
            for item, x in line:
                assert item.width / 2 - 0.1 <= x <= wide - item.width / 2 + 0.1
                near = max(item.width, spans[item.column].width) / 2
                assert abs(x - spans[item.column].middle) <= near + item.width / 2
    assert [site for sites in found.rows for site in sites] == sorted({*alone, *(item.site for item in items)})


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=60), st.integers(20, 200))
def test_wrapped_lines_fit_and_lose_nothing_but_what_is_too_long(text: str, points: int) -> None:
    text = " ".join(text.split())
    lines = wrapped(text, 12, points, 3)
    assert len(lines) <= 3
    assert all(width(line, 12) <= points or len(line.rstrip("…")) == 1 for line in lines)
    if text and not lines[-1].endswith("…"):
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    every = wrapped(text, 12, points, 100)
    assert "".join(every).replace(" ", "") == text.replace(" ", "")
    assert visible("x", 3)
