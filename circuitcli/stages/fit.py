"""Whether the dictionaries of a run fit its model: what `doctor` and `cache-acts` share. The rule is in `core.fit`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.examination import Examiner, sequences
from circuitcli.core.fit import MIN_POSITIONS, Fit
from circuitcli.core.model import Model
from circuitcli.core.reconstruction import Text
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry
from circuitcli.stages.report import Report
from circuitcli.stages.sequences import prepend_bos
from circuitcli.stages.subject import Subject
from circuitcli.stages.tools import Tools

# About how many positions are measured (whole sequences are): by doctor, and before activations are cached.
FULL, CHEAP = 2048, 256
# Dictionaries that a warning calls by name, at most.
_NAMED = 4


def examine(subject: Subject, saes: Sequence[Dictionary], sample: Sample, *, full: bool) -> list[Fit]:
    """How each dictionary fits, on the first sequences of the sample.

    They share one pass of the model, and the memory of all their sites.

    Args:
        subject: The model, and what is recorded of its dictionaries.
        saes: Some of these, and with one all that write where it writes first.
        sample: The text.
        full: Whether on more sequences, with the next token of all changes.
    """
    return examined(subject.model, saes, passage(subject, sample, full=full), subject.tools.report, full=full)


@dataclass(frozen=True, eq=False)
class Passage:
    """The sequences on which dictionaries are tried, as a value.

    Attributes:
        tokens, lengths, special: Of each sequence; see `core.sampling.Sample`.
        begins: Whether each begins with BOS.
        bos: The model's BOS token, if it has one.
        normalized: Where those read that read a norm's output without its weights.
    """

    tokens: Int[np.ndarray, "n t"]
    lengths: Int[np.ndarray, " n"]
    special: Bool[np.ndarray, "n t"]
    begins: bool
    bos: int | None
    normalized: frozenset[Site]

    def text(self, device: torch.device) -> Text:
        """On the device."""
        tokens, lengths = (torch.as_tensor(part, device=device).long() for part in (self.tokens, self.lengths))
        special = torch.as_tensor(self.special, device=device) if self.special.any() else None
        return Text(tokens, lengths, self.begins, special)


def passage(subject: Subject, sample: Sample, *, full: bool) -> Passage:
    """The first sequences of a sample, as many as are measured."""
    count = sequences(sample.counted.sum(1), FULL if full else CHEAP)
    return Passage(
        sample.tokens[:count], sample.lengths[:count], sample.special[:count],
        begins=prepend_bos(subject),
        bos=subject.tokenizer.bos,
        normalized=frozenset(entry.at for entry in subject.entries if entry.facts.normalized),
    )  # fmt: skip


def examined(model: Model, saes: Sequence[Dictionary], on: Passage, report: Report, *, full: bool) -> list[Fit]:
    """How each dictionary fits, on a passage; see `examine`."""
    text = on.text(model.device)
    with report.track("Reading the sample", len(text), "sequences") as done:
        trials = Examiner(model, text, on.bos, saes, done, on.normalized).trials(saes)
    kind = {trial.stated.kind for trial in trials}
    what = f"{len(saes)} {plural(kind)}" if len(saes) > 1 else str(saes[0].reads)
    with report.track(f"Examining {what}", sum(trial.total for trial in trials), "sequences") as done:
        return [trial.examine(full=full, done=done) for trial in trials]


def together(entries: Sequence[SaeEntry]) -> list[list[SaeEntry]]:
    """Dictionaries that are judged one by one, and those of a cross-layer transcoder, which write the same sites.

    In the model's order, by the first of each.
    """
    several = {site for entry in entries if len(entry.facts.writes) > 1 for site in entry.facts.writes}
    across = [entry for entry in entries if entry.facts.elsewhere and several & set(entry.facts.writes)]
    return [across if entry in across else [entry] for entry in entries if entry not in across[1:]]


def check(tools: Tools, fits: Sequence[Fit]) -> None:
    """Refuse dictionaries that don't fit, and say which are doubtful; where settings allow misfits, only name them.

    Raises:
        InputError: One is wrong.
    """
    wrong = [fit for fit in fits if fit.verdict == "wrong"]
    if wrong and not tools.settings.allow_misfit:
        more = f" So {_are(len(wrong) - 1)} {len(wrong) - 1} other{'s' * (len(wrong) > 2)}." if len(wrong) > 1 else ""
        raise InputError(
            f"The {wrong[0].kind} at {wrong[0].site} doesn't fit {tools.settings.model}: {wrong[0].why}.{more}",
            hint="`circuit doctor` with the same settings says more; --allow-misfit goes on all the same.",
        )
    for line in warnings(wrong if tools.settings.allow_misfit else fits, hint=" See `circuit doctor`."):
        tools.report.say(line)


def warnings(fits: Sequence[Fit], *, hint: str = "") -> list[str]:
    """A line for each reason for which some don't fit, may not, or can't be judged; it names those it holds for."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for fit in fits:
        if fit.verdict != "fits":
            reasons.setdefault(("untold" if untold(fit) else fit.verdict, fit.why, fit.kind), []).append(fit.site)
    return [_warning(verdict, why, kind, sites, hint) for (verdict, why, kind), sites in reasons.items()]


def plural(kinds: Collection[str]) -> str:
    """What several are called: by their kind, if they are of one."""
    return f"{next(iter(kinds))}s" if len(kinds) == 1 else "dictionaries"


def untold(fit: Fit) -> bool:
    """Whether the text is too short to say anything, or what would be judged with it isn't chosen."""
    return fit.positions < MIN_POSITIONS or fit.numbers.fvu is None


def _warning(verdict: str, why: str, kind: str, sites: Sequence[str], hint: str) -> str:
    several = len(sites) > 1
    shown = ", ".join(sites[:_NAMED]) + (f" and {amount(len(sites) - _NAMED, 'other')}" if len(sites) > _NAMED else "")
    saes = f"the {kind}{'s' * several} at {shown}"
    if verdict == "untold":
        return f"Warning: whether {saes} fit{'s' * (not several)} wasn't checked: {why}."
    verb = "may not" if verdict == "doubtful" else "don't" if several else "doesn't"
    return f"Warning: {saes} {verb} fit: {why}.{hint}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def document(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """What is recorded and printed of each."""
    return [asdict(fit) for fit in fits]
