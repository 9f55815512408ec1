"""What ablations read of a run, and the tasks that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from circuitcli import interventions
from circuitcli.core.contexts import ByFeature, Firings
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
from circuitcli.settings import Settings
from circuitcli.stages.assembly import Ablations
from circuitcli.stages.contents import Chosen, Content, Contents
from circuitcli.stages.passes import Passes
from circuitcli.stages.report import Report
from circuitcli.stages.sources import Sources, Stored, on_worker
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject
from circuitcli.stages.task import ShardTask
from circuitcli.stages.tools import Tools
from circuitcli.store import acts, tables
from circuitcli.store.run import missing

_ACTS = "cache-acts"


def chosen_of(job: Job) -> Chosen:
    """The model and the dictionaries of a run, as it recorded them."""
    return Chosen(
        model=job.settings.model,
        identity=job.run.require("fetch-saes").inputs["model identity"],
        dtype=job.settings.runtime.dtype,
        saes=tuple(entries_of(job.run)),
    )


def contents_of(job: Job) -> Contents:
    """What ablations of a run read, as it recorded it."""
    recorded, entries = job.run.require(_ACTS).files, entries_of(job.run)

    def content(name: str) -> Content:
        if name not in recorded:
            raise missing(job.run.path(name), _ACTS)
        return Content(name, recorded[name].sha256, recorded[name].bytes)

    return Contents(
        **vars(chosen_of(job)),
        sample=content(acts.TOKENS),
        sequences=job.settings.texts.num_sequences,
        firings={e.at: tuple(content(name) for name in recorded if name.startswith(f"acts/{e.at}/")) for e in entries},
        next_tokens=content(acts.NEXT) if on_prompts(job.settings) else None,
        statistics=content(acts.FEATURES),
    )


def note_slowness(tools: Tools, model: Model, sample: Sample) -> None:
    """Where ablations will be slow, that is said."""
    if not model.resumes_at_places:
        tools.report.say(slowness(tools.settings.model, model, float(sample.lengths.mean())))


class SubjectSources(Sources):
    """What this process has of a subject: its model, loaded once for all work, and its dictionaries."""

    def __init__(self, tools: Tools, subject: Callable[[], Subject], folders: Sequence[Path] = ()) -> None:
        """Nothing is loaded yet.

        Args:
            tools: With the settings, and the device.
            subject: Gives the subject.
            folders: Where other processes look, beside the model's.
        """
        super().__init__(folders)
        self._tools, self._subject, self.report = tools, subject, tools.report

    def runtime(self, chosen: Chosen) -> Runtime:
        """That of the tools."""
        return self._tools.runtime

    def model(self, chosen: Chosen) -> Model:
        """The subject's."""
        return self._subject().model

    def sae(self, chosen: Chosen, entry: SaeEntry, *, decoder: bool = False) -> Dictionary:
        """From where its files were recorded."""
        return self._subject().sae(entry, decoder=decoder)

    @property
    def places(self) -> Places:
        """The same for tasks, here and in other processes, which look in the folders and beside its model first."""
        settings = self._tools.settings
        folders = tuple(path.absolute() for path in (*self._folders, Path(settings.model)) if path.is_dir())
        device = None if settings.executor.mixed else self._tools.runtime.device.type
        return Places(self, partial(on_worker, folders, device or "auto"), device)


class JobSources(SubjectSources):
    """What a job has: its model, loaded once for all stages, and the files of its run."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, lambda: job.subject, [job.run.root])
        self._job = job

    def note(self, model: Model, stored: Stored) -> None:
        """Where ablations will be slow, that is said."""
        note_slowness(self._job, model, stored.sample)

    def file(self, content: Content) -> Path:
        """The path in the run."""
        return self._job.run.verified(_ACTS, content.name)


@dataclass(frozen=True)
class Origin:
    """Where numbers come from, as a value: what tasks are told of the run that they are of.

    Attributes:
        settings: Of the run.
        contents: What it recorded.
    """

    settings: Settings
    contents: Contents


class Inputs:
    """What work on a run reads, in whatever process, each part when it is first needed."""

    def __init__(self, origin: Origin, sources: Sources) -> None:
        """Nothing is read yet.

        Args:
            origin: What is read.
            sources: Where it is.
        """
        self.origin, self.sources = origin, sources
        self._by_feature: dict[Site, ByFeature] = {}

    @property
    def settings(self) -> Settings:
        """Of the run."""
        return self.origin.settings

    @property
    def report(self) -> Report:
        """Told of what takes long."""
        return self.sources.report

    @property
    def passes(self) -> Passes:
        """The model, SAEs, and sequences with what fires in them."""
        return self.sources.opened(self.origin.contents)

    @property
    def widths(self) -> dict[Site, int]:
        """d_sae at each site."""
        return self.passes.widths

    def sae(self, entry: SaeEntry) -> Dictionary:
        """A dictionary with its decoder where the model is."""
        return self.sources.sae(self.origin.contents, entry, decoder=True)

    @cached_property
    def statistics(self) -> dict[Site, dict[str, np.ndarray]]:
        """The features' statistics, by site."""
        table = tables.read(self.sources.file(self.origin.contents.statistics))
        by_site = {}
        for site in self.widths:
            mask = (table["layer"] == site.layer) & (table["site"] == site.name)
            by_site[site] = {name: column[mask] for name, column in table.items()}
        return by_site

    def firings_of(self, site: Site) -> ByFeature:
        """All firings at a site in the sequences that count, feature by feature; of one layer they are kept."""
        if site not in self._by_feature:
            self._by_feature = {at: kept for at, kept in self._by_feature.items() if at.layer == site.layer}
            self._by_feature[site] = ByFeature(self.passes.firings(site))
        return self._by_feature[site]


class JobInputs(Inputs):
    """The same of a job, and the tasks that are made of it."""

    def __init__(self, job: Job) -> None:
        """Nothing is read yet but what the run recorded.

        Raises:
            InputError: It recorded less.
        """
        self.job, self._own = job, JobSources(job)
        super().__init__(Origin(job.settings, contents_of(job)), self._own)

    @cached_property
    def places(self) -> Places:
        """Where it is, for tasks."""
        return self._own.places

    def replacements(self, site: Site, contexts: Firings) -> Float[np.ndarray, " n"]:
        """What the run's intervention puts in place of each activation. Donors are drawn for one that asks for them.

        Raises:
            InputError: There is none, and the intervention needs one.
        """
        settings, seed = self.settings.ablate, self.settings.seed
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
            horizon=self.settings.ablate.reach,
            batch_size=batch_size,
            threads=threads,
        )
        return ShardTask(self.origin.contents, features, ablations, self.settings.ablate.logits)

    @property
    def batch_size(self) -> int:
        """Ablations at once."""
        return self.passes.batch_size(self.settings.ablate.reach)
