"""effects: reduce stored ablations to mean effects with intervals, logit effects, and totals of each feature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.effects import mean_effects
from circuitcli.core.sites import SITES
from circuitcli.errors import InputError
from circuitcli.stages import next_tokens
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.stages.threaded import ordered
from circuitcli.store import ablations, acts, tables
from circuitcli.store.ablations import FeatureAblations
from circuitcli.store.reduced import EFFECTS, FEATURES, LOGITS, NEXT

if TYPE_CHECKING:
    from circuitcli.runtime.tokenizer import Tokenizer

NAME = "effects"
# What KL(clean ‖ ablated) may be where nothing changed: float32 sums over a vocabulary.
ROUNDING_NATS = 1e-6


def run(job: Job) -> Outcome:
    """Reduce all ablations that are stored: of the present plan's features, and of those that earlier plans left."""
    return stage(job, NAME, {}, lambda todo: _work(job, todo))


def _work(job: Job, todo: Work) -> None:
    import torch  # here, since its import takes seconds

    tokenizer, count = job.subject.tokenizer, torch.get_num_threads()
    parts: dict[str, list[tables.Columns]] = {EFFECTS: [], LOGITS: [], FEATURES: []}
    clean: tables.Columns = {}
    if "next" in next_tokens.kinds(job.settings):
        parts[NEXT], clean = [], tables.read(job.run.verified("cache-acts", acts.NEXT))
    planned = set(ablations.chosen(job.run))
    measured = contexts = 0
    with job.report.track("Reducing effects", len(planned), "features") as done:
        reduced = ordered(lambda result: (result, _effect_rows(result, job.settings.seed)), results(job), count)
        with closing(reduced):
            for result, effects in reduced:
                parts[EFFECTS].append(effects)
                parts[LOGITS] += _logit_rows(result, job.settings.effects.logit_tokens, tokenizer)
                parts[FEATURES].append(_totals(result, effects))
                if clean and (told := next_tokens.last_readings(result.next, clean)):
                    parts[NEXT].append(told)
                if result.feature in planned:
                    measured, contexts = measured + len(effects["n"]), contexts + len(result.contexts["seq"])
                    done(1)
    _refuse_nothing(parts)
    todo.expect(dict.fromkeys(parts))
    for name, columns in parts.items():
        rows = tables.write(job.run.path(name), name.removesuffix(".parquet"), columns)
        todo.files[name] = job.run.entry(job.run.path(name), rows)
    others = len(parts[FEATURES]) - len(planned)
    todo.facts.update(edges_measured=measured, contexts=contexts, features_kept=others)


def results(job: Job) -> Iterator[FeatureAblations]:
    """The ablations of each feature, shard by shard, in the model's order."""
    for shard in ablations.stored(job.run):
        yield from ablations.of_features(job.run, shard, shard.features, next_tokens.kinds(job.settings))


def _effect_rows(result: FeatureAblations, seed: int) -> tables.Columns:
    """The mean effect of one feature on every feature that it changed anywhere."""
    effects = result.effects
    order = np.asarray([SITES.index(name) for name in effects["down_site"]], np.int64)
    keys = np.stack([effects["down_layer"].astype(np.int64), order, effects["down_feature"].astype(np.int64)])
    targets, target = np.unique(keys, axis=1, return_inverse=True)
    change = effects["ablated"].astype(np.float64) - effects["clean"]
    means = mean_effects(
        effects["context"],
        target.reshape(-1),
        change,
        result.contexts["seq"],
        targets.shape[1],
        seed=seed,
        feature=result.feature,
    )
    count = targets.shape[1]
    return {
        "up_layer": np.full(count, result.feature.site.layer, np.int16),
        "up_site": result.feature.site.name,
        "up_feature": np.full(count, result.feature.index, np.int32),
        "down_layer": targets[0].astype(np.int16),
        "down_site": np.asarray(SITES, dtype=object)[targets[1]],
        "down_feature": targets[2].astype(np.int32),
        "n": np.full(count, len(result.contexts["seq"]), np.int32),
        "effect_mean": means.mean.astype(np.float32),
        "effect_std": means.std.astype(np.float32),
        "ci_low": means.ci_low.astype(np.float32),
        "ci_high": means.ci_high.astype(np.float32),
    }


def _logit_rows(result: FeatureAblations, keep: int, tokenizer: Tokenizer) -> Iterator[tables.Columns]:
    """Promoted tokens, ranks 1, 2, … (ablation lowers them), and suppressed ones, ranks −1, −2, … (it raises them)."""
    logits = result.logits
    if not len(logits["token_id"]):
        return
    order = np.argsort(logits["effect_mean"], kind="stable")
    promoted = [i for i in order[:keep] if logits["effect_mean"][i] < 0]
    suppressed = [i for i in order[::-1][:keep] if logits["effect_mean"][i] > 0]
    rows = np.asarray([*promoted, *suppressed], np.int64)
    ranks = [*range(1, len(promoted) + 1), *range(-1, -len(suppressed) - 1, -1)]
    yield {
        "layer": np.full(len(rows), result.feature.site.layer, np.int16),
        "site": result.feature.site.name,
        "feature": np.full(len(rows), result.feature.index, np.int32),
        "token_id": logits["token_id"][rows],
        "token": [tokenizer.text(int(token)) for token in logits["token_id"][rows]],
        "effect_mean": logits["effect_mean"][rows],
        "prob_effect_mean": logits["prob_effect_mean"][rows],
        "n": np.full(len(rows), len(result.contexts["seq"]), np.int32),
        "rank": np.asarray(ranks, np.int32),
    }


def _totals(result: FeatureAblations, effects: tables.Columns) -> tables.Columns:
    """How much a feature matters: mean KL of the next token, and Σ |mean effect| downstream."""
    kl = result.contexts["kl"].astype(np.float64)
    return {
        "layer": np.asarray([result.feature.site.layer], np.int16),
        "site": result.feature.site.name,
        "feature": np.asarray([result.feature.index], np.int32),
        "n": np.asarray([len(kl)], np.int32),
        "kl_mean": np.asarray([kl.mean() if len(kl) else np.nan], np.float32),  # it may fire in no unedited text
        "out_abs_effect": np.asarray([np.abs(effects["effect_mean"], dtype=np.float64).sum()], np.float32),
    }


def _refuse_nothing(parts: dict[str, list[tables.Columns]]) -> None:
    """If ablation changed nothing at all, something is wrong with the inputs."""
    moved = any(len(part["n"]) for part in parts[EFFECTS])
    shifted = any((np.nan_to_num(part["kl_mean"]) > ROUNDING_NATS).any() for part in parts[FEATURES])
    if not moved and not shifted:
        raise InputError(
            "No measured effect is larger than rounding.",
            hint="Likely causes: SAEs of another model, decoder rows that are 0, --intervention mean on features that "
            "are always on, or one site alone with --no-logits.",
        )
