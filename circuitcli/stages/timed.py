"""What bench times: one workload, and each way to do it.

The workload is what a run has: some sequences, at a number of positions of each some of the features that fire there;
clean passes are counted in.

    plain        one clean and one ablated full pass of the model with its SAEs and all logits, by hooks, for one
                 (feature, context): `core.reference`
    engine       all ablations as a run makes them (`assembly`), without logits; with logits: KL and sums of the effects
                 on tokens too
    clean        the clean passes of either
    raw          one bare pass of transformers over one sequence
    cache        cache-acts: one pass up to the last site, and what each SAE makes of it
    gemm         one product of square matrices in float32
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitcli.core import flops
from circuitcli.core.ablation import Ablated, Clean, read_clean
from circuitcli.core.active import Active
from circuitcli.core.contexts import Firings
from circuitcli.core.next_token import TokenSums
from circuitcli.core.reference import Plain, ablate_one
from circuitcli.core.selection import downstream
from circuitcli.core.sites import Site, last_block
from circuitcli.errors import InputError
from circuitcli.runtime.device import Runtime
from circuitcli.stages.assembly import Ablations, Baseline
from circuitcli.stages.batching import batch_size
from circuitcli.stages.cases import Case

# Positions of a sequence at which features are ablated, and features at each; a few where the engine computes whole
# sequences again, which takes as long, or where there is little time. And sums of their effects on tokens.
PLACES, FEW, SLOTS = (32, 16), (4, 4), 32
# Rows that are ablated the plain way as well.
_SAMPLED = 8
# The side of the square matrices whose product is timed: so large that more of it is no faster.
_SQUARE = {"cpu": 1024, "mps": 2048, "cuda": 4096}
# Latents so near to where they begin to fire may flip; they are left out of the comparison, and counted.
_FLIPS = 1e-4


Part = Site | None  # a site's features, or (None) the next token


class Effect(NamedTuple):
    """What an ablation does to each feature of a site, or each token's log-probability.

    Attributes:
        value: Ablated − clean.
        largest: The largest value that there is, clean or ablated.
        certain: Where it can be told: a latent that nearly fires may flip.
    """

    value: Float[Tensor, " n"]
    largest: float
    certain: Bool[Tensor, " n"]


@dataclass
class Discrepancy:
    """The engine against the plain way: the largest difference, relative to its row's largest value (law 3)."""

    worst: float = 0.0
    compared: int = 0
    left_out: int = 0

    def take(self, found: Mapping[Part, Tensor], expected: Mapping[Part, Effect]) -> None:
        """Take in what an ablation does."""
        for part, (value, largest, certain) in expected.items():
            self.worst = max(self.worst, float((found[part] - value).abs()[certain].max()) / largest)
            if part is not None:
                self.compared += len(value)
                self.left_out += int((~certain).sum())


class Workload:
    """Ablations of a case, and all ways to make them."""

    def __init__(
        self,
        case: Case,
        runtime: Runtime,
        places: tuple[int, int] | None = None,
        *,
        at: Firings | None = None,
    ) -> None:
        """Run it once, for what fires.

        Args:
            case: What is timed.
            runtime: Where.
            places: Positions of a sequence and features at each; if not given, as many as in a run.
            at: The contexts; if not given, of what fires.

        Raises:
            InputError: Nothing fires at the edited site.
        """
        self.case, self.runtime = case, runtime
        self.model, self.site, self.lengths = case.model, case.site, case.lengths
        self.places = places or (PLACES if case.model.resumes_at_places else FEW)
        self.width = int(self.lengths.max())
        self.writes = case.saes[self.site].writes
        self.downstream = downstream(self.site, list(case.saes), self.model.shape, self.writes)
        self.acts = self._cached()
        self.ablations = self._ablations(self._chosen() if at is None else at)
        self.contexts = len(np.unique(self.ablations.contexts.seq * self.width + self.ablations.contexts.pos))

    @cached_property
    def ways(self) -> dict[str, Callable[[], object]]:
        """Each way by its name."""
        first = self.case.tokens[:1, : int(self.lengths[0])]
        device = self.model.device
        a, b, out = (torch.randn(2 * [_SQUARE[device.type]], device=device) for _ in range(3))
        turns = count()
        return {
            "gemm": partial(torch.mm, a, b, out=out),
            "raw": partial(self.case.raw_forward, first),
            "plain": lambda: self._plain(self.sampled[next(turns) % len(self.sampled)]),
            "clean": partial(self._clean, logits=False),
            "clean with logits": partial(self._clean, logits=True),
            "engine": partial(self._engine, logits=False),
            "engine with logits": partial(self._engine, logits=True),
            "cache": self._cached,
        }

    @cached_property
    def sampled(self) -> list[int]:
        """The rows that are ablated the plain way as well, spread over all."""
        return _spread(0, len(self.ablations) - 1, _SAMPLED)

    @property
    def gemm_flops(self) -> float:
        """Operations of one product."""
        return 2.0 * _SQUARE[self.model.device.type] ** 3

    def _cached(self) -> dict[Site, Active]:
        """What fires, position 0 left out."""
        sites = [self.site, *self.downstream]
        read = self.model.run(self.case.tokens, sites).sites
        each = torch.arange(self.width)
        counted = (each >= 1) & (each < self.lengths.unsqueeze(1))
        place = counted.flatten().nonzero().squeeze(1).to(self.model.device)
        found = {}
        for site in sites:
            active = self.case.saes[site].active(read[site].flatten(0, 1)[place])
            found[site] = Active(place[active.place], active.feature, active.value, active.d_sae)
        return found

    def _chosen(self) -> Firings:
        """Features that fire, some at each of some positions of each sequence, spread over it."""
        active = self.acts[self.site]
        contexts, features = self.places
        place, feature = active.place.cpu(), active.feature.cpu()
        chosen = []
        for seq, length in enumerate(self.lengths.tolist()):
            for pos in _spread(1, length - 1, contexts):
                here = feature[place == seq * self.width + pos].tolist()
                chosen += [(seq, pos, here[k]) for k in _spread(0, len(here) - 1, features)]
        if not chosen:
            raise InputError(
                f"Nothing fires at {self.site} in the text.",
                hint="Give other SAEs or text, or look at `circuit doctor`.",
            )
        seq, pos, index = np.asarray(chosen, np.int64).T
        return Firings(seq, pos, index, np.zeros(len(chosen), np.float32))

    def _ablations(self, at: Firings) -> Ablations:
        """To 0, in batches as a run here would make them."""
        return Ablations(
            site=self.site,
            contexts=at,
            replacement=np.zeros(len(at), np.float32),
            slot=np.arange(len(at)) % SLOTS,
            horizon=0,
            batch_size=batch_size(self.model, self.runtime, self.width, 0),
            threads=self.runtime.threads,
        )

    def _clean(self, *, logits: bool) -> Clean:
        edited = list(dict.fromkeys([self.site, self.writes]))
        return read_clean(self.model, edited, self.case.tokens, self.lengths, self.acts, logits=logits)

    def _engine(self, *, logits: bool) -> list[Ablated]:
        """All ablations, with the clean passes that they need."""
        clean = self._clean(logits=logits)
        return self._made(self.ablations, clean, self._sums(SLOTS) if logits else None)

    def _made(self, ablations: Ablations, clean: Clean, sums: TokenSums | None) -> list[Ablated]:
        """Some of the ablations, from one clean pass of all sequences."""
        saes = self.case.saes
        writes = {site: saes[site].writes for site in (self.site, *self.downstream)}
        baseline = Baseline(self.runtime, self.model, writes, lambda _: saes, np.zeros_like, lambda *_: clean)
        return [result for _, result in ablations.made(baseline, sums)]

    def _sums(self, slots: int) -> TokenSums:
        return TokenSums(slots, self.model.shape.d_vocab, self.model.device)

    def _plain(self, row: int) -> Plain:
        """One ablation, the plain way."""
        at = self.ablations.contexts
        feature, seq, pos = (int(part[row]) for part in (at.feature, at.seq, at.pos))
        sequence = self.case.tokens[seq, : int(self.lengths[seq])]
        return ablate_one(self.model, self.case.saes, self.site, feature, sequence, pos, 0.0, self.downstream)

    def cache_flops(self) -> float:
        """The model up to the last site, and every encoder, over all positions."""
        sites = (self.site, *self.downstream)
        whole = flops.block(self.model.sizes, self.model.shape, (self.width + 1) / 2)
        tokens = int(self.lengths.sum())
        return tokens * (last_block(sites) + 1) * whole + (tokens - len(self.lengths)) * sum(map(self._encoder, sites))

    def _encoder(self, site: Site) -> float:
        return flops.encode(self.case.saes[site].d_in, self.case.saes[site].d_sae)

    def engine_flops(self, *, logits: bool) -> float:
        """Clean passes, blocks behind the edits, encoders, and logits of rows and contexts."""
        model, shape = self.model, self.model.shape
        last = shape.n_layers - 1 if logits else last_block([self.writes, *self.downstream])
        keys = float(self.ablations.contexts.pos.mean()) + 1
        row = flops.resumed(self.writes, last, model.sizes, shape, keys) + sum(map(self._encoder, self.downstream))
        clean = (last + 1) * flops.block(model.sizes, shape, (self.width + 1) / 2) * int(self.lengths.sum())
        tokens = (len(self.ablations) + self.contexts) * flops.unembed(shape) if logits else 0.0
        return len(self.ablations) * row + clean + tokens

    def difference(self, expected: Iterable[tuple[int, Mapping[Part, Effect]]]) -> Discrepancy:
        """The engine against what some rows do the plain way, here or in another precision."""
        clean, found = self._clean(logits=True), Discrepancy()
        for row, effects in expected:
            found.take(self._effects(row, clean), effects)
        return found

    def expected(self, go_on: Callable[[], bool]) -> Iterator[tuple[int, dict[Part, Effect]]]:
        """What sampled rows do the plain way: one of them, and more while it may `go_on`."""
        for row in self.sampled:
            yield row, self._expected(row)
            if not go_on():
                return

    def _expected(self, row: int) -> dict[Part, Effect]:
        """What an ablation does the plain way; on the CPU."""
        plain = self._plain(row)
        before, after = plain.logprob.cpu()
        every = torch.ones_like(after, dtype=torch.bool)
        found: dict[Part, Effect] = {None: Effect(after - before, float(plain.logprob.abs().max()), every)}
        for site, (before, after) in plain.activations.items():
            certain = ~self.case.saes[site].doubtful(plain.read[site], _FLIPS).any(0)
            largest = max(float(torch.maximum(before, after).max()), 0.1)
            found[site] = Effect((after - before).cpu(), largest, certain.cpu())
        return found

    def _effects(self, row: int, clean: Clean) -> dict[Part, Tensor]:
        """What the engine says that an ablation does; on the CPU."""
        sums = self._sums(1)
        one = replace(self.ablations.where(np.asarray([row])), slot=np.zeros(1, np.int64))
        [result] = self._made(one, clean, sums)
        found: dict[Part, Tensor] = {None: sums.logprob[0].float().cpu()}
        for site, changes in result.changes.items():
            found[site] = torch.zeros(self.case.saes[site].d_sae)
            found[site][changes.feature.cpu()] = (changes.ablated - changes.clean).cpu()
        return found


def _spread(first: int, last: int, count: int) -> list[int]:
    """At most so many whole numbers from `first` to `last`, evenly; none where there are none."""
    if last < first:
        return []
    numbers: list[int] = torch.linspace(first, last, min(count, last - first + 1)).round().long().unique().tolist()
    return numbers
