"""What nodes of prompts are replaced by.

zero       0
patch      what they are in the counterfactual
resample   what they are at another position of the run's text, drawn at random for each position: features, errors
and the token alike, so that they go together
mean       their mean over the positions of the run's text that count: of features zeros in, of errors and of what
the first block reads
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.attribution.parts import BOTTOM, Errors, Features, Parts, Replace, Source, Tokens, tokens
from circuitcli.core.dictionary import Dictionary, Reconstructions
from circuitcli.core.seeding import PURPOSE_DONOR
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.questions import Asked

Kind = Literal["zero", "mean", "resample", "patch"]
Activations = Mapping[Site, Float[Tensor, "t _"]]
_HELD = 2**30  # bytes of the text's activations at once


@dataclass
class Baselines:
    """Nodes of prompts with what replaces them.

    Attributes:
        kind: What does.
        inputs: Of the run: its model, dictionaries and text.
        sites: That are read of a prompt.
    """

    kind: Kind
    inputs: Inputs
    sites: Sequence[Site]

    def other(self, asked: Asked, number: int) -> Activations | None:
        """The activations that replace those of a prompt, position by position; None where no prompt's do.

        Raises:
            InputError: The run's text has no other position.
        """
        if self.kind == "patch":
            assert asked.counterfactual_ids is not None
            return self._read(torch.tensor([asked.counterfactual_ids]))
        return self._elsewhere(asked, number) if self.kind == "resample" else None

    def bottom(self, clean: Activations, counts: Tensor, other: Activations | None) -> Tokens:
        """The tokens of a prompt."""
        if other is not None:
            return tokens(clean[BOTTOM], counts, other[BOTTOM])
        mean = self.mean_bottom.expand_as(clean[BOTTOM]) if self.kind == "mean" else None
        return tokens(clean[BOTTOM], counts, mean)

    def parts(
        self, dictionaries: Iterable[Dictionary], clean: Activations, counts: Tensor, other: Activations | None
    ) -> list[Source]:
        """The nodes of dictionaries in a prompt, features before errors site by site; each is asked for once."""
        parts, mean = Parts(clean, counts, other), other is None and self.kind == "mean"
        features: list[Features] = []
        for one in dictionaries:
            features.append(parts.features(one, self._means_of(one.reads, counts)) if mean else parts.features(one))
        errors: list[Errors] = []
        for site in parts.written:
            instead = self.means[site].expand_as(clean[site]) if mean else None
            errors.append(parts.errors(site, instead))
        return sorted([*features, *errors], key=lambda source: (source.site.order, isinstance(source, Errors)))

    def _means_of(self, reads: Site, counts: Tensor) -> Replace:
        """What features of a dictionary are replaced by."""
        table = torch.as_tensor(self.inputs.statistics[reads]["mean_activation"], device=counts.device)
        return lambda pos, feature, value: table[feature]

    def _read(self, ids: Int[Tensor, "1 t"]) -> Activations:
        model = self.inputs.passes.model
        run = model.run(ids.to(model.device), self.sites)
        return {site: x[0] for site, x in run.sites.items()}

    def _elsewhere(self, asked: Asked, number: int) -> Activations:
        """At each position the activations of one of the run's text, which isn't the same one of the same prompt."""
        sample, own = self.inputs.passes.sample, np.asarray(asked.ids)
        seq, pos = np.nonzero(sample.counted)
        width = sample.tokens.shape[1]
        same = np.zeros(len(sample.tokens), np.bool_)
        if len(own) <= width:
            same = (sample.tokens[:, : len(own)] == own).all(1) & (sample.lengths == len(own))
        drawn: dict[int, tuple[int, int]] = {}
        for place in np.flatnonzero(asked.counts).tolist():
            allowed = np.flatnonzero(~(same[seq] & (pos == place)))
            if not len(allowed):
                raise InputError(
                    "The run's text has no other position from which an activation could come.",
                    hint="Give more text, or another --baseline.",
                )
            key = [self.inputs.settings.seed, PURPOSE_DONOR, number, place]
            at = allowed[np.random.default_rng(key).integers(len(allowed))]
            drawn[place] = int(seq[at]), int(pos[at])
        found: dict[Site, Tensor] = {}
        for s in sorted({s for s, _ in drawn.values()}):
            there = self._read(torch.as_tensor(sample.tokens[s : s + 1, : sample.lengths[s]]).long())
            for site, x in there.items():
                into = found.setdefault(site, torch.zeros(len(own), x.shape[1], dtype=x.dtype, device=x.device))
                for place, (of, position) in drawn.items():
                    if of == s:
                        into[place] = x[position]
        return found

    @property
    def means(self) -> dict[Site, Float[Tensor, " d"]]:
        """Over the text: of the error at each site that dictionaries write."""
        return self._averaged[0]

    @property
    def mean_bottom(self) -> Float[Tensor, " d"]:
        """Over the text: of what the first block reads."""
        return self._averaged[1]

    @cached_property
    def _averaged(self) -> tuple[dict[Site, Float[Tensor, " d"]], Float[Tensor, " d"]]:
        passes = self.inputs.passes
        count = int(passes.sample.counted.sum())
        bottom = torch.zeros(passes.model.shape.d_model, device=passes.model.device)
        found: dict[Site, Tensor] = {}
        with self.inputs.report.track("Averaging errors", len(passes.blocks), "blocks") as done:
            for blocks in self._chunks():
                read = [(passes.blocks[number], *self._block(passes.blocks[number])) for number in blocks]
                said = [Reconstructions() for _ in read]
                for entry in passes.entries:
                    dictionary = passes.saes([entry.at])[entry.at]
                    for of, (sequences, sites, place) in zip(said, read, strict=True):
                        x = sites[dictionary.reads][place]
                        of.add(dictionary, self._firing(entry.at, sequences, place), x)
                for of, (_, sites, place) in zip(said, read, strict=True):
                    for site in of.sites:
                        y = sites[site][place]
                        error = (y - of.of(site, y)).sum(0)
                        found[site] = found[site] + error if site in found else error
                for _, sites, place in read:  # one by one, however many are held together
                    bottom += sites[BOTTOM][place].sum(0)
                done(len(blocks))
        return {site: total / count for site, total in found.items()}, bottom / count

    @cached_property
    def mean_values(self) -> dict[Site, Float[Tensor, " d"]]:
        """The mean over the text of what is at each site."""
        passes, found = self.inputs.passes, dict[Site, Tensor]()
        with self.inputs.report.track("Averaging activations", len(passes.blocks), "blocks") as done:
            for block in passes.blocks:
                sites, place = self._block(block)
                for site, x in sites.items():
                    total = x[place].sum(0)
                    found[site] = found[site] + total if site in found else total
                done(1)
        return {site: total / int(passes.sample.counted.sum()) for site, total in found.items()}

    def _block(self, sequences: Int[np.ndarray, " b"]) -> tuple[dict[Site, Tensor], Int[Tensor, " p"]]:
        """Activations of some sequences, one after the other, and which rows of them count."""
        passes = self.inputs.passes
        width = int(passes.sample.lengths[sequences].max())
        text = torch.as_tensor(passes.sample.tokens[sequences, :width]).long().to(passes.model.device)
        run = passes.model.run(text, self.sites)
        place = np.flatnonzero(passes.sample.counted[sequences, :width])
        return {site: x.flatten(0, 1).float() for site, x in run.sites.items()}, torch.as_tensor(place).to(text.device)

    def _firing(self, site: Site, sequences: Int[np.ndarray, " b"], place: Int[Tensor, " p"]) -> Active:
        """What fires there, by place: which of the rows that count."""
        passes = self.inputs.passes
        firings, width = passes.firings(site), int(passes.sample.lengths[sequences].max())
        here = firings.where(np.flatnonzero(np.isin(firings.seq, sequences)))
        row = torch.as_tensor(np.searchsorted(sequences, here.seq) * width + here.pos).to(place.device)
        feature, value = (torch.as_tensor(np.asarray(column)).to(place.device) for column in (here.feature, here.value))
        return Active(torch.searchsorted(place, row.long()), feature.long(), value, passes.widths[site])

    def _chunks(self) -> Iterator[list[int]]:
        """Blocks of the text whose activations are held together."""
        passes = self.inputs.passes
        wide = 4 * sum(passes.model.shape.width(site.name) for site in self.sites)
        some: list[int] = []
        for number in range(len(passes.blocks)):
            some.append(number)
            held = sum(len(passes.blocks[n]) * int(passes.sample.lengths[passes.blocks[n]].max()) for n in some)
            if held * wide > passes.runtime.room(_HELD) or number == len(passes.blocks) - 1:
                yield some
                some = []
