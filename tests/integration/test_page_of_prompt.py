"""The page of a circuit of a prompt in Chromium: laid out, opened, pruned, pinned, folded, attacked, measured."""

import dataclasses
import json
import time
from itertools import cycle, pairwise
from typing import Any

import pytest
from support import prompted
from support.browser import Open, Opened
from support.circuits import ASKED, NASTY, PLAIN, QUESTION, TEST, TOKENS, VALIDATION

from circuitcli.core import compare
from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.tokens import visible
from circuitcli.renderers import _question, _validated

GOD, ERROR, LATE, OTHER = "1.resid_post.6@5", "1.resid_post.error@6", "2.resid_post.7@7", "2.resid_post.9@7"
NAMES = {node.id for node in ASKED.nodes}
PAIRS = {(edge.source, edge.target) for edge in ASKED.edges}
CELLS = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"


def grouped(**groups: str) -> Circuit:
    """ASKED with nodes in groups: `god="late"`."""
    names = {"god": GOD, "error": ERROR, "late": LATE, "other": OTHER}
    given = {names[key]: group for key, group in groups.items()}
    nodes = tuple(dataclasses.replace(node, group=given.get(node.id)) for node in ASKED.nodes)
    return dataclasses.replace(ASKED, nodes=nodes)


def lit(there: Opened) -> set[str]:
    boxes = "ORDER.filter((box) => box.element.visible() && !box.element.hasClass('dim'))"
    return set(there.page.evaluate(f"{boxes}.map((box) => box.id)"))


def weights(there: Opened) -> dict[tuple[str, str], float]:
    drawn = "EDGES.filter((each) => each.element.visible())"
    found = there.page.evaluate(f"{drawn}.map((each) => [each.source.id, each.target.id, each.edge.effect_mean])")
    return {(source, target): weight for source, target, weight in found}


def table(there: Opened, of: str) -> list[list[str]]:
    found: list[list[str]] = there.page.locator(f"#{of} tbody tr").evaluate_all(CELLS)
    return found


def choose(there: Opened, name: str) -> None:
    there.page.evaluate("(id) => choose(ORDER.find((box) => box.id === id))", name)
    there.rest()


def test_positions_go_to_the_right_and_layers_up(opened: Open) -> None:
    there = opened(ASKED)
    assert there.shown() == NAMES
    at = {name: there.place(name) for name in NAMES}
    assert at["token@5"][0] == pytest.approx(at[GOD][0], abs=1)
    assert at["token@6"][0] == pytest.approx(at[ERROR][0], abs=1)
    assert at["token@5"][0] < at["token@6"][0] < min(at[LATE][0], at[OTHER][0])
    assert at["target"][0] == pytest.approx((at[LATE][0] + at[OTHER][0]) / 2, abs=1)
    rows = [at["token@5"][1], at[GOD][1], at[LATE][1], at["target"][1]]
    assert rows == sorted(rows, reverse=True)
    assert at["token@5"][1] == pytest.approx(at["token@6"][1], abs=1)
    assert there.hidden() == []


def test_the_whole_prompt_is_the_axis(opened: Open) -> None:
    """Each token is written below its column, with its number, whether it has nodes or not, wherever the view is."""
    there = opened(ASKED)
    there.page.evaluate(
        "window.written = []; const before = write;"
        "write = (pen, value, x, y, ...rest) => { written.push([value, x, y]); before(pen, value, x, y, ...rest); };"
        "drawOverlay(); write = before; null"
    )
    bottom = there.page.evaluate("cy.height()")
    low = [(value, x) for value, x, y in there.page.evaluate("written") if y > bottom - 40]
    assert sorted(value for value, _ in low) == sorted(
        [*map(str, range(len(TOKENS))), *(visible(token, 40) for token in TOKENS)]
    )
    found = {value: x for value, x in low if not value.isdigit()}
    left = there.page.evaluate("byId('stage').getBoundingClientRect().left")
    assert found["␣God"] + left == pytest.approx(there.place(GOD)[0], abs=1)
    assert found["␣created"] + left == pytest.approx(there.place(ERROR)[0], abs=1)
    numbers = [x for _, x in sorted((int(value), x) for value, x in low if value.isdigit())]
    assert numbers == sorted(numbers)
    lefts = [x for value, x in low if value == "␣the"]
    assert sorted(lefts) == [numbers[2], numbers[7]]
    width = there.page.evaluate("cy.width()")
    assert all(0 <= x <= width for x in numbers)
    lowest = there.page.evaluate("Math.max(...ORDER.map((b) => onScreen(b).top + onScreen(b).height))")
    assert lowest < bottom - 40  # nothing is behind it


def test_of_a_long_prompt_tokens_are_upright_and_as_many_as_there_is_room_for(opened: Open) -> None:
    there = opened(prompted.of_prompt(240, 260, tokens=prompted.WORDS * 16))
    there.page.evaluate(
        "window.drawn = []; const before = drawToken;"
        "drawToken = (place, ...rest) => { drawn.push([place.pos, place.x]); before(place, ...rest); };"
        "drawOverlay();"
    )
    drawn = there.page.evaluate("drawn")
    assert there.page.evaluate("axisHeight(cy.zoom())") > 40
    assert drawn[0][0] == 16 * len(prompted.WORDS) - 1  # the last one is always there
    assert 40 < len(drawn) < 16 * len(prompted.WORDS)
    assert min(b[1] - a[1] for a, b in pairwise(reversed(drawn))) >= 12


def test_boxes_say_what_nodes_do(opened: Open) -> None:
    there = opened(estimated())
    said = there.page.evaluate(
        """() => { const texts = {}; let now = null; const before = write;
        write = (pen, value, ...rest) => { texts[now].push(value); before(pen, value, ...rest); };
        for (const box of ORDER) { now = box.id; texts[now] = []; painted(box, 1); }
        write = before; return texts; }"""
    )
    assert said[GOD] == ["a god", "␣God · act 2.5", "−0.9 nats"]
    assert said[OTHER] == ["2.resid_post.9", "␣the · act 2.5", "+0.3 nats", "≈ atp"]
    assert said[ERROR] == ["1.resid_post error", "␣created · norm 2.5", "+0.2 nats"]
    assert said["token@5"] == ["␣God", "token 5", "−1.5 nats"]
    assert said["target"] == ["␣heavens", "target", "p = 49.7%"]
    frames = "ORDER.map(({ id, element }) => [id, [element.style('border-style'), element.style('border-width')]])"
    looks = there.page.evaluate(f"Object.fromEntries({frames})")
    assert {name: style for name, (style, _) in looks.items()} == {
        name: "dotted" if name == ERROR else "solid" for name in NAMES
    }
    assert [name for name, (_, line) in looks.items() if line == "4px"] == [LATE]  # pinned


def estimated() -> Circuit:
    nodes = tuple(
        dataclasses.replace(n, attribution=dataclasses.replace(n.attribution, method="atp"))
        if n.id == OTHER and n.attribution
        else n
        for n in ASKED.nodes
    )
    return dataclasses.replace(ASKED, nodes=nodes)


def test_red_promotes_and_blue_holds_down(opened: Open) -> None:
    there = opened(ASKED)
    red, blue = (there.page.evaluate(f"COLORS.{name}") for name in ("lowers", "raises"))
    arrows = there.page.evaluate(
        "EDGES.map((e) => [e.edge.effect_mean, e.element.hasClass('raises'), e.element.style('line-color')])"
    )
    colors = {(effect > 0): color for effect, _, color in arrows}
    assert all(raises == (effect > 0) for effect, raises, _ in arrows)
    assert colors == {False: rgb(red), True: rgb(blue)}
    tints = there.page.evaluate(
        "Object.fromEntries(ORDER.map((b) => [b.id, b.element.style('background-color').match(/\\d+/g).map(Number)]))"
    )
    for name in (GOD, LATE, "token@5"):
        assert tints[name][0] > tints[name][2], name
    for name in (ERROR, OTHER):
        assert tints[name][0] < tints[name][2], name
    saturation = {name: max(tint) - min(tint) for name, tint in tints.items()}
    assert saturation["token@5"] > saturation[LATE] > saturation["token@6"] > 0
    assert saturation["target"] == 0


def rgb(color: str) -> str:
    return f"rgb({','.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_a_click_lights_what_feeds_and_is_fed(opened: Open) -> None:
    there = opened(ASKED)
    places = there.page.evaluate("ORDER.map((box) => onScreen(box).left)")
    there.click(GOD)
    assert lit(there) == {GOD, "token@5", LATE, OTHER}
    assert there.shown() == NAMES  # the others stand back, in their places
    assert there.page.evaluate("ORDER.map((box) => onScreen(box).left)") == places
    assert there.arrows() == PAIRS
    dim = there.page.evaluate("EDGES.filter((e) => e.element.hasClass('dim')).length")
    assert dim == len(PAIRS) - 3
    assert table(there, "causes") == [["token@5 ␣God", "−0.9", "100%", "≈ relp"]]
    assert table(there, "consequences") == [
        [f"{LATE} ␣the", "−0.7", "78%", "≈ relp"],
        [f"{OTHER} ␣the", "+0.2", "22%", "≈ relp"],
    ]
    assert "What feeds it" in there.page.inner_text("#causes")
    assert "nats" in there.page.inner_text("#consequences h3")
    there.page.get_by_role("button", name=LATE).click()
    there.rest()
    assert lit(there) == {LATE, GOD, ERROR, "target"}
    assert [row[:3] for row in table(there, "causes")] == [
        [f"{GOD} a god ␣God", "−0.7", "88%"],
        [f"{ERROR} ␣created", "+0.1", "13%"],
    ]
    there.page.keyboard.press("Escape")
    there.rest()
    assert lit(there) == NAMES


def test_shares_are_of_all_weights_not_of_those_shown(opened: Open) -> None:
    there = opened(ASKED)
    there.page.locator("#count").fill("5")  # leaves 0.2 and 0.1 out
    there.rest()
    choose(there, LATE)
    assert [row[:3] for row in table(there, "causes")] == [[f"{GOD} a god ␣God", "−0.7", "88%"]]


def test_the_card_has_all_that_is_known(opened: Open) -> None:
    there = opened(estimated())
    there.page.mouse.move(*there.place(GOD))
    card = there.page.locator("#card")
    card.wait_for(state="visible")
    said = card.inner_text()
    for words in (
        GOD,
        "a god",
        "layer 1 · resid_post · position 5 · ␣God",
        "activation 2.5, replaced by 0",
        "effect −0.9 nats (measured), 7.2% of all Σ|effect|",
        "its estimate was −0.81 nats",
        "influence: among the first 40%",
        " the catsat",
        "␣dog −0.5",
        "␣fish +0.5",
    ):
        assert words in said
    cards = {name: there.page.evaluate("(id) => card(BOXES.get(id)).innerText", name) for name in NAMES}
    assert "effect +0.3 nats (estimate by atp)" in cards[OTHER]
    assert "its estimate" not in cards[OTHER]
    assert "norm 2.5" in cards[ERROR]
    assert "what the dictionary leaves out" in cards[ERROR]
    assert "token id 7" in cards["token@5"]
    assert "clean 2.5 nats · p = 49.7%" in cards["target"]


def test_influence_prunes_and_what_leads_nowhere_goes_too(opened: Open) -> None:
    there = opened(ASKED)
    assert there.page.inner_text("#influence-value") == "all"
    there.page.locator("#influence").fill("750")  # of 1000: up to 0.6 of 0.8
    there.rest()
    assert there.page.inner_text("#influence-value") == "60%"
    assert there.shown() == {"token@5", GOD, LATE, "target"}  # token@6, of 0.5, fed nothing but the error
    assert there.arrows() == {("token@5", GOD), (GOD, LATE), (LATE, "target")}
    assert there.page.inner_text("#shown") == "3 of 7 arrows, 4 of 7 nodes"
    there.page.locator("#influence").fill("100")
    there.rest()
    assert there.shown() == set()
    there.page.locator("#influence").fill("1000")
    there.rest()
    assert there.shown() == NAMES


def test_pinned_nodes_make_a_subgraph(opened: Open) -> None:
    there = opened(ASKED)
    only = there.page.locator("#pinned-only")
    assert there.page.inner_text("#pin-count") == "pinned only (1)"  # as the document has it
    only.check()
    there.rest()
    assert there.shown() == {LATE, "target"}
    assert there.arrows() == {(LATE, "target")}
    only.uncheck()
    there.rest()
    there.click(GOD)
    there.page.get_by_role("button", name="Pin", exact=True).click()
    there.rest()
    assert there.page.get_by_role("button", name="Unpin", exact=True).is_visible()
    there.page.keyboard.press("Escape")
    only.check()
    there.rest()
    assert there.shown() == {"token@5", GOD, LATE, "target"}
    assert there.arrows() == {("token@5", GOD), (GOD, LATE), (LATE, "target")}
    document = there.saved()
    assert {node["id"] for node in document["nodes"] if node["pinned"]} == {GOD, LATE}
    for name in (GOD, LATE):
        there.page.evaluate("(id) => goTo(BOXES.get(id))", name)
        there.page.locator("#graph").focus()
        there.page.keyboard.press("p")
    there.rest()
    assert there.shown() == NAMES  # nothing is pinned any more
    assert only.is_disabled()


def test_groups_are_one_box_with_summed_weights(opened: Open) -> None:
    there = opened(grouped(late="late", other="late"))
    assert there.page.locator("#fold").is_checked()
    assert there.shown() == (NAMES - {LATE, OTHER}) | {"group late"}
    assert weights(there) == pytest.approx(
        {
            ("token@5", GOD): -0.9,
            ("token@6", ERROR): 0.2,
            (GOD, "group late"): -0.5,
            (ERROR, "group late"): 0.1,
            ("group late", "target"): -0.7,
        }
    )
    choose(there, "group late")
    assert [row[:3] for row in table(there, "causes")] == [
        [f"{GOD} a god ␣God", "−0.5", "83%"],
        [f"{ERROR} ␣created", "+0.1", "17%"],
    ]
    assert there.page.locator("#details .members li").all_inner_texts() == [
        f"{LATE} ␣the −1.1 nats",
        f"{OTHER} ␣the +0.3 nats",
    ]
    assert "effects add up to −0.8 nats (measured)" in there.page.inner_text("#details")
    assert there.page.locator("#label").is_disabled()
    there.page.locator("#fold").uncheck()
    there.rest()
    assert there.shown() == NAMES
    assert there.arrows() == PAIRS
    assert there.page.inner_text("#shown") == "7 of 7 arrows, 7 of 7 nodes"


def test_a_group_that_was_proposed_is_called_as_it_is(opened: Open) -> None:
    there = opened(grouped(late="group 2: ␣the", other="group 2: ␣the"))
    assert "group 2: ␣the" in there.shown()


def test_what_is_inside_a_group_is_hidden(opened: Open) -> None:
    there = opened(grouped(god="story", late="story"))
    assert weights(there) == {
        ("token@5", "group story"): -0.9,
        (ERROR, "group story"): 0.1,
        ("group story", OTHER): 0.2,
        ("group story", "target"): -1.0,
        ("token@6", ERROR): 0.2,
        (OTHER, "target"): 0.3,
    }
    assert there.page.locator("#influence").is_visible()
    there.page.locator("#influence").fill("600")  # up to 0.48: of the group its first node counts
    there.rest()
    assert there.shown() == {"token@5", "group story", "target"}


def test_grouping_by_hand_folds_and_is_saved(opened: Open) -> None:
    there = opened(grouped(god="story", late="story"))
    there.page.evaluate("for (const box of ORDER) if (/error|9@7/.test(box.id)) box.element.select()")
    there.rest()
    there.page.get_by_label("Name of the group").fill("the rest")
    there.page.get_by_role("button", name="Group", exact=True).click()
    there.rest()
    assert there.shown() == {"token@5", "token@6", "target", "group story", "group the rest"}
    assert there.page.locator("#groups").inner_text().split("\n") == ["story (2)", "the rest (2)"]
    there.page.evaluate("ORDER.find((box) => box.id === 'group story').element.select()")
    there.rest()
    there.page.get_by_label("Name of the group").fill("")
    there.page.get_by_role("button", name="Group", exact=True).click()
    there.rest()
    assert there.shown() == {"token@5", "token@6", "target", GOD, LATE, "group the rest"}
    groups = {node["id"]: node["group"] for node in there.saved()["nodes"]}
    assert groups == dict.fromkeys(NAMES) | {ERROR: "the rest", OTHER: "the rest"}


def test_labels_are_saved_and_nothing_else_changes(opened: Open) -> None:
    there = opened(ASKED)
    there.click(OTHER)
    there.page.locator("#label").fill("the <b>heavens</b>")
    there.page.locator("#label").press("Enter")
    document = json.loads(json.dumps(ASKED.to_dict()))
    next(node for node in document["nodes"] if node["id"] == OTHER)["label"] = "the <b>heavens</b>"
    assert there.saved() == document
    assert there.page.evaluate("(id) => shortName(BOXES.get(id))", OTHER) == "the <b>heavens</b>"


def test_the_headline_is_the_question_with_its_answer(opened: Open) -> None:
    there = opened(ASKED)
    said = {name: there.page.inner_text(f"#{name}") for name in ("title", "share", "calibration", "origin")}
    assert said == {
        "title": _question.question(ASKED),
        "share": _question.shown(ASKED),
        "calibration": _question.calibration(ASKED),
        "origin": _question.made(ASKED),
    }
    assert not there.page.locator("#warning").is_visible()
    legend = there.page.inner_text("#legend")
    assert "replacing the node lowers the metric" in legend
    assert "ablating" not in legend


@pytest.mark.parametrize("circuit", [ASKED, PLAIN], ids=["prompt", "means"])
def test_what_was_validated_is_told_and_saved(opened: Open, circuit: Circuit) -> None:
    circuit = dataclasses.replace(circuit, validation=VALIDATION, test=TEST)
    there = opened(circuit)
    assert there.page.inner_text("#validation") == _validated.sentence(circuit)
    for what in ("validation", "test"):
        assert there.saved()[what] == json.loads(json.dumps(circuit.to_dict()))[what]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_poor_estimates_are_warned_of_in_a_colour_of_their_own(opened: Open, scheme: str) -> None:
    rows = tuple(dataclasses.replace(row, pearson=Measure(0.31)) for row in ASKED.calibration)
    there = opened(dataclasses.replace(ASKED, calibration=rows), color_scheme=scheme)
    warning = there.page.locator("#warning")
    said = _question.warning(dataclasses.replace(ASKED, calibration=rows))
    assert warning.inner_text() == f"⚠ {said.replace('`', '')}"
    assert warning.locator("code").all_inner_texts() == ["--edges exact"]
    color = "(e) => getComputedStyle(e).color"
    assert warning.evaluate(color) != there.page.locator("#share").evaluate(color)


def test_a_difference_has_its_own_colours_and_no_numbers_of_one_graph(opened: Open) -> None:
    fewer = tuple(node for node in ASKED.nodes if node.id != OTHER)
    edges = tuple(edge for edge in ASKED.edges if OTHER not in (edge.source, edge.target))
    there = opened(compare.drawn(ASKED, dataclasses.replace(ASKED, nodes=fewer, edges=edges), ("monday", "tuesday")))
    assert there.page.inner_text("#title") == "From monday to tuesday: what changed"
    assert there.page.inner_text("#origin") == _question.question(ASKED)
    assert not there.page.inner_text("#calibration") + there.page.inner_text("#warning")
    legend = there.page.inner_text("#legend")
    assert "lost (dashed)" in legend
    assert "replacing the node lowers" not in legend
    frame = "(id) => BOXES.get(id).element.style('border-color')"
    assert there.page.evaluate(frame, OTHER) == rgb(there.page.evaluate("COLORS.lost"))
    assert there.page.evaluate("(id) => BOXES.get(id).element.style('border-style')", ERROR) == "dotted"
    lost = there.page.evaluate("EDGES.filter((e) => e.element.style('line-style') === 'dashed').length")
    assert lost == 2


def test_pages_of_mean_effects_have_none_of_it(opened: Open) -> None:
    there = opened(PLAIN)
    for name in ("influence", "pinned-only", "fold", "pin", "calibration", "warning"):
        assert there.page.locator(f"#{name}").count() == 0
    assert there.page.locator(".of-prompts").count() == 0
    assert "features" in there.page.inner_text("#shown")
    there.page.evaluate("goTo(ORDER[0])")
    there.page.locator("#graph").focus()
    there.page.keyboard.press("p")
    assert there.saved() == json.loads(json.dumps(PLAIN.to_dict()))


def test_nodes_that_stand_for_all_positions_are_in_rows(opened: Open) -> None:
    nodes = tuple(dataclasses.replace(node, pos=None) for node in ASKED.nodes)
    question = dataclasses.replace(QUESTION, positions="sum", tokens=())
    metadata = dataclasses.replace(ASKED.metadata, attribution=question)
    there = opened(dataclasses.replace(ASKED, metadata=metadata, nodes=nodes))
    assert there.page.evaluate("axisHeight(1)") == 0
    rows = [there.place(name)[1] for name in ("token@5", GOD, LATE, "target")]
    assert rows == sorted(rows, reverse=True)
    assert there.place(GOD)[1] == pytest.approx(there.place(ERROR)[1], abs=1)
    there.click(GOD)
    assert lit(there) == {GOD, "token@5", LATE, OTHER}


def test_the_keyboard_opens_pins_and_walks(opened: Open) -> None:
    there = opened(ASKED)
    there.page.locator("#graph").focus()
    press = there.page.keyboard.press
    press("ArrowUp")
    assert there.page.locator("#card strong").inner_text() == LATE  # from which the largest effect starts
    press("ArrowDown")
    assert there.page.locator("#card strong").inner_text() == GOD
    assert there.page.inner_text("#live") == f"{GOD}, a god, −0.9 nats, causes 1, consequences 2"
    press("ArrowRight")
    assert there.page.locator("#card strong").inner_text() == ERROR
    press("Enter")
    there.rest()
    assert lit(there) == {ERROR, "token@6", LATE}
    press("p")
    assert there.page.inner_text("#live") == f"{ERROR} is pinned"
    assert there.page.inner_text("#pin-count") == "pinned only (2)"
    reached = []
    for _ in range(40):
        press("Tab")
        reached.append(there.page.evaluate("document.activeElement.id"))
    assert {"influence", "pinned-only", "pin"} <= set(reached)


def hostile() -> Circuit:
    """Text that breaks things wherever a circuit of a prompt has text; two nodes to a group, so that they fold."""
    texts = cycle(NASTY)
    nodes: list[Node] = []
    for i, group in enumerate(name for name in NASTY if name.strip() for _ in range(2)):
        base = next(node for node in ASKED.nodes if node.id == (ERROR if i % 3 == 0 else GOD))
        assert base.attribution is not None
        told = dataclasses.replace(base.attribution, token=next(texts))
        given: dict[str, Any] = {"label": None if i % 4 == 0 else next(texts), "group": group, "attribution": told}
        nodes.append(dataclasses.replace(base, id=f"{next(texts)}{i}", pos=1 + i % 7, **given))
    target = ASKED.nodes[-1]
    assert target.attribution is not None
    nodes.append(dataclasses.replace(target, attribution=dataclasses.replace(target.attribution, token=NASTY[1])))
    edges = tuple(Edge(a.id, b.id, -0.1, None, None, 1, method="relp") for a, b in pairwise(nodes))
    said = ("metric", "unit", "target", "against", "baseline", "method", "edge_method")
    asked: dict[str, Any] = dict.fromkeys(said, " ".join(NASTY[:20]))
    question = dataclasses.replace(QUESTION, tokens=NASTY, **asked)
    metadata = dataclasses.replace(ASKED.metadata, attribution=question, prompts=("".join(NASTY),))
    return Circuit(metadata, tuple(nodes), edges)


def test_hostile_text_is_shown_and_inert(opened: Open) -> None:
    circuit = hostile()
    there = opened(circuit)
    visit = "for (const box of ORDER) { choose(box); showCard(box); painted(box, 1); } zoomBy(4); drawOverlay();"
    assert there.page.evaluate("ORDER.filter((box) => box.node.members).length") > 20
    there.page.evaluate(visit)
    there.page.locator("#fold").uncheck()
    there.rest()
    assert there.shown() == {node.id for node in circuit.nodes}
    there.page.evaluate(visit)
    there.page.get_by_role("searchbox").fill("</script>")
    there.rest()
    tags = set(there.page.evaluate("[...document.querySelectorAll('body *')].map((e) => e.tagName)"))
    assert not tags & {"IMG", "B", "IFRAME", "A", "OBJECT", "STYLE", "LINK"}
    assert there.page.locator("script").count() == 3
    assert there.saved() == json.loads(json.dumps(circuit.to_dict()))


@pytest.mark.parametrize(("nodes", "edges"), [(60, 140), (120, 190)])
def test_no_arrow_runs_behind_a_box(opened: Open, nodes: int, edges: int) -> None:
    """Neither at first nor after pruning."""
    circuit = prompted.of_prompt(nodes, edges)
    there = opened(circuit)
    assert len(there.arrows()) == len(circuit.edges)
    assert there.hidden() == []
    there.page.locator("#influence").fill("500")
    there.rest()
    assert 0 < len(there.arrows()) < len(circuit.edges)
    assert there.hidden() == []


def test_of_two_hundred_nodes_every_one_says_its_name(opened: Open) -> None:
    there = opened(prompted.of_prompt(200, 500, layers=12))
    there.page.evaluate(
        "window.written = []; const before = write;"
        "write = (pen, value, x, y, style) => { written.push([value, style.size]); before(pen, value, x, y, style); };"
        "drawOverlay();"
    )
    written = dict(there.page.evaluate("written"))
    named = there.page.evaluate("ORDER.filter((box) => box.node.kind !== 'token').map(briefName)")
    assert set(named) <= set(written)
    assert min(written[name] for name in named) >= 5


@pytest.mark.timed
def test_two_thousand_nodes_open_and_move(opened: Open) -> None:
    started = time.perf_counter()
    there = opened(prompted.of_prompt(2000, 4000, layers=12))
    assert there.page.inner_text("#shown") == "4,000 of 4,000 arrows, 2,001 of 2,001 nodes"
    assert time.perf_counter() - started < 10
    begun = time.perf_counter()
    there.page.locator("#influence").fill("300")
    there.rest()
    assert 0 < len(there.shown()) < 700
    assert time.perf_counter() - begun < 5
    x = there.page.evaluate("cy.pan().x")
    mouse = there.page.mouse
    mouse.move(500, 860)
    mouse.down()
    begun = time.perf_counter()
    for i in range(20):
        mouse.move(500 + 5 * i, 860)
    mouse.up()
    assert time.perf_counter() - begun < 5
    assert there.page.evaluate("cy.pan().x") == pytest.approx(x + 95, abs=2)
