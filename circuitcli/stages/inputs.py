"""What ablations read of a run, and the tasks that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from circuitcli import interventions
from circuitcli.core.contexts import Firings, by_feature
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.donors import donors
from circuitcli.core.model import Model
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.executors import Places
from circuitcli.results.dictionaries import entries_of
from circuitcli.results.next_tokens import on_prompts
from circuitcli.runtime.device import Runtime
from circuitcli.runtime.engine import slowness
from circuitcli.saes import SaeEntry
from circuitcli.stages.assembly import Ablations
from circuitcli.stages.contents import Content, Contents
from circuitcli.stages.passes import Passes
from circuitcli.stages.sources import Sources, on_worker
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject
from circuitcli.stages.task import ShardTask
from circuitcli.store import acts, tables
from circuitcli.store.run import missing

_ACTS = "cache-acts"


def contents_of(job: Job) -> Contents:
    """What ablations of a run read, as it recorded it."""
    recorded, entries = job.run.require(_ACTS).files, entries_of(job.run)

    def content(name: str) -> Content:
        if name not in recorded:
            raise missing(job.run.path(name), _ACTS)
        return Content(name, recorded[name].sha256, recorded[name].bytes)

    return Contents(
        model=job.settings.model,
        identity=job.run.require("fetch-saes").inputs["model identity"],
        dtype=job.settings.runtime.dtype,
        saes=tuple(entries),
        sample=content(acts.TOKENS),
        sequences=job.settings.texts.num_sequences,
        firings={e.at: tuple(content(name) for name in recorded if name.startswith(f"acts/{e.at}/")) for e in entries},
        next_tokens=content(acts.NEXT) if on_prompts(job.settings) else None,
    )


def model_of(subject: Subject, sample: Sample) -> Model:
    """The model of a subject; where it will be slow, that is said."""
    model, tools = subject.model, subject.tools
    if not model.resumes_at_places:
        tools.report.say(slowness(tools.settings.model, model, float(sample.lengths.mean())))
    return model


class JobSources(Sources):
    """What a job has: its model, loaded once for all stages, and the files of its run."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def runtime(self, contents: Contents) -> Runtime:
        """The job's."""
        return self._job.runtime

    def model(self, contents: Contents) -> Model:
        """The job's."""
        return model_of(self._job.subject, self.opened(contents).sample)

    def sae(self, contents: Contents, entry: SaeEntry) -> Dictionary:
        """From where its files were recorded."""
        return self._job.subject.sae(entry, decoder=False)

    def file(self, content: Content) -> Path:
        """The path in the run."""
        return self._job.run.verified(_ACTS, content.name)


@dataclass
class Inputs:
    """What ablations of a run read, each part when it is first needed."""

    job: Job

    @cached_property
    def contents(self) -> Contents:
        """All of it by content."""
        return contents_of(self.job)

    @cached_property
    def sources(self) -> Sources:
        """Where it is."""
        return JobSources(self.job)

    @cached_property
    def places(self) -> Places:
        """The same for tasks, here and in other processes, which look in the run and beside its model first."""
        run, model = self.job.run.root, Path(self.job.settings.model)
        folders = tuple(path.absolute() for path in (run, model) if path.is_dir())
        device = None if self.job.settings.executor.mixed else self.job.runtime.device.type
        return Places(self.sources, partial(on_worker, folders, device or "auto"), device)

    @property
    def passes(self) -> Passes:
        """The model, SAEs, and sequences with what fires in them."""
        return self.sources.opened(self.contents)

    @property
    def widths(self) -> dict[Site, int]:
        """d_sae at each site."""
        return self.passes.widths

    @cached_property
    def statistics(self) -> dict[Site, dict[str, np.ndarray]]:
        """The features' statistics, by site."""
        table = tables.read(self.job.run.verified(_ACTS, acts.FEATURES))
        by_site = {}
        for site in self.widths:
            mask = (table["layer"] == site.layer) & (table["site"] == site.name)
            by_site[site] = {name: column[mask] for name, column in table.items()}
        return by_site

    def firings_of(self, site: Site, features: Sequence[int]) -> dict[int, Firings]:
        """All firings of some features of a site in the sequences that count, in order of (seq, pos)."""
        return by_feature(self.passes.firings(site), features)

    def replacements(self, site: Site, contexts: Firings) -> Float[np.ndarray, " n"]:
        """What the run's intervention puts in place of each activation. Donors are drawn for one that asks for them.

        Raises:
            InputError: There is none, and the intervention needs one.
        """
        settings, seed = self.job.settings.ablate, self.job.settings.seed
        statistics = {name: column[contexts.feature] for name, column in self.statistics[site].items()}
        at = interventions.Contexts(
            site, contexts.feature, contexts.seq, contexts.pos, contexts.value, statistics, seed,
            draw=lambda: donors(site, contexts, self.passes.firings(site), self.passes.sample.counted, seed),
        )  # fmt: skip
        return np.array(interventions.make(settings.intervention, settings).replacements(at), np.float32)

    def task(self, site: Site, contexts: Mapping[int, Firings], *, batch_size: int, threads: int) -> ShardTask:
        """The ablations of some features of a site, ascending, each at its contexts."""
        features = tuple(contexts)
        rows = Firings.concat(list(contexts.values()))
        ablations = Ablations(
            site=site,
            contexts=rows,
            replacement=self.replacements(site, rows),
            slot=np.searchsorted(features, rows.feature),
            horizon=self.job.settings.ablate.reach,
            batch_size=batch_size,
            threads=threads,
        )
        return ShardTask(self.contents, features, ablations, self.job.settings.ablate.logits)

    @property
    def batch_size(self) -> int:
        """Ablations at once."""
        return self.passes.batch_size(self.job.settings.ablate.reach)
