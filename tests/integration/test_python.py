"""The public Python API: its page's examples run, and what it gives is what the files say, read by other means."""

import ast
import contextlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.brute import rows
from support.commands import contents, environment
from support.tiny import SMALL
from transformers.utils import logging

import circuitcli
from circuitcli.core import rows as rows_of_tables
from circuitcli.core.sites import FeatureId
from circuitcli.errors import InputError, UsageError
from circuitcli.results import cards, dictionaries
from circuitcli.results.results import Results
from circuitcli.runtime.quiet import silent_transformers
from circuitcli.settings import nest, resolve
from circuitcli.settings.keywords import keywords
from circuitcli.store import tables

PAGE = Path(__file__).parents[2] / "docs/python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOUR = re.compile(r"^<!-- tour -->$.*?^<!-- /tour -->$", re.MULTILINE | re.DOTALL)
KEY = ("layer", "site", "feature")


def same(frame: Any, expected: list[dict[str, Any]]) -> None:
    """A DataFrame has these rows, among others columns too; NaN stands for null."""
    assert len(frame) == len(expected) > 0
    for name in expected[0]:
        found = [None if value != value else value for value in frame[name].tolist()]
        assert found == [None if row[name] != row[name] else row[name] for row in expected], name


@pytest.mark.slow
def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    blocks = BLOCK.findall(TOUR.sub("", PAGE.read_text(encoding="utf-8")))
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    assert len(blocks) == 5
    measured = rows(tmp_path / "demo", "effects/effects.parquet")
    same(found["effects"], measured)
    assert max(abs(row["effect_mean"]) for row in measured) == abs(found["largest"]["effect_mean"].iloc[0])
    drawn = json.loads((tmp_path / "demo/graph/circuit.json").read_text())
    assert found["strongest"][:2] == (drawn["edges"][0]["source"], drawn["edges"][0]["target"])
    most = max(rows(tmp_path / "demo", "effects/features.parquet"), key=lambda row: row["kl_mean"])
    assert found["card"].feature.id == ".".join(str(most[name]) for name in KEY)
    tokens = [r for r in rows(tmp_path / "demo", "effects/logits.parquet") if all(r[n] == most[n] for n in KEY)]
    assert found["promoted"] == [row["token"] for row in sorted(tokens, key=lambda r: r["rank"]) if row["rank"] > 0]


def test_tables_are_those_of_the_files(finished: Path):
    results = circuitcli.open_run(finished)
    before = contents(finished)
    same(results.effects(), rows(finished, "effects/effects.parquet"))
    same(results.logits(), rows(finished, "effects/logits.parquet"))
    contexts = rows(finished, "acts/contexts.parquet")
    same(results.contexts(), contexts)
    texts = {(row["seq"], row["pos"]): row["text"] for row in rows(finished, "acts/texts.parquet")}
    assert results.contexts()["token"].tolist() == [texts[row["seq"], row["pos"]] for row in contexts]
    totals = {tuple(row[n] for n in KEY): row for row in rows(finished, "effects/features.parquet")}
    nothing = {"n": 0, "kl_mean": None, "out_abs_effect": None}
    expected = [
        {**row, **totals.get(tuple(row[n] for n in KEY), nothing)} for row in rows(finished, "acts/features.parquet")
    ]
    same(results.features(), expected)
    assert {tuple(row) for row in results.features().query("n > 0")[list(KEY)].itertuples(index=False)} == set(totals)
    [site] = [site for site in results.widths if site.layer == 0]
    parts = [load_file(path) for path in (finished / f"acts/{site}").glob("*.safetensors")]
    firings = {
        tuple(row)
        for part in parts
        for row in zip(*(part[n].tolist() for n in ("seq", "pos", "feature", "value")), strict=True)
    }
    assert set(results.activations(*site).itertuples(index=False, name=None)) == firings
    assert contents(finished) == before


def test_planned_is_what_the_present_settings_lead_to(finished: Path):
    results = circuitcli.open_run(finished)
    planned = set(json.loads((finished / "ablations/stage.json").read_text())["facts"]["features"])
    frame = results.features()
    named = {f"{row.layer}.{row.site}.{row.feature}" for row in frame[frame["planned"]].itertuples()}
    assert named == planned == set(map(str, results.planned))
    results.planned = results.planned[:1]
    [up] = results.planned
    effects = results.effects()
    ours = (
        (effects["up_layer"] == up.site.layer)
        & (effects["up_site"] == up.site.name)
        & (effects["up_feature"] == up.index)
    )
    assert effects["planned"].tolist() == ours.tolist()
    assert 0 < ours.sum() < len(effects)


def test_a_feature_is_named_as_people_or_as_results_do(finished: Path):
    results = circuitcli.open_run(finished)
    one = results.planned[-1]
    assert results.feature(one) == results.feature(str(one))
    assert results.feature(one).feature.id == str(one)


def test_files_are_read_once_and_tables_searched_once_for_all_features(finished: Path, monkeypatch: Any):
    """However many features are asked for: no table is gone through for each of them."""
    read: Counter[str] = Counter()
    searched: Counter[str] = Counter()

    def counted(module: Any, name: str, into: Counter[str], key: Callable[..., str]) -> None:
        original = getattr(module, name)

        def call(*args: Any, **more: Any) -> Any:
            into[key(*args)] += 1
            return original(*args, **more)

        monkeypatch.setattr(module, name, call)

    counted(tables, "read", read, lambda path, *_: path.name)
    counted(dictionaries, "entries_of", read, lambda run: "saes.json")
    for name in ("rows_of", "groups", "match", "among", "keys"):
        counted(rows_of_tables, name, searched, lambda *_, name=name: name)
    results = circuitcli.open_run(finished)
    for _ in range(2):
        results.effects(), results.logits(), results.features(), results.contexts(), results.graph()
    in_one_table = {name: count for name, count in read.items() if "-" not in name}
    assert set(in_one_table) >= {"saes.json", "effects.parquet", "logits.parquet", "features.parquet"}
    assert in_one_table.pop("features.parquet") == 2, "of acts and of effects"
    del in_one_table["texts.parquet"]  # for contexts(), and for the nodes of graph()
    assert set(in_one_table.values()) == {1}

    def searches(features: list[FeatureId]) -> Counter[str]:
        searched.clear()
        assert len(cards.cards(results, features)) == len(features)
        return Counter(searched)

    by_site = {feature.site: feature for feature in results.ablated}
    one, all_of_them = searches(list(by_site.values())), searches(results.ablated)
    assert len(results.ablated) >= 2 * len(by_site)
    assert one == all_of_them
    assert one.total() > 0


def test_a_frame_is_the_callers(finished: Path):
    results = circuitcli.open_run(finished)
    mine = results.effects()
    mine["effect_mean"] = 0.0
    assert np.abs(results.effects()["effect_mean"]).sum() > 0


def test_the_graph_is_circuit_json(finished: Path):
    drawn = json.loads((finished / "graph/circuit.json").read_text())
    graph = circuitcli.open_run(finished).graph()
    assert list(graph.nodes) == [node["id"] for node in drawn["nodes"]]
    effects = {(edge["source"], edge["target"]): edge["effect_mean"] for edge in drawn["edges"]}
    assert {(source, target): effect for source, target, effect in graph.edges(data="effect_mean")} == effects != {}
    assert graph.nodes[drawn["nodes"][0]["id"]]["kl_mean"] == drawn["nodes"][0]["kl_mean"]
    assert {**graph.graph, "created": ""} == {**drawn["metadata"], "created": ""}


def test_what_is_wrong_says_what_to_do(finished: Path, tmp_path: Path):
    results = circuitcli.open_run(finished)
    with pytest.raises(UsageError, match="at no SAE") as wrong:
        results.feature("9:9")
    assert wrong.value.__notes__ == [wrong.value.hint]
    for layer, site in ((9, "z"), (0, "nowhere")):
        with pytest.raises(UsageError, match=rf"no dictionary at {layer}\.{site}"):
            results.activations(layer, site)
    for name in ("", "2:", "nowhere"):
        with pytest.raises(UsageError, match="doesn't name a feature"):
            results.feature(name)
    with pytest.raises(InputError, match="There is no run"):
        circuitcli.open_run(tmp_path / "none")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        circuitcli.nothing  # noqa: B018


def test_what_is_not_done_yet_is_asked_for(finished: Path, tmp_path: Path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "effects/stage.json").unlink()
    results = circuitcli.open_run(run)
    assert len(results.contexts()) > 0
    feature = str(results.ablated[0])
    for ask in (results.effects, results.logits, results.features, results.graph, lambda: results.feature(feature)):
        with pytest.raises(InputError, match="no finished effects stage") as wrong:
            ask()
        assert "circuit effects --run" in wrong.value.hint
    (run / "saes/saes.json").write_text("{}")
    with pytest.raises(InputError, match=r"saes\.json"):
        circuitcli.open_run(run).activations(0, "resid_post")


def test_a_run_that_keeps_no_text_is_read_with_a_tokenizer_or_not_at_all(finished: Path, tmp_path: Path):
    """As runs of the first version are."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    record = json.loads((run / "acts/stage.json").read_text())
    del record["files"]["acts/texts.parquet"]
    (run / "acts/stage.json").write_text(json.dumps(record))
    found = circuitcli.open_run(run)
    assert found.contexts()["token"].tolist() == circuitcli.open_run(finished).contexts()["token"].tolist()
    with pytest.raises(InputError, match="keeps no text"):
        Results(found.run).contexts()


def test_run_does_what_run_all_does(finished: Path, tmp_path: Path):
    """A finished run stays as it is; anything asked for anew is done."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(run)
    assert len(circuitcli.run(run=run).effects()) == len(rows(run, "effects/effects.parquet"))
    assert contents(run) == before
    found = circuitcli.run({"graph": {"max_edges": 3}}, run=run, formats=["json"])
    assert found.settings.graph.max_edges == 3
    assert found.graph().number_of_edges() == len(json.loads((run / "graph/circuit.json").read_text())["edges"]) == 3
    before = contents(run)
    for named, message in (
        ({"modle": "demo"}, "Unknown setting `modle`"),
        ({"texts": {"promt": ["a"]}}, r"Unknown setting `texts\.promt`"),
        ({"layers": [1, 2]}, r"`saes\.layers` \(--layers\) can't be"),
    ):
        with pytest.raises(UsageError, match=message):
            circuitcli.run(run=run, **named)
    assert contents(run) == before


# In a process of its own: under pytest all arguments are checked by their types.
WRONG = """
import json, sys
import circuitcli
from circuitcli.errors import UsageError
path = sys.argv[1]
results = circuitcli.open_run(path)
layer, site = next(iter(results.widths))
assert len(results.activations(layer, site)) > 0
assert results.activations(float(layer), site).equals(results.activations(layer, site))
wrong = {
    "is no path of a run": [lambda: circuitcli.open_run(None), lambda: circuitcli.open_run(b"x"),
                            lambda: circuitcli.run(run=5)],
    "doesn't name a feature": [lambda: results.feature(749), lambda: results.feature(None),
                               lambda: results.feature(("0", 1))],
    "has no dictionary at": [lambda: results.activations("0", site), lambda: results.activations(0, [site]),
                             lambda: results.activations(None, None)],
    "names none": [lambda: circuitcli.run("demo", run=path), lambda: circuitcli.run([("model", "demo")], run=path),
                   lambda: circuitcli.run(0, run=path)],
    "5 is no name of a setting": [lambda: circuitcli.run({5: 1}, run=path),
                                  lambda: circuitcli.run(texts={5: 1}, run=path)],
    "is no report": [lambda: circuitcli.run(report=print, run=path), lambda: circuitcli.run(report="loud", run=path)],
}
for words, calls in wrong.items():
    for call in calls:
        try:
            call()
        except UsageError as error:
            assert words in error.message and error.__notes__ == [error.hint], (words, error)
            assert "\\n" not in error.message + error.hint and len(error.hint) > 10
        else:
            raise AssertionError(words)
print(sum(map(len, wrong.values())))
"""


def test_arguments_of_a_wrong_kind_are_told_as_such(finished: Path):
    before = contents(finished)
    done = subprocess.run(
        [sys.executable, "-c", WRONG, str(finished)], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr
    assert contents(finished) == before


def test_settings_as_keyword_arguments():
    given = {"model": "gpt2", "prompt": ["a"], "texts": {"max_tokens": 9}, "contexts.view": 2, "layers": "4:6"}
    tree = nest(
        {"model": "gpt2", "texts.prompt": ["a"], "texts.max_tokens": 9, "contexts.view": 2, "saes.layers": "4:6"}
    )
    assert keywords(given) == tree
    assert resolve(keywords(given)).texts.source == "prompt"
    with pytest.raises(UsageError, match=r"texts\.num_sequences, contexts\.num_sequences") as several:
        keywords({"num_sequences": 5})
    assert "`texts={'num_sequences': …}`" in several.value.hint
    assert keywords(SMALL) == SMALL
    assert keywords({"positions": "all", "target": " a"}) == {
        "ablate": {"positions": "all"},  # as before [attribute] had such a key too
        "attribute": {"target": " a"},
    }
    assert keywords({"baseline": "mean", "pinned": ["0:1"], "split": 0.25}) == {
        "attribute": {"baseline": "mean"},  # not [validate]'s, which run-all doesn't go by
        "features": {"pinned": ["0:1"]},
        "validate": {"split": 0.25},
    }


LIGHT = """
import sys, circuitcli
for name in ("torch", "transformers", "transformer_lens"):
    assert name not in sys.modules
    sys.modules[name] = None  # an import of it fails
heavy = ("torch", "transformers", "transformer_lens", "huggingface_hub", "pandas", "networkx", "rich", "numpy")
print([name for name in sys.modules if name.startswith("circuitcli.") or sys.modules[name] and name in heavy])
results = circuitcli.open_run(sys.argv[1])
results.feature(str(results.planned[0]))
print([name for name in heavy if sys.modules.get(name)])
results.effects(), results.graph()
print([name for name in heavy if sys.modules.get(name)])
"""


def test_what_is_imported_when(finished: Path):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(finished)], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['numpy']", "['pandas', 'networkx', 'numpy']"]


QUIET = """
import sys, circuitcli, transformers
from transformers.utils import logging
assert logging.is_progress_bar_enabled()
circuitcli.run(model="demo", prompt=["In the beginning God"], features={"thinning": 0.001}, formats=["json"], run="run")
assert logging.is_progress_bar_enabled()
"""


@pytest.mark.slow
def test_nothing_is_printed_and_other_libraries_are_as_they_were(tmp_path: Path):
    shown = {name: value for name, value in environment().items() if name not in QUIETED}
    done = subprocess.run(
        [sys.executable, "-c", QUIET], env=shown, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "run/graph/circuit.json").is_file()


def test_transformers_says_what_it_did_before_even_after_an_error():
    verbosity = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        with contextlib.suppress(KeyError), silent_transformers():
            assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
            raise KeyError
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(verbosity)


QUIETED = ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


def test_the_public_names_are_typed():
    stub = ast.parse((Path(circuitcli.__file__).parent / "__init__.pyi").read_text())
    typed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(circuitcli.__all__) == {"run", "open_run", "Results"}
    for name in typed:
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
    functions = [circuitcli.run, circuitcli.open_run, *public_methods().values()]
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        assert not untyped, function


def public_methods() -> dict[str, Any]:
    return {n: f for n, f in vars(Results).items() if inspect.isfunction(f) and not n.startswith("_")}


def test_every_method_says_its_columns_and_units():
    methods = public_methods()
    assert set(methods) == {"effects", "logits", "features", "contexts", "activations", "graph", "feature"}
    run = {"run": circuitcli.run, "open_run": circuitcli.open_run}
    assert all(function.__doc__ and "Raises:" in function.__doc__ for function in {**methods, **run}.values())
    for name in ("effects", "logits", "features", "contexts", "activations"):
        assert "Columns:" in str(methods[name].__doc__)
        assert re.search(r"SAE units|nats", str(methods[name].__doc__))
