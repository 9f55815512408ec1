"""What a run records of a dictionary."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from circuitcli.core.sites import Site
from circuitcli.saes._facts import Facts
from circuitcli.saes._files import Stated


@dataclass(frozen=True)
class SaeEntry:
    """What saes.json says of one dictionary: what it is, and where it is from.

    Attributes:
        facts: What it is.
        provider: The plug-in that it comes from.
        source, config: The files of its weights and of its configuration: a path, or hf://owner/repo/path.
            Of a file at another commit than `revision` with ?revision=….
        revision: The hub's commit; None for a local folder.
        stated: What its release says of it that its files don't; see `Stated`.
        layout: The plug-in of `saes.layouts` that reads its files.
        more: Files of further weights, like `source`.
    """

    facts: Facts
    provider: str
    source: str
    config: str | None
    revision: str | None
    stated: dict[str, Any]
    layout: str = "saelens"
    more: tuple[str, ...] = ()

    @property
    def told(self) -> Stated:
        """What its release says of it; of a SAELens folder on disk the files alone say where it reads."""
        site = None if self.layout == "saelens" and self.revision is None else self.at
        writes = self.stated.get("writes")
        return Stated(site=site, **{**self.stated, "writes": writes and Site(*writes)})

    @property
    def at(self) -> Site:
        """Where it reads."""
        return self.facts.site

    @property
    def written(self) -> tuple[Site, ...]:
        """Where it writes, in the model's order."""
        return self.facts.writes

    def document(self) -> dict[str, Any]:
        """As saes.json has it: facts and origin side by side."""
        tree = asdict(self)
        about = tree.pop("facts")
        layer, site = about.pop("site")
        return {"layer": layer, "site": site, **tree, **about}


def nested(tree: dict[str, Any]) -> dict[str, Any]:
    """What `document` made, with facts in a place of their own; nothing is checked."""
    origin = {field.name for field in fields(SaeEntry)} - {"facts"}
    about = {key: value for key, value in tree.items() if key not in (*origin, "layer", "site")}
    about["site"] = (tree.get("layer"), tree.get("site"))
    return {"facts": about, **{key: value for key, value in tree.items() if key in origin}}
