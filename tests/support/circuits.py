"""Circuits to test on: one that is written down, hostile text, and random ones; and the schema of circuit.json."""

import dataclasses
import json
from functools import cache
from importlib import resources
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from circuitcli.core.attributed import Attribution, Calibration, Measure, Question
from circuitcli.core.circuit import Circuit, Context, Edge, Measurement, Node, TokenEffect
from circuitcli.core.evidence.thresholds import Asked, CircuitTest, Dictionary, EdgeSize, Faithful, Place
from circuitcli.core.evidence.validated import Budget, Rival, Validation
from circuitcli.core.metadata import Metadata, RunFacts, SaeFacts

RUN = RunFacts(
    run="monday",
    fingerprint="f" * 64,
    created="2026-11-23T10:00:00+00:00",
    release="res-jb",
    num_sequences=200,
    seed=0,
    edges_measured=1234,
    abs_effect_measured=4.0,
)
PLACES = ((1, "mlp_out"), (1, "resid_post"), (2, "resid_post"), (3, "resid_post"))
METADATA = Metadata(
    schema_version=1,
    model="gpt2",
    model_identity="c" * 40,
    release="res-jb",
    layers=(1, 2, 3),
    sites=("mlp_out", "resid_post"),
    saes=tuple(SaeFacts(layer, site, f"hf://{layer}", f"{layer}{site}", None) for layer, site in PLACES),
    intervention="zero",
    positions="top",
    horizon=0,
    num_sequences=200,
    seed=0,
    min_effect=0.0,
    edges_measured=1234,
    share_drawn=0.38,
    run="monday",
    runs=(RUN,),
    created="2026-11-23T12:34:56+00:00",
    version="0.1.0",
)
NASTY = (
    "[/b]",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"quoted\\"',
    "'single'",
    "&amp;",
    "=HYPERLINK(1)",
    "+1",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "a,b;c",
    "\\N\\G",
    "\x00",
    "\x1b[31m",
    "\ud800",
    "\udfff\ud800",
    "\ufffe",
    "\u202eevil",
    "שלום",
    "😀👩\u200d👧",
    "\n",
    "\r\n",
    "\u2028",
    "",
    "]]>",
    "--> <!--",
    "x" * 10_000,
)


def node(name: str, **changes: Any) -> Node:
    layer, site, feature = name.split(".")
    contexts = (Context((" the", " cat", "sat"), (0.0, 8.0, 2.0), firing=1, seq=3, pos=7),)
    plain = Node(
        id=name,
        kind="feature",
        layer=int(layer),
        site=site,
        feature=int(feature),
        density=0.0123,
        max_activation=8.0,
        kl_mean=0.021,
        n=40,
        pinned=False,
        contexts=contexts,
        promoted=(TokenEffect(" dog", 1, -0.5), TokenEffect("\n", 2, -0.25)),
        suppressed=(TokenEffect(" fish", 3, 0.5),),
        run="monday",
        created=RUN.created,
    )
    return dataclasses.replace(plain, **changes)


def edge(source: str, target: str, mean: float, low: float | None, high: float | None, **changes: Any) -> Edge:
    plain = Edge(source, target, mean, low, high, 40, run="monday", created=RUN.created)
    return dataclasses.replace(plain, **changes)


EDGES = (
    edge("1.mlp_out.5", "2.resid_post.7", -0.84, -0.9, -0.8),
    edge("1.mlp_out.5", "1.resid_post.6", 0.42, 0.33, 0.51),
    edge("1.resid_post.6", "2.resid_post.7", -0.21, -0.3, -0.1),
    edge("2.resid_post.7", "3.resid_post.8", 0.05, None, None),
)
NAMES = ("1.mlp_out.5", "1.resid_post.6", "2.resid_post.7", "3.resid_post.8")
PLAIN = Circuit(METADATA, tuple(node(name) for name in NAMES), EDGES)
KEPT = Budget(
    half="evaluation",
    examples=96,
    errors="kept",
    everything=-0.7,
    nothing=-4.2,
    faithfulness=Measure(0.83, 0.78, 0.88),
    completeness=Measure(0.21, 0.17, 0.26),
    rivals=(
        Rival("random", Measure(0.12, 0.08, 0.16), Measure(0.71, 0.66, 0.75)),
        Rival("neurons", Measure(-0.05, None, None), Measure(None)),
    ),
)
VALIDATION = Validation(
    curve="circuit",
    n=42,
    unit="nats",
    baseline="mean",
    run="monday",
    created="2026-11-23T11:00:00+00:00",
    budgets=(
        KEPT,
        dataclasses.replace(KEPT, errors="removed", nothing=-9.0, faithfulness=Measure(-0.02, -0.1, 0.04), rivals=()),
        dataclasses.replace(KEPT, half="discovery", examples=104, faithfulness=Measure(0.91, 0.87, 0.95)),
    ),
)

TEST = CircuitTest(
    model_identity="c" * 40,
    dictionaries=tuple(Dictionary(layer, site, f"{layer}{site}") for layer, site in PLACES),
    text=None,
    settings={"model": "gpt2", "saes": {"release": "res-jb"}},
    examples=(
        Asked(prompt="the light", target=" of", against=" and", counterfactual="the night"),
        Asked(question="the light", choices=(" of", " and"), answer=1),
        Asked(text="the light of the earth"),
    ),
    faithfulness=(Faithful(errors="kept", at_least=0.78, at_most=1.5),),
    questions=(Asked(prompt="the light"),),
    edges=(EdgeSize(source="a", target="b", sign="-", at_least=0.1, at_most=2.0, places=(Place(0, 1, 2),)),),
)

TOKENS = ("<|endoftext|>", "In", " the", " beginning", ",", " God", " created", " the")
QUESTION = Question(
    metric="log p(␣heavens)",
    unit="nats",
    target=" heavens",
    against=None,
    clean=-0.7,
    prob=0.4966,
    baseline="zero",
    method="auto",
    edge_method="relp",
    frozen=False,
    positions="separate",
    tokens=TOKENS,
    counterfactual=(),
    prompts=1,
    nodes=420,
    exact=420,
    abs_effect=12.5,
    share=0.61,
    edges=2100,
    edge_share=0.44,
    replacement=0.71,
    completeness=0.83,
)


def of_prompt(name: str, effect: float | None, influence: float, **changes: Any) -> Node:
    """A node of a circuit of the prompt TOKENS: `token@3`, `1.resid_post.6@5`, `1.resid_post.error@5` or `target`."""
    place, _, pos = name.partition("@")
    kind = place if place in ("token", "target") else "error" if place.endswith("error") else "feature"
    layer, site, feature = {"token": (0, "token", 0), "target": (4, "target", 0)}.get(kind) or (
        int(place.split(".")[0]),
        place.split(".")[1],
        int(place.split(".")[2]) if kind == "feature" else 0,
    )
    what = Attribution(
        token=" heavens" if kind == "target" else TOKENS[int(pos)],
        activation=2.5,
        replacement=0.0 if kind == "feature" else None,
        effect=effect,
        method=None if kind == "target" else "exact",
        influence=influence,
        estimate=None if effect is None else 0.9 * effect,
        prob=0.4966 if kind == "target" else None,
        token_id=7 if kind in ("token", "target") else None,
    )
    base = node("1.resid_post.6") if kind == "feature" else node("0.x.0", contexts=(), promoted=(), suppressed=(), n=0)
    return dataclasses.replace(
        base,
        id=name,
        kind=kind,
        layer=layer,
        site=site,
        feature=feature,
        kl_mean=None,
        pos=int(pos) if pos else None,
        attribution=what,
        **changes,
    )


ASKED = Circuit(
    dataclasses.replace(METADATA, positions="prompt", prompts=("".join(TOKENS[1:]),), attribution=QUESTION),
    (
        of_prompt("token@5", -1.5, 0.3),
        of_prompt("token@6", -0.8, 0.5),
        of_prompt("1.resid_post.6@5", -0.9, 0.4, label="a god"),
        of_prompt("1.resid_post.error@6", 0.2, 0.8),
        of_prompt("2.resid_post.7@7", -1.1, 0.2, pinned=True),
        of_prompt("2.resid_post.9@7", 0.3, 0.7),
        of_prompt("target", None, 0.0),
    ),
    tuple(
        edge(source, target, weight, None, None, n=1, method="relp")
        for source, target, weight in (
            ("token@5", "1.resid_post.6@5", -0.9),
            ("token@6", "1.resid_post.error@6", 0.2),
            ("1.resid_post.6@5", "2.resid_post.7@7", -0.7),
            ("1.resid_post.6@5", "2.resid_post.9@7", 0.2),
            ("1.resid_post.error@6", "2.resid_post.7@7", 0.1),
            ("2.resid_post.7@7", "target", -1.0),
            ("2.resid_post.9@7", "target", 0.3),
        )
    ),
    tuple(
        Calibration(
            of=of,
            method="relp",
            kind="all",
            n=n,
            total=total,
            pearson=Measure(0.97, 0.95, 0.98),
            spearman=Measure(0.9, 0.85, 0.93),
            sign=Measure(0.95, 0.92, 0.97),
            slope=Measure(1.1, 1.0, 1.2),
            recall=Measure(0.9, None, None),
            top=20,
        )
        for of, n, total in (("nodes", 420, 420), ("edges", 60, 2100))
    ),
)


def hostile() -> Circuit:
    """Text that breaks things wherever a circuit has text."""
    effects = tuple(TokenEffect(token, i, -0.1) for i, token in enumerate(NASTY))
    context = Context(NASTY, tuple(float(i) for i in range(len(NASTY))), firing=1, seq=0, pos=3)
    texts = iter(NASTY * 9)
    nodes = [
        node(
            name,
            contexts=(context,),
            promoted=effects,
            suppressed=effects,
            label=next(texts),
            group=next(texts),
            neuronpedia=next(texts),
            run=next(texts),
        )
        for name in NAMES
    ]
    return Circuit(
        dataclasses.replace(METADATA, model="</script>\x00\ud800", release="=1+1", run="../\x00"),
        tuple(nodes),
        EDGES,
    )


@cache
def validator() -> Draft202012Validator:
    """Of circuit.json, by the schema in the package."""
    text = resources.files("circuitcli.renderers").joinpath("circuit.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


_RUNS = ("a", "b", "c")
_TIMES = ("2026-11-21T10:00:00+00:00", "2026-11-22T10:00:00+00:00", "2026-11-23T10:00:00+00:00")
_EFFECTS = (-2.0, -0.5, 0.25, 1.0)
_IDS = ("0.resid_post.1", "0.resid_post.2", "1.resid_post.1", "1.mlp_out.3", "2.resid_post.4")


@st.composite
def circuits(draw: Any) -> Circuit:
    """A circuit of a few runs that measured a few edges; small, so that two of them have much in common."""
    texts = st.sampled_from([None, "one", "two"])
    ids = sorted(draw(st.sets(st.sampled_from(_IDS), min_size=2)), key=_IDS.index)
    nodes = [
        node(
            name,
            n=draw(st.sampled_from([0, 3])),
            density=draw(st.sampled_from([0.1, 0.2])),
            pinned=draw(st.booleans()),
            label=draw(texts),
            group=draw(texts),
            run=draw(st.sampled_from(_RUNS)),
            created=draw(st.sampled_from(_TIMES)),
        )
        for name in ids
    ]
    pairs = draw(st.sets(st.tuples(st.sampled_from(ids), st.sampled_from(ids))))
    edges = [_random_edge(draw, *pair) for pair in sorted(pairs)]
    runs = [
        dataclasses.replace(
            RUN,
            run=name,
            created=draw(st.sampled_from(_TIMES)),
            seed=draw(st.integers(0, 1)),
            release=draw(st.sampled_from(["r", "s"])),
            abs_effect_measured=draw(st.sampled_from([8.0, 9.0])),
        )
        for name in sorted(draw(st.sets(st.sampled_from(_RUNS), min_size=1)))
    ]
    sites = sorted({(one.layer, one.site) for one in nodes})
    facts = dataclasses.replace(
        METADATA,
        saes=tuple(SaeFacts(layer, site, "s", f"{layer}{site}", None) for layer, site in sites),
        layers=tuple(sorted({layer for layer, _ in sites})),
        sites=tuple(sorted({site for _, site in sites})),
        runs=tuple(runs),
        run=runs[-1].run,
        created=draw(st.sampled_from(_TIMES)),
        min_effect=draw(st.sampled_from([0.0, 0.1])),
    )
    return Circuit(facts, tuple(nodes), tuple(edges))


def _random_edge(draw: Any, source: str, target: str) -> Edge:
    many = draw(
        st.lists(st.builds(_measurement, *map(st.sampled_from, (_EFFECTS, _RUNS, _TIMES))), min_size=1, max_size=3)
    )
    now, *older = many
    return Edge(source, target, now.effect_mean, now.ci_low, now.ci_high, now.n, tuple(older), now.run, now.created)


def _measurement(effect: float, run: str, created: str) -> Measurement:
    return Measurement(effect, effect - 0.1, effect + 0.1, 5, run, created)
