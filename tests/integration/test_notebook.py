"""circuitcli.notebook: in a real kernel, and as HTML that hostile text can't break."""

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.brute import rows
from support.commands import Result, contents, environment
from support.tokenizers_of import pretend

import circuitcli.renderers
from circuitcli.errors import InputError, UsageError
from circuitcli.notebook import show
from circuitcli.results import cards

HOSTILE = [
    *("[/b]", "</script>", "\"'", "</iframe><script>alert(1)</script>", "שלום", "\u202eevil", "\u0000", "x" * 10_000),
    *("<img src=x onerror=alert(1)>", "&lt;b&gt;", "</td></table>", "\ud800"),
]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page in order, each with its attributes; ends that don't fit are noted."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.odd: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.odd += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.odd.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


TAGS = {"iframe", "details", "summary", "b", "p", "table", "thead", "tbody", "tr", "th", "td", "bdi", "div"}


def checked(html: str) -> Page:
    """The page, of which nothing is a script, a handler or out of place."""
    html.encode()
    page = Page(html)
    assert page.odd == []
    assert page.tags() <= TAGS
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    return page


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def name(row: dict[str, Any]) -> str:
    return f"{row['layer']}.{row['site']}.{row['feature']}"


@pytest.mark.slow
def test_in_a_real_kernel(run: Path, monkeypatch: pytest.MonkeyPatch):
    for key, value in environment(OMP_NUM_THREADS="1").items():
        monkeypatch.setenv(key, value)
    totals = sorted(rows(run, "effects/features.parquet"), key=lambda row: -row["kl_mean"])
    cells = [
        "from circuitcli.notebook import show",
        f"show({str(run)!r}, height=333)",
        f"show({str(run)!r}, {name(totals[5])!r})",
        f"show({str(run)!r}, '9:9')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    before = contents(run)
    NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True).execute()
    assert contents(run) == before
    assert notebook.cells[0].outputs == []
    [foremost], [named], [wrong] = (cell.outputs for cell in notebook.cells[1:])
    page = checked(foremost["data"]["text/html"])
    [frame] = [attributes for tag, attributes in page.elements if tag == "iframe"]
    assert "height:333px" in str(frame["style"])
    assert "text/plain" in foremost["data"]
    text = "".join(page.text)
    assert all(name(row) in text for row in totals[:3])
    assert [tag for tag, _ in page.elements].count("details") == 3
    assert [tag for tag, _ in checked(named["data"]["text/html"]).elements].count("details") == 1
    assert wrong["ename"] == "UsageError"
    assert "There are 0.resid_post" in "\n".join(wrong["traceback"])  # the hint


def test_a_run_as_html(run: Path):
    filters = list(warnings.filters)
    shown = show(run)
    assert warnings.filters == filters  # a notebook's warnings are its own
    page = checked(shown._repr_html_())
    [frame] = [attributes for tag, attributes in page.elements if tag == "iframe"]
    drawn = json.loads((run / "graph/circuit.json").read_text())
    assert [node.id for node in shown.circuit.nodes] == [node["id"] for node in drawn["nodes"]]
    assert all(node["id"] in str(frame["srcdoc"]) for node in drawn["nodes"])
    text = "".join(page.text)
    for card in shown.cards:
        assert f"{card.feature.max_activation:.2f}" in text
        assert all(edge.source in text for edge in card.causes)
        assert all(f"{edge.effect_mean:+.3f}" in text for edge in card.consequences or ())
        assert all("".join(c.tokens).strip() in text.replace("⏎", "\n") for c in card.feature.contexts)
    assert repr(shown).startswith("<the run run: ")


def test_the_page_may_do_only_what_it_must(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    page = "<html><script>let a = \"</iframe>\" && '&quot;'</script></html>"
    (tmp_path / "plain/html.py").write_text(
        f"class Html:\n    def files(self, circuit):\n        return {{'c.html': {page!r}.encode()}}\nplugin = Html()\n"
    )
    monkeypatch.delitem(sys.modules, "circuitcli.renderers.html", raising=False)
    monkeypatch.setattr(circuitcli.renderers, "__path__", [str(tmp_path / "plain"), *circuitcli.renderers.__path__])
    [frame] = [a for tag, a in checked(show(run)._repr_html_()).elements if tag == "iframe"]
    assert frame["sandbox"] == "allow-scripts allow-downloads allow-popups"
    assert frame["srcdoc"] == page  # as the renderer wrote it, after escaping and parsing
    sys.modules.pop("circuitcli.renderers.html")


@pytest.fixture
def hostile(
    run: Path, circuit: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """A run whose tokens and labels are hostile."""
    whole = [token for token in HOSTILE if token.isprintable() or len(token) > 1]
    pretend(monkeypatch, whole)
    assert circuit("effects", "--run", run, "--force").code == 0
    pretend(monkeypatch, HOSTILE)
    label = "</summary></details><script>alert(2)</script>\u202e" + "y" * 10_000
    features = [name(row) for row in rows(run, "effects/features.parquet")]
    (tmp_path / "labels.csv").write_text("feature,label\n" + "".join(f'{f},"{label}"\n' for f in features))
    assert circuit("graph", "--run", run, "--labels", tmp_path / "labels.csv").code == 0
    return run


def test_hostile_text(hostile: Path):
    shown = show(hostile)
    html = shown._repr_html_()
    page = checked(html)
    text = "".join(page.text)
    assert "</summary></details><script>alert(2)</script>\\u202eyyy" in text
    assert len(text) < 200_000
    tokens = {token for node in shown.circuit.nodes for c in node.contexts for token in c.tokens}
    assert len(tokens) >= 9  # of the twelve, in the text or in the frame
    assert len({token for card in shown.cards for c in card.feature.contexts for token in c.tokens}) >= 6
    assert not set(html) & {"\u202e", "\u0000"}
    [frame] = [attributes for tag, attributes in page.elements if tag == "iframe"]
    if frame["sandbox"] == "":
        assert "script" not in Page(str(frame["srcdoc"])).tags()


def test_what_is_wrong_says_what_to_do(run: Path, tmp_path: Path):
    with pytest.raises(InputError, match="There is no run at") as error:
        show(tmp_path / "none")
    assert error.value.__notes__ == [error.value.hint]
    with pytest.raises(UsageError, match="is at no SAE"):
        show(str(run), "7:1")
    (run / "effects/stage.json").unlink()
    with pytest.raises(InputError, match="no finished effects stage"):
        show(run)


def test_the_foremost_features(run: Path, circuit: Callable[..., Result]):
    totals = sorted(rows(run, "effects/features.parquet"), key=lambda row: -row["kl_mean"])
    assert [card.feature.id for card in show(run).cards] == [name(row) for row in totals[:3]]
    pinned = name(totals[-1])
    assert circuit("run-all", "--run", run, "--pin", pinned).code == 0
    assert [card.feature.id for card in show(run).cards] == [pinned]
    assert cards.EDGES == 10
