"""fetch-saes: find, check and record the SAEs of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from circuitcli.core.model import ModelShape
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site, check_sites, parse_layers, require_layers, resolve_pins
from circuitcli.errors import InputError
from circuitcli.runtime.tokenizer import ModelCard, describe
from circuitcli.saes import SaeEntry, SaeSource, source_of
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import files
from circuitcli.store.run import Run

NAME = "fetch-saes"
SAES = "saes/saes.json"


def run(job: Job) -> Outcome:
    """Record the SAEs that the settings choose, once each was read and found fit for the model."""
    card = describe(job.settings.model)
    source = source_of(job.settings.saes.release)
    chosen = _choose(job, source, card.shape)
    entries = [source.entry(site, folder) for site, folder in chosen.items()]
    for entry in entries:
        _check_width(entry, card)
    resolve_pins(job.settings.features.pinned, {entry.at: entry.d_sae for entry in entries})
    unstated = [str(entry.at) for entry in entries if not entry.centre_stated and entry.site != "z"]
    if unstated:
        job.report.say(
            f"Note: the cfg.json of {', '.join(unstated)} doesn't say whether the SAE was trained on centred weights "
            "(center_writing_weights): taken as not. For res-jb that would be wrong; see the README."
        )
    facts = {"model identity": card.identity, "saes": {str(entry.at): entry.sha256 for entry in entries}}

    def work(todo: Work) -> None:
        path = job.run.path(SAES)
        todo.expect({SAES: None})
        files.write(path, (json.dumps({"saes": [asdict(e) for e in entries]}, indent=1) + "\n").encode())
        todo.files[SAES] = job.run.entry(path, len(entries))
        todo.facts.update(model=card.name, release=job.settings.saes.release, saes=[str(entry.at) for entry in entries])

    return stage(job, NAME, facts, work)


def _choose(job: Job, source: SaeSource, shape: ModelShape) -> dict[Site, Path]:
    """The chosen sites and the folder of each one's SAE, in the model's order."""
    release = job.settings.saes.release
    available = source.folders(release)
    names = source.default_sites(release) if job.settings.saes.sites == "auto" else job.settings.saes.sites
    layers = parse_layers(job.settings.saes.layers, shape.n_layers)
    for name in names:
        require_layers(layers, (s.layer for s in available if s.name == name), site=name, release=release)
    sites = [Site(layer, name) for layer in layers for name in names]
    check_sites(sites)
    if shape.parallel and any(site.name == "resid_mid" for site in sites):
        raise InputError(
            f"{job.settings.model} has parallel blocks, without resid_mid.", hint="Choose other sites with --site."
        )
    return {site: available[site] for site in sorted(sites, key=lambda s: s.order)}


def _check_width(entry: SaeEntry, card: ModelCard) -> None:
    width = card.shape.width(entry.site)
    if entry.d_in != width:
        raise InputError(
            f"The SAE at {entry.at} reads {entry.d_in} dimensions; {card.name} has {width} there.",
            hint="Choose SAEs of this model with --release, or their model with --model.",
        )


def entries_of(run: Run) -> list[SaeEntry]:
    """The SAEs that a run recorded, in the model's order."""
    tree = json.loads(run.verified(NAME, SAES).read_bytes())
    return [SaeEntry(**entry) for entry in tree["saes"]]


def load_sae(job: Job, entry: SaeEntry) -> Sae:
    """The SAE of an entry, on the run's device."""
    sae = source_of(job.settings.saes.release).load(entry)
    return sae.to(job.runtime.device)
