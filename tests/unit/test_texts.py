"""Texts: what each source yields, and when its identity changes. Other libraries write the files."""

import gzip
import io
import json
import os
import pty
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from circuitcli import plugins
from circuitcli.errors import InputError
from circuitcli.texts import TextRequest, _columns, _open, _parquet, dataset

LINES = ["In the beginning", "⏎ and {braces}", "two\nlines \u2028 and [bold]markup[/bold]", "\x1b[31mred", "the end"]


def jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def asked(source: str, *values: str | Path, column: str = "auto") -> tuple[str, list[str]]:
    """Identity and documents."""
    plugin, request = plugins.load("texts", source), TextRequest(tuple(map(str, values)), column)
    return plugin.identity(request), list(plugin.documents(request))


def texts_of(path: Path, column: str = "auto") -> list[str]:
    return asked("file", path, column=column)[1]


def refused(path: Path, *words: str, column: str = "auto") -> None:
    with pytest.raises(InputError) as caught:
        asked("file", path, column=column)
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert not [word for word in words if word not in said], said


def test_prompts_are_the_texts_and_decide_the_identity():
    identity, documents = asked("prompt", *LINES)
    assert documents == LINES
    assert len({identity, asked("prompt", *LINES[:2])[0], asked("prompt", "In the", "beginning")[0]}) == 3


def test_a_prompt_that_is_no_unicode_is_refused():
    with pytest.raises(InputError, match="half a character"):
        asked("prompt", "caf\udce9")


def as_text(path: Path, texts: list[str] = LINES) -> None:
    path.write_text("\n \n" + "\n\n \t\n".join(texts) + "\n\n", encoding="utf-8", newline="\n")


def as_lines(path: Path, texts: list[str] = LINES) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    rows[2:2] = [{"id": 7, "text": None}, {"id": 8, "text": ""}, {"id": 9, "text": " \n"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def as_parquet(path: Path, texts: list[str] = LINES) -> None:
    column = [*texts[:2], None, "", "  ", *texts[2:]]
    pq.write_table(pa.table({"id": range(len(column)), "text": column}), path, row_group_size=2)


def as_csv(path: Path, texts: list[str] = LINES) -> None:
    column = [*texts[:2], None, "", "  ", *texts[2:]]
    options = pc.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    pc.write_csv(pa.table({"id": range(len(column)), "text": column}), path, options)


WRITERS = {
    ".txt": as_text,
    ".jsonl": as_lines,
    ".parquet": as_parquet,
    ".csv": as_csv,
    ".tsv": as_csv,
    "": as_text,
    ".JSONL": as_lines,
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_gives_its_texts_and_a_changed_one_another_identity(suffix: str, packed: bool, tmp_path: Path):
    def write(texts: list[str]) -> Path:
        path = tmp_path / f"some.texts{suffix}" if suffix else tmp_path / "texts"
        WRITERS[suffix](path, texts)
        if packed:
            (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
        return tmp_path / f"{path.name}{'.gz' if packed else ''}"

    before = asked("file", write(LINES))
    assert before[1] == LINES
    assert asked("file", write(LINES)) == before
    after = asked("file", write(LINES[::-1]))
    assert after[1] == LINES[::-1]
    assert after[0] != before[0]


def test_a_gzip_of_several_members_is_read_whole(tmp_path: Path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"".join(gzip.compress(f"{text}\n\n".encode()) for text in ("one", "two", "three")))
    assert texts_of(path) == ["one", "two", "three"]


def test_what_a_file_of_another_name_holds_is_seen_from_its_first_line(tmp_path: Path):
    for name in ("a.json", "a.ndjson", "a", "a.gz"):
        data = b'\n{"text": "one"}\n{"text": "two"}\n'
        (tmp_path / name).write_bytes(gzip.compress(data) if name == "a.gz" else data)
        assert texts_of(tmp_path / name) == ["one", "two"]
    (tmp_path / "a.txt").write_bytes(b'{"text": "one"}')
    assert texts_of(tmp_path / "a.txt") == ['{"text": "one"}']


def test_plain_text_is_cut_at_blank_lines_only(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n  still one\r\n\r\n \r\n  two\r\nend")
    assert texts_of(path) == ["one\n  still one", "  two\nend"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    for name, text in (("a.txt", "one"), ("a.jsonl", '{"text": "one"}'), ("a", '{"text": "one"}')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert texts_of(tmp_path / name) == ["one"]


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".csv":
        pc.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


ROWS = [
    {"id": 1, "title": "a", "body": "one"},
    {"id": 2, "title": "b", "body": None},
    {"id": 3, "title": "c", "body": "two"},
]


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet", "train.csv"])
@pytest.mark.parametrize("source", ["file", "dataset"])
def test_the_column_is_named_or_text_or_the_only_one_of_strings(name: str, source: str, tmp_path: Path):
    path, place = tmp_path / name, tmp_path / name if source == "file" else tmp_path
    write_rows(path, ROWS)
    assert asked(source, place, column="body")[1] == ["one", "two"]
    for wanted, words in {
        "auto": ["several columns", "title, body", "--column"],
        "bodi": ["no column `bodi`", "`body`", "id, title, body"],
        "id": ["`id`", "not"],
    }.items():
        if (name, source, wanted) == ("train.csv", "file", "id"):
            continue  # a .csv has no types: what is asked for by name is text
        with pytest.raises(InputError) as caught:
            asked(source, place, column=wanted)
        said = f"{caught.value.message}\n{caught.value.hint}"
        assert not [word for word in words if word not in said], said
    write_rows(path, [{**row, "text": f"text {row['id']}"} for row in ROWS])
    assert asked(source, place)[1] == ["text 1", "text 2", "text 3"]
    write_rows(path, [{"id": row["id"], "body": row["body"]} for row in ROWS])
    assert asked(source, place)[1] == ["one", "two"]
    write_rows(path, [{"id": row["id"]} for row in ROWS])
    with pytest.raises(InputError, match="no column of strings"):
        asked(source, place)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_string_in_parquet_is_text(kind: pa.DataType, tmp_path: Path):
    pq.write_table(pa.table({"words": pa.array(LINES).cast(kind)}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == LINES


QUOTED = 'id,text,note\n1,"a ""quoted"" word, and\na second line",x\n\n2,plain,\n3,42,\n'


def test_cells_of_a_csv_are_read_as_they_were_written(tmp_path: Path):
    for name, data in {
        "a.csv": QUOTED.encode(),
        "b.csv": QUOTED.replace("\n", "\r\n").encode("utf-8-sig"),
        "c.csv.gz": gzip.compress(QUOTED.encode()),
        "d.tsv": QUOTED.replace(",", "\t").replace("word\t", "word,").encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert texts_of(tmp_path / name) == ['a "quoted" word, and\na second line', "plain", "42"]
        assert texts_of(tmp_path / name, "id") == ["1", "2", "3"]
        refused(tmp_path / name, "no column `txt`", "`text`", column="txt")


def test_columns_of_numbers_are_no_text_unless_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("score,words,empty\n1e-3,one,\n-7,2,\n,three,\n")
    assert texts_of(tmp_path / "a.csv") == ["one", "2", "three"]
    (tmp_path / "b.csv").write_text("score,year\n1e-3,1999\n")
    refused(tmp_path / "b.csv", "no column of strings", "score, year")
    (tmp_path / "c.csv").write_text("title,words\na,one\n")
    refused(tmp_path / "c.csv", "several columns of strings: title, words", "--column")
    (tmp_path / "d.csv").write_text("text,words,text\na,one,b\n")
    refused(tmp_path / "d.csv", "several columns `text`")
    assert texts_of(tmp_path / "d.csv", "words") == ["one"]


ROWS_AT_FAULT = {
    "too few": ("id,text\n" + "1,fine\n" * 40 + "2\n", ["damaged", "2 cells", "line 42", "has 1"]),
    "too many": ("text\nfine\nHello, world\n", ["damaged", "1 cells", "line 3", "has 2", "delimiter"]),
    "no end": ('id,text\n1,"fine\n2,fine\n', ["damaged", "line 3", "quotes"]),
    "behind the quotes": ('id,text\n1,"fi"ne\n', ["damaged", "line 2", "quotes"]),
    "names alone": ("id,text\n", ["no text in it"]),
    "no names": ("\n\n", ["no text in it"]),
    "NUL": ("text\na\0b\n", ["NUL"]),
}


@pytest.mark.parametrize("name", ROWS_AT_FAULT)
def test_the_row_at_fault_is_named(name: str, tmp_path: Path):
    data, words = ROWS_AT_FAULT[name]
    (tmp_path / "a.csv").write_text(data)
    refused(tmp_path / "a.csv", "a.csv", *words)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 132735\n"


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl.gz", "a.parquet", "a"])
def test_a_pointer_of_git_lfs_is_named_as_such(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(POINTER)
    refused(tmp_path / name, name, "pointer of Git LFS", "git lfs pull")
    with pytest.raises(InputError, match="Git LFS"):
        next(plugins.load("texts", "file").documents(TextRequest((str(tmp_path / name),), "auto")))


def test_a_text_about_pointers_is_a_text(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(POINTER + b"This is what a pointer looks like. " * 30)
    assert len(texts_of(tmp_path / "a.txt")) == 1


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet", "train.csv"])
def test_a_pointer_among_the_files_of_a_dataset_is_named(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(POINTER)
    (tmp_path / "picture.png").write_bytes(POINTER)
    with pytest.raises(InputError, match=f"{name} of the dataset.*pointer of Git LFS"):
        asked("dataset", tmp_path)


LATER = '{"text": "fine"}\n' * 40
LINES_AT_FAULT = {
    "a number": ('{"text": 5}', ["line 1", "`text`", "number"]),
    "a list later": (LATER + '{"text": ["a"]}', ["line 41", "list"]),
    "no such key later": (LATER + '\n{"txt": "a"}', ["line 42", "no `text`"]),
    "no object": (LATER + '["a"]', ["line 41", "not a JSON object"]),
    "not JSON": (LATER + '{"text": "a"', ["line 41", "not a JSON object"]),
    "deep": (LATER + "[" * 100_000, ["line 41", "not a JSON object"]),
    "half a character": (LATER + '{"text": "\\ud83d"}', ["line 41", "half a character"]),
}


@pytest.mark.parametrize("name", LINES_AT_FAULT)
def test_the_line_at_fault_is_named(name: str, tmp_path: Path):
    data, words = LINES_AT_FAULT[name]
    (tmp_path / "a.jsonl").write_text(data)
    refused(tmp_path / "a.jsonl", "a.jsonl", *words)


PARQUET = io.BytesIO()
pq.write_table(pa.table({"text": [random.Random(0).randbytes(9000).hex() for _ in range(20)]}), PARQUET)
FILES_AT_FAULT = {
    "a.txt": (b"\n\n \t\n", ["no text in it"]),
    "a.txt.gz": (gzip.compress(b""), ["no text in it"]),
    "a.jsonl": (b'{"text": null}\n{"text": ""}', ["no text in it"]),
    "empty.parquet": (b"", ["is empty"]),
    "plain.txt.gz": (b"plain", ["no gzip"]),
    "cut.txt.gz": (gzip.compress(bytes(range(32, 127)) * 99)[:-12], ["damaged", "too early"]),
    "flipped.txt.gz": (gzip.compress(b"some text, some text")[:-8] + bytes(8), ["damaged"]),
    "garbled.txt.gz": (gzip.compress(b"some text")[:10] + b"\xff" * 30, ["damaged"]),
    "utf16.txt": ("text".encode("utf-16"), ["not UTF-8", "iconv -f UTF-16"]),
    "utf16le.txt": ("text".encode("utf-16-le"), ["NUL"]),
    "latin.jsonl": ('{"text": "caf\xe9"}'.encode("latin-1"), ["not UTF-8", "iconv"]),
    "latin.txt.gz": (gzip.compress("caf\xe9".encode("latin-1")), ["not UTF-8", "iconv"]),
    "packed.txt": (gzip.compress(b"text"), ["not UTF-8", ".gz"]),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"text")), ["not UTF-8", "unpack"]),
    "parquet.txt": (PARQUET.getvalue(), ["not", "its name end in .parquet"]),
    "text.parquet": (b"one\n\ntwo", ["no parquet"]),
    "cut.parquet": (PARQUET.getvalue()[:-20], ["no parquet"]),
    "zeros.parquet": (PARQUET.getvalue()[:5000] + bytes(90_000) + PARQUET.getvalue()[95_000:], ["damaged"]),
    "text.parquet.gz": (gzip.compress(b"one\n\ntwo"), ["no parquet"]),
    "array.json": (b'[{"text": "one"}]', ["not an object on each line", "jsonl"]),
    "pretty.json": (b'{\n "text": "one"\n}', ["not an object on each line", "jsonl"]),
}


@pytest.mark.parametrize("name", FILES_AT_FAULT)
def test_a_file_that_is_not_what_it_should_be_is_refused_in_words(name: str, tmp_path: Path):
    data, words = FILES_AT_FAULT[name]
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, name, *words)


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path, "is a folder", "--dataset")
    refused(tmp_path / "pipe", "no ordinary file", "--text -")
    refused(Path("/dev/zero"), "no ordinary file")
    refused(tmp_path / "none.txt", "none.txt", "No such file")
    refused(Path("~no-such-user/a.txt"), "can't be read")


def test_plain_text_has_no_columns(tmp_path: Path):
    as_text(tmp_path / "a.txt")
    refused(tmp_path / "a.txt", "without columns", "--column", column="words")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.parquet.gz", "a.gz"])
def test_a_bomb_ends_at_the_limit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_open, "MAX_UNPACKED_BYTES", 1 << 20)
    for size in (1 << 20, (1 << 20) + 1):
        body = (b"line\n\n" * (size // 6)).ljust(size, b"\n")
        (tmp_path / name).write_bytes(gzip.compress(body))
        if name in ("a.txt.gz", "a.gz") and size == 1 << 20:
            assert len(texts_of(tmp_path / name)) == size // 6
        elif size > 1 << 20:
            refused(tmp_path / name, "more than 0.000977 GiB", "plain files may have any size")


def test_a_line_and_a_text_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_columns, "MAX_TEXT_CHARACTERS", 1000)
    for name, data in {
        "a.txt": "x" * 1001,
        "b.txt": "line\n" * 201,
        "a.jsonl": json.dumps({"text": "x" * 990}),
        "a.csv": "text\n" + "x" * 1001,
        "b.csv": 'text\n"' + "line\n" * 201 + '"',
    }.items():
        (tmp_path / name).write_text(data)
        refused(tmp_path / name, "longer than 1,000 characters", "line")
    (tmp_path / "c.txt").write_text("line\n" * 200 + "\n" + "line\n" * 200)
    assert list(map(len, texts_of(tmp_path / "c.txt"))) == [999, 999]


@pytest.mark.parametrize("source", ["file", "dataset", "prompt"])
def test_a_text_of_any_source_may_be_so_long(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_columns, "MAX_TEXT_CHARACTERS", 1000)
    path = tmp_path / "train.parquet"
    for size in (1000, 1001):
        pq.write_table(pa.table({"text": ["short", "é" * size]}), path)
        value = {"file": path, "dataset": tmp_path, "prompt": "é" * size}[source]
        if size == 1000:
            assert asked(source, value)[1][-1] == "é" * size
        else:
            with pytest.raises(InputError, match=r"longer than 1,000 characters"):
                asked(source, value)


@pytest.mark.parametrize("limit", ["rows", "bytes"])
def test_a_row_group_that_unpacks_to_too_much_is_not_read(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A megabyte of one letter, packed to a few bytes; in `rows` more than one row may have."""
    if limit == "rows":
        monkeypatch.setattr(_columns, "MAX_TEXT_CHARACTERS", 1000)
    else:
        monkeypatch.setattr(_parquet, "MAX_CHUNK_BYTES", 1000)
    path, few = tmp_path / "a.parquet", ["fine"] * 10
    pq.write_table(pa.table({"other": ["x" * (1 << 20)] * 10, "text": few}), path, compression="zstd")
    assert texts_of(path, "text") == few
    pq.write_table(pa.table({"text": [*few, "x" * (1 << 20)]}), path, row_group_size=10, compression="zstd")
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *args, **kwargs: pytest.fail("it was read"))
    refused(path, "a.parquet", "`text`", "one row group of 1 rows", "smaller row groups")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_memory_stays_flat(suffix: str, tmp_path: Path, peak: Callable[[Callable[[], object]], int]):
    path, size = tmp_path / f"large{suffix}.gz", 200 << 20
    block = json.dumps({"text": "word " * 4000}) + "\n" if suffix == ".jsonl" else "word " * 4000 + "\n\n"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"text\n" if suffix == ".csv" else b"")
        for _ in range(size // len(block)):
            file.write(block.encode())
    plugin, request = plugins.load("texts", "file"), TextRequest((str(path),), "auto")
    found = []
    assert peak(lambda: found.append(sum(1 for _ in plugin.documents(request)))) < 20 << 20
    assert peak(lambda: found.append(plugin.identity(request))) < 20 << 20
    assert found[0] == size // len(block)


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    """The most bytes that Python held at once while something ran."""
    import tracemalloc

    def measure(work: Callable[[], object]) -> int:
        tracemalloc.start()
        work()
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_parquet_is_read_a_few_rows_at_a_time(tmp_path: Path):
    letters = random.Random(0)
    rows = [letters.randbytes(1 << 15).hex() for _ in range(400)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=20)
    before, most = pa.total_allocated_bytes(), 0
    request = TextRequest((str(tmp_path / "a.parquet"),), "auto")
    for text, wanted in zip(plugins.load("texts", "file").documents(request), rows, strict=True):
        assert text == wanted
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 8 << 20 < sum(map(len, rows))


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """A pipe that can be read once."""
    reads, writes = os.pipe()
    threading.Thread(target=lambda: os.fdopen(writes, "wb").write(data), daemon=True).start()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reads, "r"))


forgotten = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # temporary files, at exit


@forgotten
@pytest.mark.parametrize("data", ["one\nmore\n\ntwo\n", '\n{"text": "one\\nmore"}\n{"text": "two"}\n'])
def test_stdin_is_read_once_as_text_or_json_lines(data: str, monkeypatch: pytest.MonkeyPatch):
    stdin(monkeypatch, data.encode())
    first = asked("file", "-")
    assert first[1] == ["one\nmore", "two"]
    assert asked("file", "-") == first
    stdin(monkeypatch, data.replace("two", "three").encode())
    assert asked("file", "-")[0] != first[0]


@forgotten
def test_stdin_without_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    _, terminal = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal, "r"))
    refused(Path("-"), "stdin", "terminal")
    stdin(monkeypatch, b"")
    refused(Path("-"), "stdin", "empty")
    stdin(monkeypatch, b" \n\n")
    refused(Path("-"), "stdin", "no text in it")
    stdin(monkeypatch, gzip.compress(b"text"))
    refused(Path("-"), "stdin", "not UTF-8", "unpack")
    monkeypatch.setattr(_open, "MAX_UNPACKED_BYTES", 10)
    stdin(monkeypatch, b"0123456789a")
    refused(Path("-"), "stdin", "more than")
    monkeypatch.setattr(sys, "stdin", None)
    refused(Path("-"), "stdin")


def test_the_demo_has_held_out_passages_with_their_sources():
    from circuitcli import demo

    rows = [json.loads(line) for line in demo.TEXT.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 600
    assert {row["source"] for row in rows} == {"World English Bible", "Jargon File 4.4.7", "The Devil's Dictionary"}
    assert asked("demo", column="words")[1] == [row["text"] for row in rows]


def described(data_files: str) -> str:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {data_files}\n---\n"


OUTSIDE = {
    "beside": described("../beside/secret.jsonl"),
    "absolute": described("{root}/beside/secret.jsonl"),
    "through the folder": described("{root}/own/../beside/*.jsonl"),
    "a linked folder": described("linked/*.jsonl"),
    "hidden": described(".hidden/*.jsonl"),
    "one of a split": described("[{{split: train, path: fine.jsonl}}, {{split: test, path: ../beside/secret.jsonl}}]"),
    "a folder": "---\nconfigs:\n- config_name: default\n  data_dir: ../beside\n---\n",
    "an address": described("http://127.0.0.1:9/secret.jsonl"),
    "an address in a list": described("[fine.jsonl, 'https://127.0.0.1:9/secret.jsonl']"),
    "an archive elsewhere": described("zip://secret.jsonl::{root}/beside/secret.zip"),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["README.md", ".huggingface.yaml"])
def test_a_folder_of_a_dataset_reads_no_file_elsewhere(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own, beside = tmp_path / "own", tmp_path / "beside"
    for folder in (own, beside, own / ".hidden"):
        folder.mkdir()
        jsonl(folder / "secret.jsonl", ["secret"]).rename(folder / ("fine.jsonl" if folder == own else "secret.jsonl"))
    (own / "linked").symlink_to(beside)
    opened: list[str] = []

    def url_to_fs(url: str, **more: object) -> tuple[object, str]:
        opened.append(url)
        return fsspec.core.url_to_fs(url, **more)

    monkeypatch.setattr("datasets.data_files.url_to_fs", url_to_fs)
    said = OUTSIDE[name].format(root=tmp_path)
    (own / place).write_text(said if place == "README.md" else said.replace("---\n", ""))
    with pytest.raises(InputError, match="isn't in its folder"):
        asked("dataset", own)
    assert not [url for url in opened if "://" in url]
    assert bool(opened) == ("://" not in said)


def test_a_folder_of_a_dataset_may_say_which_files_it_reads(tmp_path: Path):
    (tmp_path / "own/en").mkdir(parents=True)
    jsonl(tmp_path / "own/en/a.jsonl", ["one"])
    jsonl(tmp_path / "two.jsonl", ["two"])
    (tmp_path / "own/en/b.jsonl").symlink_to(tmp_path / "two.jsonl")  # its content is in the identity
    (tmp_path / "link").symlink_to(tmp_path / "own")
    (tmp_path / "own/README.md").write_text(described("./en/*.jsonl"))
    first = asked("dataset", tmp_path / "link")
    assert first[1] == ["one", "two"]
    jsonl(tmp_path / "two.jsonl", ["three"])
    assert asked("dataset", tmp_path / "link")[0] != first[0]


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("said", ["configs: [a: b: c", "configs: {}\nx: [", "configs: 5", "configs: &a [*b]", "- a"])
@pytest.mark.parametrize("config", ["", ":en"])
def test_a_dataset_described_in_broken_yaml_is_refused_in_words(name: str, said: str, config: str, tmp_path: Path):
    jsonl(tmp_path / "a.jsonl", ["one"])
    (tmp_path / name).write_text(said if name != "README.md" else f"---\n{said}\n---\n")
    with pytest.raises(InputError, match="can't be read"):
        asked("dataset", f"{tmp_path}{config}")


def test_the_help_says_how_many_rows_of_a_dataset_are_read():
    from circuitcli.cli.options import documentation

    (row,) = (line for line in documentation().splitlines() if line.startswith("| `--dataset`"))
    assert f"first {dataset.MAX_DOCUMENTS:,} rows" in row
