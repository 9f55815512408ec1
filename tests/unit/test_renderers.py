"""Pictures, read back by a second route: the svg as XML, the json as JSON, the png by its header."""

import dataclasses
import json
import re
import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import circuits

from circuitcli import plugins
from circuitcli.core.circuit import Circuit, Context, Edge, Node, TokenEffect
from circuitcli.core.tokens import visible
from circuitcli.errors import InputError, ResourceError, UsageError
from circuitcli.renderers import _html, _legend, _node, _ranks
from circuitcli.runtime import layout

SVG = "{http://www.w3.org/2000/svg}"
BLUE, RED = "#2166ac", "#b2182b"
METADATA = dataclasses.replace(circuits.METADATA, share_drawn=0.412, created="2025-11-23T12:34:56+00:00")
NASTY = (
    "[/b]",
    "</script><script>alert(1)</script>",
    '"quoted\\"',
    "&amp;",
    "<B>",
    "\\N\\G",
    "C:\\\\new",
    "\x00",
    "\x1b[31m",
    "\ud800",
    "\ufffe",
    "\u202eevil",
    "שלום",
    "😀👩\u200d👧",
    "日本",
    "\n",
    "\t ",
    "",
    "]]>",
    "--> <!--",
    "x" * 10_000,
)


def node(name: str, **changes: object) -> Node:
    """As it was before runs were named."""
    return circuits.node(name, **{"run": "", "created": "", **changes})


EDGES = (
    Edge("1.mlp_out.5", "1.resid_post.6", 0.42, 0.33, 0.51, 40),
    Edge("1.resid_post.6", "2.resid_post.7", -0.21, -0.3, -0.1, 30),
    Edge("1.mlp_out.5", "2.resid_post.7", -0.84, -0.9, -0.8, 40),
    Edge("2.resid_post.7", "3.resid_post.8", 0.05, None, None, 1),
)
NAMES = ("1.mlp_out.5", "1.resid_post.6", "2.resid_post.7", "3.resid_post.8")


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(METADATA, tuple(node(name) for name in NAMES), EDGES)


def render(form: str, circuit: Circuit) -> bytes:
    [data] = plugins.load("renderers", form).files(circuit).values()
    return data


def picture(circuit: Circuit) -> ET.Element:
    return ET.fromstring(render("svg", circuit))


def texts(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def groups(root: ET.Element, kind: str) -> dict[str, ET.Element]:
    """The groups of nodes or edges that are seen, by the first words of their titles."""
    found = [g for g in root.iter(f"{SVG}g") if g.get("class") == kind]
    return {str(g.findtext(f"{SVG}title")).split(": ")[0]: g for g in found}


def test_the_formats_are_these() -> None:
    assert plugins.names("renderers") == ["csv", "dot", "graphml", "html", "json", "neuronpedia", "png", "svg"]
    with pytest.raises(UsageError, match="`swg`") as raised:
        plugins.load("renderers", "swg")
    assert "svg" in raised.value.hint


def test_the_picture_names_everything(circuit: Circuit) -> None:
    root = picture(circuit)
    words = texts(root)
    assert {*NAMES, "promotes", "suppresses", "␣dog", "⏎", "␣fish", " the", " cat", "sat"} <= set(words)
    assert {"layer 1 · mlp_out", "layer 1 · resid_post", "layer 2 · resid_post", "layer 3 · resid_post"} <= set(words)
    assert words.count("fires 1.2% · KL 0.021") == 4
    assert "Feature circuit of gpt2" in words
    assert (
        "SAEs res-jb (sites mlp_out, resid_post, layers 1–3) · zero ablation · positions top · 200 sequences · "
        "2025-11-23 · circuit 0.1.0" in words
    )
    assert "4 of 1,234 measured effects drawn: 41% of the total |effect|" in words


def test_the_legend_is_in_words(circuit: Circuit) -> None:
    assert {
        "blue arrow: ablating the source raises the target",
        "red arrow: ablating the source lowers the target",
        "blue tokens: promoted (ablation lowers them)",
        "red tokens: suppressed (ablation raises them)",
        "opacity: |effect| relative to the largest drawn",
        "|effect| from 0.05 to 0.84, in SAE units of the target",
        "shade: activation, relative to the feature's largest",
        "bold: the firing token · ␣ space · ⏎ newline · ⇥ tab",
    } <= set(texts(picture(circuit)))


def test_an_arrow_is_blue_where_ablation_raises_and_red_where_it_lowers(circuit: Circuit) -> None:
    arrows = groups(picture(circuit), "edge")
    assert {name: arrow.find(f"{SVG}path").get("stroke") for name, arrow in arrows.items()} == {
        f"{e.source} → {e.target}": BLUE if e.effect_mean > 0 else RED for e in EDGES
    }


def test_larger_effects_are_more_opaque_and_wider(circuit: Circuit) -> None:
    arrows = groups(picture(circuit), "edge")
    paths = [
        arrows[f"{e.source} → {e.target}"].find(f"{SVG}path") for e in sorted(EDGES, key=lambda e: abs(e.effect_mean))
    ]
    opacities = [float(path.get("stroke-opacity", 1)) for path in paths]
    widths = [float(path.get("stroke-width", 1)) for path in paths]
    assert opacities == sorted(set(opacities))
    assert opacities[-1] == 1
    assert widths == sorted(set(widths))


def test_tooltips_hold_the_numbers(circuit: Circuit) -> None:
    titles = {title.text for title in picture(circuit).iter(f"{SVG}title")}
    assert "1.mlp_out.5 → 1.resid_post.6: 0.42 [0.33, 0.51], n=40" in titles
    assert "1.resid_post.6 → 2.resid_post.7: −0.21 [−0.3, −0.1], n=30" in titles
    assert "2.resid_post.7 → 3.resid_post.8: 0.05, n=1" in titles
    assert (
        "1.mlp_out.5: fires at 1.2% of positions, largest activation 8, ablated at n=40, mean KL 0.021 nats" in titles
    )


def test_tokens_are_coloured_by_sign_and_shaded_by_activation(circuit: Circuit) -> None:
    box = groups(picture(circuit), "node")["1.mlp_out.5"]
    colors = {text.text: text.get("fill") for text in box.iter(f"{SVG}text")}
    assert (colors["␣dog"], colors["⏎"], colors["␣fish"]) == (BLUE, BLUE, RED)
    bold = {text.text for text in box.iter(f"{SVG}text") if text.get("font-weight") == "bold"}
    assert bold == {"1.mlp_out.5", " cat"}
    fills = [polygon.get("fill") for polygon in box.iter(f"{SVG}polygon")]
    assert fills.count("#f5a623") == 1  # 8 of 8
    assert fills.count("#fce9c8") == 1  # 2 of 8: a quarter of the way from white
    assert not any(fill == "#ffffff" for fill in fills)  # 0 of 8 has no shade


def test_features_without_an_edge_are_left_out(circuit: Circuit) -> None:
    alone = dataclasses.replace(circuit, nodes=(*circuit.nodes, node("3.resid_post.999")))
    assert b"3.resid_post.999" not in render("svg", alone)


def test_an_end_that_is_no_node_is_still_drawn(circuit: Circuit) -> None:
    less = dataclasses.replace(circuit, nodes=circuit.nodes[:-1])
    assert NAMES[-1] in texts(picture(less))
    assert len([g for g in groups(picture(less), "edge") if "→" in g]) == len(EDGES)


def test_nothing_to_draw_is_a_picture_that_says_so(circuit: Circuit) -> None:
    empty = Circuit(dataclasses.replace(METADATA, share_drawn=0.0), (), ())
    words = texts(picture(empty))
    assert "no effect is drawn" in words
    assert "0 of 1,234 measured effects drawn: 0% of the total |effect|" in words


def test_pinned_features_say_so(circuit: Circuit) -> None:
    pinned = dataclasses.replace(circuit, nodes=(node(NAMES[0], pinned=True, kl_mean=None), *circuit.nodes[1:]))
    assert "pinned · fires 1.2%" in texts(picture(pinned))


def test_the_order_of_nodes_and_edges_changes_nothing(circuit: Circuit) -> None:
    turned = Circuit(METADATA, circuit.nodes[::-1], circuit.edges[::-1])
    for form in ("dot", "svg", "png"):
        assert render(form, turned) == render(form, circuit) == render(form, circuit)


@pytest.mark.parametrize(
    ("ranks", "boxes", "direction"), [(4, 6, "LR"), (12, 2, "BT"), (2, 2, "LR")], ids=["columns", "rows", "small"]
)
def test_ranks_run_the_way_that_fits_a_page(ranks: int, boxes: int, direction: str) -> None:
    box = _node.Box("", 450, 220)
    laid = {str(rank): [(node("0.resid_post.0"), box)] * boxes for rank in range(ranks)}
    assert _ranks.shape(laid).direction == direction


def test_layers_stand_in_the_model_s_order(circuit: Circuit) -> None:
    """Read off the picture: the headings' places along the axis of the ranks are in order, across it they are one."""
    root = picture(circuit)
    heads = [t for t in root.iter(f"{SVG}text") if (t.text or "").startswith("layer ")]
    columns = "rankdir=LR" in render("dot", circuit).decode()
    along = [float(t.get("x")) if columns else -float(t.get("y")) for t in heads]
    by_place = [t.text for _, t in sorted(zip(along, heads, strict=True), key=lambda pair: pair[0])]
    assert by_place == [f"layer {n}" for n in ("1 · mlp_out", "1 · resid_post", "2 · resid_post", "3 · resid_post")]


def test_json_is_the_circuit(circuit: Circuit) -> None:
    text = render("json", circuit).decode()
    assert text.endswith("}\n")
    assert json.loads(text) == json.loads(json.dumps(circuit.to_dict()))


def test_json_refuses_nan(circuit: Circuit) -> None:
    with pytest.raises(ValueError, match="JSON"):
        render("json", dataclasses.replace(circuit, nodes=(node(NAMES[0], density=float("nan")),)))


def test_png_has_twice_the_points_of_the_svg(circuit: Circuit) -> None:
    png = render("png", circuit)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    root = picture(circuit)
    assert width == pytest.approx(2 * float(root.get("width").removesuffix("pt")), rel=0.01)
    assert height == pytest.approx(2 * float(root.get("height").removesuffix("pt")), rel=0.01)


@pytest.fixture
def nasty() -> Circuit:
    effects = tuple(TokenEffect(token, i, -0.1) for i, token in enumerate(NASTY))
    context = Context(NASTY, tuple(float(i) for i in range(len(NASTY))), firing=2, seq=0, pos=3)
    nodes = tuple(node(name, contexts=(context,), promoted=effects, suppressed=effects) for name in NAMES)
    model = 'evil"/]><script>\x00\\N'
    return Circuit(dataclasses.replace(METADATA, model=model, release="<b>&\x1b"), nodes, EDGES)


def test_nasty_tokens_leave_the_svg_well_formed_and_inert(nasty: Circuit) -> None:
    data = render("svg", nasty)
    root = ET.fromstring(data)
    shown = {visible(token, _node.TOKEN_LIMIT) for token in NASTY}
    assert shown <= set(texts(root))
    assert b"<script" not in data
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "g", "title", "text", "polygon", "polyline", "path", "ellipse")
    }
    assert not any("href" in key or key.startswith("on") for element in root.iter() for key in element.attrib)
    assert re.findall(rb"https?://[^\"' >]+", data) == [b"http://www.w3.org/2000/svg"]
    assert b"<!DOCTYPE" not in data


def test_nasty_tokens_survive_every_format(nasty: Circuit) -> None:
    assert render("png", nasty).startswith(b"\x89PNG")
    source = render("dot", nasty).decode()
    assert not any(ord(char) < 32 and char != "\n" for char in source)
    assert "<script" not in source
    back = json.loads(render("json", nasty))
    assert [effect["token"] for effect in back["nodes"][0]["promoted"]] == list(NASTY)


def test_the_dot_file_is_dot(nasty: Circuit, tmp_path: Path) -> None:
    (tmp_path / "circuit.dot").write_bytes(render("dot", nasty))
    done = subprocess.run(
        [layout.program(), "-Tplain", "circuit.dot"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("node ") and "rank" not in line]
    assert sum(line.startswith("edge ") for line in done.stdout.splitlines()) >= len(EDGES)


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=30))
def test_any_text_in_a_label_is_that_text(token: str) -> None:
    run = _html.font(visible(token, 20), size=12, color="#000000", bold=True)
    root = ET.fromstring(run)
    assert "".join(root.itertext()).replace("\\\\", "\\") == visible(token, 20)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=8), min_size=1, max_size=30))
def test_any_tokens_are_in_the_svg(tokens: list[str]) -> None:
    context = Context(tuple(tokens), (1.0,) * len(tokens), firing=0, seq=0, pos=1)
    effects = tuple(TokenEffect(token, 0, -0.1) for token in tokens)
    nodes = (node(NAMES[0], contexts=(context,), promoted=effects), node(NAMES[1]))
    root = picture(Circuit(METADATA, nodes, EDGES[:1]))
    assert {visible(token, _node.TOKEN_LIMIT) for token in tokens} <= set(texts(root))


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_opacity_grows_with_magnitude(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 < _legend.opacity(low, high) <= _legend.opacity(high, high) <= 1


@given(st.floats(1e-9, 1))
def test_a_share_is_shown_to_two_digits(share: float) -> None:
    text = _node.percent(share)
    assert "e" not in text
    assert float(text.removesuffix("%")) / 100 == pytest.approx(share, rel=0.051, abs=1e-8)


def test_text_fits_its_box_in_helvetica(circuit: Circuit) -> None:
    """The width that svg text is squeezed into is at most the one that was reserved for it."""
    for text in ("1.resid_post.12345", " internationally", "WWWW@@", "iiillljjj", "fires 1.2% · KL 0.021"):
        for bold in (False, True):
            assert _html.natural_width(text, 13, bold=bold) <= _html.width(text, 13, bold=bold)
    assert _html.natural_width("日本", 13) is None


@pytest.fixture
def fresh_program():
    layout.program.cache_clear()
    yield
    layout.program.cache_clear()


def test_without_graphviz_there_is_a_way_out(monkeypatch, fresh_program, circuit: Circuit) -> None:
    monkeypatch.setattr(layout.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(InputError, match="isn't installed") as raised:
        render("svg", circuit)
    assert "graphviz-pure" in raised.value.hint
    assert render("dot", circuit)


def test_a_dot_on_the_path_serves_as_well(monkeypatch, fresh_program) -> None:
    monkeypatch.setattr(layout.shutil, "which", lambda name, path=None: "/bin/dot" if name == "dot" else None)
    assert layout.program() == "/bin/dot"


def test_graphviz_s_own_words_are_passed_on() -> None:
    with pytest.raises(InputError, match=r"syntax error") as raised:
        layout.lay_out("digraph {", "svg")
    assert "\n" not in raised.value.message


def test_graphviz_s_error_is_told_and_not_the_warnings_around_it() -> None:
    small = '<<TABLE FIXEDSIZE="TRUE" WIDTH="1" HEIGHT="1"><TR><TD>wide</TD></TR></TABLE>>'
    with pytest.raises(InputError, match="failed: Error: syntax error"):
        layout.lay_out(f"digraph {{a [label={small}] b [label=<<TABLE></TABLE>>] c [label={small}]}}", "svg")


def test_a_layout_without_end_is_ended() -> None:
    with pytest.raises(ResourceError, match=r"wasn't done after"):
        layout.lay_out("digraph {a -> b}", "svg", timeout_s=1e-9)


def test_a_program_that_does_not_start_is_an_error(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "dot").write_text("not a program")
    for path in (tmp_path / "dot", tmp_path / "missing"):
        monkeypatch.setattr(layout, "program", lambda path=path: str(path))
        with pytest.raises(InputError, match="doesn't start"):
            layout.lay_out("digraph {}", "svg")
