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
from circuitcli.stages.stage import Job, Work

if TYPE_CHECKING:
    from circuitcli.core.evidence.examples import Example, Half
    from circuitcli.core.sites import FeatureId
    from circuitcli.stages.auditing import Auditing
    from circuitcli.stages.inputs import JobInputs
    from circuitcli.stages.joint import JointTask
    from circuitcli.stages.judging import Judge
    from circuitcli.stages.lines import Line, Scores
    from circuitcli.stages.portion_task import Arithmetic, Bench, Court
    from circuitcli.stages.portions import Portions
    from circuitcli.stages.scoring import Scoring


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
    def inputs(self) -> JobInputs:
        """The run's model, dictionaries and text."""
        from circuitcli.stages.inputs import JobInputs

        return JobInputs(self.job)

    @cached_property
    def court(self) -> Court:
        """The run's model and dictionaries, with the baseline, as a value."""
        from circuitcli.stages.portion_task import Court

        return Court(self.inputs.origin, reading.baseline(self.job, self.data))

    @property
    def judge(self) -> Judge:
        """The same, in this process."""
        return self.court.judge(self.inputs.sources)

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

    def arithmetic(self, batch_size: int, threads: int) -> Arithmetic:
        """How examples are worked on, in batches of so many rows of the longest sequence."""
        from circuitcli.stages.portion_task import Arithmetic

        return Arithmetic(self._longest, batch_size, threads)

    def portions(self, todo: Work) -> Portions:
        """What is measured of examples, at the batch size and threads of a plan."""
        from circuitcli.stages.portion_task import PortionTask, Step
        from circuitcli.stages.portions import Portions

        def task(numbers: Sequence[int], step: Step) -> PortionTask:
            arithmetic = self.arithmetic(todo.plan.batch_size, todo.plan.threads)
            examples, half = {one: self.examples[one] for one in numbers}, {one: self.halves[one] for one in numbers}
            return PortionTask(self.court, arithmetic, examples, half, step)

        return Portions(todo, self.inputs.places, task)

    def bench(self, threads: int, halves: Sequence[Half] = ()) -> Bench:
        """All examples, to be worked on in this process, in other halves than those of the settings if these are
        given.
        """
        from circuitcli.stages.portion_task import Bench

        batches = self.arithmetic(self.batch_size, threads).batches(self.judge, self.job.report.say)
        return Bench(self.judge, dict(enumerate(self.examples)), dict(enumerate(halves or self.halves)), batches)

    @cached_property
    def scoring(self) -> Scoring:
        """What scores single components."""
        from circuitcli.stages.judging import KINDS
        from circuitcli.stages.scoring import Scoring

        widths = {kind: self.judge.widths(kind) for kind in KINDS}
        return Scoring(widths, self.job.settings.validate.candidates)

    @property
    def auditing(self) -> Auditing:
        """What measures the features that are audited."""
        from circuitcli.stages.auditing import Auditing

        return Auditing(tuple(self.audited))

    def lines(self, scores: Scores) -> list[Line]:
        """The circuits that are judged; the first line is of the one that is asked about."""
        from circuitcli.stages.lines import lines

        settings = self.job.settings.validate
        return lines(
            scores, self.circuit, nodes=settings.nodes, more=settings.sizes, draws=settings.draws,
            seed=self.job.settings.seed,
        )  # fmt: skip

    def over_text(self, line: Line, sequences: Sequence[int], threads: int) -> JointTask:
        """What changes where the whole circuit of a line is ablated over some sequences of the run's text."""
        from circuitcli.stages.joint import JointTask

        count = max((row.n for row in line.found if row.part == "circuit"), default=0)
        index, place = line.ranking.index[:count], line.ranking.site[:count]
        circuit = {site: index[place == here] for here, site in enumerate(line.ranking.sites)}
        return JointTask(self.court, circuit, tuple(sequences), threads)
