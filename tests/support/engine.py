"""The engine as tests use it: what fires is encoded here, and each row's effects on tokens are kept apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcli.core.ablation import Clean, Rows, ablate, read_clean
from circuitcli.core.active import Active, Changes
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site

Text = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Result:
    """A batch of ablations; all but the rows is by reading, effects on tokens by row."""

    row: Tensor
    pos: Tensor
    changes: dict[Site, Changes]
    kl: Tensor | None
    logprob_effect: Tensor | None
    prob_effect: Tensor | None


def rows(
    feature: Tensor | Sequence[int], seq: Tensor | Sequence[int], pos: Tensor | Sequence[int], c: float | Tensor = 0.0
) -> Rows:
    """Rows with a slot each."""
    columns = [torch.as_tensor(column).long() for column in (feature, seq, pos)]
    replacement = c if isinstance(c, Tensor) else torch.full((len(columns[0]),), c)
    return Rows(*columns, replacement, torch.arange(len(columns[0])))


def encoded(
    model: Model, saes: Mapping[Site, Dictionary], text: Text, special: Tensor | None = None
) -> dict[Site, Active]:
    """What every SAE makes of every position but the first and special tokens."""
    tokens, lengths = text
    width = int(lengths.max())
    read = model.run(tokens[:, :width], list(saes)).sites
    counted = (torch.arange(width) >= 1) & (torch.arange(width) < lengths.unsqueeze(1))
    counted &= True if special is None else ~special
    place = counted.flatten().nonzero().squeeze(1)
    found = {}
    for site, sae in saes.items():
        active = sae.active(read[site].flatten(0, 1)[place])
        found[site] = Active(place[active.place], active.feature, active.value, active.d_sae)
    return found


def clean_of(
    model: Model, saes: Mapping[Site, Dictionary], text: Text, *, logits: bool = True, special: Tensor | None = None
) -> Clean:
    """The clean passes of some sequences."""
    tokens, lengths = text
    acts = encoded(model, saes, text, special)
    edited = {site for one in saes.values() for site in (one.reads, one.writes)}
    return read_clean(
        model, sorted(edited, key=lambda s: s.order), tokens, lengths, acts, logits=logits, special=special
    )


def ablated(
    model: Model,
    saes: Mapping[Site, Dictionary],
    site: Site,
    which: Rows,
    text: Text | Clean,
    downstream: Sequence[Site],
    *,
    horizon: int | None = 0,
) -> Result:
    """One batch of ablations."""
    clean = text if isinstance(text, Clean) else clean_of(model, saes, text)
    sums = TokenSums(len(which), model.shape.d_vocab, model.device) if clean.logits else None
    own = Rows(which.feature, which.seq, which.pos, which.replacement, torch.arange(len(which)))
    found = ablate(model, saes, site, own, clean, downstream, horizon=horizon, sums=sums)
    effects = (None, None) if sums is None else (sums.logprob.float(), sums.prob.float())
    return Result(found.row, found.pos, found.changes, found.kl, *effects)
