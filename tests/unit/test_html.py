"""The html page as text: what it holds, what it lets in, and where its boxes stand."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import drawn, prompted
from support.circuits import ASKED, QUESTION

from circuitcli.core.circuit import Circuit, Edge
from circuitcli.renderers import _change, _html, _node, _placement, _slide_words, html, svg

PAGE = Path(str(resources.files("circuitcli.renderers"))) / "_page"


def parts(page: str) -> tuple[str, list[str], str]:
    """The policy, the scripts that run, and the data."""
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert policy
    assert data
    return policy[1].replace("&#x27;", "'"), scripts, data[1]


def test_the_policy_admits_these_scripts_and_nothing_else() -> None:
    page = html.page(drawn.SMALL)
    policy, scripts, _ = parts(page)
    style = re.search(r"<style[^>]*>(.*?)</style>", page, flags=re.DOTALL)
    assert style
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*scripts, style[1])]
    assert len(scripts) == 2
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'",
        f"style-src 'sha256-{hashes[2]}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_page_refers_to_nothing_outside_it() -> None:
    page = html.page(drawn.SMALL).replace(html._asset(html.LIBRARY), "")
    assert not re.findall(r"<(?:link|img|iframe|object|embed|base)\b|\bsrc=|@import|url\(", page)
    assert set(re.findall(r"https?://[\w.]+", page)) <= {"https://www.neuronpedia.org", "https://evil.example"}
    assert not re.findall(r"\son\w+=", page.split('<script type="application/json"')[0])


def test_our_scripts_write_text_only() -> None:
    script = html.script()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", 'setTimeout("'):
        assert way not in script
    for text in (script, html._asset(html.LIBRARY)):
        assert not re.search(r"<!--|<script|</script|\r", text, flags=re.IGNORECASE)


def test_the_library_is_as_npm_published_it() -> None:
    for name, entry in tomllib.loads((PAGE / "vendor/vendored.toml").read_text()).items():
        data = (PAGE / "vendor" / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], name
        assert f'version="{entry["version"]}"'.encode() in data
        assert "Permission is hereby granted, free of charge" in (PAGE / "vendor" / entry["license_file"]).read_text()
    assert html.LIBRARY == "vendor/cytoscape.min.js"


def test_every_file_of_ours_is_in_the_page() -> None:
    assert {path.stem for path in PAGE.glob("*.js")} == set(html.SCRIPTS)


def test_light_colours_are_those_of_the_svg() -> None:
    css = html._asset("page.css").split(":root[data-theme")[0]
    names = {
        "ink": _html.INK,
        "facts": _html.FACTS,
        "raises": _html.RAISES,
        "lowers": _html.LOWERS,
        "shade": _html.SHADE,
    }
    names |= {"raises-tint": _html.BLUE_TINT, "lowers-tint": _html.RED_TINT, "group": _html.GROUP}
    names |= {"warning": _slide_words.WARNING}
    names |= {**_change.COLORS, "unchanged": _change.UNCHANGED}
    assert {name: re.search(rf"--{name}: (#\w+);", css)[1] for name in names} == names


def test_data_is_the_document_and_cannot_leave_its_element() -> None:
    circuit = drawn.hostile()
    page = html.page(circuit)
    data = parts(page)[2]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert json.loads(data)["document"] == json.loads(json.dumps(circuit.to_dict()))
    assert page.count("</script>") == 3
    assert html.plugin.files(circuit)["circuit.html"].decode() == page


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=40))
def test_any_text_comes_back_from_the_page(text: str) -> None:
    embedded = html.embedded({"text": text})
    assert json.loads(embedded.encode().decode()) == {"text": text}
    assert not set(embedded) & set("<>&\u2028\u2029")


def overlaps(placed: _placement.Placement) -> list[tuple[str, str]]:
    boxes = sorted(placed.boxes.items())
    return [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, two in boxes[i + 1 :]
        if abs(one.x - two.x) < (one.width + two.width) / 2 - 1
        and abs(one.y - two.y) < (one.height + two.height) / 2 - 1
    ]


def laid_out(circuit: Circuit) -> _placement.Placement:
    return html._placed(circuit)


def shapes() -> dict[str, Circuit]:
    positions = [dataclasses.replace(node, pos=i % 3 or None) for i, node in enumerate(drawn.SMALL.nodes)]
    return {
        "rows": drawn.SMALL,
        "columns": dataclasses.replace(drawn.SMALL, nodes=tuple(positions)),
        "lines": drawn.large(240, 1500),
        "hostile": drawn.hostile(),
        "unknown ends": dataclasses.replace(drawn.SMALL, nodes=drawn.SMALL.nodes[:2]),
        "one": Circuit(drawn.METADATA, drawn.SMALL.nodes[:1], ()),
        "nothing": Circuit(drawn.METADATA, (), ()),
        "prompt": prompted.of_prompt(),
        "prompt, many": prompted.of_prompt(600, 900),
        "prompt, no end": dataclasses.replace(ASKED, nodes=ASKED.nodes[:-1]),
        "prompt, nothing": Circuit(ASKED.metadata, (), ()),
        "prompt, sum": dataclasses.replace(
            prompted.of_prompt(), nodes=tuple(dataclasses.replace(n, pos=None) for n in prompted.of_prompt().nodes)
        ),
    }


@pytest.mark.parametrize("shape", shapes())
def test_every_box_has_a_place_of_its_own(shape: str) -> None:
    circuit = shapes()[shape]
    placed = laid_out(circuit)
    ends = {end for edge in circuit.edges for end in (edge.source, edge.target)}
    assert set(placed.boxes) == {node.id for node in circuit.nodes} | ends
    assert overlaps(placed) == []


@pytest.mark.parametrize("shape", ["rows", "columns", "lines"])
def test_later_layers_are_higher(shape: str) -> None:
    circuit = shapes()[shape]
    placed = _placement.placement(circuit)
    level = {node.id: (node.layer, ("mlp_out", "resid_post").index(node.site)) for node in circuit.nodes}
    for edge in circuit.edges:
        assert level[edge.source] < level[edge.target]
        assert placed.boxes[edge.source].y > placed.boxes[edge.target].y
    assert [heading.at for heading in placed.rows] == sorted((heading.at for heading in placed.rows), reverse=True)


def test_positions_of_a_prompt_are_an_axis_with_room_where_there_are_nodes() -> None:
    circuit = prompted.of_prompt(200, 300)
    placed = laid_out(circuit)
    assert [(tick.token, tick.pos) for tick in placed.axis] == [
        (word.replace(" ", "␣"), i) for i, word in enumerate(prompted.WORDS)
    ]
    column = {tick.pos: (tick.at - tick.width / 2, tick.at + tick.width / 2) for tick in placed.axis}
    assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(column[pos] for pos in sorted(column)))
    for node in circuit.nodes:
        box = placed.boxes[node.id]
        left, right = column[len(prompted.WORDS) - 1 if node.pos is None else node.pos]
        assert left < box.x - box.width / 2
        assert box.x + box.width / 2 < right
    height = {node.id: placed.boxes[node.id].y for node in circuit.nodes}
    assert all(height[edge.source] > height[edge.target] for edge in circuit.edges)
    assert placed.rows[0].text == "tokens"
    assert placed.rows[-1].text == "target"


def test_a_position_without_nodes_is_narrow_and_many_nodes_are_stacked() -> None:
    wide = {tick.pos: tick.width for tick in laid_out(ASKED).axis}
    assert set(wide) == set(range(len(QUESTION.tokens)))
    assert max(wide[pos] for pos in (0, 1, 2, 3, 4)) < min(wide[pos] for pos in (5, 6, 7))
    crowd = [dataclasses.replace(ASKED.nodes[2], id=f"1.resid_post.{i}@5", feature=i) for i in range(30)]
    for count, across, lines in ((4, 4, 1), (5, 2, 3), (30, 5, 6)):
        nodes = (*crowd[:count], ASKED.nodes[-1])
        boxes = laid_out(dataclasses.replace(ASKED, nodes=nodes, edges=())).boxes
        heights = [boxes[node.id].y for node in nodes[:-1]]
        assert len(set(heights)) == lines
        assert max(map(heights.count, heights)) == across


def test_the_most_influential_of_a_cell_comes_first() -> None:
    boxes = laid_out(ASKED).boxes
    assert boxes["2.resid_post.7@7"].x < boxes["2.resid_post.9@7"].x
    nodes = list(ASKED.nodes)
    for i, influence in ((4, 0.9), (5, 0.1)):
        attribution = nodes[i].attribution
        assert attribution is not None
        nodes[i] = dataclasses.replace(nodes[i], attribution=dataclasses.replace(attribution, influence=influence))
    boxes = laid_out(dataclasses.replace(ASKED, nodes=tuple(nodes))).boxes
    assert boxes["2.resid_post.7@7"].x > boxes["2.resid_post.9@7"].x


def test_many_boxes_make_a_page_not_a_strip() -> None:
    boxes = _placement.placement(drawn.large(400, 900)).boxes.values()
    across = max(box.x for box in boxes) - min(box.x for box in boxes)
    down = max(box.y for box in boxes) - min(box.y for box in boxes)
    assert 1 < across / down < 2.5


def test_graphviz_sees_the_strongest_arrows_of_every_box() -> None:
    edges = [Edge(f"a{i}", f"b{j}", float(i * 50 + j + 1), None, None, 1) for i in range(40) for j in range(50)]
    guides = _placement._guides(edges)
    assert len(guides) < 250
    assert {edge.source for edge in guides} == {f"a{i}" for i in range(40)}
    assert {edge.target for edge in guides} == {f"b{j}" for j in range(50)}
    assert max(edges, key=lambda edge: edge.effect_mean) == guides[0]
    assert len(_placement._guides(edges[:1000])) == 1000


def test_pictures_show_labels_and_groups() -> None:
    words = svg.plugin.files(drawn.SMALL)["circuit.svg"].decode()
    assert ">cats and dogs<" in words
    assert ">group animals<" in words
    long = dataclasses.replace(drawn.SMALL.nodes[0], label="the word " * 40, group="\n")
    lines = [line for line, _ in _node.names(long)]
    assert len(lines) == 3
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].endswith("…")
    assert svg.plugin.files(dataclasses.replace(drawn.SMALL, nodes=(long, *drawn.SMALL.nodes[1:])))["circuit.svg"]
