"""fetch-saes: find, fetch, check and record the SAEs of a run, and fetch its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitcli import plugins
from circuitcli.core.sites import SITES, Site, check_sites, parse_layers, require_layers, resolve_pins
from circuitcli.errors import InputError
from circuitcli.results.dictionaries import SAES, entries_of
from circuitcli.runtime.checkpoint import unchanged
from circuitcli.saes import Offer, SaeEntry, SaeSource, entry, fitted, load, offers, provider_of, still_there
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import files

if TYPE_CHECKING:
    from circuitcli.core.dictionary import Dictionary
    from circuitcli.core.model import Model
    from circuitcli.runtime.checkpoint import Checkpoint

NAME = "fetch-saes"
ALL = ":"


def run(job: Job) -> Outcome:
    """Record the SAEs that the settings choose, once each was read and found fit for the model.

    What comes from a hub is fetched here, all of it: the model as well, so that later stages need no network.
    """
    recorded = _unchanged(job)
    if recorded is not None:
        _check_pins(job, entries_of(job.run))
        return stage(job, NAME, recorded, lambda todo: None)
    checkpoint, entries = choose(job)
    _check_pins(job, entries)
    facts = {"model identity": checkpoint.identity(), "saes": {str(entry.at): entry.facts.sha256 for entry in entries}}

    def work(todo: Work) -> None:
        path = job.run.path(SAES)
        todo.expect({SAES: None})
        files.write(path, (json.dumps({"saes": [e.document() for e in entries]}, indent=1) + "\n").encode())
        todo.files[SAES] = job.run.entry(path, len(entries))
        todo.facts.update(
            model=checkpoint.name, release=job.settings.saes.release, saes=[str(entry.at) for entry in entries]
        )

    return stage(job, NAME, facts, work)


def _check_pins(job: Job, entries: Sequence[SaeEntry]) -> None:
    resolve_pins(job.settings.features.pinned, {entry.at: entry.facts.d_sae for entry in entries})


def _unchanged(job: Job) -> dict[str, str | dict[str, str]] | None:
    """What the run recorded of its model and SAEs, if that is what the settings choose, and still there; else None.

    Files of this machine are hashed. A commit of a hub doesn't change: what was fetched from there is checked when it
    is loaded. So neither the model nor a hub is asked, and no library of theirs is imported.
    """
    record = None if job.force else job.run.record(NAME)
    if record is None or not job.run.path(SAES).is_file():
        return None
    decides = job.stages[NAME].decides
    settings = job.chosen(decides)
    if job.changes(record.inputs, decides):
        return None
    model = record.inputs["model identity"]
    if not unchanged(job.settings.model, model) or not all(map(still_there, entries_of(job.run))):
        return None
    return {key: value for key, value in record.inputs.items() if key not in settings}


def choose(job: Job) -> tuple[Checkpoint, list[SaeEntry]]:
    """The model and the SAEs that the settings choose, fetched and checked; nothing of the run is touched."""
    model_revision, saes_revision = _revisions(job)
    release = job.settings.saes.release
    provider = provider_of(release)  # a wrong name is told before anything is asked of a hub
    checkpoint = job.find(model_revision)
    source: SaeSource = plugins.load("saes", provider)
    located = source.locate(release, saes_revision, _sites(job, source, saes_revision, checkpoint))
    remote = [file for one in located for file in one.remote]
    fetched = dict(zip(remote, job.fetch([*remote, *checkpoint.files]), strict=False))
    norms_subtract_mean = checkpoint.shape.norms_subtract_mean
    entries = [entry(provider, one, one.files(fetched), norms_subtract_mean=norms_subtract_mean) for one in located]
    for found in entries:
        _check_width(found, checkpoint)
    unstated = [str(e.at) for e in entries if not e.facts.centre_stated]
    if unstated:
        job.report.say(
            f"Note: nothing says whether the SAEs at {', '.join(unstated)} were trained on centred weights "
            "(center_writing_weights): taken as not. `circuit doctor` tells which fits."
        )
    return checkpoint, entries


def _revisions(job: Job) -> tuple[str, str]:
    """Of the model and of the SAEs: a run goes on with the commits that it began with."""
    settings = job.settings
    wanted = (settings.model_revision, settings.saes.revision)
    record = None if job.force else job.run.record(NAME)
    if record is None or not job.run.path(SAES).is_file():
        return wanted
    model = record.inputs["model identity"] if not job.changes(record.inputs, ("model",)) else wanted[0]
    same = not job.changes(record.inputs, ("saes.release", "saes.revision"))
    revision = entries_of(job.run)[0].revision if same else None
    return model, revision or wanted[1]


def _sites(job: Job, source: SaeSource, revision: str, checkpoint: Checkpoint) -> list[Site]:
    """The chosen sites, in the model's order.

    `:` takes the layers that the release has. Of layers that are named each must be there: at every site that is
    named, or at one of the release's own.
    """
    saes, shape = job.settings.saes, checkpoint.shape
    available = source.sites(saes.release, revision)
    layers = parse_layers(saes.layers, shape.n_layers)
    if saes.sites == "auto":
        own = source.default_sites(saes.release) or SITES
        groups = [tuple(name for name in own if any(site.name == name for site in available))]
    else:
        groups = [(name,) for name in saes.sites]
    chosen = []
    for group in groups:
        there = [site for site in available if site.name in group]
        wanted = {site.layer for site in there} if saes.layers == ALL and there else set(layers)
        require_layers(sorted(wanted), (site.layer for site in there), site="/".join(group), release=saes.release)
        chosen += [site for site in there if site.layer in wanted]
    check_sites(chosen)
    beyond = [str(site) for site in chosen if site.layer >= shape.n_layers]
    if beyond:
        raise InputError(
            f"{saes.release} has SAEs at {', '.join(beyond)}; {job.settings.model} has {shape.n_layers} layers.",
            hint="They are SAEs of another model: choose others with --release, or layers with --layers.",
        )
    if shape.parallel and any(site.name == "resid_mid" for site in chosen):
        raise InputError(
            f"{job.settings.model} has parallel blocks, without resid_mid.", hint="Choose other sites with --site."
        )
    return sorted(chosen, key=lambda s: s.order)


def _check_width(entry: SaeEntry, checkpoint: Checkpoint) -> None:
    width = checkpoint.shape.width(entry.at.name)
    if entry.facts.d_in != width:
        raise InputError(
            f"The SAE at {entry.at} reads {entry.facts.d_in} dimensions; {checkpoint.name} has {width} there.",
            hint="Choose SAEs of this model with --release, or their model with --model.",
        )


def known_releases() -> list[Offer]:
    """Every release that can be listed."""
    return offers()


def load_sae(job: Job, recorded: SaeEntry, model: Model, *, decoder: bool = True) -> Dictionary:
    """The SAE of an entry on the run's device, fitted to this model.

    Without `decoder` that stays where its file is mapped, for single rows of it.
    """
    return fitted(load(recorded, job.hub), recorded, model).to(job.runtime.device, decoder=decoder)
