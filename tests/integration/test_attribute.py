"""The attribute stage: every replacement by plain transformers in float64; what is planned, kept and resumed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.commands import contents
from torch import Tensor

from circuitcli.errors import InputError
from circuitcli.results.attribution import calibrations
from circuitcli.runtime.model import BridgeModel
from circuitcli.settings import resolve
from circuitcli.stages import attribute, cache_acts, extent, fetch_saes, wiring
from circuitcli.stages.report import Silent
from circuitcli.stages.stage import Job
from circuitcli.stages.study import Study

PROMPTS = ["the light of the earth was upon the waters", "and the spirit of the deep was void"]
OTHER = "the night of the earth was upon the deep"
SITES = ["attn_out", "resid_mid", "mlp_out"]
Rows = list[dict[str, Any]]
Ask = Callable[..., Job]


def rows(job: Job, name: str) -> Rows:
    return pq.read_table(job.run.root / "attribution" / f"{name}.parquet").to_pylist()


def facts(job: Job) -> dict[str, Any]:
    return job.run.require("attribute").facts


def again(job: Job, **changes: Any) -> Job:
    """The same run with other settings of [attribute]."""
    return Job(resolve(job.run.settings(), {"attribute": changes}), Silent(), job.run)


@pytest.fixture(scope="module")
def cached(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Makes a run on prompts, up to what fires in them; `cached(prompts, baseline="mean")`."""

    def make(prompts: list[str] = PROMPTS[:1], **changes: Any) -> Job:
        texts = {"source": "prompt", "prompt": prompts, "file": ""}
        job = start(
            tmp_path_factory.mktemp("asked") / "run",
            {"saes": {"sites": SITES}, "texts": texts, "attribute": changes, "graph": {"of": "attribution"}},
        )
        fetch_saes.run(job)
        cache_acts.run(job)
        return job

    return make


@pytest.fixture(scope="module")
def ask(cached: Ask) -> Ask:
    """The same, and answers."""

    def make(*args: Any, **changes: Any) -> Job:
        job = cached(*args, **changes)
        attribute.run(job)
        return job

    return make


class Truth:
    """What nodes of the run's first prompt do, by plain transformers."""

    def __init__(self, job: Job, model: Any, saes: Any) -> None:
        self.model, self.saes = model, saes
        self.asked = json.loads((job.run.root / "attribution/questions.json").read_text())[0]
        self.tokens = torch.tensor(self.asked["ids"])
        self.sites, self.logprob = model.run(self.tokens)
        self.counts = [i for i, counts in enumerate(self.asked["counts"]) if counts]
        self.samples = [
            torch.tensor(one["ids"]) for one in json.loads((job.run.root / "attribution/questions.json").read_text())
        ]

    def metric(self, logprob: Tensor) -> float:
        against = self.asked["against_id"]
        last = logprob[-1]
        return float(last[self.asked["target_id"]] - (0 if against is None else last[against]))

    def error(self, place: tuple[int, str], x: Tensor) -> Tensor:
        sae = self.saes[place]
        scale, shift = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        if sae.config["normalize_activations"] == "layer_norm":
            scale, shift = x.std(-1, keepdim=True), x.mean(-1, keepdim=True)
        return x - (scale * (sae.encode(x) @ sae.weights["W_dec"] + sae.weights["b_dec"]) + shift)

    def effect(self, row: dict[str, Any], replacement: Tensor | float) -> float:
        """m − m(clean) where the node is replaced: a feature by a value, an error or token by a vector."""
        place, pos = (row["layer"], row["site"]), row["pos"]
        if row["kind"] == "token":
            place = (0, "resid_pre")
            change = replacement - self.sites[place][pos]
        elif row["kind"] == "error":
            change = replacement - self.error(place, self.sites[place])[pos]
        else:
            change = self.saes[place].edit(self.sites[place][pos : pos + 1], row["feature"], float(replacement))[0]
        delta = torch.zeros(len(self.tokens), len(change), dtype=torch.float64)
        delta[pos] = change
        return self.metric(self.model.run(self.tokens, (place, delta))[1]) - self.metric(self.logprob)


def spread(found: Rows, count: int = 12) -> Iterator[dict[str, Any]]:
    """Some nodes of each kind and site, the largest effects among them."""
    by_place: dict[Any, Rows] = {}
    for row in found:
        if row["kind"] != "target":
            by_place.setdefault((row["kind"], row["layer"], row["site"]), []).append(row)
    for here in by_place.values():
        here.sort(key=lambda row: -abs(row["effect"]))
        yield from here[:2] + here[2 :: max(1, len(here) // count)]


def compare(job: Job, truth: Truth, replaced: Callable[[dict[str, Any]], Tensor | float]) -> None:
    found = rows(job, "nodes")
    largest = max(abs(row["effect"]) for row in found[:-1])
    checked = list(spread(found))
    assert {row["kind"] for row in checked} == {"token", "feature", "error"}
    for row in checked:
        assert row["method"] == "exact"
        assert row["effect"] == pytest.approx(truth.effect(row, replaced(row)), abs=1e-4 * largest), row


def nothing(row: dict[str, Any]) -> float:
    return 0.0


def test_zero(ask: Ask, plain_model: Any, plain_saes: Any) -> None:
    job = ask()
    truth = Truth(job, plain_model, plain_saes)
    assert truth.asked["target_id"] == int(truth.logprob[-1].argmax())
    assert truth.asked["clean"] == pytest.approx(truth.metric(truth.logprob), abs=1e-4)
    assert truth.asked["prob"] == pytest.approx(float(truth.logprob[-1].max().exp()), rel=1e-4)
    compare(job, truth, nothing)
    found = rows(job, "nodes")
    fires = {
        (layer, site): int((plain_saes[layer, site].encode(truth.sites[layer, site])[truth.counts] > 0).sum())
        for layer in range(3)
        for site in SITES
    }
    nodes = [(row["layer"], row["site"]) for row in found if row["kind"] == "feature"]
    assert {place: nodes.count(place) for place in fires} == fires
    assert [row["node"] for row in found] == list(range(len(found)))
    assert facts(job)["measured"] == facts(job)["nodes"] == len(found) - 1


def test_a_difference_of_logits(ask: Ask, plain_model: Any, plain_saes: Any) -> None:
    job = ask(target="id:21", against="id:22")
    truth = Truth(job, plain_model, plain_saes)
    assert (truth.asked["target_id"], truth.asked["against_id"], truth.asked["unit"]) == (21, 22, "logits")
    compare(job, truth, nothing)


def test_patch(ask: Ask, plain_model: Any, plain_saes: Any) -> None:
    """Of a paired prompt; what fires there alone is a node as well."""
    job = ask(counterfactual=OTHER)
    truth = Truth(job, plain_model, plain_saes)
    tokens = job.subject.tokenizer.encode(OTHER)
    there, _ = plain_model.run(torch.tensor([*truth.tokens[: len(truth.tokens) - len(tokens)].tolist(), *tokens]))

    def replaced(row: dict[str, Any]) -> Tensor | float:
        if row["kind"] == "token":
            return there[0, "resid_pre"][row["pos"]]
        place = row["layer"], row["site"]
        if row["kind"] == "error":
            return truth.error(place, there[place])[row["pos"]]
        value = float(plain_saes[place].encode(there[place])[row["pos"], row["feature"]])
        assert row["replacement"] == pytest.approx(value, abs=1e-4)
        return value

    compare(job, truth, replaced)
    alone = [row for row in rows(job, "nodes") if row["kind"] == "feature" and row["activation"] == 0]
    assert alone
    assert max(abs(row["effect"]) for row in alone) > 0


def test_mean(ask: Ask, plain_model: Any, plain_saes: Any) -> None:
    """Of the text's positions that count: here the prompts'."""
    job = ask(PROMPTS, baseline="mean", positions="separate")
    truth = Truth(job, plain_model, plain_saes)
    sites = [plain_model.run(tokens)[0] for tokens in truth.samples]

    def mean(value: Callable[[dict[Any, Tensor]], Tensor]) -> Tensor:
        return torch.cat([value(one)[1:] for one in sites]).mean(0)

    def replaced(row: dict[str, Any]) -> Tensor | float:
        place = row["layer"], row["site"]
        if row["kind"] == "token":
            return mean(lambda one: one[0, "resid_pre"])
        if row["kind"] == "error":
            return mean(lambda one: truth.error(place, one[place]))
        return float(mean(lambda one: plain_saes[place].encode(one[place]))[row["feature"]])

    first = [row for row in rows(job, "nodes") if row["prompt"] == 0]
    largest = max(abs(row["effect"]) for row in first[:-1])
    for row in spread(first, 4):
        assert row["effect"] == pytest.approx(truth.effect(row, replaced(row)), abs=1e-4 * largest), row


def test_resample(ask: Ask, plain_model: Any, plain_saes: Any) -> None:
    """All nodes of a position take what one other position of the text has, the same each time."""
    job = ask(PROMPTS, baseline="resample", positions="separate")
    truth = Truth(job, plain_model, plain_saes)
    sites = [plain_model.run(tokens)[0] for tokens in truth.samples]
    first = [row for row in rows(job, "nodes") if row["prompt"] == 0]
    donors: dict[int, tuple[int, int]] = {}
    largest = max(abs(row["effect"]) for row in first[:-1])
    for pos in truth.counts:
        fits = []
        for seq, one in enumerate(sites):
            for at in range(1, len(truth.samples[seq])):
                errors = [row for row in first if row["kind"] == "error" and row["pos"] == pos]
                want = [
                    truth.effect(row, truth.error((row["layer"], row["site"]), one[row["layer"], row["site"]])[at])
                    for row in errors
                ]
                if np.allclose(want, [row["effect"] for row in errors], atol=1e-4 * largest):
                    fits.append((seq, at))
        assert len(fits) == 1, pos
        assert fits != [(0, pos)]
        donors[pos] = fits[0]
        for row in [row for row in first if row["kind"] == "feature" and row["pos"] == pos]:
            place = row["layer"], row["site"]
            value = plain_saes[place].encode(sites[fits[0][0]][place])[fits[0][1], row["feature"]]
            assert row["replacement"] == pytest.approx(float(value), abs=1e-4)
    assert len(set(donors.values())) > 1
    twin = ask(PROMPTS, baseline="resample", positions="separate")
    assert rows(twin, "nodes") == rows(job, "nodes")


def test_a_budget_that_does_not_suffice(cached: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest estimates are measured, and of every size some of the rest stand for the others."""
    job = cached(budget=1.0)
    said: list[str] = []
    monkeypatch.setattr(job.report, "say", said.append, raising=False)
    monkeypatch.setattr(extent, "rate", lambda study, batches: 4.0 / extent.operations(study).sum())
    attribute.run(job)
    assert "more than --budget 1 allows" in "".join(said)
    found = rows(job, "nodes")[:-1]
    measured = [row for row in found if row["method"] == "exact"]
    assert 0 < len(measured) < len(found)
    assert {row["method"] for row in found} == {"exact", facts(job)["estimate"]}
    assert sum(row["drawn"] for row in measured) == pytest.approx(len(found))
    certain = [row for row in measured if row["drawn"] == 1]
    size = {row["node"]: max(abs(row["atp"]), abs(row["relp"])) for row in found}
    order = sorted(size, key=lambda node: -size[node])
    assert {row["node"] for row in certain} >= set(order[: len(certain) // 2])
    for row in found:
        assert row["effect"] == (row["exact"] if row["method"] == "exact" else row[row["method"]])
    whole = {row["node"]: row["effect"] for row in rows(_exact(cached), "nodes")[:-1]}
    for row in measured:
        assert row["exact"] == pytest.approx(whole[row["node"]], abs=1e-5)


def _exact(cached: Ask) -> Job:
    job = cached(method="exact", budget=1.0)
    attribute.run(job)
    return job


@pytest.mark.parametrize("method", ["atp", "relp", "ig"])
def test_estimates_are_never_without_calibration(ask: Ask, method: str) -> None:
    job = ask(method=method, ig_steps=4)
    found = rows(job, "nodes")[:-1]
    measured = [row for row in found if row["drawn"] > 0]
    assert len(measured) == min(len(found), sum(extent.CALIBRATED))
    for row in found:
        assert row["method"] == ("exact" if row in measured else method)
        assert row[method] is not None
    edges = [row for row in rows(job, "edges") if row["drawn"] > 0]
    assert edges
    assert facts(job)["edge_method"] == ("relp" if method == "relp" else "atp")


def test_interrupted_anywhere_it_goes_on(cached: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured stays, and nothing in the tables tells that it was interrupted (law 5)."""
    whole = cached(PROMPTS)
    attribute.run(whole)
    job = cached(PROMPTS)
    owner: Any
    for owner, name, free, afters in ((Study, "measured", 5, (0, 2, 1)), (wiring, "measure", 0, (0, 1))):
        for after in afters:
            measured, calls = getattr(owner, name), []

            def cut(
                *args: Any,
                measured: Any = measured,
                calls: list[int] = calls,
                after: int = after,
                free: int = free,
                **more: Any,
            ) -> Any:
                calls.append(1)
                if len(calls) > after + free:  # the trial measures too
                    raise KeyboardInterrupt
                return measured(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, cut)
                with pytest.raises(KeyboardInterrupt):
                    attribute.run(Job(job.settings, Silent(), job.run))
    attribute.run(Job(job.settings, Silent(), job.run))
    made = [
        {
            name: digest
            for name, digest in contents(run.root).items()
            if name.startswith("attribution/") and "stage.json" not in name
        }
        for run in (job.run, whole.run)
    ]
    assert made[0] == made[1]


def test_more_nodes_measure_none_again(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ask(candidates=5)
    before = rows(job, "nodes")
    assert len({row["target"] for row in rows(job, "rows")}) == 6  # and the target
    more = again(job, candidates=9)
    monkeypatch.setattr(Study, "measured", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(attribute._Attribution, "_extents", lambda *_: pytest.fail("planned again"))
    monkeypatch.setattr(extent, "rate", lambda study, batches: 1e-12)
    attribute.run(more)
    assert rows(more, "nodes") == before
    assert len({row["target"] for row in rows(more, "rows")}) == 10


def test_a_few_nodes_are_chosen_among_many(ask: Ask) -> None:
    """Those of the largest effects alone lie at the bottom, and needn't lead to the target through one another."""
    few = ask(nodes=5)
    kept = few.results().attribution.selection.nodes
    kinds = few.results().attribution.pooled.nodes["kind"][kept]
    assert 0 < np.isin(kinds, ("feature", "error")).sum() <= 5
    assert rows(few, "rows") == rows(ask(), "rows")
    assert len({row["target"] for row in rows(ask(nodes=9, candidates=5), "rows")}) == 10


def test_edges_of_the_strongest_nodes(ask: Ask) -> None:
    """Their sum over all sources is told; exact ones are weights; edges go down the list of nodes."""
    job = ask(candidates=30, edges="exact")
    edges, nodes = rows(job, "edges"), rows(job, "nodes")
    into = {row["target"]: row["abs_in"] for row in rows(job, "rows")}
    assert len(into) == 31
    strongest = sorted((n for n in nodes if n["kind"] in ("feature", "error")), key=lambda n: -abs(n["effect"]))[:30]
    assert {n["node"] for n in strongest} | {nodes[-1]["node"]} == set(into)
    allowed = {n["node"] for n in strongest} | {n["node"] for n in nodes if n["kind"] == "token"}
    total: dict[int, float] = dict.fromkeys(into, 0.0)
    for edge in edges:
        assert edge["source"] < edge["target"]
        assert edge["source"] in allowed
        assert edge["method"] == "exact"
        assert edge["weight"] == edge["exact"]
        total[edge["target"]] += abs(edge["estimate"])
    for target, found in total.items():
        assert found <= into[target] * (1 + 1e-5)


def test_frozen(ask: Ask) -> None:
    """Behind the last site there is only the last norm: with its scale held, what gradients say is what is measured."""
    live, frozen = (ask(target="id:21", against="id:22", freeze=freeze) for freeze in (False, True))
    assert (facts(live)["frozen"], facts(frozen)["frozen"]) == (False, True)

    def worst(job: Job) -> float:
        found = [row for row in rows(job, "nodes")[:-1] if row["layer"] == 2 and row["site"] == "mlp_out"]
        largest = max(abs(row["effect"]) for row in found)
        return max(abs(row[rule] - row["exact"]) / largest for row in found for rule in ("atp", "relp"))

    assert worst(frozen) < 1e-5 < 1e-2 < worst(live)


def test_a_gradient_that_is_not_finite(cached: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cached()
    logits = BridgeModel.logits
    monkeypatch.setattr(BridgeModel, "logits", lambda self, final: logits(self, final) * (1e30 + final.sum() * 1e38))
    with pytest.raises(InputError, match=r"isn't finite|no numbers"):
        attribute.run(job)


def test_a_run_goes_on_from_its_record(ask: Ask) -> None:
    job = ask()
    assert attribute.run(Job(job.settings, Silent(), job.run)).status == "skipped"
    with pytest.raises(InputError, match="attribute"):
        attribute.run(again(job, freeze=True))
    folder = Path(job.run.root / "attribution")
    assert {path.name.split("-")[0].split(".")[0] for path in folder.iterdir()} == {
        "edges", "measured", "nodes", "plan", "questions", "rows", "stage", "wired",
    }  # fmt: skip


def test_calibration_is_recorded_as_its_tables_say(ask: Ask) -> None:
    """It is computed once; what reads the run takes it from the record."""
    job = ask(method="relp")
    reader = job.results()
    tables = (reader.table(f"attribution/{name}.parquet") for name in ("nodes", "edges"))
    assert reader.attribution.calibrations == calibrations(*tables, "relp", job.settings.seed)
    assert {(row.of, row.kind) for row in reader.attribution.calibrations} >= {("nodes", "rest"), ("edges", "rest")}
