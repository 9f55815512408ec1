"""A pass in which only a circuit does its work: at each dictionary what lies outside it takes its baseline.

The dictionary encodes the stream as it is by then, earlier sites' changes included. With C the features that are kept,
c what the others are replaced by, and σ the frame's,

    y' = y + σ·Σ_{j∉C} (c_j − a_j) W_dec[j]                    the error y − x̂ as it is by then: *errors kept*
       = x̂(a_j of j ∈ C, c_j of the others) + c_e              *errors removed*, replaced by c_e

at the positions that count. Each row of a pass has a circuit of its own, and keeps or removes the error. Replacing
features together, in order, is that of Marks et al. 2024; with an empty C and errors kept it is what is left of a model
whose dictionaries say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from circuitcli.core.active import Active
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Edits
from circuitcli.core.sites import Site


@dataclass(frozen=True, eq=False)
class Instead:
    """What stands for features and errors outside a circuit, at one dictionary, in one sequence of p counted positions.

    Attributes:
        features: c of each feature, the same at all positions; None: 0.
        active: c by counted position, of a prompt that has these activations; None: as `features` say.
        error: c_e, the same at all positions or one for each; None: 0.
    """

    features: Float[Tensor, " d_sae"] | None = None
    active: Active | None = None
    error: Float[Tensor, "#p d"] | None = None


ZERO = Instead()


def keeping(
    dictionary: Dictionary,
    counts: Bool[Tensor, " t"],
    keep: Bool[Tensor, "b d_sae"],
    errors: Bool[Tensor, " b"],
    instead: Instead = ZERO,
) -> Edits:
    """The edits that keep a circuit's features of one dictionary, a row each.

    Args:
        dictionary: With its decoder where the pass is.
        counts: The positions that count.
        keep: Which features each row keeps.
        errors: Whether it keeps the error.
        instead: What the others are replaced by.
    """
    place = counts.nonzero().squeeze(1)
    read: dict[Site, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        read[dictionary.reads] = x
        return x

    def change(y: Tensor) -> Tensor:
        x = read.get(dictionary.reads, y)[:, place].float()
        before = y[:, place].float()
        after = y.clone()
        after[:, place] = (before + _change(dictionary, x, before, keep, errors, instead)).to(y.dtype)
        return after

    noted: Edits = {} if dictionary.reads == dictionary.writes else {dictionary.reads: note}
    return {**noted, dictionary.writes: change}


def keeping_values(
    counts: Bool[Tensor, " t"], keep: Bool[Tensor, "b d"], instead: Float[Tensor, "#p #d"], site: Site
) -> Edits:
    """The edit that keeps some values of a site, a row each: neurons, or dimensions of the stream.

    Args:
        counts: The positions that count.
        keep: Which values each row keeps.
        instead: What the others are replaced by, the same at all positions or for each.
        site: Where they are.
    """
    place = counts.nonzero().squeeze(1)

    def change(y: Tensor) -> Tensor:
        after = y.clone()
        after[:, place] = torch.where(keep.unsqueeze(1), y[:, place], instead.to(y.dtype))
        return after

    return {site: change}


def _change(
    dictionary: Dictionary,
    x: Float[Tensor, "b p r"],
    y: Float[Tensor, "b p d"],
    keep: Bool[Tensor, "b d_sae"],
    errors: Bool[Tensor, " b"],
    instead: Instead,
) -> Float[Tensor, "b p d"]:
    """What is added at each counted position."""
    rows, count = x.shape[:2]
    fires = dictionary.active(x.flatten(0, 1))
    out = ~keep[fires.place // count, fires.feature]
    added = _replaced(dictionary, keep, count, instead)
    added = added - _summed(dictionary, fires.place[out], fires.feature[out], fires.value[out], rows * count).view_as(y)
    change = dictionary.frame.step(added, x)
    if not bool(errors.all()):
        gone = ~errors
        of = gone[fires.place // count]
        said = _summed(dictionary, fires.place[of], fires.feature[of], fires.value[of], rows * count).view_as(y)[gone]
        error = y[gone] - dictionary.frame.put_back(said + dictionary.b_dec, x[gone])
        change[gone] += -error if instead.error is None else instead.error - error
    return change


def _replaced(dictionary: Dictionary, keep: Bool[Tensor, "b d_sae"], count: int, instead: Instead) -> Tensor:
    """Σ_{j∉C} c_j W_dec[j] of each row and position."""
    if instead.active is not None:
        c = instead.active
        row, entry = (~keep[:, c.feature]).nonzero(as_tuple=True)
        place = row * count + c.place[entry]
        found = _summed(dictionary, place, c.feature[entry], c.value[entry], len(keep) * count)
        return found.view(len(keep), count, -1)
    if instead.features is not None:
        return ((~keep * instead.features) @ dictionary.w_dec).unsqueeze(1)
    return torch.zeros(1, 1, 1, device=keep.device)


def _summed(
    dictionary: Dictionary,
    place: Int[Tensor, " m"],
    feature: Int[Tensor, " m"],
    value: Float[Tensor, " m"],
    places: int,
) -> Float[Tensor, "n d"]:
    """Σ value · W_dec[feature] at each of so many places; what is given is in their order."""
    per_place = place.bincount(minlength=places)
    return embedding_bag(
        feature, dictionary.w_dec, per_place.cumsum(0) - per_place, mode="sum", per_sample_weights=value
    )
