"""How far the replacement model of a prompt is from the real one, once it has to do without its errors.

Attention patterns and norms' scales are those of the clean pass. At every position that counts each dictionary reads
the stream as it is by then, and where dictionaries write stands what they say there, features, b_dec and skip; at the
others, the first among them, the MLP itself. With its errors the model would give the real logits, so all that is
told here is the errors' doing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attributed import Fidelity
from circuitcli.core.dictionary import Dictionary, Reconstructions
from circuitcli.core.edits import Change, Edits
from circuitcli.core.model import FROZEN, Model
from circuitcli.core.sites import Site

_VALUES = 2**24  # logits that are held at once


def fidelity(
    model: Model,
    tokens: Int[Tensor, " t"],
    counts: Bool[Tensor, " t"],
    reads: Sequence[Site],
    written: Sequence[Site],
    dictionary: Callable[[Site], Dictionary],
) -> Fidelity:
    """Run a prompt both ways.

    Args:
        model: The model.
        tokens: The prompt.
        counts: The positions that count.
        reads: The sites that dictionaries read.
        written: Those that they write.
        dictionary: Loads that which reads a site; each is asked for once, in the model's order.
    """
    row = tokens.unsqueeze(0)
    real = model.run(row, [], final=True).final
    with model.fixed(row, FROZEN):
        edits = without_errors(counts.nonzero().squeeze(1), reads, written, dictionary)
        replaced = model.run(row, [], final=True, edits=edits).final
    assert real is not None
    assert replaced is not None
    there = counts.clone()
    there[-1] = True
    found = []
    for some in there.nonzero().squeeze(1).split(max(1, _VALUES // model.shape.d_vocab)):
        theirs = model.logits(real[0, some]).log_softmax(-1)
        with model.fixed(row, FROZEN):
            ours = model.logits(replaced[0, some], some).log_softmax(-1)
        found.append(_beside(theirs, ours, tokens.roll(-1)[some]))
    kl, same, losses, others = (torch.cat(column).double().cpu() for column in zip(*found, strict=True))
    told = len(tokens) > 1 and len(kl) > 1
    return Fidelity(
        kl_last=max(0.0, float(kl[-1])),
        kl=max(0.0, float(kl.mean())),
        top1=float(same.mean()),
        real=float(losses[:-1].mean()) if told else None,
        replacement=float(others[:-1].mean()) if told else None,
    )


def without_errors(
    place: Int[Tensor, " p"], reads: Sequence[Site], written: Sequence[Site], dictionary: Callable[[Site], Dictionary]
) -> Edits:
    """What dictionaries say of what they read by then, at some places, in the place of what is where they write."""
    said = Reconstructions()

    def reading(site: Site) -> Change:
        def read(x: Tensor) -> Tensor:
            one, here = dictionary(site), x[0, place].float()
            said.add(one, one.active(here), here)
            return x

        return read

    def writing(site: Site) -> Change:
        def write(y: Tensor) -> Tensor:
            instead = y.clone()
            instead[0, place] = said.of(site, y[0, place].float()).to(y.dtype)
            return instead

        return write

    return {site: reading(site) for site in reads} | {site: writing(site) for site in written}


def _beside(real: Float[Tensor, "p v"], ours: Float[Tensor, "p v"], follows: Int[Tensor, " p"]) -> tuple[Tensor, ...]:
    """KL, whether the likeliest token is the same, and −log p of what follows by each."""
    kl = (real.exp() * (real - ours)).sum(-1)
    loss, other = (-each.gather(1, follows.unsqueeze(1)).squeeze(1) for each in (real, ours))
    return kl, real.argmax(-1) == ours.argmax(-1), loss, other
