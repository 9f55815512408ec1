"""The svg as a reader sees it: words are whole, arrows aren't behind boxes, and it says how its start was chosen."""

import dataclasses
import xml.etree.ElementTree as ET
from importlib import resources
from itertools import chain, pairwise

import pytest
from support import drawn, geometry

from circuitcli import __version__
from circuitcli.core.circuit import Circuit, Context, TokenEffect
from circuitcli.renderers import _html, _node, _ranks, svg

MINERVA = Context(
    (" M", "in", "er", "v", "a", "'s", " temple", ","), (0.0, 0.0, 2.0, 0.0, 0.0, 8.0, 0.0, 0.0), firing=5, seq=0, pos=9
)


def picture(circuit: Circuit) -> ET.Element:
    return ET.fromstring(svg.plugin.files(circuit)["circuit.svg"])


def texts(root: ET.Element) -> list[ET.Element]:
    return list(root.iter(f"{geometry.SVG}text"))


def with_context(context: Context) -> Circuit:
    first, *others = drawn.SMALL.nodes
    return dataclasses.replace(drawn.SMALL, nodes=(dataclasses.replace(first, contexts=(context,)), *others))


def test_the_pieces_of_a_word_join() -> None:
    """Each text begins where the one before it ends, to a point, on one line; each shade is as wide as its text."""
    root = picture(with_context(MINERVA))
    by_text = {text.text: text for text in texts(root)}
    parts = [by_text[value] for value in (" Min", "er", "va", "'s", " temple,")]
    assert "".join(part.text for part in parts) == "".join(MINERVA.tokens)
    assert len({part.get("y") for part in parts}) == 1
    for before, after in pairwise(parts):
        end = float(before.get("x")) + float(before.get("textLength"))
        assert float(after.get("x")) == pytest.approx(end, abs=1)
    frames = [geometry.points(shape.get("points")) for shape in root.iter(f"{geometry.SVG}polygon")]
    for part in (parts[1], parts[3]):
        left, length = float(part.get("x")), float(part.get("textLength"))
        assert any(
            min(x for x, _ in frame) == pytest.approx(left, abs=1)
            and max(x for x, _ in frame) == pytest.approx(left + length, abs=1)
            for frame in frames
        )


def test_text_of_unknown_width_stays_in_its_place() -> None:
    """Graphviz counts bytes: it thinks these wider than they are, and would centre them over their neighbours."""
    tokens = ("“It", "’s", " “—”", "été", " won")
    root = picture(with_context(Context(tokens, (0.0, 8.0, 0.0, 1.0, 0.0), firing=1, seq=0, pos=9)))
    by_text = {text.text: float(text.get("x")) for text in texts(root)}
    places = [by_text[token] for token in ("“It", "’s", " “—”", "été", " won")]
    assert places == sorted(places)
    for token, (here, after) in zip(tokens[:-1], pairwise(places), strict=True):
        assert after - here == pytest.approx(_html.natural_width(token, 13, bold=token == "’s"), abs=1)


def demo() -> ET.Element:
    return ET.fromstring(resources.files("circuitcli.demo").joinpath("circuit.svg").read_bytes())


PICTURES = {
    "small": lambda: picture(drawn.SMALL),
    "60, three sites": lambda: picture(geometry.tangled(60, 120, 3, ("attn_out", "mlp_out", "resid_post"))),
    "60, one site": lambda: picture(geometry.tangled(60, 100, 4, ("resid_post",))),
    "200": lambda: picture(geometry.tangled(200, 300, 5, ("resid_post",))),
    "the demo's": demo,
}


def test_the_documents_pictures_are_of_this_version() -> None:
    """`python docs/pictures.py` makes them anew, both at once: they say by which version they were drawn."""
    drawn_by = [text.text.rpartition(" · ")[2] for text in texts(demo()) if text.text and " · circuit " in text.text]
    assert drawn_by == [f"circuit {__version__}"]


@pytest.mark.parametrize("which", PICTURES)
def test_no_arrow_runs_behind_a_box(which: str) -> None:
    root = PICTURES[which]()
    boxes, arrows = geometry.frames(root), list(geometry.arrows(root))
    assert len(boxes) >= 5
    assert len(arrows) >= 5
    assert geometry.hidden(boxes, iter(arrows)) == []


def test_an_arrow_behind_a_box_would_be_seen() -> None:
    frames = {"a": (0.0, 0.0, 10.0, 10.0), "b": (20.0, 0.0, 30.0, 10.0), "c": (40.0, 0.0, 50.0, 10.0)}
    line = list(geometry.along([(10, 5), (20, 5), (30, 5), (40, 5)]))
    assert geometry.hidden(frames, iter([("a", "c", line)])) == [("a", "c", "b")]


def test_a_long_rank_goes_on_beside_itself() -> None:
    """Of one feature that drives thirty; where little is won, as with two ranks of five, ranks stay whole."""
    one = geometry.tangled(32, 30, 2, ("resid_post",))
    ranks = {"a": [(one.nodes[0], _node.box(one.nodes[0]))], "b": [(n, _node.box(n)) for n in one.nodes[:30]]}
    assert _ranks.shape(ranks).most < 12
    few = {name: members[:5] for name, members in ranks.items()}
    assert _ranks.shape(few).most == 5
    assert sorted(chain.from_iterable(_ranks.lines(range(30), 7))) == list(range(30))
    assert {len(line) for line in _ranks.lines(range(30), 7)} == {6}


def test_the_picture_says_how_its_start_was_chosen() -> None:
    words = "features of the first layer: 1% of those that fire, at random"
    circuit = dataclasses.replace(drawn.SMALL, metadata=dataclasses.replace(drawn.METADATA, start=words))
    shown = [text.text for text in texts(picture(circuit))]
    assert f"start: {words}" in shown


def test_a_prompt_s_picture_shows_it_and_effects_in_nats_and_probability() -> None:
    effects = (
        TokenEffect(" earth", 1, -2.071, -0.43211),
        TokenEffect(" sea", 2, -1.5, -1e-6),
        TokenEffect(" sky", 3, -1.0),
    )
    node = dataclasses.replace(drawn.SMALL.nodes[0], promoted=effects)
    metadata = dataclasses.replace(drawn.METADATA, start="s", prompts=("In the\n beginning, God", "more"))
    circuit = Circuit(metadata, (node, *drawn.SMALL.nodes[1:]), drawn.SMALL.edges)
    shown = [text.text for text in texts(picture(circuit))]
    assert {"prompt “In the beginning, God” and 1 more", "start: s"} <= set(shown)
    assert {" −2.07, Δp −0.4321", " −1.50, Δp ≈ 0", " −1.00"} <= set(shown)
    assert "numbers of tokens: change in nats, and of the probability (Δp)" in shown
    means = [text.text for text in texts(picture(dataclasses.replace(circuit, metadata=drawn.METADATA)))]
    assert not [text for text in means if "Δp" in text]


def test_one_long_token_does_not_widen_a_box_twice() -> None:
    effects = (TokenEffect(" " * 40, 0, -2.0, -0.1), *(TokenEffect(f" t{i}", i, -1.0, -0.1) for i in range(5)))
    node = dataclasses.replace(drawn.SMALL.nodes[0], promoted=effects, suppressed=())
    assert _node.box(node, numbers=True).width < 450


def test_bold_letters_have_helvetica_bold_s_widths() -> None:
    """Adobe's font metrics: m 889, W 944, i 278, t 333, é as e 556."""
    assert _html.natural_width("mWité", 1000, bold=True) == 889 + 944 + 278 + 333 + 556
    assert _html.natural_width("mWité", 1000) == 833 + 944 + 222 + 278 + 556
