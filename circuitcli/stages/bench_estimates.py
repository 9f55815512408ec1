"""bench --estimates: how good estimates of nodes' effects are, beside all of them measured.

1.  Prompts are the beginnings of some of the text, each asked why it goes on with its most likely next token.
2.  Every feature and error in them is estimated in each way, and measured; and what `auto` gets is put together
    (`trial`).
3.  All of it is compared with what was measured, by kind of site (`core.agreements`).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from circuitcli.core.agreements import Agreement, agreements
from circuitcli.core.calibration import kind_of
from circuitcli.runtime.device import device_name, peak_memory
from circuitcli.stages.beginnings import beginnings
from circuitcli.stages.tools import Tools
from circuitcli.stages.trial import Trial, aside

TOP = 20


@dataclass(frozen=True)
class Found:
    """What was found.

    `seconds_each` is what a prompt took, by method; `measured_share` has the share of nodes that `auto` measured.
    Agreements by kind of site are of `atp`, `ig` by its steps (`ig 5`), `relp`, and `auto` by its share (`auto 10%`);
    those by site are of estimates alone.
    """

    subject: str
    device: str
    threads: int
    baseline: str
    frozen: bool
    prompts: int
    tokens: int
    nodes: int
    top: int
    seconds: float
    seconds_each: dict[str, float]
    measured_share: dict[str, float]
    peak_memory_bytes: int
    agreements: list[Agreement]
    by_site: list[Agreement]


def run(tools: Tools, count: int, tokens: int) -> Found:
    """Estimate and measure the effects of all nodes of so many prompts of so many tokens; the baseline isn't patch.

    Raises:
        UsageError: The model reads fewer tokens.
        InputError: No text is long enough, or no gradient can be had of this model.
    """
    started = time.perf_counter()
    with aside(tools) as job:
        trial = Trial(job, beginnings(job.subject, count, tokens))
        found = trial.all()
        parts = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        prompt = np.repeat(np.arange(len(found)), [len(one["exact"]) for one in found])
        exact, site = parts.pop("exact"), parts.pop("site")
        kind = np.asarray([kind_of(name.partition(".")[2]) for name in site])
        estimates = {name: values for name, values in parts.items() if not name.startswith("auto")}
        sites = list(dict.fromkeys(site.tolist()))
        settings, runtime = job.settings, job.runtime
        return Found(
            subject=f"{settings.model}, {settings.saes.release}",
            device=device_name(runtime.device),
            threads=runtime.threads,
            baseline=trial.baselines.kind,
            frozen=settings.attribute.freeze,
            prompts=len(found),
            tokens=tokens,
            nodes=len(exact),
            top=TOP,
            seconds=time.perf_counter() - started,
            seconds_each={name: seconds / len(found) for name, seconds in trial.seconds.items()},
            measured_share={name: count / len(exact) for name, count in trial.measured.items()},
            peak_memory_bytes=peak_memory(runtime.device),
            agreements=agreements(parts, exact, kind, prompt, seed=settings.seed, top=TOP),
            by_site=agreements(estimates, exact, site, prompt, kinds=sites, seed=settings.seed, top=TOP),
        )


def document(found: Found) -> dict[str, Any]:
    """What --json prints."""
    return asdict(found)
