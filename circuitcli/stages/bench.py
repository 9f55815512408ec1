"""bench: how fast the engine is here, against the plain way and against what the machine's products allow.

Everything is measured in rounds of one run, each with the machine's own rate of products beside it, so that a machine
that others use as well gives the same ratios. The workload is what a run has: some sequences, at a number of positions
of each some of the features that fire there; clean passes are counted in.

    plain    one clean and one ablated full pass of the model with its SAEs and all logits, by hooks, for each
             (feature, context): `core.reference`
    engine   `core.ablation`, with KL and sums of the effects on tokens, or without logits
    share    operations by formula (`core.flops`), over the time times the rate of products; that is always of float32,
             in which SAEs compute: a model in bfloat16 may go beyond it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from statistics import median

import torch

from circuitcli.core import flops
from circuitcli.core.ablation import Ablated, Clean, Rows, ablate, read_clean
from circuitcli.core.active import Active
from circuitcli.core.next_token import TokenSums
from circuitcli.core.reference import Plain, ablate_one
from circuitcli.core.selection import downstream
from circuitcli.core.sites import Site, last_block
from circuitcli.errors import InputError
from circuitcli.runtime.device import Runtime, peak_memory
from circuitcli.stages.report import Report
from circuitcli.stages.subject import Subject
from circuitcli.stages.workload import batch_size

# Positions of a sequence at which features are ablated, features at each, and sums of their effects on tokens.
CONTEXTS, FEATURES, SLOTS = 32, 16, 32
# Ablations that are made the plain way in each round, and the side of the square matrices whose product is timed.
_PLAIN, _SQUARE = 2, 2048
# Latents so near to where they begin to fire may flip; they are left out of the comparison, and counted.
_FLIPS = 1e-4


@dataclass(frozen=True)
class Timings:
    """What was found. Milliseconds are of one ablation, medians of the rounds; shares are of the rate of products."""

    subject: str
    device: str
    dtype: str
    threads: int
    site: str
    downstream: list[str]
    tokens: int
    sequences: int
    contexts: int
    ablations: int
    batch_size: int
    mean_l0: float
    cache_tokens_per_second: float
    cache_gemm_share: float
    raw_forward_ms: float
    plain_ms: float
    plain_over_raw: float
    engine_ms: float
    engine_ms_with_logits: float
    speedup: float
    speedup_with_logits: float
    gemm_gflops: float
    gemm_share: float
    gemm_share_with_logits: float
    ablations_per_second: float
    clean_ms_per_sequence: float
    clean_ms_per_sequence_with_logits: float
    peak_memory_bytes: int
    worst_relative_difference: float
    latents_compared: int
    latents_left_out: int


@dataclass
class _Times:
    """Seconds, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, device: torch.device, work: Callable[[], object], *, count: int = 1) -> None:
        _wait(device)
        start = time.perf_counter()
        for _ in range(count):
            work()
        _wait(device)
        self.seconds.setdefault(name, []).append((time.perf_counter() - start) / count)

    def of(self, name: str) -> float:
        return median(self.seconds[name])

    def ratio(self, above: str, below: str) -> float:
        """The median over rounds of a ratio within each."""
        return median(a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True))


def run(subject: Subject, runtime: Runtime, report: Report, rounds: int) -> Timings:
    """Time everything in rounds.

    Raises:
        InputError: Nothing fires at the edited site.
    """
    bench = _Bench(subject, runtime)
    times = _Times()
    with report.track("Timing", rounds + 1, "rounds") as done:
        bench.round(_Times())  # to warm up
        done(1)
        for _ in range(rounds):
            bench.round(times)
            done(1)
    return bench.timings(times)


class _Bench:
    """One workload, and all ways to do it."""

    def __init__(self, subject: Subject, runtime: Runtime) -> None:
        self.subject, self.runtime = subject, runtime
        self.model, self.site, self.lengths = subject.model, subject.site, subject.lengths
        self.width = int(self.lengths.max())
        self.downstream = downstream(self.site, list(subject.saes), self.model.shape)
        self.acts = self._cached()
        self.rows = self._rows()
        self.batch = batch_size(self.model, runtime, self.width, 0)
        self.square = [torch.randn(_SQUARE, _SQUARE, device=self.model.device) for _ in range(3)]

    def _cached(self) -> dict[Site, Active]:
        """cache-acts: one pass up to the last site, and what each SAE makes of it, position 0 left out."""
        sites = [self.site, *self.downstream]
        read = self.model.run(self.subject.tokens, sites).sites
        each = torch.arange(self.width)
        counted = (each >= 1) & (each < self.lengths.unsqueeze(1))
        place = counted.flatten().nonzero().squeeze(1).to(self.model.device)
        found = {}
        for site in sites:
            active = self.subject.saes[site].active(read[site].flatten(0, 1)[place])
            found[site] = Active(place[active.place], active.feature, active.value, active.d_sae)
        return found

    def _rows(self) -> Rows:
        """Features that fire, `FEATURES` at most at each of `CONTEXTS` positions of each sequence, spread over it."""
        active = self.acts[self.site]
        place, feature = active.place.cpu(), active.feature.cpu()
        chosen = []
        for seq, length in enumerate(self.lengths.tolist()):
            for pos in _spread(1, length - 1, CONTEXTS):
                here = feature[place == seq * self.width + pos].tolist()
                chosen += [(here[k], seq, pos) for k in _spread(0, len(here) - 1, FEATURES)]
        if not chosen:
            raise InputError(
                f"Nothing fires at {self.site} in the text.",
                hint="Give other SAEs or text, or look at `circuit doctor`.",
            )
        feature, seq, pos = torch.tensor(chosen).T
        return Rows(feature, seq, pos, torch.zeros(len(chosen)), torch.arange(len(chosen)) % SLOTS)

    def clean(self, *, logits: bool) -> Clean:
        return read_clean(self.model, [self.site], self.subject.tokens, self.lengths, self.acts, logits=logits)

    def engine(self, *, logits: bool) -> list[Ablated]:
        """All ablations, with the clean passes that they need."""
        clean = self.clean(logits=logits)
        sums = TokenSums(SLOTS, self.model.shape.d_vocab, self.model.device) if logits else None
        return [self.ablate(clean, self.rows[part], sums) for part in _slices(len(self.rows), self.batch)]

    def ablate(self, clean: Clean, rows: Rows, sums: TokenSums | None) -> Ablated:
        return ablate(self.model, self.subject.saes, self.site, rows, clean, self.downstream, sums=sums)

    def plain(self, row: int) -> Plain:
        """One ablation, the plain way."""
        feature, seq, pos = (int(part[row]) for part in (self.rows.feature, self.rows.seq, self.rows.pos))
        sequence = self.subject.tokens[seq, : int(self.lengths[seq])]
        return ablate_one(self.model, self.subject.saes, self.site, feature, sequence, pos, 0.0, self.downstream)

    @cached_property
    def sampled(self) -> list[int]:
        """The rows that are ablated the plain way as well, spread over all."""
        return _spread(0, len(self.rows) - 1, 4 * _PLAIN)

    def round(self, times: _Times) -> None:
        """Each way once, one after another."""
        device, first = self.model.device, self.subject.tokens[:1, : int(self.lengths[0])]
        a, b, out = self.square
        done = len(times.seconds.get("plain", ()))
        plain = [self.sampled[(done * _PLAIN + i) % len(self.sampled)] for i in range(_PLAIN)]
        times.note("gemm", device, partial(torch.mm, a, b, out=out), count=8)
        times.note("raw", device, partial(self.subject.raw_forward, first), count=2 * _PLAIN)
        times.note("plain", device, lambda: [self.plain(row) for row in plain])
        times.note("clean", device, partial(self.clean, logits=False))
        times.note("engine", device, partial(self.engine, logits=False))
        times.note("gemm again", device, partial(torch.mm, a, b, out=out), count=8)
        times.note("clean with logits", device, partial(self.clean, logits=True))
        times.note("with logits", device, partial(self.engine, logits=True))
        times.note("gemm at last", device, partial(torch.mm, a, b, out=out), count=8)
        times.note("cache", device, self._cached)

    def timings(self, times: _Times) -> Timings:
        """The numbers of all rounds."""
        n, tokens = len(self.rows), int(self.lengths.sum())
        worst, compared, left_out = self.difference()
        rate = (
            2.0 * _SQUARE**3 / median(t for name in ("gemm", "gemm again", "gemm at last") for t in times.seconds[name])
        )
        plain_ms = 1e3 * times.of("plain") / _PLAIN
        return Timings(
            subject=self.subject.name,
            device=_device_name(self.model.device),
            dtype=str(self.runtime.dtype).removeprefix("torch."),
            threads=self.runtime.threads,
            site=str(self.site),
            downstream=[str(site) for site in self.downstream],
            tokens=self.width,
            sequences=len(self.lengths),
            contexts=len(torch.unique(self.rows.seq * self.width + self.rows.pos)),
            ablations=n,
            batch_size=self.batch,
            mean_l0=len(self.acts[self.site].value) / float((self.lengths - 1).sum()),
            cache_tokens_per_second=tokens / times.of("cache"),
            cache_gemm_share=self.share(times, "cache", "gemm at last", self.cache_flops()),
            raw_forward_ms=1e3 * times.of("raw"),
            plain_ms=plain_ms,
            plain_over_raw=times.ratio("plain", "raw") / (2 * _PLAIN),
            engine_ms=1e3 * times.of("engine") / n,
            engine_ms_with_logits=1e3 * times.of("with logits") / n,
            speedup=times.ratio("plain", "engine") * n / _PLAIN,
            speedup_with_logits=times.ratio("plain", "with logits") * n / _PLAIN,
            gemm_gflops=rate / 1e9,
            gemm_share=self.share(times, "engine", "gemm", self.engine_flops(logits=False)),
            gemm_share_with_logits=self.share(times, "with logits", "gemm again", self.engine_flops(logits=True)),
            ablations_per_second=n / times.of("with logits"),
            clean_ms_per_sequence=1e3 * times.of("clean") / len(self.lengths),
            clean_ms_per_sequence_with_logits=1e3 * times.of("clean with logits") / len(self.lengths),
            peak_memory_bytes=peak_memory(self.model.device),
            worst_relative_difference=worst,
            latents_compared=compared,
            latents_left_out=left_out,
        )  # fmt: skip

    @staticmethod
    def share(times: _Times, name: str, gemm: str, operations: float) -> float:
        """Of the rate of products measured next to it."""
        return operations / (2.0 * _SQUARE**3) / times.ratio(name, gemm)

    def cache_flops(self) -> float:
        """The model up to the last site, and every encoder, over all positions."""
        sites = (self.site, *self.downstream)
        whole = flops.block(self.model.sizes, self.model.shape, (self.width + 1) / 2)
        tokens = int(self.lengths.sum())
        return tokens * (last_block(sites) + 1) * whole + (tokens - len(self.lengths)) * sum(map(self.encoder, sites))

    def encoder(self, site: Site) -> float:
        return flops.encode(self.subject.saes[site].d_in, self.subject.saes[site].d_sae)

    def engine_flops(self, *, logits: bool) -> float:
        """Clean passes, blocks behind the edits, encoders, and logits of rows and contexts."""
        model, shape = self.model, self.model.shape
        last = shape.n_layers - 1 if logits else last_block([self.site, *self.downstream])
        keys = float(self.rows.pos.float().mean()) + 1
        row = flops.resumed(self.site, last, model.sizes, shape, keys) + sum(map(self.encoder, self.downstream))
        clean = (last + 1) * flops.block(model.sizes, shape, (self.width + 1) / 2) * int(self.lengths.sum())
        contexts = len(torch.unique(self.rows.seq * self.width + self.rows.pos))
        tokens = (len(self.rows) + contexts) * flops.unembed(shape) if logits else 0.0
        return len(self.rows) * row + clean + tokens

    def difference(self) -> tuple[float, int, int]:
        """The engine against the plain way: the largest difference, relative to its row's largest value (law 3)."""
        clean, worst, compared, left_out = self.clean(logits=True), 0.0, 0, 0
        for row in self.sampled:
            sums = TokenSums(1, self.model.shape.d_vocab, self.model.device)
            one = self.rows[row : row + 1]
            result = self.ablate(clean, Rows(one.feature, one.seq, one.pos, one.replacement, one.slot * 0), sums)
            plain = self.plain(row)
            logp = plain.logprob[1] - plain.logprob[0]
            scale = float(plain.logprob.abs().max())
            worst = max(worst, float((sums.logprob[0].float() - logp).abs().max()) / scale)
            for site, (before, after) in plain.activations.items():
                effect = torch.zeros_like(before)
                changes = result.changes[site]
                effect[changes.feature] = changes.ablated - changes.clean
                flips = self.subject.saes[site].doubtful(plain.read[site], _FLIPS).any(0)
                largest = max(float(torch.maximum(before, after).max()), 0.1)
                worst = max(worst, float((effect - (after - before)).abs()[~flips].max()) / largest)
                compared += len(before)
                left_out += int(flips.sum())
        return worst, compared, left_out


def document(timings: Timings) -> dict[str, object]:
    """What --json prints."""
    return asdict(timings)


def _spread(first: int, last: int, count: int) -> list[int]:
    """At most so many whole numbers from `first` to `last`, evenly; none where there are none."""
    if last < first:
        return []
    numbers: list[int] = torch.linspace(first, last, min(count, last - first + 1)).round().long().unique().tolist()
    return numbers


def _slices(total: int, size: int) -> Sequence[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
