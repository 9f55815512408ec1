"""What mkdocs calls: files that live elsewhere in the repository are part of the site, and links lead to them there.

Pages name such a file by where it is (`../CHANGELOG.md`), so that their links also work where the repository is read.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Where a file of the repository stands on the site.
ELSEWHERE = {
    "README.md": "tour.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
    "circuitcli/demo/README.md": "demo.md",
    "circuitcli/demo/circuit.svg": "circuit.svg",
    "circuitcli/renderers/circuit.schema.json": "circuit.schema.json",
}
_SOURCE = {on_site: in_repository for in_repository, on_site in ELSEWHERE.items()}
# What a browser fetches to show a page, from another place.
_FETCHED = re.compile(r"""<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lives elsewhere."""
    for source, on_site in ELSEWHERE.items():
        files.append(File.generated(config, on_site, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their files stand on the site; one to any other file is left for `--strict` to find."""
    place = _SOURCE.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link["path"]))
        return ELSEWHERE.get(target) or target.removeprefix("docs/")

    return _LINK.sub(led, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that isn't whole without the network."""
    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches something from elsewhere: {found[0]}")
    return output
