"""A bar fits a terminal with what an executor says beside it: neither the count nor the time left is cut."""

import io

import pytest
from rich.console import Console

from circuitcli.cli.progress import Bars


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("beside", ["", "2 shards done, 2 workers", "1,234 shards done, 64 workers"])
@pytest.mark.parametrize("what", ["Ablating layer 0", "Caching activations"])
def test_it_fits(width: int, beside: str, what: str) -> None:
    seconds = iter(range(10_000))
    bars = Bars(Console(file=io.StringIO(), width=width, get_time=lambda: next(seconds)), lambda: beside)
    with bars.track(what, 800, "sequences") as done:
        for _ in range(4):
            done(100)
        assert bars._live is not None
        shown = Console(file=io.StringIO(), width=width)
        shown.print(bars._live.get_renderable())
        line = shown.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]  # a StringIO
    assert "400/800" in line
    assert "0:00:0" in line or "0:01:" in line
    assert beside in line
    assert what[:10] in line
    unit = "sequences/s" if width == 120 or not beside else "/s"
    assert unit in line
    assert len(line) <= width
