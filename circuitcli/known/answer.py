"""A known answer: a program, a prompt that it answers, and the circuit that does it.

A circuit is written as lines, of a node `node effect`, and of an edge `node -> node effect`. A node is
`site.feature@position`, `token@position` or `target`. Effects are what is measured where a node is replaced by 0, or,
of an edge, where what that makes of the other node alone is put into a clean pass (see docs/attribution.md). A feature
that the stream carries on, unchanged, is an edge from each site to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from circuitcli.core.attributed import node_name
from circuitcli.known.program import Program

_FEATURE = re.compile(r"(?P<layer>\d+)\.(?P<site>\w+?)\.(?P<feature>\S+)@(?P<pos>\d+)")
Edge = tuple[str, str]


@dataclass(frozen=True)
class Known:
    """A model whose circuit is known.

    Attributes:
        name: In a word.
        says: What it says next, in words.
        program: Its weights.
        sites: Where it has a dictionary.
        prompt: Its words; BOS is put before them.
        target, against: m is the difference of these words' logits.
        metric: m.
        circuit: The nodes and edges that matter, with their effects; see above.
    """

    name: str
    says: str
    program: Program
    sites: tuple[str, ...]
    prompt: str
    target: str
    against: str
    metric: float
    circuit: str

    @cached_property
    def nodes(self) -> dict[str, float]:
        """The effect of each node, by its id."""
        return {self._id(line[0]): effect for line, effect in self._lines() if len(line) == 1}

    @cached_property
    def edges(self) -> dict[Edge, float]:
        """The effect of each edge, by the ids of its ends."""
        return {(self._id(line[0]), self._id(line[2])): effect for line, effect in self._lines() if len(line) == 3}

    def named(self, one: str | Edge) -> str:
        """A node with its feature's name, `0.resid_pre.tok:b@2` for `0.resid_pre.2@2`, or an edge, `node → node`."""
        if not isinstance(one, str):
            return " → ".join(map(self.named, one))
        found = _FEATURE.fullmatch(one)
        if found is None or not found["feature"].isdecimal():
            return one
        return f"{found['layer']}.{found['site']}.{self.program.features[int(found['feature'])]}@{found['pos']}"

    def _lines(self) -> Iterator[tuple[list[str], float]]:
        for line in filter(str.strip, self.circuit.splitlines()):
            *words, effect = line.split()
            yield words, float(Fraction(effect))

    def _id(self, text: str) -> str:
        found = _FEATURE.fullmatch(text)
        if found is None:
            return text
        feature = self.program.at(found["feature"])
        return node_name("feature", int(found["layer"]), found["site"], feature, int(found["pos"]))
