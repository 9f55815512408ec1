"""test: hold a saved circuit to its thresholds, on the model, the dictionaries and the examples that it names.

What it is held to is measured anew, in a run of its own that goes again when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from circuitcli.core.evidence.thresholds import Verdict
from circuitcli.errors import InputError, UsageError
from circuitcli.stages.report import Report, Within
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job, versions
from circuitcli.stages.text_identity import text_identity
from circuitcli.stages.thresholds import Held
from circuitcli.store.run import Run

_FETCH, _CACHE = "fetch-saes", "cache-acts"


@dataclass(frozen=True)
class Judged:
    """What came of a file.

    Attributes:
        path: The file.
        model, model_identity: What it was tested on.
        verdicts: Of each threshold.
        seconds: That it took.
        versions: Of this package, and of the libraries that compute.
        device: Where it was computed.
    """

    path: Path
    model: str
    model_identity: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    versions: dict[str, str]
    device: str

    @property
    def failed(self) -> list[Verdict]:
        """Those that failed."""
        return [one for one in self.verdicts if one.failure]


def run(held: Held, report: Report) -> Judged:
    """Measure what a circuit is held to, and judge it.

    Raises:
        InputError: The model, the dictionaries or the text aren't those of the file, or an example isn't as it should
            be.
    """
    started = time.monotonic()
    with TemporaryDirectory(prefix="circuit-test-") as folder, _of_file(held):
        job = Job(held.settings, Within(report), Run(Path(folder) / "run", STAGES.folders))
        STAGES[_FETCH].work()(job)
        _refuse_other(held, job)
        STAGES[_CACHE].work()(job)
        verdicts = _verdicts(held, job)
        return Judged(
            path=held.path,
            model=job.settings.model,
            model_identity=held.test.model_identity,
            verdicts=verdicts,
            seconds=round(time.monotonic() - started, 3),
            versions=versions(),
            device=str(job.runtime.device),
        )


@contextmanager
def _of_file(held: Held) -> Iterator[None]:
    """What is wrong with what a file says is no usage; unless a place was typed, which may be wrong itself."""
    try:
        yield
    except UsageError as error:
        if {"model", "model_revision", "saes"} & held.typed.keys():
            raise
        raise InputError(f"The test in {held.path} can't be made: {error.message}", hint=error.hint) from None


def _refuse_other(held: Held, job: Job) -> None:
    """Refuse another model, other dictionaries or another text than those that the file is of."""
    test, found = held.test, job.run.require(_FETCH).inputs
    if found["model identity"] != test.model_identity:
        raise InputError(
            f"{held.path} tests a circuit of a model that is {test.model_identity}, and {job.settings.model} is "
            f"{found['model identity']}.",
            hint="Name the circuit's own model with --model, at the revision that it has.",
        )
    wanted = {f"{one.layer}.{one.site}": one.sha256 for one in test.dictionaries}
    other = next((site for site in {**wanted, **found["saes"]} if wanted.get(site) != found["saes"].get(site)), None)
    if other is not None:
        raise InputError(
            f"{held.path} tests a circuit of other SAEs: at {other} it has {wanted.get(other, 'none')}, and "
            f"{job.settings.saes.release} {found['saes'].get(other, 'none')}.",
            hint="Name the circuit's own SAEs with --release, at the revision that they have.",
        )
    if test.text is not None and text_identity(job) != test.text:
        raise InputError(
            f"{held.path} is of another text than the one that its settings name now.",
            hint="Put the text back as it was, or write the test anew: `circuit test --run RUN --write FILE`.",
        )


def _verdicts(held: Held, job: Job) -> tuple[Verdict, ...]:
    from circuitcli.stages import remeasuring  # only now: nothing computes before all files were read

    verdicts: list[Verdict] = []
    if held.test.faithfulness:
        f = remeasuring.faithfulness(job, held)
        verdicts += [one.judged(*f[one.errors]) for one in held.test.faithfulness]
    if held.test.edges:
        effects = (remeasuring.edges_of_prompts if held.prompted else remeasuring.mean_effects)(job, held)
        verdicts += [one.judged(*effects[one.name]) for one in held.test.edges]
    return tuple(verdicts)
