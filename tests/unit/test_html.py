"""The html page as text: what it holds, what it lets in, and where its boxes stand."""

import base64
import dataclasses
import hashlib
import json
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import drawn

from circuitcli.core.circuit import Circuit, Edge
from circuitcli.renderers import _change, _html, _node, _placement, html, svg

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
    }


@pytest.mark.parametrize("shape", shapes())
def test_every_box_has_a_place_of_its_own(shape: str) -> None:
    circuit = shapes()[shape]
    placed = _placement.placement(circuit)
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
