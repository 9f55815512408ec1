"""From settings to a model and its SAEs: which there are, where their files are, and whether they go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitcli import plugins
from circuitcli.core.sites import SITES, Site, check_sites, parse_layers, require_layers
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.results.dictionaries import SAES, entries_of
from circuitcli.saes import SaeEntry, SaeSource, entry, provider_of
from circuitcli.stages.tools import Tools
from circuitcli.store.run import Run

if TYPE_CHECKING:
    from circuitcli.runtime.checkpoint import Checkpoint

_STAGE = "fetch-saes"
_ALL = ":"


def choose(tools: Tools, run: Run | None, *, force: bool) -> tuple[Checkpoint, list[SaeEntry]]:
    """The model and the SAEs that the settings choose, fetched and checked; nothing of a run is touched."""
    model_revision, saes_revision = _revisions(tools, None if force else run)
    release = tools.settings.saes.release
    provider = provider_of(release)  # a wrong name is told before anything is asked of a hub
    checkpoint = tools.find(model_revision)
    source: SaeSource = plugins.load("saes", provider)
    located = source.locate(release, saes_revision, _sites(tools, source, saes_revision, checkpoint))
    remote = [file for one in located for file in one.remote]
    fetched = dict(zip(remote, tools.fetch([*remote, *checkpoint.files]), strict=False))
    norms_subtract_mean = checkpoint.shape.norms_subtract_mean
    entries = [entry(provider, one, one.files(fetched), norms_subtract_mean=norms_subtract_mean) for one in located]
    for found in entries:
        _check_fit(found, checkpoint)
    across = [found for found in entries if len(found.written) > 1]
    missing = _missing(across, source.sites(release, saes_revision)) if across else []
    if missing:
        tools.report.say(
            f"Note: the cross-layer transcoder of {release} has no dictionary that reads "
            f"{', '.join(map(str, missing))}: what it would write is left to the errors."
        )
    unstated = [str(e.at) for e in entries if not e.facts.centre_stated]
    if unstated:
        tools.report.say(
            f"Note: nothing says whether the SAEs at {', '.join(unstated)} were trained on centred weights "
            "(center_writing_weights): taken as not. `circuit doctor` tells which fits."
        )
    return checkpoint, entries


def _revisions(tools: Tools, run: Run | None) -> tuple[str, str]:
    """Of the model and of the SAEs: a run goes on with the commits that it began with."""
    wanted = (tools.settings.model_revision, tools.settings.saes.revision)
    record = None if run is None else run.record(_STAGE)
    if run is None or record is None or not run.path(SAES).is_file():
        return wanted
    model = record.inputs["model identity"] if not tools.changes(record.inputs, ("model",)) else wanted[0]
    same = not tools.changes(record.inputs, ("saes.release", "saes.revision"))
    revision = entries_of(run)[0].revision if same else None
    return model, revision or wanted[1]


def _sites(tools: Tools, source: SaeSource, revision: str, checkpoint: Checkpoint) -> list[Site]:
    """The chosen sites, in the model's order.

    `:` takes the layers that the release has. Of layers that are named each must be there: at every site that is
    named, or at one of the release's own.
    """
    saes, shape = tools.settings.saes, checkpoint.shape
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
        wanted = {site.layer for site in there} if saes.layers == _ALL and there else set(layers)
        require_layers(sorted(wanted), (site.layer for site in there), site="/".join(group), release=saes.release)
        chosen += [site for site in there if site.layer in wanted]
    check_sites(chosen)
    beyond = [str(site) for site in chosen if site.layer >= shape.n_layers]
    if beyond:
        raise InputError(
            f"{saes.release} has SAEs at {', '.join(beyond)}; "
            f"{tools.settings.model} has {amount(shape.n_layers, 'layer')}.",
            hint="They are SAEs of another model: choose others with --release, or layers with --layers.",
        )
    if shape.parallel and any(site.name == "resid_mid" for site in chosen):
        raise InputError(
            f"{tools.settings.model} has parallel blocks, without resid_mid.", hint="Choose other sites with --site."
        )
    return sorted(chosen, key=lambda s: s.order)


def _missing(across: Sequence[SaeEntry], available: Sequence[Site]) -> list[Site]:
    """Where a cross-layer transcoder has no dictionary in the release, of all layers that its others write to."""
    first, last = min(entry.at.layer for entry in across), max(site.layer for entry in across for site in entry.written)
    return [one for layer in range(first, last + 1) if (one := Site(layer, across[0].at.name)) not in available]


def _check_fit(entry: SaeEntry, checkpoint: Checkpoint) -> None:
    beyond = [str(site) for site in entry.written if site.layer >= checkpoint.shape.n_layers]
    if beyond:
        raise InputError(
            f"The dictionary at {entry.at} writes {', '.join(beyond)}; "
            f"{checkpoint.name} has {amount(checkpoint.shape.n_layers, 'layer')}.",
            hint="It is of another model: choose others with --release, or its model with --model.",
        )
    width = checkpoint.shape.width(entry.at.name)
    if entry.facts.d_in != width:
        raise InputError(
            f"The SAE at {entry.at} reads {entry.facts.d_in} dimensions; {checkpoint.name} has {width} there.",
            hint="Choose SAEs of this model with --release, or their model with --model.",
        )
