"""The circuits that are stated are what the definition gives of the matrices, and what tracr compiles has the same."""

from pathlib import Path

import numpy as np
import pytest
from support.stream import metric_of, of_program, of_tracr

from circuitcli.known import KNOWN, Known, copying

TRACR = Path(__file__).with_name("tracr.json")
WORDS = {"tok": "tokens", "prev": "previous_1"}


def matters(effects: dict[object, float]) -> dict[object, float]:
    largest = max(map(abs, effects.values()))
    return {one: effect for one, effect in effects.items() if abs(effect) >= 1e-3 * largest}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_stated_circuit_is_what_follows_from_the_matrices(known: Known) -> None:
    """Every node and every pair tried in float64, without LayerNorms: what is stated is what matters, and as much."""
    stream, metric = of_program(known), metric_of(known)
    assert metric(stream.run(known.prompt.split())[-1]) == pytest.approx(known.metric, abs=1e-9)
    nodes, edges = map(matters, stream.circuit(known.prompt.split(), metric))
    stated = {known.named(one): effect for one, effect in known.nodes.items()}
    assert nodes == pytest.approx(stated, abs=1e-9)
    between = {tuple(map(known.named, one)): effect for one, effect in known.edges.items()}
    assert edges == pytest.approx(between, abs=1e-9)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_stated_circuit_is_whole(known: Known) -> None:
    """The ends of its edges are its nodes, and every node leads to the target and comes from a token."""
    ends = {one for edge in known.edges for one in edge}
    assert ends == {*known.nodes, "target"}
    assert {d for _, d in known.edges} == {one for one in ends if not one.startswith("token")}
    assert {u for u, _ in known.edges} == set(known.nodes)


def renamed(node: str) -> str:
    """The name of one of our nodes in tracr's words: it counts positions behind BOS."""
    for ours, theirs in WORDS.items():
        node = node.replace(f".{ours}:", f".{theirs}:")
    site, dot, rest = node.partition(".pos:")
    return f"{site}.indices:{int(rest.partition('@')[0]) - 1}@{rest.partition('@')[2]}" if dot else node


def test_tracr_compiles_the_same_program_to_the_same_circuit() -> None:
    theirs, streams = of_tracr(TRACR)
    ours = of_program(copying.KNOWN)
    for one in streams:
        prompt = one["prompt"]
        last = theirs.run(prompt)
        assert last == pytest.approx(np.asarray(one["last"]), abs=1e-5), "what tracr itself computes"
        for word in "abcd":
            said = last[1:, theirs.features.index(f"previous_1:{word}")]
            expected = [float(position > 0 and prompt[position - 1] == word) for position in range(len(prompt))]
            assert said == pytest.approx(expected, abs=1e-6)
            if len(prompt) < copying.KNOWN.program.positions:
                own = ours.run(prompt)[1:, copying.KNOWN.program.at(f"prev:{word}")]
                assert own == pytest.approx(said, abs=1e-6), "and ours"
    at = [theirs.features.index(f"previous_1:{word}") for word in (copying.KNOWN.target, copying.KNOWN.against)]
    nodes, edges = map(matters, theirs.circuit(copying.KNOWN.prompt.split(), lambda x: float(x[at[0]] - x[at[1]])))
    stated = {renamed(copying.KNOWN.named(u)): v for u, v in copying.KNOWN.nodes.items()}
    # What makes tracr look at BOS where nothing matches is part of a token; without it the mean of all is moved.
    assert nodes == pytest.approx(stated | {"token@3": 0.25 - 1})
    between = {tuple(renamed(copying.KNOWN.named(u)) for u in edge): v for edge, v in copying.KNOWN.edges.items()}
    assert edges == pytest.approx(between)
