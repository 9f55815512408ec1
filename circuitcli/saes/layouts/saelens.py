"""SAELens's folders; and the older files that its configuration grew from, which releases list by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitcli.errors import InputError
from circuitcli.saes import _saelens
from circuitcli.saes._files import Files, site_of
from circuitcli.saes._place import CONFIG, WEIGHTS, Located, Place
from circuitcli.saes.layouts import Held

_OTHER = "sae.safetensors"  # another layout's, whose configuration has the same name


class SaeLens:
    """A folder an SAE or transcoder; or a `.pt` file, whose configuration lies beside it or inside."""

    files = f"folders with {CONFIG} and {WEIGHTS} (SAELens)"

    def find(self, place: Place) -> list[Located]:
        folders = place.folders(CONFIG, WEIGHTS)
        for folder in place.folders(CONFIG):
            config = place.files[f"{folder}{CONFIG}"]
            if isinstance(config, Path) and not {f"{folder}{name}" for name in (WEIGHTS, _OTHER)} & place.files.keys():
                raise InputError(f"{config.parent / WEIGHTS} isn't there.", hint="Get the SAE again.")
        sites = [site_of(config) for config in place.here([f"{folder}{CONFIG}" for folder in folders])]
        return [
            Located(site, place.files[f"{folder}{WEIGHTS}"], place.files[f"{folder}{CONFIG}"])
            for folder, site in zip(folders, sites, strict=True)
        ]

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _pickled, _weights

        config: Mapping[str, Any] | None = None if files.config is None else _saelens.read_config(files.config)
        where = str(files.config or files.weights)
        if files.weights.suffix == ".pt":
            inside, weights = _pickled.read(files.weights)
            stored = {}
        else:
            inside, weights = None, _weights.read(files.weights)
            stored = {files.weights: tuple(weights)}
        config = inside if config is None else config
        if config is None:
            raise InputError(f"{files.weights} has no configuration.", hint="It needs a cfg.json beside it.")
        spec = _saelens.spec(config, where, transcodes=files.stated.writes is not None)
        return Held(spec, weights, str(files.weights), stored)


plugin = SaeLens()
