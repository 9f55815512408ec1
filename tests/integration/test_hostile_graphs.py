"""Graphs that somebody else wrote, through the commands that read one: refused in two lines, or read without harm."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import Result, contents

Circuit = Callable[..., Result]
LARGEST = 3.4028234663852886e38
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def ways(run: Path, file: Path) -> list[tuple[str | Path, ...]]:
    """Each command that reads a graph from a file."""
    return [
        ("graph", "--run", run, "--load", file),
        ("graph", "--run", run, "--extend", file),
        ("diff", file, run),
        ("diff", run, file),
    ]


def document(run: Path) -> Any:
    return json.loads((run / "graph" / "circuit.json").read_text())


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "NaN": (b'{"metadata": NaN}', "not JSON"),
    "nested": (b"[" * 10**6 + b"]" * 10**6, "not JSON"),
    "long number": (b'{"metadata": ' + b"9" * 5000 + b"}", "not JSON"),
    "NUL": (b"\0" * 100, "not JSON"),
    "UTF-16": ('{"metadata": {}}'.encode("utf-16"), "not UTF-8"),
    "list": (b"[[]]", "no metadata"),
    "pointer": (LFS, "is a pointer of Git LFS"),
}


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_no_graph_is_refused_and_the_run_stays(data: str, circuit: Circuit, run: Path) -> None:
    file = run.parent / "hostile.json"
    content, words = REFUSED[data]
    file.write_bytes(content)
    before = contents(run)
    for args in ways(run, file):
        circuit(*args).refused(3, "hostile.json", words)
    assert contents(run) == before


SPOILT: dict[str, Callable[[Any], None]] = {
    "overflow": lambda tree: tree["edges"][0].update(effect_mean=1e308),
    "overflow of a sum": lambda tree: tree["metadata"]["runs"][0].update(abs_effect_measured=1e308),
    "a number of digits": lambda tree: tree["edges"][0].update(n=10**4000),
    "a far position": lambda tree: tree["nodes"][0].update(pos=2**40),
    "a wrong kind": lambda tree: tree["nodes"][0].update(layer="0"),
    "true for a number": lambda tree: tree["edges"][0].update(n=True),
}


@pytest.mark.parametrize("what", SPOILT)
def test_impossible_numbers_are_refused(what: str, circuit: Circuit, run: Path) -> None:
    tree, file = document(run), run.parent / "hostile.json"
    SPOILT[what](tree)
    file.write_text(json.dumps(tree))
    before = contents(run)
    for args in ways(run, file):
        circuit(*args).refused(3, "hostile.json is no circuit.json")
    assert contents(run) == before


def strange(tree: Any) -> None:
    """Labels and groups that UTF-8 can't hold or terminals obey, and the largest effects."""
    for node in tree["nodes"]:
        node |= {"label": "\ud800 half", "group": "\x00\x1b[31m"}
        node["contexts"][0]["tokens"][0] = "\udfff"
    for edge in tree["edges"]:
        edge |= {"effect_mean": LARGEST, "ci_low": -LARGEST, "ci_high": LARGEST}
    tree["metadata"]["runs"][0] |= {"abs_effect_measured": LARGEST, "run": "\ud800\x00"}


@pytest.mark.parametrize("way", range(4))
def test_half_characters_and_the_largest_numbers_are_read(way: int, circuit: Circuit, run: Path) -> None:
    tree, file = document(run), run.parent / "hostile.json"
    strange(tree)
    file.write_text(json.dumps(tree))
    formats = [part for name in ("svg", "html", "csv", "graphml", "neuronpedia") for part in ("--format", name)]
    args = ways(run, file)[way]
    result = circuit(*args, *(formats if args[0] == "graph" else ("--output", run.parent / "difference.svg")))
    assert result.code == 0
    assert "\x1b" not in result.out + result.err
    assert "\x00" not in result.out + result.err
    if way == 0:
        assert {node["label"] for node in document(run)["nodes"]} == {"\ud800 half"}
        assert "already done" in circuit("graph", "--run", run).err
        assert circuit("effects", "--run", run, "--feature", document(run)["nodes"][0]["id"]).code == 0


def test_a_byte_order_mark_is_read_over(circuit: Circuit, run: Path) -> None:
    file = run.parent / "marked.json"
    file.write_bytes(b"\xef\xbb\xbf" + (run / "graph" / "circuit.json").read_bytes())
    assert [circuit(*args).code for args in ways(run, file)] == [0] * 4


def test_pipes_folders_and_devices_are_refused_not_waited_for(circuit: Circuit, run: Path) -> None:
    pipe = run.parent / "pipe"
    os.mkfifo(pipe)
    before = contents(run)
    for args in ways(run, pipe):
        circuit(*args).refused(3, "pipe", "it is no ordinary file")
    for args in ways(run, Path("/dev/zero")):
        circuit(*args).refused(3, "it is no ordinary file")
    circuit("graph", "--run", run, "--labels", pipe).refused(3, "it is no ordinary file")
    assert contents(run) == before


def test_a_pipe_inside_a_run_is_refused_too(circuit: Circuit, run: Path) -> None:
    os.mkfifo(run / "graph" / "edits.json")
    circuit("graph", "--run", run).refused(3, "edits.json", "it is no ordinary file")


@pytest.mark.parametrize("name", ["a" * 300, "none/none", "loop"])
def test_paths_that_lead_nowhere_are_refused(name: str, circuit: Circuit, run: Path) -> None:
    (run.parent / "loop").symlink_to(run.parent / "loop")
    for args in ways(run, run.parent / name):
        circuit(*args).refused(3)


def test_a_difference_is_not_written_where_it_cannot_be(circuit: Circuit, run: Path) -> None:
    (run.parent / "folder.svg").mkdir()
    circuit("diff", run, run, "--output", run.parent / "folder.svg").refused(2, "is a folder")
