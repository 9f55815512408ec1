"""Where ablations start: which features of the first layer are ablated where none of it is pinned, also in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from circuitcli.core import selection
from circuitcli.core.attribution import start as attribution
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import FeatureId, Site
from circuitcli.core.tokens import visible
from circuitcli.results import next_tokens
from circuitcli.runtime.device import out_of_memory
from circuitcli.settings import Settings
from circuitcli.stages.inputs import JobInputs

# Positions of sequences that go forward and backward together.
_POSITIONS = 1024


@dataclass(frozen=True)
class Start:
    """The features of the first layer that are ablated, and how they were chosen."""

    features: list[FeatureId]
    words: str

    def beside(self, pins: Sequence[FeatureId]) -> Start:
        """The same, which says of which later layers features are pinned."""
        later = sorted({pin.site.layer for pin in pins} - {feature.site.layer for feature in self.features})
        also = "".join(f"; of layer {layer}: the pinned" for layer in later)
        return replace(self, words=self.words + also)


def pinned(pins: Sequence[FeatureId]) -> Start:
    """The ones that the user named."""
    return Start(list(pins), f"the pinned features of layer {pins[0].site.layer}")


def how(settings: Settings) -> str:
    """`features.start`, once `auto` was decided."""
    if settings.features.start != "auto":
        return settings.features.start
    return "strongest" if next_tokens.on_prompts(settings) else "random"


def at_least(settings: Settings) -> int:
    """How many start, however few fire: of the strongest as many as a feature of the first layer would lead to."""
    return 1 if how(settings) == "random" else settings.features.branching


def choose(inputs: JobInputs, layer: int) -> Start:
    """`features.thinning` of the features of a layer that fire, chosen as `features.start` says.

    With e the estimated effect of ablating a feature at one context (see `core.attribution.start`; of `positions =
    "all"` the sum of those of a sequence):

        strongest    the largest |e| at any context
        top-effect   the largest Σ |e| over all contexts

    e is of the likeliest next token: of a prompt at its end, of other text at every position. Where no gradient can be
    had, activations stand for |e|, and sites, whose units differ, take turns. Of the strongest at least `branching`
    start: of a prompt few features fire.
    """
    settings = inputs.job.settings
    sites = [site for site in inputs.widths if site.layer == layer]
    firing = [FeatureId(site, int(i)) for site in sites for i in np.flatnonzero(inputs.statistics[site]["n_active"])]
    if how(settings) == "random" or not firing:
        chosen = selection.thin(firing, settings.features.thinning, settings.seed)
        return Start(chosen, f"{_some(chosen, firing, layer)}, at random (seed {settings.seed})")
    total = how(settings) == "top-effect"
    estimated = {site: _estimates(inputs, site) for site in sites}
    known = {site: sizes for site, sizes in estimated.items() if sizes is not None}
    by_gradient = len(known) == len(sites)
    if not by_gradient:
        known = {site: inputs.passes.firings(site).value for site in sites}
    score = {
        feature: value for site in sites for feature, value in _scores(inputs, site, known[site], total=total).items()
    }
    keep = max(at_least(settings), round(settings.features.thinning * len(firing)))
    chosen = selection.strongest(score if by_gradient else selection.by_place(score), keep)
    what = f"|activation × gradient| of {_target(inputs)}" if by_gradient else "activation, for want of gradients"
    largest = "the largest sum of" if total else "the largest"
    return Start(chosen, f"{_some(chosen, firing, layer)}, with {largest} {what}")


def _some(chosen: Sequence[FeatureId], firing: Sequence[FeatureId], layer: int) -> str:
    return f"{len(chosen):,} of the {len(firing):,} features of layer {layer} that fire"


def _target(inputs: JobInputs) -> str:
    answers = next_tokens.answers(inputs.job.results())
    if not answers:
        return "the log-probability of the likeliest next tokens"
    likeliest = list(dict.fromkeys(visible(answer.tokens[0].token, 16) for answer in answers))
    several = f" and {len(likeliest) - 3} more" if len(likeliest) > 3 else ""
    return f"log p({', '.join(likeliest[:3])}{several}) at the end of the prompt{'s' if len(answers) > 1 else ''}"


def _estimates(inputs: JobInputs, site: Site) -> np.ndarray | None:
    """The estimate e of each firing of a site, in the order of `Passes.firings`; None where there is no gradient."""
    job, passes = inputs.job, inputs.passes
    firings, tokens, lengths = passes.firings(site), passes.sample.tokens, passes.sample.lengths
    found = np.zeros(len(firings), np.float64)
    size = max(1, _POSITIONS // tokens.shape[1])

    def estimate(part: slice) -> tuple[slice, np.ndarray | None]:
        here = slice(*np.searchsorted(firings.seq, [part.start, part.stop]).tolist())
        width = int(lengths[part].max())
        firing = _on(firings.where(np.arange(here.start, here.stop)), part.start, passes.model.device)
        read = _read(lengths[part], width, ends=next_tokens.on_prompts(job.settings))
        text = torch.as_tensor(tokens[part, :width]).long().to(passes.model.device)
        try:
            values = attribution.estimates(
                passes.model, passes.saes([site])[site], text, torch.as_tensor(read, device=text.device), firing
            )
        except RuntimeError as error:  # a step of the model without a derivative
            if out_of_memory(error):
                raise
            return here, None
        return here, None if values is None else values.double().cpu().numpy()

    with job.report.track("Choosing where to start", len(lengths), "sequences") as done:
        for here, values in job.runtime.batches(len(lengths), size, estimate, say=job.report.say):
            if values is None:
                return None
            found[here] = values
            done(size)
    return found


def _on(firings: Firings, first: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seq, pos, feature = (torch.as_tensor(c).long().to(device) for c in (firings.seq, firings.pos, firings.feature))
    return seq - first, pos, feature, torch.as_tensor(firings.value).to(device)


def _read(lengths: np.ndarray, width: int, *, ends: bool) -> np.ndarray:
    """Where the next token is read: at the end of each sequence, or everywhere but at position 0."""
    each, last = np.arange(width), lengths[:, None] - 1
    return np.asarray(each == last if ends else (each >= 1) & (each <= last))


def _scores(inputs: JobInputs, site: Site, sizes: np.ndarray, *, total: bool) -> dict[FeatureId, float]:
    """The largest |e| of each feature, or its total, over its contexts."""
    firings = inputs.passes.firings(site)
    feature: np.ndarray = firings.feature.astype(np.int64)
    effect: np.ndarray = sizes.astype(np.float64)
    if inputs.job.settings.ablate.positions == "all":
        sequences = len(inputs.passes.sample.lengths)
        keys, place = np.unique(feature * sequences + firings.seq, return_inverse=True)
        feature = keys // sequences
        effect = np.bincount(place, weights=effect)
    score = np.zeros(inputs.widths[site])
    (np.add if total else np.maximum).at(score, feature, np.abs(effect))
    return {FeatureId(site, int(i)): float(score[i]) for i in np.unique(feature)}
