"""Laws 4 and 8 on whole runs: batches and shards change nothing, and effects/ is what ablations/ says."""

import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import tiny
from support.brute import rows
from support.plain import NUMBERS
from support.transcoders import Made

from circuitcli.runtime.device import Runtime
from circuitcli.stages import ablate, cache_acts, fetch_saes, passes, spreading
from circuitcli.stages.stage import Job
from circuitcli.stages.tools import Tools
from circuitcli.store import ablations, tables
from circuitcli.store.records import Plan
from circuitcli.store.run import Run

UP, DOWN = ("up_layer", "up_site", "up_feature"), ("down_layer", "down_site", "down_feature")
SMALL = {"features": {"thinning": 0.03, "branching": 1, "max_features": 5, "seq_cap": 3}}


def keyed(job: Job, pattern: str, keys: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a table by their keys, which no two share."""
    table = rows(job.run.root, pattern)
    found = {tuple(row[key] for key in keys): row for row in table}
    assert len(found) == len(table)
    return found


CASES = [("top", "zero"), ("onward", "zero"), ("all", "zero"), ("top", "resample"), ("all", "resample")]
CASES += [("onward", "mean", "across layers")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def asked(request: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings; of the last case with transcoders across layers."""
    positions, intervention, *which = request.param
    more: dict[str, Any] = {}
    if which:
        more = Made("gpt2", "across").save(tmp_path_factory.mktemp("made")).run("mlp_in")
        more["features"] = {**SMALL["features"], "thinning": 0.12}
    return {**SMALL, **more, "ablate": {"positions": positions, "intervention": intervention}}


@pytest.fixture(scope="module")
def job(asked: dict[str, Any], measure: Any) -> Job:
    return measure(asked)


def largest(job: Job) -> dict[tuple[int, str], float]:
    """The largest activation of each site."""
    found: dict[tuple[int, str], float] = defaultdict(float)
    for row in rows(job.run.root, "acts/features.parquet"):
        place = (row["layer"], row["site"])
        found[place] = max(found[place], row["max_activation"])
    return found


def test_law_4_batch_size_and_shard_size_change_nothing(
    job: Job, asked: dict[str, Any], measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, sequences, features = {"top": (2, 5, 1), "onward": (2, 4, 1), "all": (3, 1, 2)}[
        job.settings.ablate.positions
    ]
    monkeypatch.setattr(cache_acts, "SHARD_SEQUENCES", sequences)
    monkeypatch.setattr(spreading, "SHARD_FEATURES", features)
    monkeypatch.setattr(passes, "CLEAN_SEQUENCES", 5)
    # No room: clean passes are thrown away and made again, and SAEs are read one at a time.
    monkeypatch.setattr(Runtime, "room", lambda *_: 0)
    other = measure({**asked, "runtime": {"device": "cpu", "batch_size": batch}})
    assert len(list(next(other.run.root.glob("acts/0.*")).iterdir())) == -(-12 // sequences)
    assert len(list(other.run.root.glob("ablations/contexts-*"))) > len(list(job.run.root.glob("ablations/contexts-*")))
    bound = {place: 1e-5 * value for place, value in largest(job).items()}
    tables = {
        "acts/features.parquet": (("layer", "site", "feature"), ("density", "max_activation", "mean_activation")),
        # By rank alone: texts that begin alike tie, and rounding decides which of them comes first.
        "acts/contexts.parquet": (("layer", "site", "feature", "rank"), ("activation",)),
        "ablations/contexts-*.parquet": (("layer", "site", "feature", "seq", "pos"), ("activation", "kl")),
    }
    for pattern, (keys, values) in tables.items():
        one, two = keyed(job, pattern, keys), keyed(other, pattern, keys)
        assert one.keys() == two.keys()
        for key, row in one.items():
            for value in values:
                assert two[key][value] == pytest.approx(row[value], rel=0, abs=bound[key[:2]]), (pattern, key)
    same_effects(job, other, bound)


def test_what_a_gpu_leaves_to_be_written_is_written_the_same(
    job: Job, asked: dict[str, Any], measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are made and written by other threads, while the next shard is computed."""
    monkeypatch.setattr(Tools, "behind", property(lambda _: True))
    made, encoded = [], tables.encoded

    def noted(table: str, parts: Any) -> Any:
        made.append((table, threading.current_thread() is threading.main_thread()))
        return encoded(table, parts)

    monkeypatch.setattr(tables, "encoded", noted)
    other = measure(asked)
    shards = [here for table, here in made if table == "ablations/contexts"]
    assert shards
    assert not any(shards)
    for pattern in ("ablations/*.parquet", "effects/*.parquet"):
        one, two = (
            {path.name: path.read_bytes() for path in sorted(each.run.root.glob(pattern))} for each in (job, other)
        )
        assert one == two


def same_effects(job: Job, other: Job, bound: dict[tuple[int, str], float]) -> None:
    """A change at the bar for being stored may be in one run alone."""
    keys = (*UP, "seq", "pos", *DOWN, "down_pos")
    one, two = (keyed(j, "ablations/effects-*.parquet", keys) for j in (job, other))
    assert len(one) > 500
    for key in one.keys() | two.keys():
        within = bound[key[5:7]]
        if key in one and key in two:
            expected = (one[key]["clean"], one[key]["ablated"])
            assert (two[key]["clean"], two[key]["ablated"]) == pytest.approx(expected, rel=0, abs=within)
        else:
            row = one.get(key) or two[key]
            assert abs(row["ablated"] - row["clean"]) <= 1e-5 * max(1, row["clean"]) + within
    means, others = (keyed(j, "effects/effects.parquet", (*UP, *DOWN)) for j in (job, other))
    for key in means.keys() & others.keys():
        assert others[key]["effect_mean"] == pytest.approx(means[key]["effect_mean"], rel=0, abs=bound[key[3:5]] + 1e-5)


def test_law_8_mean_effects_are_those_of_the_ablations(job: Job) -> None:
    contexts, changes = defaultdict(list), defaultdict(dict)
    for row in rows(job.run.root, "ablations/contexts-*.parquet"):
        contexts[row["layer"], row["site"], row["feature"]].append((row["seq"], row["pos"]))
    for row in rows(job.run.root, "ablations/effects-*.parquet"):
        key = (*(row[k] for k in UP), *(row[k] for k in DOWN))
        context = row["seq"], row["pos"]  # read at several positions, its effects add up
        changes[key][context] = changes[key].get(context, 0.0) + row["ablated"] - row["clean"]
    found = keyed(job, "effects/effects.parquet", (*UP, *DOWN))
    assert found.keys() == changes.keys()
    intervals = 0
    for i, (key, row) in enumerate(sorted(found.items())):
        mine = contexts[key[:3]]
        effects = np.asarray([changes[key].get(context, 0.0) for context in mine])
        assert row["n"] == len(mine)
        assert row["effect_mean"] == pytest.approx(effects.mean(), rel=1e-5, abs=1e-7)
        if len(mine) < 2:
            assert row["effect_std"] is row["ci_low"] is row["ci_high"] is None
            continue
        assert row["effect_std"] == pytest.approx(effects.std(ddof=1), rel=1e-4, abs=1e-6)
        if len({seq for seq, _ in mine}) > 1 and i % 20 == 0:
            interval = naive_bootstrap(key[:3], [seq for seq, _ in mine], effects)
            assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval, rel=1e-4, abs=1e-6)
            intervals += 1
    assert intervals > 5


def test_each_layers_features_follow_from_the_ablations_of_the_one_before(job: Job) -> None:
    """By plain loops: of each source at each site the largest |mean| of what fires by itself, cut to the largest."""
    settings, layers = (
        job.settings.features,
        sorted({row["layer"] for row in rows(job.run.root, "acts/features.parquet")}),
    )
    fires = {
        (row["layer"], row["site"], row["feature"])
        for row in rows(job.run.root, "acts/features.parquet")
        if row["n_active"]
    }
    counts: Counter[tuple[Any, ...]] = Counter()
    for row in rows(job.run.root, "ablations/contexts-*.parquet"):
        counts[row["layer"], row["site"], row["feature"]] += 1
    means: dict[tuple[Any, ...], float] = defaultdict(float)
    for row in rows(job.run.root, "ablations/effects-*.parquet"):
        source, target = (tuple(row[name] for name in names) for names in (UP, DOWN))
        if target in fires and target[0] > source[0]:
            means[source, target] += (row["ablated"] - row["clean"]) / counts[source]
    for layer in layers[1:]:
        largest: dict[tuple[Any, ...], float] = {}
        groups: dict[tuple[Any, ...], list[tuple[float, tuple[Any, ...]]]] = defaultdict(list)
        for (source, target), mean in means.items():
            if target[0] == layer:
                groups[source, target[1]].append((abs(mean), target))
        for group in groups.values():
            for size, target in sorted(group, reverse=True)[: settings.branching]:
                largest[target] = max(size, largest.get(target, 0.0))
        kept = sorted(largest, key=lambda target: -largest[target])[: settings.max_features]
        assert {key for key in counts if key[0] == layer} == set(kept) != set()


def test_a_layer_is_planned_at_once_and_what_came_of_it_is_not_read_again(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(tmp_path / "run", {"features": {"thinning": 1.0, "branching": 3, "max_features": 90, "seq_cap": 2}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    planned: list[int] = []
    save = Run.save_plan

    def counted(self: Run, stage: str, plan: Plan) -> None:
        planned.append(len(plan.shards))
        save(self, stage, plan)

    monkeypatch.setattr(Run, "save_plan", counted)
    with monkeypatch.context() as patch:
        patch.setattr(ablations, "branches", None)
        ablate.run(job)
    shards = list(job.run.root.glob("ablations/contexts-*.parquet"))
    assert len(shards) > len(planned)
    assert len(set(planned)) == 1 + tiny.LAYERS  # none, and more with each layer
    # From files it is the same.
    before = job.run.require("ablate")
    job.run.reopen("ablate")
    assert ablate.run(Job(job.settings, job.report, job.run)).status == "done"
    assert job.run.require("ablate").facts["features"] == before.facts["features"]
    assert job.run.require("ablate").files == before.files


def naive_bootstrap(feature: tuple[int, str, int], seqs: list[int], effects: np.ndarray) -> tuple[float, float]:
    """Draw sequences with replacement, a thousand times, and pool their contexts, one after another."""
    names = sorted(set(seqs))
    rng = np.random.default_rng([0, feature[0], NUMBERS[feature[1]], feature[2], 2])
    means = []
    for _ in range(1000):
        times = dict(zip(names, rng.multinomial(len(names), [1 / len(names)] * len(names)), strict=True))
        pooled = [effect for seq, effect in zip(seqs, effects, strict=True) for _ in range(times[seq])]
        means.append(sum(pooled) / len(pooled))
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def test_law_8_totals_and_tokens_are_those_of_the_ablations(job: Job) -> None:
    out, kl = defaultdict(float), defaultdict(list)
    for row in rows(job.run.root, "effects/effects.parquet"):
        out[tuple(row[k] for k in UP)] += abs(row["effect_mean"])
    for row in rows(job.run.root, "ablations/contexts-*.parquet"):
        kl[row["layer"], row["site"], row["feature"]].append(row["kl"])
    for key, row in keyed(job, "effects/features.parquet", ("layer", "site", "feature")).items():
        assert row["n"] == len(kl[key])
        assert row["kl_mean"] == pytest.approx(np.mean(kl[key]), rel=1e-5, abs=1e-8)
        assert row["out_abs_effect"] == pytest.approx(out[key], rel=1e-5, abs=1e-7)
    stored = defaultdict(dict)
    for row in rows(job.run.root, "ablations/logits-*.parquet"):
        stored[row["layer"], row["site"], row["feature"]][row["token_id"]] = row["effect_mean"]
    ranks = keyed(job, "effects/logits.parquet", ("layer", "site", "feature", "rank"))
    for key, effects in stored.items():
        ordered = sorted(effects.values())
        expected = {rank: value for rank, value in enumerate(ordered[:10], 1) if value < 0}
        expected |= {-rank: value for rank, value in enumerate(ordered[:-11:-1], 1) if value > 0}
        assert {rank for *feature, rank in ranks if tuple(feature) == key} == set(expected)
        for rank, value in expected.items():
            row = ranks[(*key, rank)]
            assert row["effect_mean"] == value == effects[row["token_id"]]
            assert row["n"] == len(kl[key])


def test_the_features_followed_have_the_largest_effects(job: Job) -> None:
    table = pq.read_table(job.run.root / "effects/effects.parquet").to_pylist()
    chosen = [name.rsplit(".", 1) for name in job.run.require("ablate").facts["features"]]
    by_layer = defaultdict(set)
    for place, index in chosen:
        by_layer[int(place[0])].add((place, int(index)))
    for layer in (1, 2):
        best: dict[tuple[Any, ...], tuple[float, tuple[str, int]]] = {}
        for row in table:
            place = f"{row['down_layer']}.{row['down_site']}"
            if row["up_layer"] == layer - 1 and row["down_layer"] == layer:
                key = (*(row[k] for k in UP), place)
                entry = (abs(row["effect_mean"]), (place, row["down_feature"]))
                best[key] = max(best.get(key, (0.0, ("", 0))), entry)
        followed = sorted(best.values(), reverse=True)
        strength: dict[tuple[str, int], float] = {}
        for size, target in followed:
            strength.setdefault(target, size)
        assert by_layer[layer] == set(sorted(strength, key=lambda t: -strength[t])[:5])
