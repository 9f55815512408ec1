"""The files of an SAE, and what can be said of them without a look at the weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import ordinary
from circuitcli.saes import _saelens
from circuitcli.saes._spec import Spec


@dataclass(frozen=True)
class Stated:
    """What a release says of an SAE, beside what its own files say; None: it says nothing.

    Attributes:
        site: Where it reads. Files that name another site are refused.
        center_writing_weights: Whether it was trained on a stream whose mean over d_model was removed.
        fold_value_biases: Whether it was trained on the z of TransformerLens's processed model.
        prepend_bos: Whether it was trained on sequences that start with BOS.
        scaling_factor: By how much activations were multiplied before it saw them (expected_average_only_in).
        writes: Where it writes, of a transcoder whose files don't say.
        normalized: Whether it reads what the MLP's norm makes before its gain and bias.

    What is stated goes before what the files say.
    """

    site: Site | None = None
    center_writing_weights: bool | None = None
    fold_value_biases: bool | None = None
    prepend_bos: bool | None = None
    scaling_factor: float | None = None
    writes: Site | None = None
    normalized: bool | None = None


@dataclass(frozen=True)
class Files:
    """The files of one dictionary on disk.

    Attributes:
        weights: A `.safetensors` or `.pt` file.
        config: Its configuration; None where the weights' file holds it (the first format of res-jb), or nothing does.
        stated: What its release says of it.
        more: Files of further weights, which others of its release may share.
        layout: The plug-in of `saes.layouts` that reads them.
    """

    weights: Path
    config: Path | None
    stated: Stated = Stated()
    more: tuple[Path, ...] = ()
    layout: str = "saelens"


def site_of(config: Path) -> Site:
    """The site that a configuration's file names, without a look at the weights.

    Raises:
        InputError: It can't be read, names none, or isn't of an SAE that is supported.
    """
    return stated_site(spec_of(config), Stated(), str(config))


def spec_of(config: Path) -> Spec:
    """What a configuration's file says.

    Raises:
        InputError: It can't be read, or isn't of an SAE that is supported.
    """
    return _saelens.spec(_saelens.read_config(config), str(config))


def digest(files: Files) -> str:
    """sha256 over the sha256 of the configuration and of all weights, and over what is stated, where anything is.

    Raises:
        OSError, InputError: A file can't be read.
    """
    whole = hashlib.sha256()
    for path in (files.config, files.weights):
        if path is not None:
            whole.update(_sha256(path))
    for path in files.more:
        status = ordinary(path).stat()
        whole.update(_shared(path, status.st_ino, status.st_size, status.st_mtime_ns))
    stated = {key: value for key, value in asdict(files.stated).items() if value is not None}
    if stated:
        whole.update(json.dumps(stated, sort_keys=True).encode())
    return whole.hexdigest()


def _sha256(path: Path) -> bytes:
    with ordinary(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=1024)
def _shared(path: Path, inode: int, size: int, changed: int) -> bytes:
    """Of a file that several dictionaries share, hashed once: they may be gigabytes."""
    return _sha256(path)


def stated_site(spec: Spec, stated: Stated, where: str) -> Site:
    """The site that the release states, or the configuration: the same where both do."""
    if stated.site is not None and spec.site is not None and stated.site != spec.site:
        raise InputError(
            f"{where} reads {spec.site}, where its release has it at {stated.site}.",
            hint="One of the two is wrong: give the SAE's folder as the release, and compare with `circuit doctor`.",
        )
    site = stated.site or spec.site
    if site is None:
        raise InputError(
            f"{where} names no hook, so that its site is unknown.", hint="Its configuration needs hook_name."
        )
    return site
