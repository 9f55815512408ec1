"""An SAE and a transcoder that reconstruct one site: ablated side by side, but no question of both is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import layouts
from support.transcoders import Made

from circuitcli import plugins
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry, entry
from circuitcli.stages import attribute, cache_acts, fetch_saes, kinds, validate
from circuitcli.stages.stage import Job


def entries(folder: Path) -> list[SaeEntry]:
    source, release = plugins.load("saes", "local"), str(folder)
    located = source.locate(release, "main", source.sites(release, "main"))
    return [entry("local", one, one.files({})) for one in located]


def test_what_reconstructs_a_site_twice(tmp_path: Path) -> None:
    """Dictionaries of a cross-layer transcoder say together what is there, its last one too."""
    clt = entries(layouts.save_circuit_tracer_clt(tmp_path / "clt", layouts.across()))
    inside = entries(layouts.save_circuit_tracer(tmp_path / "in", layouts.per_layer(), "mlp.hook_in"))
    mid = entries(layouts.save_circuit_tracer(tmp_path / "mid", layouts.per_layer()))
    saes = entries(layouts.save_gemma(tmp_path / "saes", layouts.per_layer("jumprelu"), layouts.OUT, None))
    other = entries(layouts.save_gemma(tmp_path / "other", layouts.per_layer("jumprelu"), "output", None))
    for fine in (clt, inside, [*mid, *other], [*clt, *other], [*saes, *other], [clt[2], saes[1]]):
        assert kinds.clash(fine) is None
    assert kinds.clash([*inside, saes[1]]) == (inside[1], saes[1], Site(1, "mlp_out"))
    assert kinds.clash([saes[2], *clt]) == (saes[2], clt[0], Site(2, "mlp_out"))
    assert kinds.clash([*inside, mid[2]]) == (inside[2], mid[2], Site(2, "mlp_out"))
    assert kinds.clash([clt[0], clt[1], inside[0]]) == (clt[0], inside[0], Site(0, "mlp_out"))


@pytest.mark.parametrize("stage", [attribute, validate])
def test_no_question_of_both_is_answered(start: Callable[..., Job], tmp_path: Path, stage: object) -> None:
    kept = Made("gpt2", "saelens").save(tmp_path / "made")
    settings = kept.run("mlp_in", "mlp_out", layers="1")
    settings["texts"] |= {"source": "prompt", "prompt": ["the cat sat on the mat"], "file": ""}
    job = start(tmp_path / "run", settings)
    fetch_saes.run(job)
    cache_acts.run(job)
    with pytest.raises(InputError, match=r"transcoder at 1\.mlp_in and the SAE at 1\.mlp_out both") as error:
        stage.run(job)  # type: ignore[attr-defined]
    assert "--site" in error.value.hint
