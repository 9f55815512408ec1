"""What work is about, a model and its SAEs: those that a run recorded, or those that settings choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from circuitcli.errors import InputError, quoted
from circuitcli.results.dictionaries import entries_of
from circuitcli.saes import SaeEntry, fitted, load
from circuitcli.stages.choice import choose
from circuitcli.stages.tools import Tools
from circuitcli.store.run import Run

if TYPE_CHECKING:
    from circuitcli.core.dictionary import Dictionary
    from circuitcli.core.model import Model
    from circuitcli.runtime.checkpoint import Checkpoint
    from circuitcli.runtime.tokenizer import Tokenizer

_STAGE = "fetch-saes"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and its SAEs, of which nothing is loaded before it is needed.

    Attributes:
        tools: What it is read with.
        checkpoint: The model's files.
        entries: Its SAEs, in the model's order.
        run: The run that recorded them; None if settings chose them.
    """

    tools: Tools
    checkpoint: Checkpoint
    entries: Sequence[SaeEntry]
    run: Run | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        with self.tools.report.track(f"Loading the tokenizer of {self.checkpoint.name}", 0, ""):
            from circuitcli.runtime.tokenizer import Tokenizer

            return Tokenizer(self.checkpoint)

    @cached_property
    def model(self) -> Model:
        """The model with its weights; TransformerLens is imported only now, which takes seconds.

        Raises:
            InputError: Its files aren't those that the run recorded.
        """
        if self.run is not None and self.checkpoint.identity() != _identity(self.run):
            raise InputError(
                f"The model {self.checkpoint.name} isn't the one that was recorded: its files changed.",
                hint=f"Run `circuit {_STAGE} --run {quoted(self.run.root)} --force`.",
            )
        with self.tools.report.track(f"Loading {self.checkpoint.name}", 0, ""):
            from circuitcli.runtime import model

            return model.load(self.checkpoint, self.tools.runtime)

    def sae(self, entry: SaeEntry, *, decoder: bool = True) -> Dictionary:
        """One of its SAEs on the device, told how this model differs from the one that it was trained on.

        Without `decoder` that stays where its file is mapped, for single rows of it.
        """
        sae = fitted(load(entry, self.tools.hub), entry, self.model)
        return sae.to(self.tools.runtime.device, decoder=decoder)


def recorded(tools: Tools, run: Run) -> Subject:
    """What a run recorded, at the commit that it recorded.

    Raises:
        InputError: It hasn't yet, or not as this version does.
    """
    found = tools.find(_identity(run))
    tools.fetch(found.files)
    return Subject(tools, found, entries_of(run), run)


def chosen(tools: Tools, run: Run | None = None, *, force: bool = False) -> Subject:
    """What the settings choose, fetched and checked, whatever a run recorded. Nothing is written.

    Args:
        tools: With the settings.
        run: One that goes on with the commits that it began with, as far as the settings choose the same.
        force: Whether it doesn't.

    Raises:
        InputError: The model or the SAEs aren't there, or don't go together.
    """
    return Subject(tools, *choose(tools, run, force=force))


def _identity(run: Run) -> str:
    """Of the model that a run recorded."""
    return str(run.require(_STAGE).inputs["model identity"])
