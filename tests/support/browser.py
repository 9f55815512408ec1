"""Headless Chromium without network, and pages in it that remember all that went wrong."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support import geometry

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
LISTEN = (
    "window.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective));"
)
# Frames of the boxes that are shown, and the corners of the arrows' lines: Cytoscape's, in its own coordinates.
DRAWN = """(() => {
  const frame = ({ element }) => {
    const [{ x, y }, w, h] = [element.position(), element.width() / 2, element.height() / 2];
    return [x - w, y - h, x + w, y + h];
  };
  const ends = (e) => [e.sourceEndpoint(), ...(e.segmentPoints() ?? []), e.targetEndpoint()];
  const corners = (e) => ends(e).map(({ x, y }) => [x, y]);
  return [
    ORDER.filter((box) => box.element.visible()).map((box) => [box.id, frame(box)]),
    EDGES.filter((e) => e.element.visible()).map((e) => [e.edge.source, e.edge.target, corners(e.element)]),
  ];
})()"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or a skipped test that says there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"No Chromium was found ({', '.join(NAMES)}): install Debian's package chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Opened:
    """A page opened from disk, and what it asked for and complained of."""

    def __init__(self, browser: Browser, file: Path, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True, **context)
        self.context.add_init_script(LISTEN)
        self.context.set_default_timeout(4000)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.goto(file.as_uri(), timeout=60_000)
        self.rest()

    def rest(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def place(self, name: str) -> tuple[float, float]:
        """The middle of a box, in pixels of the window."""
        box, stage = self.page.evaluate(
            "(id) => [onScreen(BOXES.get(id)), byId('stage').getBoundingClientRect()]", name
        )
        return stage["left"] + box["left"] + box["width"] / 2, stage["top"] + box["top"] + box["height"] / 2

    def click(self, name: str, **options: Any) -> None:
        """Click on a box."""
        self.page.mouse.click(*self.place(name), **options)
        self.rest()

    def shown(self) -> set[str]:
        """The names of the boxes that the graph draws."""
        return set(self.page.evaluate("ORDER.filter((b) => b.element.visible()).map((b) => b.id)"))

    def arrows(self) -> set[tuple[str, str]]:
        """The ends of the arrows that the graph draws."""
        drawn = self.page.evaluate(
            "EDGES.filter((e) => e.element.visible()).map((e) => [e.edge.source, e.edge.target])"
        )
        return {(source, target) for source, target in drawn}

    def hidden(self) -> list[tuple[str, str, str]]:
        """The arrows that run behind a box that isn't their end, as the graph draws them, with that box."""
        boxes, lines = self.page.evaluate(DRAWN)
        frames = {name: tuple(frame) for name, frame in boxes}
        return geometry.hidden(frames, ((a, b, list(geometry.between(line))) for a, b, line in lines))

    def saved(self) -> dict[str, Any]:
        """The document that the page gives to download."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save circuit.json").click()
        assert download.value.suggested_filename == "circuit.json"
        found: dict[str, Any] = json.loads(Path(download.value.path()).read_bytes())
        return found

    def check(self) -> None:
        """Nothing was asked for but the file itself, nothing failed, and the policy had nothing to refuse."""
        assert [url for url in self.requests if not url.startswith("blob:")] == [self.page.url]
        assert self.complaints == []
        assert self.page.evaluate("violations") == []
        assert self.page.evaluate("window.broken") is None


Open = Callable[..., Opened]
