"""Our part of the comparison of time and memory: one graph of one prompt, in a process of its own.

    python cost.py FOLDER       FOLDER/job.json as `theirs.py attribute` takes it, of one prompt; writes cost.json

As the stage does it: dictionaries are loaded one after the other, and none of them stays.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.tiny import load_model

from circuitcli import plugins
from circuitcli.core.attribution import replacement
from circuitcli.core.attribution.measured import read
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.attribution.parts import BOTTOM, Errors, Parts, Source, tokens
from circuitcli.core.attribution.traced import Traced, trace
from circuitcli.core.model import FROZEN, Model
from circuitcli.saes import SaeEntry, entry, fitted
from circuitcli.saes._files import Files
from circuitcli.saes._read import sae
from circuitcli.stages.replacing import at_once


def found(model: Model, folder: str) -> list[tuple[SaeEntry, Files]]:
    """What a run has recorded of the transcoders of a folder, and their files."""
    local = plugins.load("saes", "local")
    some = [(one, one.files({})) for one in local.locate(folder, "main", local.sites(folder, "main"))]
    subtract = model.shape.norms_subtract_mean
    return [(entry("local", one, files, norms_subtract_mean=subtract), files) for one, files in some]


def graph(model: Model, known: list[tuple[SaeEntry, Files]], ids: list[int], most: int) -> Traced:
    """Open a prompt, and trace its most influential features."""
    prompt = torch.tensor(ids)
    sites = sorted({BOTTOM, *(s for one, _ in known for s in (one.at, *one.written))}, key=lambda site: site.order)
    clean_pass = read(model, prompt, sites, None)
    clean = {site: x[0] for site, x in clean_pass.run.sites.items()}
    parts = Parts(clean, torch.arange(len(ids)) > 0)
    nodes: list[Source] = [parts.features(fitted(sae(files), one, model)) for one, files in known]
    nodes += [parts.errors(site) for site in parts.written]
    nodes.sort(key=lambda source: (source.site.order, isinstance(source, Errors)))
    embedded = clean[BOTTOM] - model.positions(prompt[None])
    sources = [tokens(embedded, torch.ones(len(ids), dtype=torch.bool)), *nodes]
    probs = clean_pass.logits.softmax(-1)
    chosen = replacement.likeliest(probs)
    given = replacement.targets(model, prompt, [Metric(int(one), centred=True) for one in chosen], probs[chosen])
    with model.fixed(prompt[None], FROZEN):
        rows = replacement.Rows(model, prompt, sources, given, at_once(len(ids), most))
        return trace(rows, sources, probs[chosen], most, lambda count: None)


def main(folder: Path) -> None:
    """Time one graph, the model loaded and the transcoders found."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    model, [ids] = load_model(Path(job["model"])), job["prompts"]
    known = found(model, job["transcoders"])
    started, busy = time.perf_counter(), time.process_time()
    with torch.no_grad():
        graph(model, known, ids, job["most"])
    cost = {"seconds": time.perf_counter() - started, "busy": time.process_time() - busy}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "cost.json").write_text(json.dumps([cost | {"peak_bytes": peak}]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
