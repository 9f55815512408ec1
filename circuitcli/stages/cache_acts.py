"""cache-acts: run the model over the text and keep every non-zero feature activation.

One pass over the text writes shards of activations, a few sequences each; a second pass over the shards makes the top
contexts and the statistics. Neither holds more than a shard and a table of features. SAEs that don't fit into memory
together are read one group after another, with a pass over the text for each. Before anything is written the
SAEs are tried on a few sequences: those that don't fit the model are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitcli.core.contexts import FeatureStatistics, Firings, top_contexts
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.results.dictionaries import entries_of
from circuitcli.results.next_tokens import at_positions, on_prompts
from circuitcli.saes import SaeEntry
from circuitcli.stages import next_tokens, passages
from circuitcli.stages.pieces import Piece
from circuitcli.stages.sequences import read_sample
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.stages.text_identity import text_identity
from circuitcli.store import acts, files, tables

if TYPE_CHECKING:
    from circuitcli.core.dictionary import Dictionary
    from circuitcli.core.model import Model
    from circuitcli.stages.contents import Chosen
    from circuitcli.stages.encoding import Group
    from circuitcli.stages.inputs import JobSources

NAME = "cache-acts"
FIT = "acts/fit.json"
# Sequences of one shard: what an interruption may lose, and what is held at once.
SHARD_SEQUENCES = 32
# Of SAEs that are in memory together on a CPU: a layer of three sites of 131,072 features, or res-jb's twelve.
_SAE_BYTES = 5 * 2**29
# Positions of a prompt whose logits are held at once.
_NEXT_POSITIONS = 128


class _Span(NamedTuple):
    """What a shard of activations covers: one site, and the sequences from `start` to before `stop`."""

    site: Site
    start: int
    stop: int


def run(job: Job) -> Outcome:
    """Cache the activations of every chosen site."""
    job.parents(NAME)  # a stage that is missing is told before a text that can't be read
    return stage(
        job,
        NAME,
        {
            "text": text_identity(job, job.report.say),
            **({"next tokens": next_tokens.COUNT} if on_prompts(job.settings) else {}),
        },
        lambda todo: _work(job, todo),
    )


def _work(job: Job, todo: Work) -> None:
    from circuitcli.runtime.device import peak_memory
    from circuitcli.stages import fit

    job.runtime.with_plan(batch_size=todo.plan.batch_size, threads=todo.plan.threads)
    entries = entries_of(job.run)
    path = job.run.path(acts.TOKENS)
    inputs = _Inputs(job, entries)
    if not todo.found(acts.TOKENS):
        sample = read_sample(job.subject, job.report.say)
        fits = [
            found
            for group in inputs.judged
            for found in fit.examine(job.subject, inputs.saes(group), sample, full=False)
        ]
        fit.check(job, fits)
        todo.expect({FIT: None, acts.TOKENS: None})
        files.write(job.run.path(FIT), (json.dumps({"saes": fit.document(fits)}, indent=1) + "\n").encode())
        acts.write_sample(path, sample)
    sample = acts.read_sample(path)
    count = len(sample.lengths)
    spans = [(start, min(start + SHARD_SEQUENCES, count)) for start in range(0, count, SHARD_SEQUENCES)]
    shards = {
        acts.shard_name(todo.plan.fingerprint, entry.at, *span): _Span(entry.at, *span)
        for entry in entries
        for span in spans
    }
    planned = {name: {"site": str(s.site), "sequences": [s.start, s.stop]} for name, s in shards.items()}
    todo.expect({**planned, acts.TEXTS: None, acts.CONTEXTS: None, acts.FEATURES: None})
    passages.keep(job, todo, sample)
    if on_prompts(job.settings):
        _write_next(todo, inputs, sample)
    missing = [shard for name, shard in shards.items() if not todo.found(name)]
    if missing:
        _encode(todo, inputs, sample, missing)
    _summarise(job, todo, entries, sample, shards)
    todo.files[acts.TOKENS] = job.run.entry(path, count)
    if todo.found(FIT):
        todo.files[FIT] = job.run.entry(job.run.path(FIT))
        todo.facts["fit"] = {one["site"]: one["verdict"] for one in json.loads(job.run.path(FIT).read_bytes())["saes"]}
    todo.facts["peak_memory_bytes"] = peak_memory(job.runtime.device)


def _write_next(todo: Work, inputs: _Inputs, sample: Sample) -> None:
    """The table of what the model itself says at every position; a sequence at a time, whatever the batch size."""
    import torch

    from circuitcli.core.next_token import likeliest

    path, tokenizer = todo.job.run.path(acts.NEXT), todo.job.subject.tokenizer
    todo.expect({acts.NEXT: None})
    if not todo.found(acts.NEXT):
        parts = []
        for seq, length in enumerate(sample.lengths.tolist()):
            tokens = torch.as_tensor(sample.tokens[seq : seq + 1, :length], device=inputs.model.device).long()
            final = inputs.model.run(tokens, [], final=True).final
            assert final is not None
            top = [likeliest(inputs.model.logits(part), next_tokens.COUNT) for part in final[0].split(_NEXT_POSITIONS)]
            ids, logprob = (torch.cat(column).cpu().numpy() for column in zip(*top, strict=True))
            count = ids.shape[1]
            parts.append(
                {
                    "seq": np.full(ids.size, seq, np.int32),
                    "pos": np.repeat(np.arange(length, dtype=np.int32), count),
                    "rank": np.tile(np.arange(1, count + 1, dtype=np.int32), length),
                    "token_id": ids.reshape(-1).astype(np.int32),
                    "token": [tokenizer.text(int(token)) for token in ids.reshape(-1)],
                    "logprob": logprob.reshape(-1),
                    "prob": np.exp(logprob.reshape(-1)),
                }
            )
        tables.write(path, "acts/next", parts)
    todo.files[acts.NEXT] = todo.job.run.entry(path, tables.rows(path))
    said = at_positions(tables.read(path))
    ends = [(seq, int(length) - 1) for seq, length in enumerate(sample.lengths)]
    todo.facts["next_tokens"] = [[asdict(token) for token in said[end]] for end in ends]


@dataclass
class _Inputs:
    """The model and the SAEs, each loaded when it is first needed; as many SAEs at once as there is room for."""

    job: Job
    entries: Sequence[SaeEntry]

    @cached_property
    def sources(self) -> JobSources:
        """Where they are."""
        from circuitcli.stages.inputs import JobSources

        return JobSources(self.job)

    @cached_property
    def chosen(self) -> Chosen:
        """What they are."""
        from circuitcli.stages.inputs import chosen_of

        return chosen_of(self.job)

    def group(self, sites: tuple[Site, ...]) -> Group:
        """The SAEs that read some sites."""
        from circuitcli.stages.encoding import Group

        return Group(self.chosen, sites)

    @cached_property
    def model(self) -> Model:
        return self.job.subject.model

    @property
    def judged(self) -> list[list[SaeEntry]]:
        """The SAEs that are judged together; those of a cross-layer transcoder, which stay in their files, always."""
        from circuitcli.stages.fit import together

        return self._fitting(together(self.entries))

    @property
    def encoding(self) -> list[list[SaeEntry]]:
        """The SAEs that encode together."""
        return self._fitting([[entry] for entry in self.entries])

    def _fitting(self, units: Sequence[list[SaeEntry]]) -> list[list[SaeEntry]]:
        """Those that are in memory together: all, or one unit after another those that fit."""
        groups: list[list[SaeEntry]] = []
        room = self.job.runtime.room(_SAE_BYTES)
        for one in units:
            taken = _size(groups[-1]) if groups else room
            if taken + _size(one) > room:
                groups.append([])
            groups[-1] += one
        return groups

    def saes(self, group: Sequence[SaeEntry]) -> list[Dictionary]:
        """The SAEs of a group; those of another go."""
        return self.group(tuple(entry.at for entry in group)).saes(self.sources)


def _size(entries: Sequence[SaeEntry]) -> int:
    return sum(8 * entry.facts.d_in * entry.facts.d_sae for entry in entries)


def _encode(todo: Work, inputs: _Inputs, sample: Sample, missing: Sequence[_Span]) -> None:
    """Run the model over the sequences of the missing shards, and write them."""
    width = sample.tokens.shape[1]
    todo.planned_batch(inputs.job.runtime.rows_at_once(4 * width * 40 * inputs.model.shape.d_model, width))
    pieces = []
    for group in inputs.encoding:
        sites = tuple(entry.at for entry in group)
        here = [span for span in missing if span.site in sites]
        for start, stop in sorted({(span.start, span.stop) for span in here}):
            wanted = [span.site for span in here if span.start == start]
            pieces.append(_piece(todo, inputs, sample, sites, wanted, slice(start, stop)))
    todo.make("Caching activations", "sequences", pieces, inputs.sources.places, of=[piece.name for piece in pieces])


def _piece(
    todo: Work, inputs: _Inputs, sample: Sample, sites: tuple[Site, ...], wanted: Sequence[Site], span: slice
) -> Piece:
    """The shards of some sequences, at the sites that are wanted of those that encode together."""
    from circuitcli.stages.encoding import EncodeTask

    paths = {
        site: todo.job.run.path(acts.shard_name(todo.plan.fingerprint, site, span.start, span.stop)) for site in wanted
    }

    def task() -> EncodeTask:
        return EncodeTask(
            group=inputs.group(sites),
            seq=np.arange(span.start, span.stop),
            tokens=sample.tokens[span],
            lengths=sample.lengths[span],
            counted=sample.counted[span],
            units=(span.stop - span.start) * len(wanted),
            batch_size=todo.plan.batch_size,
            threads=todo.plan.threads,
        )

    def write(results: Sequence[dict[Site, Firings]]) -> None:
        [found] = results
        for site, path in paths.items():
            acts.write_firings(path, found[site])

    return Piece(
        name=next(iter(paths.values())).stem,
        units=(span.stop - span.start) * len(wanted),
        there=lambda: all(path.is_file() for path in paths.values()),
        tasks=lambda: [task()],
        write=write,
    )


def _summarise(job: Job, todo: Work, entries: Sequence[SaeEntry], sample: Sample, shards: Mapping[str, _Span]) -> None:
    """The tables of top contexts and of statistics, from the shards."""
    counted = sample.first(job.settings.texts.num_sequences).counted.sum(1)
    contexts, features, dead = [], [], {}
    for entry in entries:
        statistics = FeatureStatistics(entry.facts.d_sae)
        best = Firings.concat([])
        for name, span in shards.items():
            if span.site != entry.at:
                continue
            path = job.run.path(name)
            shard = acts.read_firings(path)
            todo.files[name] = job.run.entry(path, len(shard))
            best, _ = top_contexts(Firings.concat([best, shard]), job.settings.contexts.top_k)
            statistics.add(shard.where(shard.seq < len(counted)), int(counted[span.start : span.stop].sum()))
        best, rank = top_contexts(best, job.settings.contexts.top_k)
        here = {"layer": entry.at.layer, "site": entry.at.name}
        contexts.append(
            here | {"feature": best.feature, "rank": rank, "seq": best.seq, "pos": best.pos, "activation": best.value}
        )
        features.append(
            here
            | {
                "feature": np.arange(entry.facts.d_sae, dtype=np.int32),
                "n_active": statistics.n_active.astype(np.int32),
                "density": statistics.density,
                "max_activation": statistics.maximum,
                "mean_activation": statistics.mean,
            }
        )
        dead[str(entry.at)] = round(float((statistics.n_active == 0).mean()), 4)
    for name, parts in ((acts.CONTEXTS, contexts), (acts.FEATURES, features)):
        table = name.removesuffix(".parquet")
        rows = tables.write(job.run.path(name), table, parts)
        todo.files[name] = job.run.entry(job.run.path(name), rows)
    todo.facts.update(sequences=len(counted), tokens=int(counted.sum()), dead_share=dead)
