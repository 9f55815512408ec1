"""What a run will take, before it starts: against what it then takes, and against limits that aren't there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import Result, contents, tsv

from circuitcli.core.contexts import Firings
from circuitcli.core.sites import Site
from circuitcli.stages import estimate, passes
from circuitcli.stages.batching import blocks
from circuitcli.stages.sources import Stored
from circuitcli.store.run import Run

Circuit = Callable[..., Result]


def rows_of(run: Path, kind: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in run.glob(f"ablations/{kind}-*"))


@pytest.fixture
def cached(circuit: Circuit, profile: Path, tmp_path: Path) -> Path:
    """A run whose activations are cached."""
    root = tmp_path / "cached"
    for stage in ("fetch-saes", "cache-acts"):
        assert circuit(stage, "--run", root, "--profile", profile).code == 0
    return root


def pins(run: Path) -> list[str]:
    """Two features of every layer."""
    table = pq.read_table(run / "acts" / "features.parquet").to_pylist()
    firing = [(row["layer"], row["feature"]) for row in table if row["n_active"] > 3]
    chosen = [pair for layer in (0, 1, 2) for pair in [p for p in firing if p[0] == layer][:2]]
    return [flag for layer, feature in chosen for flag in ("--pin", f"{layer}:{feature}")]


def test_pinned_features_are_counted_exactly(circuit: Circuit, cached: Path) -> None:
    flags = pins(cached)
    before = contents(cached)
    expected = circuit("ablate", "--run", cached, *flags, "--dry-run", "--json").document["ablate"]
    assert contents(cached) == before, "nothing is written, not even settings"
    assert circuit("ablate", "--run", cached, *flags).code == 0
    assert expected["exact"]
    assert expected["features"] == 6
    assert expected["ablations"] == rows_of(cached, "contexts")
    actual = sum(path.stat().st_size for path in cached.glob("ablations/*.parquet"))
    rows = sum(rows_of(cached, kind) for kind in ("contexts", "effects", "logits"))
    assert rows / 3 <= expected["rows"] <= 3 * rows  # what changes at other features' contexts is guessed
    assert actual / 6 <= expected["disk_bytes"] <= 6 * actual
    assert 0 < expected["memory_bytes"] <= expected["free_memory_bytes"]
    assert expected["seconds"] > 0


def test_layers_that_follow_are_counted_at_most(circuit: Circuit, cached: Path) -> None:
    expected = circuit("ablate", "--run", cached, "--dry-run", "--json").document["ablate"]
    said = circuit("ablate", "--run", cached).err
    assert not expected["exact"]
    assert f"at most {expected['ablations']:,} ablations" in said
    assert expected["ablations"] >= rows_of(cached, "contexts") > 0


def test_what_was_ablated_for_another_choice_is_not_taken_for_what_follows(
    circuit: Circuit, cached: Path, profile: Path, tmp_path: Path
) -> None:
    """Other features of a layer that are there already aren't those to which the layer before leads."""
    fresh = Path(shutil.copytree(cached, tmp_path / "fresh"))
    follow = ("ablate", "--profile", profile, "--json", "--run")
    followed = {f.split(".")[2] for f in circuit(*follow, fresh).document["features"] if f.startswith("1.")}
    table = pq.read_table(cached / "acts" / "features.parquet").to_pylist()
    firing = [str(row["feature"]) for row in table if row["layer"] == 1 and row["n_active"]]
    others = [flag for index in firing if index not in followed for flag in ("--pin", f"1:{index}")]
    assert circuit("ablate", "--run", cached, *others[:20]).code == 0
    before = rows_of(cached, "contexts")
    expected = circuit(*follow, cached, "--dry-run").document["ablate"]
    assert circuit(*follow, cached).code == 0
    assert expected["ablations"] >= rows_of(cached, "contexts") - before > 0
    assert expected["features"] >= len(followed) > 0


def test_what_follows_is_known_where_the_layer_before_is_there(circuit: Circuit, cached: Path) -> None:
    """Interrupted in its last layer, a run knows exactly what is left."""
    assert circuit("ablate", "--run", cached).code == 0
    whole = rows_of(cached, "contexts")
    (cached / "ablations" / "stage.json").unlink()
    for path in sorted(cached.glob("ablations/contexts-*")):
        if pq.read_table(path)["layer"][0].as_py() == 2:
            path.unlink()
    left = circuit("ablate", "--run", cached, "--dry-run", "--json").document["ablate"]
    assert (left["exact"], left["ablations"]) == (True, whole - rows_of(cached, "contexts"))


def test_only_what_is_left_is_counted(circuit: Circuit, cached: Path) -> None:
    flags = pins(cached)
    assert circuit("ablate", "--run", cached, *flags[:10]).code == 0
    done = rows_of(cached, "contexts")
    left = circuit("ablate", "--run", cached, *flags, "--dry-run", "--json").document["ablate"]
    assert (left["features"], left["exact"]) == (1, True)
    assert circuit("ablate", "--run", cached, *flags).code == 0
    assert rows_of(cached, "contexts") == done + left["ablations"]
    again = circuit("ablate", "--run", cached, *flags, "--dry-run", "--json")
    assert again.document["ablate"] is None
    assert "Nothing is to be done." in again.err


def test_run_all_says_what_it_will_take_and_a_dry_run_leaves_no_trace(
    circuit: Circuit, profile: Path, tmp_path: Path
) -> None:
    args = ["run-all", "--profile", profile, "--run", tmp_path / "new"]
    result = circuit(*args, "--dry-run", "--json")
    assert result.code == 0
    assert not (tmp_path / "new").exists()
    expected = result.document
    assert expected["cache_acts"]["sequences"] == 12
    said = circuit(*args)
    assert f"cache-acts: 12 sequences of together {expected['cache_acts']['tokens']} tokens" in said.err
    assert expected["ablate"]["ablations"] >= rows_of(tmp_path / "new", "contexts")
    table = circuit(*args, "--dry-run").out
    assert table == ""
    assert "Nothing is to be done." in circuit(*args, "--dry-run").err


def test_nothing_fires_in_the_first_block_of_sequences(
    circuit: Circuit, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is made where something does."""
    original = Stored.firings

    def later(run: Stored, site: Site) -> Firings:
        found = original(run, site)
        return found.where(np.flatnonzero(~np.isin(found.seq, run.blocks[0])))

    monkeypatch.setattr(passes, "CLEAN_SEQUENCES", 4)
    monkeypatch.setattr(Stored, "firings", later)
    found = circuit("ablate", "--run", cached, *pins(cached), "--dry-run", "--json").document["ablate"]
    assert found["exact"]
    assert found["rows"] > found["ablations"] > 0


def test_long_sequences_are_run_clean_a_few_at_a_time() -> None:
    lengths = np.asarray([3, 100, 7, 5000, 2, 1024, 1024, 3, 1024, 1000, 1023], np.int32)
    found = [block.tolist() for block in blocks(lengths, 5, 4096)]
    assert found == [[3], [5, 6, 8, 10], [0, 1, 2, 9], [4, 7]]
    assert [len(block) for block in blocks(np.full(11, 9), 5, 4096)] == [5, 5, 1]


def test_a_dry_run_is_a_table(circuit: Circuit, cached: Path) -> None:
    rows = tsv(circuit("ablate", "--run", cached, "--dry-run").out)
    here = ["what", "features", "ablations", "rows", "disk", "time of ablate", "memory"]
    afar = ["shards", "time on 1 worker", "time on 8 workers", "time on 64 workers", "sent to workers"]
    assert [row[0] for row in rows] == [*here, *afar, "sent back by them"]


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
def test_too_little_memory(circuit: Circuit, cached: Path, monkeypatch: pytest.MonkeyPatch, dry: bool) -> None:
    before = contents(cached)
    monkeypatch.setattr(estimate, "free_memory", lambda device: 1000)
    result = circuit("ablate", "--run", cached, *(["--dry-run"] if dry else []))
    result.refused(5, "of memory", "--allow-over-memory", "--batch-size")
    circuit("ablate", "--run", cached, *(["--dry-run"] if dry else []), "--json").refused_in_json(5)
    assert contents(cached) == before
    assert circuit("ablate", "--run", cached, "--allow-over-memory").code == 0


def test_too_little_disk(circuit: Circuit, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "free_disk", lambda run: 10)
    circuit("ablate", "--run", cached).refused(5, "on disk", "--seq-cap")


def test_run_all_stops_before_it_caches(
    circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free_memory", lambda device: 1000)
    circuit("run-all", "--profile", profile, "--run", tmp_path / "new").refused(5, "of memory")
    assert not (tmp_path / "new" / "acts").exists()
