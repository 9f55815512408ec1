"""The pictures of the documents, made again: `python docs/pictures.py`, where `pip install '.[test]'` and Chromium are.

It runs the demo twice, puts the svgs into the package, and takes pictures of the pages with one node chosen. Chromium
takes the fonts of the machine: one with Helvetica, Arial or Liberation Sans makes the page as most people see it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
# By the names of their pictures: what is asked, and what is chosen on the page.
RUNS = {
    "circuit": ([], "2.resid_post.713"),
    "why": (["--prompt", "In the beginning, God created the", "--attribute"], "2.resid_post.848@7"),
}
SIZE = {"width": 1360, "height": 850}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def main() -> None:
    """The two pictures of the package, and the two of pages."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (asked, chosen) in RUNS.items():
            run = Path(folder) / name
            command = [
                sys.executable,
                "-m",
                "circuitcli",
                "run-all",
                "--run",
                run,
                "--format",
                "svg",
                "--format",
                "html",
            ]
            subprocess.run([*command, *asked], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            shutil.copy(run / "graph" / "circuit.svg", ROOT / "circuitcli" / "demo" / f"{name}.svg")
            page = {"circuit": "page.png", "why": "why.png"}[name]
            photograph(run / "graph" / "circuit.html", ROOT / "docs" / page, chosen)


def photograph(page: Path, picture: Path, chosen: str) -> None:
    """The page at its start but for the node that is chosen, in light colours."""
    program = next(filter(None, map(shutil.which, CHROMIUM)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page(viewport=SIZE, color_scheme="light", offline=True)
        shown.goto(page.as_uri())
        shown.evaluate("(id) => choose(BOXES.get(id))", chosen)
        shown.wait_for_timeout(1000)  # boxes are painted a few a frame
        shown.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
