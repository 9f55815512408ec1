"""Whether the SAEs of a run fit its model: what `doctor` and `cache-acts` share. The rule is in `core.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.examination import Examiner, sequences
from circuitcli.core.fit import MIN_POSITIONS, Fit
from circuitcli.core.reconstruction import Text
from circuitcli.core.sampling import Sample
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages.sequences import prepend_bos
from circuitcli.stages.subject import Subject
from circuitcli.stages.tools import Tools

# About how many positions are measured (whole sequences are): by doctor, and before activations are cached.
FULL, CHEAP = 2048, 256
# SAEs that a warning calls by name, at most.
_NAMED = 4


def examine(subject: Subject, saes: Sequence[Dictionary], sample: Sample, *, full: bool) -> list[Fit]:
    """How each SAE fits, on the first sequences of the sample; `full`: on more of them, the next token of all changes.

    The SAEs share one pass of the model, and the memory of all their sites.
    """
    text, report = _text(subject, sample, positions=FULL if full else CHEAP), subject.tools.report
    with report.track("Reading the sample", len(text), "sequences") as done:
        trials = Examiner(subject.model, text, subject.tokenizer.bos, saes, done).trials(saes)
    what = f"Examining {saes[0].reads}" if len(saes) == 1 else f"Examining {len(saes)} SAEs"
    with report.track(what, sum(trial.total for trial in trials), "sequences") as done:
        return [trial.examine(full=full, done=done) for trial in trials]


def _text(subject: Subject, sample: Sample, *, positions: int) -> Text:
    count = sequences(sample.counted.sum(1), positions)
    device = subject.tools.runtime.device
    tokens, lengths = (torch.as_tensor(part, device=device).long() for part in (sample.tokens, sample.lengths))
    special = torch.as_tensor(sample.special, device=device) if sample.special.any() else None
    return Text(tokens, lengths, prepend_bos(subject), special).part(slice(count))


def check(tools: Tools, fits: Sequence[Fit]) -> None:
    """Refuse SAEs that don't fit, and say which are doubtful; where the settings allow misfits, only name them.

    Raises:
        InputError: One is wrong.
    """
    wrong = [fit for fit in fits if fit.verdict == "wrong"]
    if wrong and not tools.settings.allow_misfit:
        more = f" So {_are(len(wrong) - 1)} {len(wrong) - 1} other{'s' * (len(wrong) > 2)}." if len(wrong) > 1 else ""
        raise InputError(
            f"The SAE at {wrong[0].site} doesn't fit {tools.settings.model}: {wrong[0].why}.{more}",
            hint="`circuit doctor` with the same settings says more; --allow-misfit goes on all the same.",
        )
    for line in warnings(wrong if tools.settings.allow_misfit else fits, hint=" See `circuit doctor`."):
        tools.report.say(line)


def warnings(fits: Sequence[Fit], *, hint: str = "") -> list[str]:
    """A line for each reason for which SAEs don't fit, may not, or can't be judged; it names those it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for fit in fits:
        if fit.verdict != "fits":
            reasons.setdefault(("untold" if untold(fit) else fit.verdict, fit.why), []).append(fit.site)
    return [_warning(kind, why, sites, hint) for (kind, why), sites in reasons.items()]


def untold(fit: Fit) -> bool:
    """Whether the text is too short to say anything."""
    return fit.positions < MIN_POSITIONS or fit.numbers.fvu is None


def _warning(kind: str, why: str, sites: Sequence[str], hint: str) -> str:
    several = len(sites) > 1
    shown = ", ".join(sites[:_NAMED]) + (f" and {amount(len(sites) - _NAMED, 'other')}" if len(sites) > _NAMED else "")
    saes = f"the SAE{'s' * several} at {shown}"
    if kind == "untold":
        return f"Warning: whether {saes} fit{'s' * (not several)} wasn't checked: {why}."
    verb = "may not" if kind == "doubtful" else "don't" if several else "doesn't"
    return f"Warning: {saes} {verb} fit: {why}.{hint}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def document(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """What is recorded and printed of each SAE."""
    return [asdict(fit) for fit in fits]
