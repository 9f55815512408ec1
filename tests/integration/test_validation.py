"""What is told of a run's validation, from its files: numbers by pandas, tables and words at every width, pictures."""

import dataclasses
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from scipy import stats
from support.circuits import METADATA, NAMES, PLAIN, node, validator
from support.tiny import SMALL
from support.validated import Made, feature, validate

from circuitcli.cli import evidence, evidence_words
from circuitcli.cli.console import Terminal
from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit
from circuitcli.core.words import with_interval
from circuitcli.errors import InputError
from circuitcli.renderers import _curves
from circuitcli.results.validation import Validated
from circuitcli.stages import curves, graph
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store import validations
from circuitcli.store.run import Run

Checked = Callable[..., Job]


@pytest.fixture
def validated(start: Callable[..., Job], tmp_path: Path) -> Checked:
    """A job on a run with a validation of made-up numbers: `validated(size=5)`."""
    return lambda **made: validate(start(tmp_path / "run"), Made(**made))


class Heard(Silent):
    """A report that keeps what is said."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def say(self, line: str) -> None:
        self.lines.append(line)


def read(job: Job, table: str) -> pandas.DataFrame:
    found = pandas.read_parquet(job.run.root / f"validation/{table}.parquet")
    return found.astype({name: str for name in ("half", "curve", "errors", "part", "site") if name in found})


def mean(rows: pandas.DataFrame, **of: Any) -> float:
    """The mean m of some rows of validation.parquet."""
    return float(rows[np.logical_and.reduce([rows[name] == value for name, value in of.items()])]["m"].mean())


def share(rows: pandas.DataFrame, half: str, errors: str, curve: str, **of: Any) -> float:
    """f, by its formula."""
    kind = curve if curve in ("neurons", "dimensions") else ""
    nothing = mean(rows, half=half, errors=errors, curve=kind, part="nothing")
    everything = mean(rows, half=half, part="everything")
    return (mean(rows, half=half, errors=errors, curve=curve, **of) - nothing) / (everything - nothing)


def test_tables_are_typed(validated: Checked):
    root = validated().run.root
    kinds = {
        name: str(kind)
        for table in ("validation", "nodes")
        for name, kind in zip(
            *(lambda s: (s.names, s.types))(pyarrow.parquet.read_schema(root / f"validation/{table}.parquet")),
            strict=True,
        )
    }
    words = "dictionary<values=string, indices=int32, ordered=0>"
    assert kinds == {
        **dict.fromkeys(("half", "curve", "errors", "part", "site"), words),
        **dict.fromkeys(("example", "n", "node", "rank", "feature"), "int32"),
        **dict.fromkeys(("draw", "layer"), "int16"),
        "m": "double",
        "score": "float",
    }


def test_curves_are_the_formula_on_the_table(validated: Checked):
    job = validated()
    rows, found = read(job, "validation"), job.results().validation.curves()
    sets = rows[rows["part"] == "circuit"].groupby(["half", "errors", "curve", "n"])
    assert sorted(sets.groups) == sorted(found[["half", "errors", "curve", "n"]].itertuples(index=False, name=None))
    assert found["half"].drop_duplicates().tolist() == ["evaluation", "discovery"]
    for row in found.itertuples():
        about = (row.half, row.errors, row.curve)
        f = share(rows, *about, part="circuit", n=row.n)
        assert row.faithfulness == pytest.approx(f)
        assert row.faithfulness_low < f < row.faithfulness_high
        if row.curve in ("neurons", "dimensions"):
            assert np.isnan(row.completeness)
        else:
            assert row.completeness == pytest.approx(share(rows, *about, part="complement", n=row.n))
        other = share(rows, row.half, row.errors, "random", part="circuit", n=row.n)
        assert row.above_random == pytest.approx(f - other, abs=1e-9, nan_ok=True) or row.curve == "random"
        assert (row.examples, row.draws) == (20 if row.half == "discovery" else 24, 4 if row.curve == "random" else 1)
        assert row.m == pytest.approx(
            mean(rows, half=row.half, errors=row.errors, curve=row.curve, part="circuit", n=row.n)
        )
        assert row.m_everything == pytest.approx(mean(rows, half=row.half, part="everything"))


READ = """
import sys
from pathlib import Path
from circuitcli.results.results import Results
from circuitcli.settings import resolve
from circuitcli.stages.spec import STAGES
from circuitcli.store.run import Run
run = Run(Path(sys.argv[1]), STAGES.folders)
found = Results(run, resolve(run.settings())).validation
print(len(found.curves()), len(found.nodes()), found.record.n)
print(*{"torch", "transformers", "transformer_lens", "rich", "matplotlib"} & set(sys.modules))
"""


def test_it_is_read_without_what_computes(validated: Checked):
    root = validated().run.root
    done = subprocess.run([sys.executable, "-c", READ, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["102", "12", "12"]


def test_halves_share_no_number(validated: Checked):
    """Numbers of one half are the same, whatever the other's are."""
    job = validated()
    before = job.results().validation.curves()
    table = read(job, "validation")
    rewrite(job, table.assign(m=np.where(table["half"] == "discovery", table["m"] ** 2, table["m"])))
    after = job.results().validation.curves()
    for half, same in (("evaluation", True), ("discovery", False)):
        columns = ["faithfulness", "faithfulness_low", "above_random_high"]
        one, other = (found[found["half"] == half][columns].to_numpy() for found in (before, after))
        assert np.allclose(one, other, equal_nan=True) == same


def test_nodes_are_what_is_lost_without_them(validated: Checked):
    job = validated()
    rows, found = read(job, "validation"), job.results().validation.nodes()
    nodes = read(job, "nodes")
    nodes = nodes[nodes["curve"] == "circuit"].set_index("node")
    assert len(found) == 12
    assert found["half"].unique().tolist() == ["evaluation"]
    whole = share(rows, "evaluation", "kept", "circuit", part="circuit", n=12)
    here = rows[(rows["half"] == "evaluation") & (rows["errors"] == "kept")]
    kept = here[(here["part"] == "circuit") & (here["n"] == 12) & (here["curve"] == "circuit")].set_index("example")[
        "m"
    ]
    p = []
    for (number, told), row in zip(nodes.iterrows(), found.itertuples(), strict=True):
        assert row.feature == f"{told['layer']}.{told['site']}.{told['feature']}"
        assert (row.rank, row.score) == (told["rank"], pytest.approx(told["score"]))
        without = share(rows, "evaluation", "kept", "circuit", part="without", node=number)
        assert row.share == pytest.approx(whole - without, abs=1e-9)
        assert row.share_low <= row.share <= row.share_high
        assert row.alone == pytest.approx(share(rows, "evaluation", "kept", "circuit", part="alone", node=number))
        left = here[(here["part"] == "without") & (here["node"] == number)].set_index("example")["m"]
        p.append(stats.wilcoxon(kept - left).pvalue if (kept != left).any() else 1.0)
    np.testing.assert_allclose(found["q"], stats.false_discovery_control(found["p"]))
    strong = np.asarray(p) < 1e-4
    assert strong.any()
    assert (found["p"][strong] < 0.001).all()
    assert not job.results().validation.nodes()["alone"].isna().any()


def test_a_node_that_adds_nothing_is_not_found(validated: Checked):
    """Of twelve nodes of which the last ones have worth 0, by planting: their q is 1, the others' small."""
    job = validated(size=12, scored=60, seed=3)
    found = job.results().validation.nodes().set_index("feature")
    assert found["q"].iloc[0] < 0.01
    table = read(job, "validation")
    here = (table["part"] == "without") & (table["node"] == 5)
    whole = table[(table["part"] == "circuit") & (table["curve"] == "circuit") & (table["n"] == 12)]
    m = whole[(whole["half"] == "evaluation") & (whole["errors"] == "kept")]["m"].to_numpy()
    table.loc[here, "m"] = m
    rewrite(job, table)
    found = job.results().validation.nodes()
    assert (found["share"][5], found["p"][5], found["q"][5]) == (0, 1, 1)


def rewrite(job: Job, table: pandas.DataFrame) -> None:
    """Another validation.parquet in its place, as if it had been recorded."""
    path = job.run.root / validations.MEASURED
    table.astype(dict.fromkeys(("half", "curve", "errors", "part"), "category")).to_parquet(path)
    recorded_anew(job, validations.MEASURED)


def recorded_anew(job: Job, name: str) -> None:
    record = job.run.require("validate")
    files = {**record.files, name: job.run.entry(job.run.root / name)}
    job.run.save_record("validate", dataclasses.replace(record, files=files))


def test_areas_are_of_curves_that_were_measured_at_all_sizes(validated: Checked):
    sizes = (1, 3, 6, 12, 30, 60)  # of 60 scored int(p · 60) is 0, 0, 0, 0, 1, 3, 6, 12, 30, 60
    job = validated(sizes=sizes)
    rows, found = read(job, "validation"), job.results().validation.areas()
    assert len(found) == 2 * 3 * 5, "not of C, which is smaller"
    fractions = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    for row in found.itertuples():
        f = [0.0] * 4 + [share(rows, row.half, row.errors, row.curve, part="circuit", n=n) for n in sizes]
        pieces = [(b - a) * (x + y) / 2 for a, b, x, y in zip(fractions, fractions[1:], f, f[1:], strict=False)]
        assert row.cpr == pytest.approx(sum(pieces))
        gaps = [abs(1 - one) for one in f]
        pieces = [(b - a) * (x + y) / 2 for a, b, x, y in zip(fractions, fractions[1:], gaps, gaps[1:], strict=False)]
        assert row.cmd == pytest.approx(sum(pieces))
        assert row.cpr_low < row.cpr < row.cpr_high
    assert validated(sizes=sizes[1:]).results().validation.areas().empty


def test_examples_say_their_half_and_what_the_model_does_on_them(validated: Checked):
    job = validated(examples=(2, 3))
    rows, found = read(job, "validation"), job.results().validation.examples()
    assert found["half"].tolist() == ["discovery"] * 2 + ["evaluation"] * 3
    assert found["name"].tolist() == [f"the light of the earth {i}" for i in range(5)]
    everything = rows[rows["part"] == "everything"].sort_values("example")["m"]
    assert found["m"].tolist() == everything.tolist()
    nothing = rows[(rows["part"] == "nothing") & (rows["errors"] == "kept") & (rows["curve"] == "")]
    assert found["m_nothing"].tolist() == nothing.sort_values("example")["m"].tolist()
    assert found[["sequences", "tokens", "unit"]].drop_duplicates().to_numpy().tolist() == [[1, 3, "nats"]]


def test_the_record_says_everything_in_short(validated: Checked):
    job = validated()
    rows, found = read(job, "validation"), job.results().validation.record
    assert (found.curve, found.n, found.unit, found.baseline) == ("circuit", 12, "nats", "mean")
    assert (found.run, found.created) == ("run", "2026-11-26T09:00:00+00:00")
    told = [(budget.half, budget.errors) for budget in found.budgets]
    assert told == [(half, errors) for half in ("evaluation", "discovery") for errors in ("kept", "sites", "removed")]
    for budget in found.budgets:
        about = (budget.half, budget.errors)
        assert budget.faithfulness.value == pytest.approx(share(rows, *about, "circuit", part="circuit", n=12))
        assert budget.completeness.value == pytest.approx(share(rows, *about, "circuit", part="complement", n=12))
        assert budget.everything == pytest.approx(mean(rows, half=budget.half, part="everything"))
        assert budget.examples == (20 if budget.half == "discovery" else 24)
        assert [rival.curve for rival in budget.rivals] == ["activation", "atp", "dimensions", "neurons", "random"]
        for rival in budget.rivals:
            f = share(rows, *about, rival.curve, part="circuit", n=12)
            assert rival.faithfulness.value == pytest.approx(f)
            assert rival.above.value == pytest.approx((budget.faithfulness.value or 0) - f, abs=1e-9)
    kept = found.budgets[0]
    above = {rival.curve: rival.above for rival in kept.rivals}
    assert (above["random"].low or 0) > 0


def test_a_model_that_does_no_better_than_nothing_has_no_faithfulness(validated: Checked):
    found = validated(flat=True, errors=("kept",), curves=("circuit", "random")).results().validation
    assert found.record.budgets[0].faithfulness.value is None
    assert found.curves()["faithfulness"].isna().all()
    assert np.isnan(found.nodes()["share"]).all()


def test_what_is_missing_or_not_whole_is_told(validated: Checked):
    job = validated()
    record = job.run.root / "validation/stage.json"
    record.rename(record.with_suffix(".aside"))
    with pytest.raises(InputError, match="no finished validate"):
        job.results().validation.curves()
    record.with_suffix(".aside").rename(record)
    rewrite(job, read(job, "validation").drop(index=7))
    with pytest.raises(InputError, match="isn't whole"):
        job.results().validation.curves()
    (job.run.root / validations.EXAMPLES).write_text('[{"name": 3}]')
    recorded_anew(job, validations.EXAMPLES)
    with pytest.raises(InputError, match="isn't as this version"):
        _ = job.results().validation.told


def circuit_of(names: list[str]) -> Circuit:
    return Circuit(METADATA, tuple(node(name) for name in names), ())


def test_the_circuit_that_was_validated_carries_it_and_no_other(validated: Checked):
    found: Validated = validated().results().validation
    names = [str(one) for one in found.features]
    assert names == [str(feature(i)) for i in range(12)]
    carried = found.put_on(circuit_of(names))
    assert carried.validation == found.record
    assert found.put_on(circuit_of(names[1:])).validation is None
    assert found.put_on(circuit_of([*names, NAMES[0]])).validation is None
    assert found.put_on(PLAIN).validation is None
    document = json.loads(json.dumps(carried.to_dict()))
    validator().validate(document)
    assert document["validation"]["budgets"][0]["half"] == "evaluation"


def piped(job: Job, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, list[list[str]]]]:
    """Sentences, and the tables by the beginning of their titles, as a pipe has them."""
    capsys.readouterr()
    evidence.show(job.results(), Terminal(as_json=False, quiet=False))
    notes: list[str] = []
    tables: dict[str, list[list[str]]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("# "):
            notes.append(line.removeprefix("# "))
        else:
            tables.setdefault(notes[-1].split(" ")[0], []).append(line.split("\t"))
    return notes, tables


def cell(row: Any, name: str) -> str:
    return with_interval(Measure(*(getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))))


def test_tables_in_a_pipe_have_every_number_of_the_evaluation(validated: Checked, capsys: pytest.CaptureFixture[str]):
    job = validated(sizes=(1, 3, 6, 12, 30, 60))
    notes, tables = piped(job, capsys)
    assert notes[: len(notes) - len(tables)] == evidence_words.sentences(job.results().validation)
    assert list(tables) == ["The", "Other", "Curves", "Analogues", "Nodes"]
    found = job.results().validation
    curves = found.curves()
    here = curves[curves["half"] == "evaluation"]
    header, *rows = tables["Curves"]
    assert header == ["chosen by", "n", "errors kept", "at its sites", "removed", "completeness, errors kept"]
    assert len(rows) == 4 + 5 * 6
    variants = ("kept", "sites", "removed")
    for curve, n, *shares, complete in rows:
        of = here[(here["curve"] == curve) & (here["n"] == int(n))].set_index("errors", drop=False)
        assert shares == [cell(of.loc[errors], "faithfulness") for errors in variants]
        assert complete == ("–" if curve in ("neurons", "dimensions") else cell(of.loc["kept"], "completeness"))
    budget = [[*row[:3], *row[5:]] for row in tables["The"][1:]]
    assert budget == [
        [b.half, str(b.examples), b.errors, with_interval(b.faithfulness), with_interval(b.completeness)]
        for b in found.record.budgets
    ]
    assert len(tables["Other"]) == 1 + 5 * 3
    areas = found.areas()
    for curve, errors, of, cpr, cmd in tables["Analogues"][1:]:
        [row] = areas[
            (areas["half"] == "evaluation") & (areas["curve"] == curve) & (areas["errors"] == errors)
        ].itertuples()
        assert (of, cpr, cmd) == ("60", cell(row, "cpr"), cell(row, "cmd"))
    nodes = found.nodes().set_index("feature", drop=False)
    shares = [nodes.loc[row[0], "share"] for row in tables["Nodes"][1:]]
    assert len(shares) == 12
    assert shares == sorted(shares, reverse=True)
    for name, rank, told, p, q, alone in tables["Nodes"][1:]:
        row = nodes.loc[name]
        assert (rank, told, alone) == (str(row["rank"]), cell(row, "share"), cell(row, "alone"))
        assert (p, q) == (f"{row['p']:.4f}", f"{row['q']:.4f}")


def test_json_has_all_halves_and_no_nan(validated: Checked):
    job = validated()
    document = json.loads(json.dumps(evidence.document(job.results()), allow_nan=False))
    assert set(document) == {"validation", "curves", "areas", "nodes", "said"}
    assert {row["half"] for row in document["curves"]} == {"discovery", "evaluation"}
    assert len(document["nodes"]) == 12
    assert document["nodes"][0]["share"]["value"] == pytest.approx(job.results().validation.nodes()["share"][0])
    json.dumps(evidence.document(validated(flat=True).results()), allow_nan=False)


WORDS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        {},
        [
            "On 24 evaluation examples, errors kept, the circuit's 12 features do ",
            "On the 20 discovery examples it is ",
            "it is above activation (",
            "not told apart from atp (",
            "With errors removed the same features do only ",
            "most of the effect passes through what the dictionaries leave out",
            "Of its 12 nodes 12 add to it by themselves (q < 0.05, evaluation examples, errors kept).",
        ],
        ["below", "take from it", "take its place", "lies outside", "means much", "isn't defined"],
    ),
    (
        {"errors": ("removed",), "through": 1.0, "without": False, "alone": False},
        ["errors removed, the circuit's 12 features do "],
        ["With errors removed", "leave out does", "Of its"],
    ),
    ({"through": 0.9}, ["With errors removed the same features do ."], ["do only"]),
    (
        {"curves": ("random", "circuit", "activation"), "size": 2, "sizes": (2,), "without": False, "alone": False},
        ["Without the circuit all other features do", "most of it lies outside the circuit"],
        ["take its place"],
    ),
    ({"flat": True}, ["Faithfulness isn't defined: m is the same with everything and with nothing"], ["carries"]),
]


@pytest.mark.parametrize(("made", "there", "missing"), WORDS)
def test_words_say_what_the_numbers_do(validated: Checked, made: dict[str, Any], there: list[str], missing: list[str]):
    said = " ".join(evidence_words.sentences(validated(**made).results().validation))
    assert [part for part in there if part not in said] == []
    assert [part for part in missing if part in said] == []


def test_what_others_do_as_well_is_told(validated: Checked):
    """Of a circuit that does most, and without which others do most too."""
    job = validated()
    table = read(job, "validation")
    everything = table[table["part"] == "everything"].set_index("example")["m"]
    rest = (table["part"] == "complement") & (table["errors"] == "kept")
    rewrite(job, table.assign(m=np.where(rest, table["example"].map(everything) - 0.1, table["m"])))
    said = " ".join(evidence_words.sentences(job.results().validation))
    assert "others can take its place" in said


def test_a_circuit_that_is_worse_than_chance_is_told_so(validated: Checked):
    """Names of curves are exchanged: what was ranked by what it adds is now called random, and the other way round."""
    job = validated(draws=1, sizes=(12,), curves=("circuit", "random"), without=False, alone=False)
    table = read(job, "validation")
    rewrite(job, table.assign(curve=table["curve"].replace({"circuit": "random", "random": "circuit"})))
    assert "it is below random (" in " ".join(evidence_words.sentences(job.results().validation))


def test_a_model_that_can_not_be_told_from_nothing_is_told_so(validated: Checked):
    job = validated(errors=("kept",), curves=("circuit", "random"))
    table = read(job, "validation")
    noise = np.random.default_rng(0).normal(0.1, 3, len(table))
    everything = table["part"] == "everything"
    rewrite(job, table.assign(m=np.where(everything, -6 + noise, table["m"])))
    said = evidence_words.sentences(job.results().validation)
    assert said[-1].startswith("On the evaluation examples the model does no better than with nothing")


def test_the_graph_is_drawn_anew_with_the_validation_of_its_features(measure: Callable[..., Job]):
    """By the stage: only of just the features that are drawn; and once, until it is validated again."""
    job = measure({**SMALL, "graph": {"formats": ["json", "dot"], "max_edges": 6}})
    job = dataclasses.replace(job, run=Run(job.run.root, STAGES.folders))
    graph.run(job)
    path = job.run.root / "graph/circuit.json"
    before = json.loads(path.read_text())
    names = [node["id"] for node in before["nodes"]]
    assert "validation" not in before
    said: list[str] = []
    told = dataclasses.replace(job, report=Heard(said))
    validate(job, Made(size=len(names), named=tuple(names)))
    assert graph.run(told).status == "done"
    assert any("validation" in line for line in said)
    after = json.loads(path.read_text())
    validator().validate(after)
    assert after["validation"]["n"] == len(names)
    assert {**after, "validation": 0, "metadata": 0} == {**before, "validation": 0, "metadata": 0}
    assert "Faithfulness ." in (job.run.root / "graph/circuit.dot").read_text()
    assert graph.run(told).status == "skipped"
    assert job.results().graph().number_of_nodes() == len(names)
    validate(job, Made(size=len(names) - 1, named=tuple(names)))
    assert graph.run(told).status == "done"
    assert "validation" not in json.loads(path.read_text())


PLOTTED = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra `plot`")


@PLOTTED
def test_the_plot_shows_every_curve_and_is_the_same_bytes(validated: Checked, capsys: pytest.CaptureFixture[str]):
    job = validated(errors=("kept", "removed"), sizes=(1, 3, 12, 30))
    paths = evidence.plot(job, Terminal(as_json=False, quiet=False))
    assert capsys.readouterr().out.splitlines() == paths
    svg, png = (Path(path).read_bytes() for path in paths)
    assert png.startswith(b"\x89PNG")
    assert [Path(path).name for path in paths] == ["curves.svg", "curves.png"]
    root = ElementTree.fromstring(svg)
    drawn = [group.get("id", "") for group in root.iter("{http://www.w3.org/2000/svg}g")]
    assert sum(name.startswith("axes_") for name in drawn) == 4  # two variants, faithfulness and completeness
    assert b"script" not in svg
    assert not re.search(rb"20\d\d-\d\d-\d\d", svg), "no date"
    for path in paths:
        Path(path).unlink()
    assert [Path(path).read_bytes() for path in evidence.plot(job, Terminal(as_json=True, quiet=True))] == [svg, png]


@PLOTTED
def test_the_plot_is_drawn_again_only_for_other_numbers(validated: Checked):
    job = validated()
    before = [(path, path.stat().st_mtime_ns) for path in curves.draw(job)]
    assert [(path, path.stat().st_mtime_ns) for path in curves.draw(job)] == before
    old = [path.read_bytes() for path, _ in before]
    validate(job, Made(seed=5))
    assert all(path.read_bytes() != data for path, data in zip(curves.draw(job), old, strict=True))


@PLOTTED
def test_lines_and_bands_are_the_numbers(validated: Checked):
    """What matplotlib was told, by its own objects."""
    found = validated(sizes=(1, 3, 12, 30)).results().validation
    figure = _curves._figure(found.record, [point for point in found.points if point.half == "evaluation"])
    table = found.curves()
    table = table[table["half"] == "evaluation"]
    assert len(figure.axes) == 6
    panels = itertools.product(("faithfulness", "completeness"), ("kept", "sites", "removed"))
    for i, (what, errors) in enumerate(panels):
        lines = {line.get_label(): line for line in figure.axes[i].get_lines() if not line.get_label().startswith("_")}
        of = table[(table["errors"] == errors) & table[what].notna()]
        assert {name for name, line in lines.items() if len(line.get_xdata())} == set(of["curve"])
        assert figure.axes[i].get_xscale() == "log"
        for curve, rows in of.groupby("curve"):
            assert lines[curve].get_xdata().tolist() == rows["n"].tolist()
            assert lines[curve].get_ydata().tolist() == rows[what].tolist()


@PLOTTED
@pytest.mark.parametrize(
    "made", [{"flat": True}, {"examples": (1, 1)}, {"curves": ("circuit",), "sizes": (12,)}, {"through": 40.0}]
)
def test_any_validation_can_be_plotted(validated: Checked, made: dict[str, Any]):
    assert len(curves.draw(validated(**made))) == 2


def test_without_matplotlib_one_line_says_what_to_install(validated: Checked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said: list[str] = []
    job = dataclasses.replace(validated(), report=Heard(said))
    assert evidence.plot(job, Terminal(as_json=False, quiet=False)) == []
    assert said == ["A plot takes matplotlib, which isn't installed. Install it: `pip install 'circuitcli[plot]'`."]
    assert evidence.document(job.results())["curves"]
