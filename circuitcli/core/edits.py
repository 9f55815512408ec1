"""Edits of a pass: at any number of sites, each a function of the activation as it is by then.

A site's function is given what reaches the site, earlier edits included, and what it returns goes on in its place; so
the order is that of the model, whatever the order in the mapping. Gradients pass through all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.sites import Site

Change = Callable[[Float[Tensor, "b t d"]], Float[Tensor, "b t d"]]  # z has its heads flattened
Edits = Mapping[Site, Change]


def adding(site: Site, delta: Float[Tensor, "b t d"]) -> Edits:
    """Adds δ at one site: x → x + δ, in the precision of x."""
    return {site: lambda x: x + delta.to(x.dtype)}


def adding_all(deltas: Mapping[Site, Float[Tensor, "b t _"]]) -> Edits:
    """Adds to several sites."""
    return in_turn(*(adding(site, delta) for site, delta in deltas.items()))


def in_turn(*several: Edits) -> Edits:
    """All of these; where more than one edits a site, one after the other."""
    found: dict[Site, Change] = {}
    for edits in several:
        for site, change in edits.items():
            found[site] = _after(found[site], change) if site in found else change
    return found


def watching(sites: Sequence[Site], seen: MutableMapping[Site, Tensor]) -> Edits:
    """Edits that change nothing, and note what the rest of the pass goes on from, for gradients with respect to it.

    ∂m/∂x of any m that a pass leads to is then `torch.autograd.grad(m, seen[site])`, total: through every later site,
    watched or not. Where nothing before a site has a gradient the graph begins there.
    """

    def watch(site: Site) -> Change:
        def note(x: Tensor) -> Tensor:
            # A view, where x has a gradient already: what is behind the site depends on it, what is before doesn't.
            seen[site] = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            return seen[site]

        return note

    return {site: watch(site) for site in sites}


def noting(sites: Sequence[Site], seen: MutableMapping[Site, Tensor]) -> Edits:
    """Edits that change nothing, and note what is at each site by then; gradients pass through it."""

    def note(site: Site) -> Change:
        def noted(x: Tensor) -> Tensor:
            seen[site] = x
            return x

        return noted

    return {site: note(site) for site in sites}


def _after(first: Change, second: Change) -> Change:
    return lambda x: second(first(x))
