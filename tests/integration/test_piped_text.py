"""`--text -`: text that comes through a pipe."""

import subprocess
from pathlib import Path

from support.commands import Result, spawn


def test_text_through_a_pipe_is_read_as_from_a_file(run: Path, tiny_text: Path):
    def cache_acts(text: bytes | None) -> Result:
        source = {"input": text.decode()} if text is not None else {"stdin": subprocess.DEVNULL}
        return spawn("cache-acts", "--run", run, "--text", "-", "--force", **source)

    tokens = run / "acts/tokens.safetensors"
    from_file = tokens.read_bytes()
    tokens.unlink()
    done = cache_acts(tiny_text.read_bytes())
    assert done.code == 0, done.err
    assert tokens.read_bytes() == from_file
    cache_acts(None).refused(3, "stdin", "empty")
    assert tokens.read_bytes() == from_file
