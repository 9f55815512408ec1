"""What judges circuits: examples, opened one by one, and m of any circuit on them.

A circuit is a set of components of one kind: features of the run's dictionaries, with their errors kept or not;
or neurons, or dimensions of the sites that the dictionaries write, by which features are held to account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary, Reconstructions
from circuitcli.core.edits import Edits
from circuitcli.core.evidence import examples
from circuitcli.core.evidence.examples import Example
from circuitcli.core.evidence.keeping import ZERO, Instead, Keeping, keeping, keeping_values
from circuitcli.core.evidence.readings import Next, Reading
from circuitcli.core.model import Model, Pass
from circuitcli.core.sites import NEURONS, Site
from circuitcli.stages.baselines import Activations, Baselines, Kind
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.questions import Asked
from circuitcli.stages.study import sites_of

Components = Literal["features", "neurons", "dimensions"]
KINDS: tuple[Components, ...] = ("features", "neurons", "dimensions")


@dataclass(frozen=True, eq=False)
class Opened:
    """A sequence of an example, run clean.

    Attributes:
        tokens: Its tokens.
        counts: Where circuits are at work.
        reading: What is read of it.
        run: The clean pass, with the sites that were asked for.
        clean: The last stream.
        instead: What stands for features outside a circuit, by the site that their dictionary reads.
        values: What stands for neurons and dimensions, by site.
    """

    tokens: Int[Tensor, " t"]
    counts: Bool[Tensor, " t"]
    reading: Reading
    run: Pass
    clean: Float[Tensor, "t d"]
    instead: Mapping[Site, Instead]
    values: Mapping[Site, Float[Tensor, "#p #d"]]


@dataclass(eq=False)
class Judge:
    """Opens examples, and measures circuits on them.

    Attributes:
        inputs: The run's model, dictionaries and text.
        kind: The baseline.
    """

    inputs: Inputs
    kind: Kind

    @property
    def model(self) -> Model:
        """The run's."""
        return self.inputs.passes.model

    @cached_property
    def dictionaries(self) -> list[Dictionary]:
        """All of the run, in the model's order, with their decoders where the model is."""
        return [self.inputs.sae(entry) for entry in self.inputs.passes.entries]

    @cached_property
    def neurons(self) -> dict[Site, int]:
        """Where neurons are, in the layers of the dictionaries, and how many; none of a model whose MLPs have none."""
        layers = sorted({one.writes.layer for one in self.dictionaries})
        tokens = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        found = self.model.run(tokens, [Site(layer, NEURONS) for layer in layers], final=True).sites
        return {site: x.shape[-1] for site, x in sorted(found.items(), key=lambda item: item[0].order)}

    def widths(self, kind: Components) -> dict[Site, int]:
        """How many components of a kind there are at each site, in the model's order."""
        if kind == "neurons":
            return self.neurons
        if kind == "features":
            return {one.reads: one.d_sae for one in self.dictionaries}
        return {one.writes: one.w_dec.shape[1] for one in self.dictionaries}

    def open(self, example: Example, number: int, *, read: Sequence[Site] = ()) -> list[Opened]:
        """The sequences of an example; `number` is its own, by which what is drawn for it is drawn."""
        return [self._open(one, number, read) for one in example.sequences]

    def _open(self, sequence: examples.Sequence, number: int, read: Sequence[Site]) -> Opened:
        device = self.model.device
        tokens = torch.tensor(sequence.ids, device=device)
        counts = torch.tensor(sequence.counts, device=device)
        run = self.model.run(tokens.unsqueeze(0), list(read), final=True)
        assert run.final is not None
        reading = sequence.reading or Next(Metric(int(self.model.logits(run.final[:, -1])[0].argmax())))
        other = self._other(sequence, number)
        return Opened(
            tokens, counts, reading, run, run.final[0], self._each(counts, other), self._values(counts, other)
        )

    def instead(self, number: int, sequence: examples.Sequence) -> Mapping[Site, Instead]:
        """What stands for features and errors in a sequence, by the site that their dictionary reads."""
        return self._each(torch.tensor(sequence.counts, device=self.model.device), self._other(sequence, number))

    def _other(self, sequence: examples.Sequence, number: int) -> Activations | None:
        """The activations that are the baseline, position by position; None where no prompt's are."""
        asked = Asked("", sequence.ids, sequence.counts, None, None, None, sequence.other_ids)
        return self._elsewhere.other(asked, number)

    def _each(self, counts: Bool[Tensor, " t"], other: Activations | None) -> dict[Site, Instead]:
        if other is not None:
            return self._of(counts, other)
        if self.kind == "zero":
            return dict.fromkeys((one.reads for one in self.dictionaries), ZERO)
        mean = {one.reads: self.inputs.statistics[one.reads]["mean_activation"] for one in self.dictionaries}
        return {
            one.reads: Instead(
                features=torch.as_tensor(mean[one.reads], device=counts.device),
                error=self._errors.means[one.writes].unsqueeze(0),
            )
            for one in self.dictionaries
        }

    def _of(self, counts: Bool[Tensor, " t"], other: Activations) -> dict[Site, Instead]:
        """What stands for features and errors: those of another prompt."""
        said, active = Reconstructions(), {}
        for one in self.dictionaries:
            x = other[one.reads][counts].float()
            active[one.reads] = one.active(x)
            said.add(one, active[one.reads], x)
        errors = {site: (y := other[site][counts].float()) - said.of(site, y) for site in said.sites}
        return {one.reads: Instead(active=active[one.reads], error=errors[one.writes]) for one in self.dictionaries}

    @cached_property
    def _elsewhere(self) -> Baselines:
        """Activations of other prompts, and means, at every site of any component."""
        return Baselines(self.kind, self.inputs, [*sites_of(self.inputs), *self.neurons])

    @cached_property
    def _errors(self) -> Baselines:
        return Baselines(self.kind, self.inputs, sites_of(self.inputs))

    def _values(self, counts: Bool[Tensor, " t"], other: Activations | None) -> dict[Site, Tensor]:
        """What stands for neurons and dimensions."""
        sites = [*(one.writes for one in self.dictionaries), *self.neurons]
        if other is not None:
            return {site: other[site][counts].float() for site in sites}
        if self.kind == "mean":
            return {site: self._elsewhere.mean_values[site].unsqueeze(0) for site in sites}
        return {site: torch.zeros(1, 1, device=counts.device) for site in sites}

    def clean(self, opened: Sequence[Opened]) -> float:
        """m(M) of an example."""
        return float(self._m(opened, [one.clean.unsqueeze(0) for one in opened])[0])

    def m(
        self,
        opened: Sequence[Opened],
        kind: Components,
        keep: Mapping[Site, Bool[Tensor, "b _"]],
        keeps_errors: Mapping[Site, Bool[Tensor, " b"]],
    ) -> Float[Tensor, " b"]:
        """What m is of circuits on an example, a row each.

        Args:
            opened: The example.
            kind: What circuits are made of.
            keep: Which components of each site they keep.
            keeps_errors: Of features: whether they keep the error of each site.
        """
        finals = []
        for one in opened:
            edits = self._edits(one, kind, keep, keeps_errors)
            rows = len(next(iter(keep.values())))
            run = self.model.run(one.tokens.expand(rows, -1), [], final=True, edits=edits)
            assert run.final is not None
            finals.append(run.final)
        return self._m(opened, finals)

    def _m(self, opened: Sequence[Opened], finals: Sequence[Float[Tensor, "b t d"]]) -> Float[Tensor, " b"]:
        read = [one.reading.of(self.model, final, one.clean) for one, final in zip(opened, finals, strict=True)]
        return examples.combined(read)

    def _edits(
        self,
        one: Opened,
        kind: Components,
        keep: Mapping[Site, Bool[Tensor, "b _"]],
        keeps_errors: Mapping[Site, Bool[Tensor, " b"]],
    ) -> Edits:
        if kind != "features":
            return {
                site: change
                for site, kept in keep.items()
                for site, change in keeping_values(one.counts, kept, one.values[site], site).items()
            }
        kept = [
            Keeping(each, keep[each.reads], keeps_errors[each.reads], one.instead[each.reads])
            for each in self.dictionaries
        ]
        return keeping(kept, one.counts)
