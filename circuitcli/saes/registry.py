"""Releases that SAELens has in its registry, if it is installed: read by SAELens, and kept as SAELens folders.

A release that has several SAEs for one site takes a pattern of their names behind it, as in
`gemma-scope-2b-pt-res-canonical/*/width_16k/*`.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from circuitcli.core.sites import Site, parse_hook
from circuitcli.errors import InputError
from circuitcli.runtime.caches import user_cache
from circuitcli.saes import Offer, SaeEntry
from circuitcli.saes._place import CONFIG, WEIGHTS, Located

_SAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Registry:
    """A name of SAELens's registry."""

    def knows(self, release: str) -> bool:
        """Whether SAELens is there and has it."""
        return release.partition("/")[0] in _registry()

    def offers(self) -> list[Offer]:
        """None are listed here: there are hundreds, in SAELens's own table."""
        return []

    def sites(self, release: str, revision: str) -> list[Site]:
        """The sites of those SAEs whose names match; those that read elsewhere are left out."""
        return list(_matching(release))

    def default_sites(self, release: str) -> None:
        """All that it has."""
        return

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """In a cache of this package's own, once SAELens has fetched and read them."""
        if revision != "main":
            raise InputError("SAELens's registry has no revisions.", hint="Leave --revision out.")
        names = _matching(release)
        folders = {site: _kept(release.partition("/")[0], names[site]) for site in sites}
        return [Located(site, folder / WEIGHTS, folder / CONFIG) for site, folder in folders.items()]

    def again(self, entry: SaeEntry) -> Located:
        """Where it was kept."""
        return Located(entry.at, Path(entry.source), Path(str(entry.config)))


@cache
def _registry() -> dict[str, Any]:
    """SAELens's releases by name; none if it isn't installed."""
    if importlib.util.find_spec("sae_lens") is None:
        return {}
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    found: dict[str, Any] = get_pretrained_saes_directory()
    return found


@cache
def _matching(release: str) -> dict[Site, str]:
    """The names of a release's SAEs that match its pattern, by site."""
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    name, _, pattern = release.partition("/")
    found: dict[Site, list[str]] = {}
    for sae in _registry()[name].saes_map:
        if pattern and not fnmatchcase(sae, pattern):
            continue
        config = _asked(lambda sae=sae: load_sae_config_from_huggingface(name, sae), f"{name}/{sae}")
        site = parse_hook(str(config["metadata"].get("hook_name")))
        if site is not None:
            found.setdefault(site, []).append(sae)
    if not found:
        raise InputError(
            f"No SAE of {name} matches {pattern or '*'}.", hint=f"It has {_some(_registry()[name].saes_map)}."
        )
    several = next((names for names in found.values() if len(names) > 1), None)
    if several:
        raise InputError(
            f"{release} has several SAEs for one site: {_some(several)}.",
            hint=f"Add a pattern of their names, as in --release '{name}/{several[0]}'.",
        )
    return {site: names[0] for site, names in found.items()}


def _kept(release: str, sae: str) -> Path:
    """The folder in which an SAE of the registry is kept, made by SAELens if it isn't there yet."""
    cache = user_cache("saelens")
    if cache is None:
        raise InputError("There is no home folder to keep the SAEs in.", hint="Set HOME or XDG_CACHE_HOME to one.")
    folder = cache / _SAFE.sub("_", release) / _SAFE.sub("_", sae)
    if not (folder / CONFIG).is_file():
        from sae_lens import SAE

        made = _asked(lambda: SAE.from_pretrained(release, sae), f"{release}/{sae}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            made.save_model(Path(aside) / "sae")
            try:
                (Path(aside) / "sae").rename(folder)
            except OSError:
                if not (folder / CONFIG).is_file():  # if it is, another process was first, and its folder is as good
                    raise
    return folder


def _asked(work: Any, what: str) -> Any:
    """What SAELens returns; where the hub is to blame, in this tool's words."""
    try:
        return work()
    except (OSError, ValueError) as error:
        from circuitcli.runtime.hub import explain

        known = explain(error, f"the SAE {what}")
        if known is None:
            raise
        raise known from None


def _some(names: Sequence[str] | dict[str, str], shown: int = 6) -> str:
    """The first names."""
    listed = list(names)
    return ", ".join(listed[:shown]) + (", …" if len(listed) > shown else "")


plugin = Registry()
