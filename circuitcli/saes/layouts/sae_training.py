"""The pickles of the first transcoders (Dunefsky et al. 2024) and of res-jb's first format: a file a dictionary.

`final_sparse_autoencoder_MODEL_HOOK_WIDTH.pt` holds {cfg, state_dict}. They are read as SAELens's, whose configuration
grew from theirs; see `_pickled` and `_saelens`.
"""

from __future__ import annotations

import re

from circuitcli.saes import _hooks
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes.layouts import Held, saelens

_FILE = re.compile(r"(?:.*/)?final_sparse_autoencoder_[^/]*?_(blocks\.\d{1,9}\.[a-z0-9_.]*[a-z])_\d{1,9}\.pt")


class SaeTraining:
    """Which site a file reads is in its name: nothing is fetched to see it."""

    files = "final_sparse_autoencoder_….pt (the first transcoders)"

    def find(self, place: Place) -> list[Located]:
        names = {path: _FILE.fullmatch(path) for path in place.files}
        sites = {path: _hooks.read(name[1]) for path, name in names.items() if name}
        return [Located(site, place.files[path], None, Stated(site=site), layout="sae-training")
                for path, site in sites.items() if site]  # fmt: skip

    def read(self, files: Files) -> Held:
        return saelens.plugin.read(files)


plugin = SaeTraining()
