"""What features are called: by Neuronpedia's explanations, or by the user's own csv file.

A graph keeps the labels that it was drawn with in graph/labels.json, with all else that Neuronpedia said, for the
cards of features. The setting, and the content of a file, belong to the graph's fingerprint; what Neuronpedia answers
doesn't: a graph that is done stays as it is, and one that is made again reads what the user's cache remembers. --force
asks anew. A graph that was drawn while the service failed is made again by the next `circuit graph`, which says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.sites import Site
from circuitcli.results.dictionaries import entries_of
from circuitcli.results.labels import NONE, SAVED, Labels, feature_of
from circuitcli.runtime.neuronpedia import Address, address, address_of_page
from circuitcli.stages.label_file import LabelFile, read_labels, some
from circuitcli.stages.stage import Job, Work
from circuitcli.store import files

if TYPE_CHECKING:
    from circuitcli.runtime.neuronpedia.client import Neuronpedia

NEURONPEDIA = "neuronpedia"
# The fact of a graph whose labels couldn't all be had: why.
FAILURE = "labels_failure"


Source: TypeAlias = "LabelFile | Neuronpedia | None"


def check(job: Job) -> Source:
    """Where the labels are to come from, found fit before any work; once its SAEs are recorded, fit for the run's.

    Raises:
        InputError: The file can't be read, or isn't as it should be.
        HubError: The address or the key of Neuronpedia can't be used.
    """
    setting = job.settings.graph.labels
    if setting == NONE:
        return None
    if setting == NEURONPEDIA:
        from circuitcli.runtime.neuronpedia.client import Neuronpedia  # only now: it imports an http library

        return Neuronpedia()
    found = read_labels(setting)
    if job.run.record("fetch-saes") is not None:
        found.resolve(_widths(job))
    return found


def inputs(source: Source) -> dict[str, Any]:
    """What decides the labels besides the setting, for the graph's fingerprint."""
    return {"labels": source.sha256} if isinstance(source, LabelFile) else {}


def again(job: Job) -> str | None:
    """What to do about a graph that is done: make it again, if Neuronpedia failed when it was drawn."""
    record = job.run.record("graph")
    failure = record.facts.get(FAILURE) if record else None
    asked = job.settings.graph.labels == NEURONPEDIA
    return f"made again, because Neuronpedia failed then ({failure})" if failure and asked else None


def find(job: Job, source: Source, nodes: Sequence[Node]) -> Labels | None:
    """The labels of these nodes, and of all other features of the run that a file names; None where none are wanted."""
    if isinstance(source, LabelFile):
        labels, others = source.resolve(_widths(job))
        names = dict.fromkeys(map(feature_of, nodes))
        drawn = {name: others.pop(name) for name in names if name in others}  # of another run's SAEs
        if others:
            job.report.say(f"{source.path} names features at no SAE of this run: {some(list(others))}.")
        return Labels(source.path, labels | drawn)
    features = {feature_of(node): node for node in nodes if node.kind == "feature"}
    return _ask(job, source, _addresses(job, features), len(features)) if source else None


def save(todo: Work, circuit: Circuit, labels: Labels) -> None:
    """Keep them in the run, and note in the graph's record how many it has, and what failed."""
    path = todo.job.run.path(SAVED)
    todo.expect({SAVED: None})
    files.write(path, (json.dumps(asdict(labels), indent=1) + "\n").encode())
    todo.files[SAVED] = todo.job.run.entry(path)
    todo.facts["labels"] = sum(node.label is not None for node in circuit.nodes)
    if labels.failure:
        todo.facts[FAILURE] = labels.failure


def intact(todo: Work) -> bool:
    """Whether the labels that the graph was drawn with are as they were recorded; also if there are none."""
    return SAVED not in todo.known or todo.unchanged(SAVED)


def _widths(job: Job) -> dict[Site, int]:
    return {entry.at: entry.facts.d_sae for entry in entries_of(job.run)}


def _addresses(job: Job, features: Mapping[str, Node]) -> dict[str, Address]:
    """Where those of the features are that Neuronpedia has: by the run's SAEs, or by the page that a node names."""
    sources = {entry.at: entry.facts.neuronpedia for entry in entries_of(job.run)}
    found = {}
    for name, node in features.items():
        source = sources.get(Site(node.layer, node.site))
        where = address(job.settings.model, source, node.feature) if source else address_of_page(node.neuronpedia)
        if where is not None:
            found[name] = where
    return found


def _ask(job: Job, source: Neuronpedia, addresses: dict[str, Address], wanted: int) -> Labels:
    """What Neuronpedia says of the features that it has; whatever is missing is told in one line."""
    if not addresses:
        job.report.say("Neuronpedia has none of this run's SAEs: the graph is drawn without labels.")
        return Labels(NEURONPEDIA)
    with job.report.track("Asking Neuronpedia", len(addresses), "features") as done:
        answers = source.ask(list(addresses.values()), done, fresh=job.force)
    explained = {name: answers.found[where] for name, where in addresses.items() if where in answers.found}
    labels = {name: found.label for name, found in explained.items() if found.label}
    if answers.failure:
        without = f"without {wanted - len(labels)} of {wanted} labels" if labels else "without labels"
        job.report.say(f"Neuronpedia fails ({answers.failure}): the graph is drawn {without}.")
    return Labels(NEURONPEDIA, labels, explained, answers.failure)
