"""The top contexts of features: the tokens around each, with the feature's activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitcli.core.circuit import Context
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import FeatureId
from circuitcli.core.tokens import readable
from circuitcli.results import passages
from circuitcli.results.reader import Reader
from circuitcli.store import acts


def top_contexts(reader: Reader, features: Sequence[FeatureId]) -> dict[FeatureId, list[Context]]:
    """Of some features, the strongest first: `contexts.view` tokens on each side."""
    table = reader.of_features(acts.CONTEXTS, features)
    texts = passages.read(reader, {int(seq) for columns in table.values() for seq in columns["seq"]})
    view = reader.settings.contexts.view
    found: dict[FeatureId, list[Context]] = {}
    for site in {feature.site for feature in features}:
        indices = [feature.index for feature in features if feature.site == site]
        for index, firings in acts.firings_of(reader.run, site, indices).items():
            columns = table[FeatureId(site, index)]
            order = np.argsort(columns["rank"])
            places = zip(columns["seq"][order].tolist(), columns["pos"][order].tolist(), strict=True)
            found[FeatureId(site, index)] = [_context(seq, pos, firings, texts[seq], view) for seq, pos in places]
    return found


def around(text: Sequence[str], seq: int, pos: int, view: int) -> Context:
    """The tokens around one position, `view` on each side, whatever fires there."""
    first = max(0, pos - view)
    tokens = readable(text[first : pos + view + 1], pos - first)
    return Context(tuple(tokens), (0.0,) * len(tokens), firing=pos - first, seq=seq, pos=pos)


def _context(seq: int, pos: int, firings: Firings, text: list[str], view: int) -> Context:
    """Around one position; `firings` are all those of the feature, in order of (seq, pos)."""
    first, stop = max(0, pos - view), min(len(text), pos + view + 1)
    start, end = np.searchsorted(firings.seq, [seq, seq + 1])
    start, end = start + np.searchsorted(firings.pos[start:end], [first, stop])
    activations = np.zeros(stop - first, firings.value.dtype)
    activations[firings.pos[start:end] - first] = firings.value[start:end]
    return Context(
        tokens=tuple(readable(text[first:stop], pos - first)),
        activations=tuple(activations.tolist()),
        firing=pos - first,
        seq=seq,
        pos=pos,
    )
