"""Where things are in a drawn svg: boxes, lines of text, and the paths of arrows; and a circuit to lay out."""

import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from itertools import pairwise

from circuitcli.core.circuit import Circuit, Edge
from support import drawn

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]
Frame = tuple[float, float, float, float]  # left, top, right, bottom
STEPS = 40


def points(text: str) -> list[Point]:
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def frames(root: ET.Element) -> dict[str, Frame]:
    """The frame of each box, headings left out, by the name in its title."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        outlines = [points(part.get("points") or part.get("d") or "") for part in group if part.tag != f"{SVG}text"]
        corners = [corner for outline in outlines for corner in outline]
        if group.get("class") == "node" and corners:
            xs, ys = zip(*corners, strict=True)
            found[str(group.findtext(f"{SVG}title")).split(": ")[0]] = (min(xs), min(ys), max(xs), max(ys))
    return found


def arrows(root: ET.Element) -> Iterator[tuple[str, str, list[Point]]]:
    """The ends of each arrow, and points all along its Bézier curves."""
    for group in root.iter(f"{SVG}g"):
        line = group.find(f"{SVG}path")
        if group.get("class") == "edge" and line is not None:
            source, target = str(group.findtext(f"{SVG}title")).split(": ")[0].split(" → ")
            yield source, target, list(along(points(str(line.get("d")))))


def along(controls: Sequence[Point]) -> Iterator[Point]:
    for i in range(0, len(controls) - 3, 3):
        a, b, c, d = controls[i : i + 4]
        for step in range(STEPS + 1):
            t = step / STEPS
            weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
            x, y = (sum(w * p[axis] for w, p in zip(weights, (a, b, c, d), strict=True)) for axis in (0, 1))
            yield x, y


def between(corners: Sequence[Point]) -> Iterator[Point]:
    """Points all along straight lines from corner to corner."""
    for (ax, ay), (bx, by) in pairwise(corners):
        for step in range(STEPS + 1):
            yield ax + (bx - ax) * step / STEPS, ay + (by - ay) * step / STEPS


def hidden(
    boxes: dict[str, Frame], drawn_arrows: Iterator[tuple[str, str, list[Point]]], margin: float = 2
) -> list[tuple[str, str, str]]:
    """The arrows that run more than a margin behind a box that isn't their end, with that box."""
    return [
        (source, target, name)
        for source, target, line in drawn_arrows
        for name, (left, top, right, bottom) in boxes.items()
        if name not in (source, target)
        and any(left + margin < x < right - margin and top + margin < y < bottom - margin for x, y in line)
    ]


def tangled(nodes: int, edges: int, layers: int, sites: Sequence[str], seed: int = 0) -> Circuit:
    """So many features, evenly over the sites, and effects as ablation has them: to the end of the next layer."""
    draw = random.Random(seed)
    order = [(layer, site) for layer in range(layers) for site in sites]
    features = [drawn.node(f"{layer}.{site}.{i}") for i in range(nodes // len(order)) for layer, site in order]
    pairs: set[tuple[str, str]] = set()
    while len(pairs) < edges:
        up, down = draw.choice(features), draw.choice(features)
        if order.index((up.layer, up.site)) < order.index((down.layer, down.site)) and down.layer <= up.layer + 1:
            pairs.add((up.id, down.id))
    effects = (Edge(up, down, draw.gauss(0, 1) ** 3, -1.0, 1.0, 9) for up, down in sorted(pairs))
    return Circuit(drawn.METADATA, tuple(features), tuple(effects))
