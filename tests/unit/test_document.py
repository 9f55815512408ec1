"""circuit.json read back: what was written, and nothing else; the schema in the package says the same."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.circuits import ASKED, METADATA, NAMES, NASTY, PLAIN, TEST, VALIDATION, circuits, hostile, validator

from circuitcli import plugins
from circuitcli.core import document
from circuitcli.core.circuit import Circuit, Measurement
from circuitcli.core.metadata import DiffFacts, Metadata
from circuitcli.errors import InputError
from circuitcli.store import circuits as stored

OLDER = replace(PLAIN.edges[0], older=(Measurement(-0.5, None, None, 3, "sunday", "2026-11-22"),))
FULL = replace(
    PLAIN,
    metadata=replace(METADATA, diff=DiffFacts("a", "b", same=1, untold=0)),
    nodes=(
        replace(PLAIN.nodes[0], label="l", group="g", pos=3, neuronpedia="n", change="gained"),
        replace(PLAIN.nodes[1], writes=("2.mlp_out", "3.mlp_out")),
        *PLAIN.nodes[2:],
    ),
    edges=(OLDER, *PLAIN.edges[1:]),
    validation=VALIDATION,
    test=TEST,
)


def written(circuit: Circuit) -> bytes:
    return plugins.load("renderers", "json").files(circuit)["circuit.json"]


def read_back(tmp_path: Path, data: bytes) -> Circuit:
    (tmp_path / "circuit.json").write_bytes(data)
    return stored.read(tmp_path / "circuit.json")


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


def test_the_schema_is_one_and_closed() -> None:
    validator().check_schema(validator().schema)
    found = list(objects(validator().schema))
    assert len(found) == 25
    for one in found:
        assert one["additionalProperties"] is False
        assert set(one["required"]) <= set(one["properties"])


def test_the_metadata_is_the_schema_s() -> None:
    """Every field is a property, and the other way round; what isn't said of most graphs is left out of them."""
    known = validator().schema["$defs"]["metadata"]
    fields = {field.name: field.default for field in dataclasses.fields(Metadata)}
    assert set(fields) == set(known["properties"])
    assert {name for name, default in fields.items() if default is dataclasses.MISSING} == set(known["required"])
    said = json.loads(written(PLAIN))["metadata"]
    assert set(said) == set(fields) - {"strength", "diff", "attribution", "repeats"}
    steered = replace(METADATA, intervention="steer", strength=5.0)
    assert json.loads(written(replace(PLAIN, metadata=steered)))["metadata"]["strength"] == 5.0


@pytest.mark.parametrize("circuit", [PLAIN, FULL, ASKED, hostile()], ids=["plain", "full", "asked", "hostile"])
def test_what_is_written_is_read_back(circuit: Circuit, tmp_path: Path) -> None:
    assert read_back(tmp_path, written(circuit)) == circuit


@settings(max_examples=60)
@given(circuits(), st.lists(st.text(st.characters(), max_size=9), min_size=1, max_size=9))
def test_any_circuit_is_read_back(tmp_path_factory: pytest.TempPathFactory, circuit: Circuit, words: list[str]) -> None:
    nodes = tuple(replace(n, label=words[i % len(words)]) for i, n in enumerate(circuit.nodes))
    circuit = replace(circuit, nodes=nodes)
    assert read_back(tmp_path_factory.mktemp("circuit"), written(circuit)) == circuit


def test_keys_that_may_be_missing_may_be(tmp_path: Path) -> None:
    """As files of before they were there, or made by hand."""
    tree = json.loads(written(PLAIN))
    for part, keys in {"nodes": ("label", "group", "pos", "neuronpedia", "run", "created", "change")}.items():
        for one in tree[part]:
            for key in keys:
                del one[key]
    for one in tree["edges"]:
        for key in ("older", "run", "created", "change"):
            del one[key]
    validator().validate(tree)
    assert read_back(tmp_path, json.dumps(tree).encode()).edges[0].older == ()


def spoiled(tree: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Documents with one thing wrong, or other, each with the place: every key gone, added, and of every other type."""
    for place, value in places(tree):
        for other in (None, True, 3, 2.5, "x", [], {}, [None], {"x": 1}):
            if type(other) is not type(value):
                yield place, changed(tree, place, other)
        if isinstance(place[-1], str):
            yield (*place, "gone"), changed(tree, place, ...)
        if isinstance(value, dict):
            yield (*place, "more"), changed(tree, (*place, "more"), 1)


def places(tree: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*before, key), value
        yield from places(value, (*before, key))


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    found = copy.deepcopy(tree)
    part = found
    for key in place[:-1]:
        part = part[key]
    if value is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return found


# What a schema can't say: which ids are there, and that lists are as long as each other.
JOINTS = (
    "an attribution",
    "a kind that isn't known",
    "a calibration",
    "ends at",
    "is there twice",
    "parts of different lengths",
    "has schema version",
    "has no metadata",
)


def verdict(tree: Any) -> str | None:
    """What the reader has against a document."""
    try:
        document.parse(tree, "it")
    except InputError as error:
        return error.message
    return None


@pytest.mark.parametrize("circuit", [FULL, ASKED], ids=["full", "asked"])
def test_schema_and_reader_agree(circuit: Circuit) -> None:
    tree = json.loads(written(circuit))
    count = refused = 0
    for place, spoilt in spoiled(tree):
        count += 1
        by_schema, by_reader = validator().is_valid(spoilt), verdict(spoilt)
        assert by_schema == (by_reader is None) or (by_schema and any(joint in by_reader for joint in JOINTS)), place
        refused += by_reader is not None
    assert count > 600
    assert refused > 500


def spoil(**changes: Any) -> bytes:
    tree = json.loads(written(PLAIN))
    for place, value in changes.items():
        tree = changed(tree, tuple(int(p) if p.isdigit() else p for p in place.split("__")), value)
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 10**6, "not JSON"),
        (b'{"a":' * 10**5, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "no metadata"),
        (b"{}", "no metadata"),
        (b'{"metadata": []}', "no metadata"),
        (b'{"metadata": {}, "nodes": [], "edges": []}', "has no schema version"),
        (spoil(metadata__schema_version=2), "schema version 2"),
        (spoil(metadata__schema_version=True), "schema version True"),
        (spoil(metadata__seed=float("nan")), "not JSON"),
        (written(PLAIN).replace(b"0.0123", b"1e999"), "nodes.0.density should be a finite number"),
        (spoil(nodes__0__density=10**400), "nodes.0.density"),
        (spoil(edges__0__effect_mean=1e308), "edges.0.effect_mean should be a finite number of at most 3.403e+38"),
        (
            spoil(metadata__runs__0__abs_effect_measured=1e39),
            "abs_effect_measured should be a finite number of at most",
        ),
        (spoil(metadata__runs__0__abs_effect_measured=-1e39), "abs_effect_measured should be at least 0"),
        (spoil(metadata__seed="5"), "metadata.seed should be a whole number"),
        (spoil(edges__0__n=True), "edges.0.n should be a whole number"),
        (spoil(nodes__0__pinned=1), "nodes.0.pinned should be true or false"),
        (spoil(nodes__0__change="new"), "nodes.0.change should be 'gained', 'lost' or 'changed'"),
        (spoil(nodes={"a": 1}), "nodes should be a list"),
        (spoil(edges__0=[]), "edges.0 should be an object"),
        (spoil(edges__0__n=10**4000), "edges.0.n should be a whole number of at most 9.007e+15"),
        (spoil(nodes__0__layer=-1), "negative"),
        (spoil(nodes__1__id=NAMES[0]), f"the node {NAMES[0]} is there twice"),
        (spoil(edges__0__target="1.resid_post.6"), "is there twice"),
        (spoil(edges__0__target="9.z.9"), "an edge ends at 9.z.9"),
        (spoil(nodes__0__contexts__0__firing=3), "different lengths"),
        (spoil(nodes__0__contexts__0__tokens=["a"]), "different lengths"),
        (spoil(metadata__secret="x"), "metadata.secret isn't known"),
        (spoil(nodes__0__label=[[[[]]]]), "nodes.0.label should be a text"),
    ],
)
def test_damaged_files_are_refused_in_words(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_back(tmp_path, data)
    assert words in raised.value.message
    assert "circuit.json" in raised.value.message
    assert "graph" in raised.value.hint
    assert len(raised.value.message) < 400


def test_files_that_can_t_be_circuits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="can't be read: No such file"):
        stored.read(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"has no graph/circuit\.json"):
        stored.locate(tmp_path)
    monkeypatch.setattr(stored, "MAX_BYTES", 2**20)
    with pytest.raises(InputError, match="more than 1 MiB"):
        read_back(tmp_path, b" " * (2**20 + 1))
    with pytest.raises(InputError, match="no ordinary file"):
        stored.read(Path("/dev/zero"))
    with pytest.raises(InputError, match="it is a folder"):
        stored.read(tmp_path)
    for name in ("\0", "a" * 5000, "\ud800"):
        with pytest.raises(InputError, match="can't be read"):
            stored.read(stored.locate(Path(name)))


def test_hostile_text_is_kept_as_it_is(tmp_path: Path) -> None:
    [first, *_] = read_back(tmp_path, written(hostile())).nodes
    assert first.contexts[0].tokens == NASTY
    assert tuple(effect.token for effect in first.promoted) == NASTY
