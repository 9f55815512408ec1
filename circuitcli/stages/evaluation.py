"""What a circuit is judged with: the examples in their halves, the model with its baseline, and rivals of all sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from circuitcli.stages import examples as reading
from circuitcli.stages.example_data import Data
from circuitcli.stages.given import Given
from circuitcli.stages.halves import halves
from circuitcli.stages.stage import Job

if TYPE_CHECKING:
    from circuitcli.core.evidence.examples import Example, Half
    from circuitcli.core.sites import FeatureId
    from circuitcli.runtime.device import Runtime
    from circuitcli.stages.auditing import Auditing
    from circuitcli.stages.judging import Judge
    from circuitcli.stages.lines import Line, Scores
    from circuitcli.stages.scoring import Scoring
    from circuitcli.stages.screening import Batches
    from circuitcli.stages.verdicts import Verdicts
    from circuitcli.store.tables import Columns


@dataclass(eq=False)
class Evaluation:
    """Of a circuit on the examples of the settings; nothing is read before it is asked for.

    Attributes:
        job: The run and its settings.
        circuit: The one that is judged; None where measuring is to find it.
        data: What it is judged on; None: what the settings name.
        audited: Features, in it or not, of which it is asked whether the model needs them; in the model's order.
    """

    job: Job
    circuit: Given | None
    data: Data | None = None
    audited: Sequence[FeatureId] = ()

    @cached_property
    def examples(self) -> list[Example]:
        """What the circuit is judged on."""
        return reading.examples(self.job, found=self.data)

    @cached_property
    def halves(self) -> list[Half]:
        """The half of each example."""
        settings = self.job.settings
        found_on = self.circuit.found_on if self.circuit else ()
        return halves(self.examples, settings.validate.split, settings.seed, found_on)

    @cached_property
    def discovery(self) -> list[int]:
        """The examples by which components are ranked."""
        return [i for i, half in enumerate(self.halves) if half == "discovery"]

    @cached_property
    def evaluation(self) -> list[int]:
        """The others, which have no part in any choice."""
        return [i for i, half in enumerate(self.halves) if half == "evaluation"]

    @cached_property
    def judge(self) -> Judge:
        """The run's model and dictionaries, with the baseline."""
        from circuitcli.stages.inputs import Inputs
        from circuitcli.stages.judging import Judge

        return Judge(Inputs(self.job), reading.baseline(self.job, self.data))

    @cached_property
    def batch_size(self) -> int:
        """How many circuits fit into memory at once, on the longest example."""
        return self.judge.inputs.passes.runtime.rows_at_once(self.row_bytes, self._longest)

    @cached_property
    def row_bytes(self) -> int:
        """What a circuit holds while it is judged: a pass, and the encoding of its widest site."""
        encoding = 8 * self._longest * max(self.judge.widths("features").values())
        return self.judge.inputs.passes.row_bytes(None) + encoding

    @cached_property
    def _longest(self) -> int:
        return max(len(one.ids) for example in self.examples for one in example.sequences)

    def batches(self, runtime: Runtime) -> Batches:
        """Work over rows of so many positions; a batch of the runtime has as many as the longest sequence's."""
        from circuitcli.stages.batching import by_positions

        return by_positions(runtime, runtime.batch_size or 1, self._longest, self.job.report.say)

    def scoring(self, batches: Batches) -> Scoring:
        """What scores single components."""
        from circuitcli.stages.scoring import Scoring

        return Scoring(self.judge, self.examples, batches, self.job.settings.validate.candidates)

    def auditing(self, batches: Batches) -> Auditing:
        """What measures the features that are audited."""
        from circuitcli.stages.auditing import Auditing

        return Auditing(self.judge, self.scoring(batches), self.audited, self.halves)

    def lines(self, scores: Scores) -> list[Line]:
        """The circuits that are judged; the first line is of the one that is asked about."""
        from circuitcli.stages.lines import lines

        settings = self.job.settings.validate
        return lines(
            scores, self.circuit, nodes=settings.nodes, more=settings.sizes, draws=settings.draws,
            seed=self.job.settings.seed,
        )  # fmt: skip

    def verdicts(self, batches: Batches) -> Verdicts:
        """What judges circuits."""
        from circuitcli.stages.verdicts import Verdicts

        return Verdicts(self.judge, self.examples, self.halves, batches)

    def over_text(self, line: Line, sequences: Sequence[int] | None = None) -> Columns:
        """What changes where the whole circuit of a line is ablated over the run's text, or some sequences of it.

        It becomes its baseline, or 0 where that is a counterfactual's, which text has none of.
        """
        import torch

        from circuitcli.stages.joint import joint, zero

        count = max((row.n for row in line.found if row.part == "circuit"), default=0)
        index, place = line.ranking.index[:count], line.ranking.site[:count]
        circuit = {
            site: torch.as_tensor(index[place == here], device=self.judge.model.device)
            for here, site in enumerate(line.ranking.sites)
        }
        replaced = zero if self.judge.kind == "patch" else self.judge.instead
        return joint(self.judge.inputs, self.judge.dictionaries, circuit, replaced, sequences=sequences)
