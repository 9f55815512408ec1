"""The circuit that is judged: the features of a graph, or of a list; or none, where measuring finds one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.errors import InputError, UsageError
from circuitcli.results.dictionaries import entries_of
from circuitcli.stages.stage import Job
from circuitcli.store import circuits


@dataclass(frozen=True)
class Given:
    """Features, the strongest first.

    Attributes:
        features: Each with what it is ranked by.
        found_on: The texts of the prompts that they were found on.
        what: Where they are from, in words.
    """

    features: tuple[tuple[FeatureId, float], ...]
    found_on: tuple[str, ...]
    what: str


def given(job: Job) -> Given | None:
    """The circuit that the settings name; None where measuring is to find one.

    Raises:
        UsageError: A pin is none of the run's features, or both pins and a circuit are named.
        InputError: The circuit can't be read, has no features, or is one of another model or of other dictionaries.
    """
    settings = job.settings.validate
    if settings.pinned:
        if settings.circuit not in ("auto", "none"):
            raise UsageError(
                f"--pin and --circuit {settings.circuit} both name the circuit.", hint="Give one of the two."
            )
        widths = {entry.at: entry.facts.d_sae for entry in entries_of(job.run)}
        return Given(tuple((one, 0.0) for one in resolve_pins(settings.pinned, widths)), (), "the features named")
    own = job.run.root / circuits.CIRCUIT
    if settings.circuit == "none" or (settings.circuit == "auto" and not own.is_file()):
        return None
    path = own if settings.circuit == "auto" else circuits.locate(Path(settings.circuit))
    circuit = circuits.read(path)
    _check(job, circuit, path)
    return Given(_features(job, circuit, path), circuit.metadata.prompts, str(path))


def _check(job: Job, circuit: Circuit, path: Path) -> None:
    """That it is of the run's model."""
    of, here = circuit.metadata.model_identity, job.run.require("fetch-saes").inputs["model identity"]
    if of != here:
        raise InputError(
            f"{path} is a circuit of {circuit.metadata.model}, at other weights than this run's {job.settings.model}.",
            hint="Judge it on a run of its own model, or give another --circuit.",
        )


def _features(job: Job, circuit: Circuit, path: Path) -> tuple[tuple[FeatureId, float], ...]:
    """Each feature once, at whatever positions it is a node, the strongest first."""
    saes = {entry.at: entry for entry in entries_of(job.run)}
    trained = {Site(sae.layer, sae.site): sae.sha256 for sae in circuit.metadata.saes}
    found: dict[FeatureId, float] = {}
    for node in circuit.nodes:
        if node.kind != "feature":
            continue
        one = FeatureId(Site(node.layer, node.site), node.feature)
        known = saes.get(one.site)
        if known is None or one.index >= known.facts.d_sae or trained.get(one.site) not in (None, known.facts.sha256):
            raise InputError(
                f"{path} has {one}, which is a feature of no SAE of this run.",
                hint="Judge it on a run with the SAEs that it was found with, or give another --circuit.",
            )
        found[one] = max(found.get(one, 0.0), _strength(node))
    if not found:
        raise InputError(f"{path} has no features.", hint="Give a circuit that has some, or --circuit none.")
    return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0].order)))


def _strength(node: Node) -> float:
    """|effect| on what was asked, or how much the node matters to the next token."""
    if node.attribution is not None:
        return abs(node.attribution.effect or 0.0)
    return node.kl_mean or 0.0
