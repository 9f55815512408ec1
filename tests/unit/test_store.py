"""The run folder: files that are whole or not there, names that stay inside, records, fingerprints and tables."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from circuitcli.core.contexts import Firings
from circuitcli.core.sampling import pad
from circuitcli.core.sites import Site
from circuitcli.errors import InputError, UsageError
from circuitcli.stages.spec import STAGES
from circuitcli.store import ablations, acts, files, records, tables
from circuitcli.store.records import FileEntry, Plan, Record
from circuitcli.store.run import Run


def test_where_special_tokens_stand_is_kept(tmp_path: Path):
    for special in ([], [[2], []]):
        sample = pad([[0, 5, 9, 6], [0, 7]], special)
        acts.write_sample(tmp_path / "tokens.safetensors", sample)
        read = acts.read_sample(tmp_path / "tokens.safetensors")
        assert read.tokens.tolist() == sample.tokens.tolist()
        assert read.lengths.tolist() == [4, 2]
        assert read.special.tolist() == sample.special.tolist()
        assert set(load_file(tmp_path / "tokens.safetensors")) == {
            "tokens",
            "lengths",
            *(["special"] if special else []),
        }


def test_a_file_appears_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "new" / "file"
    with files.complete(path) as part:
        part.write_bytes(b"all of it")
        assert not path.exists()
        assert part.parent == path.parent
        assert part.name.startswith(".")
        assert part.suffix == files.UNFINISHED
    assert path.read_bytes() == b"all of it"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), SystemExit(143)])
def test_a_failure_leaves_nothing_or_what_was_there(error: BaseException, tmp_path: Path):
    def fail(path: Path) -> None:
        with files.complete(path) as part:
            part.write_bytes(b"half of it")
            raise error

    files.write(tmp_path / "old", b"before")
    for name in ("old", "new"):
        with pytest.raises(type(error)):
            fail(tmp_path / name)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"old": b"before"}


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("replace"), replace(*paths)))
    files.write(tmp_path / "file", b"x")
    assert seen == ["fsync", "replace", "fsync"]


def test_files_have_the_usual_permissions(tmp_path: Path):
    mask = os.umask(0o027)
    try:
        files.write(tmp_path / "file", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


names = st.lists(
    st.sampled_from(["a", "b.c", "..", ".", "", "...", "link", " ", "\n", "C:", "~"]), min_size=1, max_size=5
)


@given(parts=names, absolute=st.booleans())
def test_names_stay_inside(parts: list[str], absolute: bool, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.getbasetemp() / "inside"
    if not root.exists():
        (root / "a").mkdir(parents=True)
        for folder in (root, root / "a"):
            (folder / "link").symlink_to(root.parent)
    name = ("/" if absolute else "") + "/".join(parts)
    with suppress(InputError):
        path = files.inside(root, name)
        assert path.resolve().is_relative_to(root.resolve())
        assert path.resolve() != root.resolve()


@pytest.mark.parametrize("name", ["a/b.c", "...", "~", "a b/c", "acts/0.resid_post/shard-1.safetensors"])
def test_ordinary_names_are_fine(name: str, tmp_path: Path):
    assert files.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "../x", "/x", "link", "link/x", "dangling", "a/link"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path):
    (tmp_path / "run" / "a").mkdir(parents=True)
    for link, target in {"link": tmp_path, "dangling": tmp_path / "none", "a/link": tmp_path / "run"}.items():
        (tmp_path / "run" / link).symlink_to(target)
    with pytest.raises(InputError, match="outside"):
        files.inside(tmp_path / "run", name)


def test_fingerprints_follow_every_input():
    inputs = {"seed": 0, "texts.file": "a", "thinning": 0.1, "sites": ["z"], "logits": True, "none": None}
    changed = {"seed": 1, "texts.file": "b", "thinning": 0.2, "sites": ["z", "z"], "logits": False, "none": 0}
    others = [records.fingerprint({**inputs, key: value}) for key, value in changed.items()]
    found = records.fingerprint(inputs)
    assert len({found, *others, records.fingerprint({**inputs, "more": 1})}) == len(changed) + 2
    assert found == records.fingerprint(dict(reversed(inputs.items())))
    assert len(found) == 64


def test_fingerprints_follow_the_schema(monkeypatch: pytest.MonkeyPatch):
    before = records.fingerprint({"seed": 0})
    monkeypatch.setattr(records, "SCHEMA_VERSION", records.SCHEMA_VERSION + 1)
    assert records.fingerprint({"seed": 0}) != before


def test_changes_are_named():
    old = {"same": 1, "seed": 0, "gone": "x", "text": "0" * 64, "file": "/home/someone" * 9 + "/a.txt"}
    new = {"same": 1, "seed": 7, "new": [1], "text": "f" * 64, "file": "/home/someone" * 9 + "/b.txt"}
    file, *others = records.changes(old, new)
    assert others == ['gone ("x" → null)', "new (null → [1])", "seed (0 → 7)", "text (00000000 → ffffffff)"]
    assert file.startswith('file ("/home/someone')
    assert '/a.txt" → "' in file
    assert file.endswith('/b.txt")')
    assert len(file) < 100
    assert records.changes(old, old) == []


RECORD = Record(
    "f" * 64, {"seed": 0}, {"pins": []}, {"a/b": FileEntry("0" * 64, 3)}, {"n": 1}, {"torch": "2"}, "cpu", 1.5
)
PLAN = Plan("f" * 64, {"seed": 0}, 16, 2, {"a/b": {"features": [1, 2]}, "c": None})


def test_records_come_back(tmp_path: Path):
    records.save(tmp_path / "record.json", RECORD)
    records.save(tmp_path / "plan.json", PLAN)
    assert records.load_record(tmp_path / "record.json") == RECORD
    assert records.load_plan(tmp_path / "plan.json") == PLAN
    assert records.load_record(tmp_path / "none.json") is None


def test_facts_of_older_records_have_their_names_of_today(tmp_path: Path):
    records.save(tmp_path / "record.json", replace(RECORD, facts={"silent_share": {"0.z": 0.1}, "tokens": 9}))
    found = records.load_record(tmp_path / "record.json")
    assert found is not None
    assert found.facts == {"dead_share": {"0.z": 0.1}, "tokens": 9}
    assert found.result == RECORD.result


@pytest.mark.parametrize("key", ["fingerprint", "files", "facts", "seconds"])
@pytest.mark.parametrize("value", [None, [], "x", {"a": 1}])
def test_corrupt_records(key: str, value: object, tmp_path: Path):
    records.save(tmp_path / "record.json", RECORD)
    tree = json.loads((tmp_path / "record.json").read_text())
    if (key, value) in [("fingerprint", "x"), ("facts", {"a": 1})]:
        return  # as good as any
    (tmp_path / "record.json").write_text(json.dumps({**tree, key: value}))
    with pytest.raises(InputError, match="corrupt"):
        records.load_record(tmp_path / "record.json")


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_records_of_another_version(version: object, tmp_path: Path):
    records.save(tmp_path / "plan.json", PLAN)
    tree = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**tree, "schema_version": version}))
    with pytest.raises(InputError, match=f"schema version {version}"):
        records.load_plan(tmp_path / "plan.json")


SCHEMAS = {  # docs/architecture.md §5, column by column: h layer int16, s site, i int32, f float32, t text
    "acts/texts": "seq:i pos:i text:s",
    "acts/contexts": "layer:h site:s feature:i rank:i seq:i pos:i activation:f",
    "acts/features": "layer:h site:s feature:i n_active:i density:f max_activation:f mean_activation:f",
    "ablations/effects": "up_layer:h up_site:s up_feature:i seq:i pos:i down_layer:h down_site:s down_feature:i "
    "down_pos:i clean:f ablated:f",
    "ablations/contexts": "layer:h site:s feature:i seq:i pos:i activation:f kl:f",
    "ablations/logits": "layer:h site:s feature:i token_id:i effect_mean:f prob_effect_mean:f",
    "effects/effects": "up_layer:h up_site:s up_feature:i down_layer:h down_site:s down_feature:i n:i effect_mean:f "
    "effect_std:f ci_low:f ci_high:f",
    "effects/logits": "layer:h site:s feature:i token_id:i token:t effect_mean:f prob_effect_mean:f n:i rank:i",
    "effects/features": "layer:h site:s feature:i n:i kl_mean:f out_abs_effect:f",
    "attribution/nodes": "prompt:i node:i kind:s layer:h site:s feature:i pos:i activation:f replacement:f effect:f "
    "method:s atp:f ig:f relp:f exact:f drawn:f",
    "attribution/edges": "prompt:i source:i target:i weight:f method:s estimate:f exact:f drawn:f",
    "attribution/rows": "prompt:i target:i abs_in:f",
}
TYPES = {"h": pa.int16(), "i": pa.int32(), "f": pa.float32(), "t": pa.string()}


@pytest.mark.parametrize("table", SCHEMAS)
@pytest.mark.parametrize("empty", [True, False])
def test_columns_and_types(table: str, empty: bool, tmp_path: Path):
    columns = dict(part.split(":") for part in SCHEMAS[table].split())
    values = {"h": 3, "s": "resid_post", "i": np.arange(4), "f": np.linspace(0, 1, 4), "t": ["a", "\0", "é", ""]}
    part = {name: values[kind] for name, kind in columns.items()}
    assert tables.write(tmp_path / "t.parquet", table, [] if empty else [part, part]) == (0 if empty else 8)
    written = pq.read_table(tmp_path / "t.parquet")
    assert written.column_names == list(columns)
    for name, kind in columns.items():
        found = written.schema.field(name).type
        assert pa.types.is_dictionary(found) if kind == "s" else found == TYPES[kind]
    assert tables.rows(tmp_path / "t.parquet") == (0 if empty else 8)
    back = tables.read(tmp_path / "t.parquet")
    for name in columns if not empty else ():
        expected = np.resize(np.asarray(part[name], object), 8) if np.ndim(part[name]) == 0 else [*part[name]] * 2
        if columns[name] == "f":
            np.testing.assert_array_equal(back[name], np.asarray(expected, np.float32))
        else:
            assert list(back[name]) == list(expected)


def test_nan_is_null(tmp_path: Path):
    part = {"layer": 0, "site": "z", "feature": [1, 2], "n": [1, 1], "kl_mean": np.array([np.nan, 0.5], np.float32)}
    tables.write(tmp_path / "t.parquet", "effects/features", [{**part, "out_abs_effect": [0.0, 1.0]}])
    assert pq.read_table(tmp_path / "t.parquet")["kl_mean"].to_pylist() == [None, 0.5]
    np.testing.assert_array_equal(tables.read(tmp_path / "t.parquet")["kl_mean"], [np.nan, 0.5])
    assert tables.read(tmp_path / "t.parquet", columns=["n"]).keys() == {"n"}


def test_activations_come_back(tmp_path: Path):
    firings = Firings(
        *(np.array(c, np.int32) for c in ([0, 0, 1], [1, 2, 1], [5, 3, 5])), np.array([1, 2, 3], np.float32)
    )
    acts.write_firings(tmp_path / "shard.safetensors", firings)
    back = acts.read_firings(tmp_path / "shard.safetensors")
    for name in ("seq", "pos", "feature", "value"):
        column = getattr(back, name)
        np.testing.assert_array_equal(column, getattr(firings, name))
        assert column.dtype == (np.float32 if name == "value" else np.int32)
    (tmp_path / "shard.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="corrupt"):
        acts.read_firings(tmp_path / "shard.safetensors")


def test_shards_are_named_by_what_they_hold():
    base = ("f" * 64, Site(1, "z"), (3, 4))
    others = [("e" * 64, *base[1:]), (base[0], Site(1, "resid_mid"), base[2]), (base[0], base[1], (3, 5))]
    digests = {ablations.Shard.of(*inputs).digest for inputs in (base, *others)}
    assert len(digests) == 4
    shard = ablations.Shard.of(*base)
    assert ablations.shards(shard.planned(ablations.kinds(logits=True, prompts=True))) == [shard]
    assert len({acts.shard_name("f" * 64, Site(0, "z"), 0, stop) for stop in (1, 2)}) == 2


def test_reopening_takes_back_all_later_records(tmp_path: Path):
    run = Run(tmp_path / "run", STAGES.folders)
    for stage in STAGES:
        run.save_record(stage, RECORD)
    run.reopen("ablate", STAGES.descendants("ablate"))
    assert [stage for stage in STAGES if run.record(stage)] == ["fetch-saes", "cache-acts", "attribute", "validate"]


def test_discarding_removes_only_what_was_planned(tmp_path: Path):
    run = Run(tmp_path / "run", {"cache-acts": "acts"})
    for name in ("acts/0.z/shard-1.safetensors", "acts/contexts.parquet", "acts/notes.txt", "saes/saes.json"):
        files.write(run.path(name), b"x")
    planned = dict.fromkeys(["acts/0.z/shard-1.safetensors", "acts/contexts.parquet", "acts/never.parquet"])
    run.save_plan("cache-acts", Plan("f", {}, 0, 1, planned))
    run.discard("cache-acts")
    left = sorted(p.relative_to(run.root).as_posix() for p in run.root.rglob("*"))
    assert left == ["acts", "acts/notes.txt", "saes", "saes/saes.json"]


def test_what_is_no_run_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "full", "link"):
        with pytest.raises(UsageError):
            Run(tmp_path / name)
    assert Run(tmp_path / "none").settings() == {}
