"""How Neuronpedia numbers features: by model, source and index."""

from __future__ import annotations

import re
from typing import NamedTuple

from circuitcli.core.neuronpedia import HOME, model_id

_NAME = re.compile(r"(?!\.)[\w.-]{1,100}", re.ASCII)  # goes into addresses and file names
_PAGE = re.compile(rf"{re.escape(HOME)}/([^/]+)/([^/]+)/([0-9]{{1,9}})")


class Address(NamedTuple):
    """One feature there."""

    model: str
    source: str
    feature: int


def address(model: str, source: str | None, feature: int) -> Address | None:
    """Where a feature is on Neuronpedia; None if it isn't there.

    Args:
        model: The model's name or repository.
        source: As an SAE's release or configuration says it: `4-res-jb`, or with its model `gpt2-small/4-res-jb`.
        feature: Its index.
    """
    stated, _, name = (source or "").rpartition("/")
    stated = stated or model_id(model)
    return Address(stated, name, feature) if _NAME.fullmatch(stated) and _NAME.fullmatch(name) else None


def address_of_page(url: str | None) -> Address | None:
    """The feature of a page that people look at, `https://www.neuronpedia.org/gpt2-small/4-res-jb/112`."""
    found = _PAGE.fullmatch(url or "")
    return address("", f"{found[1]}/{found[2]}", int(found[3])) if found else None
