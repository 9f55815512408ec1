"""PNG, drawn by Graphviz from the same source as the svg; at twice the points of the svg, for slides.

graphviz-pure brings its own fonts, which lack the open box and the keys: they are drawn as the nearest
characters that these fonts have, in the boxes as in the legend that explains them.
"""

from __future__ import annotations

from dataclasses import dataclass

from circuitcli.core.circuit import Circuit
from circuitcli.renderers.dot import source
from circuitcli.runtime.layout import lay_out

DPI = 144
IN_THE_FONT = str.maketrans({"␣": "˽", "⏎": "¶", "⇥": "→", "␍": "¶", "∅": "Ø"})


@dataclass(frozen=True)
class Png:
    """A picture of 144 dots an inch."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"circuit.png": lay_out(source(circuit).translate(IN_THE_FONT), "png", dpi=DPI)}


plugin = Png()
