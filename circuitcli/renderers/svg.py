"""SVG, drawn by Graphviz from the DOT source, then made plain: no links, no references, tooltips that browsers show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from circuitcli.core.circuit import Circuit
from circuitcli.renderers._html import natural_width
from circuitcli.renderers._legend import title
from circuitcli.renderers.dot import source
from circuitcli.runtime.layout import lay_out

SVG = "http://www.w3.org/2000/svg"
XLINK_TITLE = "{http://www.w3.org/1999/xlink}title"
FONTS = "Helvetica,Arial,sans-serif"


@dataclass(frozen=True)
class Svg:
    """One SVG element, UTF-8, without scripts and without references to anything outside it."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"circuit.svg": plain(lay_out(source(circuit), "svg"), title(circuit))}


plugin = Svg()


def plain(drawn: bytes, name: str) -> bytes:
    """Graphviz's SVG without its document type, comments and anchors, and with text that keeps its width in any font.

    Graphviz writes a tooltip as an anchor without a target (`<a xlink:title>`), which browsers don't all show. It
    becomes the `<title>` of the group that it is in, which they do.
    """
    ET.register_namespace("", SVG)
    root = ET.fromstring(drawn)
    for group in root.iter(f"{{{SVG}}}g"):
        _unwrap(group)
    for text in root.iter(f"{{{SVG}}}text"):
        _fit(text)
    root.set("role", "img")
    root.set("aria-label", name)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _fit(text: ET.Element) -> None:
    """A stack of fonts, and the width of the first of them, into which a browser squeezes what it has instead."""
    text.set("font-family", FONTS)
    size, bold = float(text.get("font-size", "14")), text.get("font-weight") == "bold"
    points = natural_width(text.text or "", size, bold=bold)
    if points:
        text.set("textLength", f"{points:.1f}")
        text.set("lengthAdjust", "spacingAndGlyphs")


def _unwrap(group: ET.Element) -> None:
    """Put the children of anchors in this group where the anchors were, and their title on the group."""
    for holder in list(group):
        anchor = holder.find(f"{{{SVG}}}a") if holder.tag == f"{{{SVG}}}g" else None
        heading = group.find(f"{{{SVG}}}title")
        if anchor is None or heading is None or XLINK_TITLE not in anchor.attrib:
            continue
        heading.text = anchor.attrib[XLINK_TITLE]
        at = list(group).index(holder)
        group.remove(holder)
        for offset, child in enumerate(list(anchor)):
            group.insert(at + offset, child)
