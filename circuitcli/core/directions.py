"""What the features that a task edits write: rows of decoders, on the device before its first batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Decoder, Dictionary
from circuitcli.core.sites import Site
from circuitcli.core.transfer import sent


class Directions:
    """W_dec[j] of some features j at every site that their dictionary writes.

    A decoder that lies on the host, or in its file, is read once for all batches on another device; on a CPU it is read
    as its rows are asked for.
    """

    def __init__(self, dictionary: Dictionary, feature: Int[Tensor, " n"], device: torch.device) -> None:
        """Of these features, in any order, on the host; nothing is known of others."""
        self._dictionary = dictionary
        which = feature.unique()
        away = [one for one in dictionary.decoders if not _there(one, device)]
        self._which = sent(which, device) if away else which
        self._rows = {one.site: sent(one.rows(which), device) for one in away}

    def edit(
        self,
        x: Float[Tensor, "*n d_in"],
        feature: Int[Tensor, "*n"],
        activation: Float[Tensor, "*n"],
        replacement: Float[Tensor, "*n"],
    ) -> dict[Site, Float[Tensor, "*n d_out"]]:
        """As `Dictionary.edit`."""
        return self._dictionary.steps(x, replacement - activation, lambda one: self._of(one, feature))

    def _of(self, decoder: Decoder, feature: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_out"]:
        if decoder.site not in self._rows:
            return decoder.rows(feature)
        return self._rows[decoder.site][torch.searchsorted(self._which, feature)]


def _there(decoder: Decoder, device: torch.device) -> bool:
    """Whether rows are asked of it where they are needed."""
    w_dec = decoder.w_dec
    return device.type == "cpu" or (isinstance(w_dec, Tensor) and w_dec.device.type == device.type)
