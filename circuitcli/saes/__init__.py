"""Plug point: where SAEs come from. One file a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from circuitcli import plugins
from circuitcli.core.sites import Site
from circuitcli.errors import InputError, nearest
from circuitcli.runtime.names import check
from circuitcli.saes._entry import SaeEntry, nested
from circuitcli.saes._files import Files, digest
from circuitcli.saes._place import CONFIG, SCHEME, Located

if TYPE_CHECKING:
    from circuitcli.core.dictionary import Dictionary
    from circuitcli.core.model import Model
    from circuitcli.runtime.hub import Hub

__all__ = [
    "SCHEME",
    "Offer",
    "SaeEntry",
    "SaeSource",
    "entry",
    "fitted",
    "load",
    "nested",
    "offers",
    "provider_of",
    "still_there",
]


@dataclass(frozen=True)
class Offer:
    """What can be said of a release before anything of it is fetched.

    Attributes:
        name: Of the release.
        sites: The names of its sites.
        widths: d_sae of its dictionaries, each once; none where only their files say it.
        layers: Of its SAEs.
        bytes_each: Of the weights of one, nearly; of the largest where they differ; None where only their files say it.
        neuronpedia: Its sources there, {layer} standing for the layer; None if it isn't there.
    """

    name: str
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    bytes_each: int | None
    neuronpedia: str | None


@runtime_checkable
class SaeSource(Protocol):
    """A place that has releases of SAEs."""

    def knows(self, release: str) -> bool:
        """Whether the release is this source's."""
        ...

    def offers(self) -> list[Offer]:
        """Its releases, as far as they can be listed."""
        ...

    def sites(self, release: str, revision: str) -> list[Site]:
        """Every site that the release has an SAE for.

        Raises:
            InputError: It has none, or two for one site.
            HubError: The hub couldn't be asked.
        """
        ...

    def default_sites(self, release: str) -> tuple[str, ...] | None:
        """The names of sites that `sites = "auto"` takes; None: all that it has."""
        ...

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """Where the files of the SAEs at these sites are, in that order.

        Raises:
            HubError: The hub couldn't be asked, or lacks one.
        """
        ...

    def again(self, entry: SaeEntry) -> Located:
        """Where the files of a recorded SAE are.

        Raises:
            HubError: They aren't in the cache any more, and the hub couldn't be asked.
        """
        ...


def offers() -> list[Offer]:
    """Every release that can be listed."""
    return [offer for source in _sources().values() for offer in source.offers()]


def _sources() -> dict[str, SaeSource]:
    return {name: plugins.load("saes", name) for name in plugins.names("saes")}


def provider_of(release: str) -> str:
    """The name of the plug-in that knows a release.

    Raises:
        UsageError: It is no name.
        InputError: None does.
    """
    check(
        release,
        "release",
        holds=[CONFIG, f"*/{CONFIG}"],
        hint="Releases are named like gpt2-small-res-jb, by their folder, or by hf://owner/repo/path.",
    )
    for name, source in _sources().items():
        if source.knows(release):
            return name
    known = [offer.name for offer in offers()]
    raise InputError(
        f"Unknown release of SAEs `{release}`.",
        hint=f"{nearest(release, known, what='releases')} A local folder of SAELens folders (cfg.json beside "
        "sae_weights.safetensors), or hf://owner/repo/path, will do as well.",
    )


def entry(provider: str, located: Located, files: Files, *, norms_subtract_mean: bool = True) -> SaeEntry:
    """What there is to record of an SAE, its files read and checked.

    Args:
        provider: The plug-in that it comes from.
        located: Where it is.
        files: Its files, here.
        norms_subtract_mean: Whether the norms of the model that it is used on subtract the mean over d_model.

    Raises:
        InputError: They are corrupt, or of a kind that isn't supported.
    """
    from circuitcli.saes._read import facts

    found = facts(files, norms_subtract_mean=norms_subtract_mean)
    stated = {key: value for key, value in asdict(located.stated).items() if value is not None and key != "site"}
    return SaeEntry(
        facts=replace(found, neuronpedia=located.neuronpedia or found.neuronpedia),
        provider=provider,
        source=located.source,
        config=located.config_source,
        revision=located.revision,
        stated=stated,
        layout=located.layout,
        more=located.more_sources,
    )


def still_there(recorded: SaeEntry) -> bool:
    """Whether the files of an entry are those that were recorded; of a hub's, which are at a commit, it is assumed."""
    source: SaeSource = plugins.load("saes", recorded.provider)
    try:
        return recorded.revision is not None or digest(source.again(recorded).files({})) == recorded.facts.sha256
    except (InputError, OSError):
        return False


def load(recorded: SaeEntry, hub: Hub) -> Dictionary:
    """The SAE of an entry, in float32 on the CPU, if its files are still those that were recorded.

    Raises:
        InputError: They aren't.
    """
    from circuitcli.saes._read import sae

    source: SaeSource = plugins.load("saes", recorded.provider)
    located = source.again(recorded)
    try:
        files = located.files(dict(zip(located.remote, hub.fetch(located.remote), strict=True)))
        unchanged = digest(files) == recorded.facts.sha256
    except (OSError, InputError):
        unchanged = False
    if not unchanged:
        raise InputError(
            f"The SAE at {recorded.at} isn't the one that was recorded: {recorded.source} changed.",
            hint="Run `circuit fetch-saes --force` on this run.",
        )
    return sae(files)


def fitted(loaded: Dictionary, recorded: SaeEntry, model: Model) -> Dictionary:
    """A dictionary that was loaded, told how this model differs from the one that it was trained on.

    Raises:
        InputError: It reads what a norm makes before its gain, and the model's norm has none that can be divided by.
    """
    from circuitcli.saes._fitted import with_norm

    facts = recorded.facts
    frame = replace(loaded.frame, centre=facts.centre)
    if facts.fold_value_biases:
        frame = replace(frame, offset=model.z_offset(recorded.at.layer))
    made = replace(loaded, frame=frame, centre_out=facts.centre_out)
    return with_norm(made, model.norm_weights(recorded.at.layer)) if facts.normalized else made
