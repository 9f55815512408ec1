"""Texts: what each source yields, and when its identity changes."""

import json
from pathlib import Path

import pytest

from circuitcli import plugins
from circuitcli.errors import InputError

LINES = ["In the beginning", "⏎ and {braces}", "the end"]


def jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_prompts_are_the_texts_and_decide_the_identity():
    prompt = plugins.load("texts", "prompt")
    assert list(prompt.documents(LINES)) == LINES
    assert prompt.identity(LINES) != prompt.identity(LINES[:2]) != prompt.identity(["In the", "beginning"])


def test_jsonl_gives_its_texts_and_a_changed_file_another_identity(tmp_path: Path):
    file, path = plugins.load("texts", "file"), jsonl(tmp_path / "a.jsonl", LINES)
    before = file.identity([str(path)])
    assert list(file.documents([str(path)])) == LINES
    jsonl(path, LINES[::-1])
    assert file.identity([str(path)]) != before


def test_plain_text_is_cut_at_blank_lines_only(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one\nstill one\n\n \n\ntwo\n", encoding="utf-8")
    assert list(plugins.load("texts", "file").documents([str(path)])) == ["one\nstill one", "two"]


def test_a_line_without_text_is_named(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", LINES, key="words")
    with pytest.raises(InputError, match="line 1"):
        list(plugins.load("texts", "file").documents([str(path)]))


def test_a_local_dataset_gives_its_text_column_and_a_changed_one_another_identity(tmp_path: Path):
    dataset, value = plugins.load("texts", "dataset"), [str(tmp_path)]
    jsonl(tmp_path / "train.jsonl", LINES)
    before = dataset.identity(value)
    assert list(dataset.documents(value)) == LINES
    jsonl(tmp_path / "train.jsonl", [*LINES, "more"])
    assert dataset.identity(value) != before


def test_a_dataset_without_a_text_column_is_refused(tmp_path: Path):
    jsonl(tmp_path / "train.jsonl", LINES, key="words")
    with pytest.raises(InputError, match="no column `text`"):
        list(plugins.load("texts", "dataset").documents([str(tmp_path)]))


def test_the_demo_has_held_out_passages_with_their_sources():
    from circuitcli import demo

    rows = [json.loads(line) for line in demo.TEXT.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 600
    assert {row["source"] for row in rows} == {"World English Bible", "Jargon File 4.4.7", "The Devil's Dictionary"}
    assert list(plugins.load("texts", "demo").documents(())) == [row["text"] for row in rows]


def test_the_home_of_nobody_is_a_file_that_is_missing():
    with pytest.raises(InputError, match="can't be read"):
        plugins.load("texts", "file").identity(["~no-such-user/a.txt"])
