"""Which discoveries are repeated: each as a run was made, but for one thing.

    seed          another seed: other texts, contexts and random starts; what an attribution draws at random
    half          a random half of the sequences; of an attribution a half of the questions
    intervention  what features become; of an attribution what nodes are replaced by

A repeat takes over what the run has finished as far as it would come to the same: its dictionaries always, its
activations where neither seed nor text is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args, get_type_hints

from circuitcli import plugins
from circuitcli.errors import UsageError, nearest
from circuitcli.results.drawn import drawn_of
from circuitcli.settings import Settings
from circuitcli.settings.tree import Ablate, Attribute, Graph, Stability
from circuitcli.stages.spec import STABILITY
from circuitcli.stages.stage import Job

Cause = Literal["seed", "half", "intervention"]
USUAL = ("zero", "mean", "resample")
_SEEDS = 2**32
_SAES, _ACTS, _ATTRIBUTE = "fetch-saes", "cache-acts", "attribute"


@dataclass(frozen=True)
class Repeat:
    """One discovery.

    Attributes:
        cause: What is other than in the run.
        value: What that is here.
        settings: As the run's but for it.
        takes: Stages that it takes over from the run.
        own: Whether it is the run itself, of which nothing is other.
        usual: Whether nobody named it, so that it is left out where it can't be made.
    """

    cause: Cause
    value: str
    settings: Settings
    takes: tuple[str, ...]
    own: bool = False
    usual: bool = False

    @property
    def name(self) -> str:
        """`seed-1`, and of the run itself nothing, as it is one whatever the cause."""
        return "" if self.own else f"{self.cause}-{self.value}"


@dataclass(frozen=True)
class Repeats:
    """All repeats that settings ask for, cause by cause, and what is to be known of them, in words."""

    base: Settings  # of the run itself, which those of the others differ from in one thing each
    of: dict[str, list[Repeat]]
    notes: Sequence[str]

    @property
    def others(self) -> list[Repeat]:
        """Those that aren't the run itself."""
        return [repeat for many in self.of.values() for repeat in many if not repeat.own]

    def without(self, refused: Mapping[str, str]) -> Repeats:
        """The same without repeats that can't be made, by name with the reason; nor causes that leave one repeat."""
        kept = {cause: [one for one in many if one.name not in refused] for cause, many in self.of.items()}
        said = [f"{name} is left out: {reason}" for name, reason in refused.items()]
        return replace(
            self, of={cause: many for cause, many in kept.items() if len(many) > 1}, notes=[*self.notes, *said]
        )


def planned_of(job: Job) -> Repeats:
    """The repeats of a finished run.

    Raises:
        InputError: The run isn't finished.
        UsageError: They are too few to be compared, or an intervention isn't known or can't be had.
    """
    asked, base, count = job.settings.stability, _base(job), _things(job)
    what = "question" if _attributed(job) else "sequence"
    notes = []
    _refuse_one("--seeds", asked.seeds)
    _refuse_one("--halves", asked.halves)
    found: dict[str, list[Repeat]] = {"seed": [], "half": [], "intervention": []}
    for i in range(asked.seeds):
        seed = (base.seed + i) % _SEEDS
        found["seed"].append(Repeat("seed", str(seed), replace(base, seed=seed), (_SAES,), own=i == 0))
    if count < 2 and asked.halves:
        notes.append(f"Halves are left out: one {what} has none.")
    else:
        found["half"] = [_half(base, number + 1, attributed=_attributed(job)) for number in range(asked.halves)]
    found["intervention"] = list(_interventions(job, base))
    if not any(found.values()):
        raise UsageError(
            f"Nothing is to be repeated. {' '.join(notes)}".strip(),
            hint="Give --seeds 5, --halves 4 or --interventions zero,mean.",
        )
    if found["seed"] and _starts_at_random(job):
        notes.append(
            "The seed also decides where the discovery starts (features.start = random): to compare what is found from "
            "the same start, pin features of the first layer, or make the run with --start top-effect."
        )
    return Repeats(base, {cause: many for cause, many in found.items() if many}, notes)


def _attributed(job: Job) -> bool:
    """Whether it is an attribution that is repeated."""
    return _ATTRIBUTE in job.stages[STABILITY].parents


def _starts_at_random(job: Job) -> bool:
    return not _attributed(job) and "at random" in str(job.run.require("ablate").facts.get("start", ""))


def _things(job: Job) -> int:
    """How many there are of what is halved."""
    if _attributed(job):
        return len(job.results().attribution.prompts)
    return int(job.run.require(_ACTS).facts["sequences"])


def _refuse_one(flag: str, count: int) -> None:
    if count == 1:
        raise UsageError(f"{flag} 1 leaves nothing to compare.", hint=f"Give {flag} 2 or more, or {flag} 0 for none.")


def _base(job: Job) -> Settings:
    """The run's settings without what only draws or labels; what was left to the run is as it came to be there."""
    drawn, settings = drawn_of(job.settings, job.run), job.settings
    graph = Graph(of=drawn, formats=("json",), min_effect=settings.graph.min_effect, max_edges=settings.graph.max_edges)
    if drawn == "attribution":
        facts = job.run.require(_ATTRIBUTE).facts
        asked = replace(settings.attribute, positions=facts["positions"], baseline=facts["baseline"])
        settings = replace(settings, attribute=asked)
    return replace(settings, graph=graph, stability=Stability())


def _half(base: Settings, number: int, *, attributed: bool) -> Repeat:
    if attributed:
        settings = replace(base, attribute=replace(base.attribute, half=number))
        return Repeat("half", str(number), settings, (_SAES, _ACTS))
    return Repeat("half", str(number), replace(base, texts=replace(base.texts, half=number)), (_SAES,))


def _interventions(job: Job, base: Settings) -> Iterator[Repeat]:
    asked, attributed = job.settings.stability.interventions, _attributed(job)
    own = base.attribute.baseline if attributed else base.ablate.intervention
    names = [name.strip() for name in asked.split(",")]
    if asked == "auto":
        names = [own, *USUAL]
    elif asked in ("", "none"):
        return
    names = list(dict.fromkeys(names))
    _refuse_one_intervention(names)
    for name in names:
        _check(name, base, attributed=attributed)
        settings = base
        if name != own and attributed:
            other = replace(base.attribute, baseline=cast(Literal["zero"], name))  # any of those that were checked
            settings = replace(base, attribute=other if name == "patch" else replace(other, counterfactual=""))
        elif name != own:
            settings = replace(base, ablate=replace(base.ablate, intervention=name, strength=Ablate.strength))
        yield Repeat("intervention", name, settings, (_SAES, _ACTS), own=name == own, usual=asked == "auto")


def _refuse_one_intervention(names: Sequence[str]) -> None:
    if len(names) == 1:
        raise UsageError(
            f"--interventions {names[0]} leaves nothing to compare.", hint="Give two or more: zero,mean; or none."
        )


def _check(name: str, base: Settings, *, attributed: bool) -> None:
    if not attributed:
        plugins.check("interventions", name)
        return
    known = [kind for kind in get_args(get_type_hints(Attribute)["baseline"]) if kind != "auto"]
    if name not in known:
        raise UsageError(f"Unknown baseline `{name:.80}`.", hint=nearest(name, known, what="baselines"))
    if name == "patch" and base.attribute.baseline != "patch":
        raise UsageError(
            "The run has no counterfactual for the baseline patch.", hint="Leave it out of --interventions."
        )
