"""Reading and editing sites by TransformerLens's hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from circuitcli.core.edits import Change, Edits
from circuitcli.core.model import Activations
from circuitcli.core.sites import Site

Hook = tuple[str, Callable[..., Tensor | None]]


def hooks(edits: Edits, read: Collection[Site], into: Activations) -> list[Hook]:
    """Hooks that edit some sites and read some.

    They are in the order of the sites, since two may share a hook: of an edited site is read what the edit makes of it,
    and of attn_out what it was before resid_mid is edited.
    """
    found: list[Hook] = []
    for site in sorted({*edits, *read}, key=lambda s: s.order):
        if site in edits:
            found += _stream_edit(site, edits[site]) if site.name == "resid_mid" else [_edit(site, edits[site])]
        if site in read:
            found.append(_reader(site, into))
    return found


def _reader(site: Site, into: Activations) -> Hook:
    def note(value: Tensor, hook: Any) -> None:
        into[site] = value.flatten(2)

    return site.hook, note


def _edit(site: Site, change: Change) -> Hook:
    def edit(value: Tensor, hook: Any) -> Tensor:
        return change(value.flatten(2)).to(value.dtype).reshape(value.shape)

    return site.hook, edit


def _stream_edit(site: Site, change: Change) -> list[Hook]:
    """An edit of resid_mid, made on attn_out, so that the skip path sees it as well as the MLP's norm."""
    before: list[Tensor] = []

    def note(value: Tensor, hook: Any) -> None:
        before[:] = [value]

    def edit(attn_out: Tensor, hook: Any) -> Tensor:
        mid = before.pop() + attn_out
        return attn_out + (change(mid).to(mid.dtype) - mid)

    return [(Site(site.layer, "resid_pre").hook, note), (Site(site.layer, "attn_out").hook, edit)]
