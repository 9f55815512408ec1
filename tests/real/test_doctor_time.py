"""`circuit doctor` on one SAE of a Llama of 135 million parameters, in its default form: seconds, and work by count."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from support import smol
from support.commands import environment, spawn

pytestmark = [pytest.mark.slow, pytest.mark.timed, pytest.mark.timeout(1800)]
# What two quiet cores may take, in seconds of wall time.
SECONDS = 60


@pytest.mark.parametrize("d_sae", [4608, 24_576])
def test_a_minute_on_two_quiet_cores(d_sae: int, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """By the processor's time, which a busy machine stretches little: two cores have 120 s of it in a minute."""
    smol.save_model(tmp_path / "model")
    smol.save_sae(tmp_path / "saes" / "one", tmp_path / "model", 15, d_sae)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = spawn(
        "doctor", "--model", tmp_path / "model", "--release", tmp_path / "saes", "--device", "cpu", "--json",
        cwd=tmp_path, timeout=1500, env=environment(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE"),
    )  # fmt: skip
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.code == 0, result.err
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    [fit] = result.document["saes"]
    record_property("processor_seconds", spent)
    print(f"d_sae {d_sae}: {seconds:.0f} s here, {spent:.0f} s of processors, so {spent / 2:.0f} s on two quiet cores")
    assert fit["positions"] >= 2000
    assert len(fit["alternatives"]) >= 7
    assert spent <= 2 * SECONDS
