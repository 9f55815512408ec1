"""Every setting once: this tree of dataclasses makes the flags, the profile keys, the checks and the documentation.

Precedence, lowest first: defaults, the run's own settings.toml, the keys named in a profile, flags. A flag that
wasn't typed is None and changes nothing. pydantic checks values, and is imported only when there are values to check,
so that `circuit --help` stays quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from circuitcli.errors import UsageError, nearest

Layers = dict[str, Any]  # a partial tree: {"seed": 1, "texts": {"max_tokens": 50}}


class Flag(NamedTuple):
    """How a setting is typed on a command line, and what it says of itself."""

    name: str | None
    help: str
    metavar: str | None = None


class Range(NamedTuple):
    """What a number may be: at least `ge`, more than `gt`, at most `le`."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """How pydantic checks it."""
        return handler(source) | {name: bound for name, bound in self._asdict().items() if bound is not None}


_TABLE = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """[runtime]: where and how the arithmetic runs."""

    __pydantic_config__ = _TABLE
    device: Annotated[
        str, Flag("--device", "Where to compute: auto, cpu, cuda, cuda:N or mps.", "auto|cpu|cuda|cuda:N|mps")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Flag(
            "--dtype", "Precision of the model; SAEs and log-probabilities stay in float32.", "float32|bfloat16|float16"
        ),
    ] = "float32"
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, Range(ge=1)],
        Flag("--batch-size", "Rows computed at once; auto picks from free memory.", "N|auto"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Saes:
    """[saes]: which sparse autoencoders."""

    __pydantic_config__ = _TABLE
    release: Annotated[
        str, Flag("--release", "A release of SAEs: demo, or a folder with SAELens folders in it.", "NAME|DIR")
    ] = "demo"
    layers: Annotated[
        str, Flag("--layers", "Layers as a Python slice: `4:6`, `:`, `2:`, `-3:`, or one, `4`.", "SLICE")
    ] = ":"
    sites: Annotated[
        Literal["auto"] | tuple[str, ...],
        Flag("--site", "Sites of the SAEs (repeat for several); auto takes the release's own.", "SITE"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """[texts]: which text the model reads. Of prompt, file and dataset at most one."""

    __pydantic_config__ = _TABLE
    source: Annotated[
        Literal["demo", "prompt", "file", "dataset"], Flag(None, "Where text comes from; follows from the three below.")
    ] = "demo"
    prompt: Annotated[tuple[str, ...], Flag("--prompt", "Text to read (repeat for several).", "TEXT")] = ()
    file: Annotated[
        str,
        Flag(
            "--text", "A .jsonl file with a `text` on each line, or plain text with blank lines between texts.", "FILE"
        ),
    ] = ""
    dataset: Annotated[
        str, Flag("--dataset", "A Hugging Face dataset, or a local folder of one, with a `text` column.", "NAME")
    ] = ""
    num_sequences: Annotated[int, Range(ge=1), Flag("--num-sequences", "Sequences to sample from the text.")] = 200
    max_tokens: Annotated[int, Range(ge=2), Flag("--max-tokens", "Tokens a sequence may have, its BOS counted.")] = 100
    prepend_bos: Annotated[
        Literal["auto"] | bool,
        Flag("--prepend-bos", "Whether sequences start with BOS; auto follows the SAEs.", "auto|true|false"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """[contexts]: which contexts are shown."""

    __pydantic_config__ = _TABLE
    top_k: Annotated[int, Range(ge=1, le=100), Flag("--top-k", "Top contexts kept and shown for each feature.")] = 6
    view: Annotated[int, Range(ge=0, le=100), Flag("--view", "Tokens shown on each side of the firing token.")] = 5
    num_sequences: Annotated[
        int,
        Range(ge=0),
        Flag("--context-sequences", "A larger sample of text for top contexts alone; 0: the same sample."),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Features:
    """[features]: which features are ablated, and at how many contexts."""

    __pydantic_config__ = _TABLE
    pinned: Annotated[
        tuple[str, ...], Flag("--pin", "Ablate this feature: `4:112` or `4.resid_post.112` (repeat).", "FEATURE")
    ] = ()
    thinning: Annotated[
        float, Range(gt=0, le=1), Flag("--thinning", "Share of the firing features of the first layer that starts.")
    ] = 0.01
    branching: Annotated[
        int, Range(ge=1), Flag("--branching", "Largest effects of each feature, at each site, that are followed on.")
    ] = 10
    max_features: Annotated[
        int, Range(ge=1), Flag("--max-features", "Features of one layer that are ablated at most.")
    ] = 500
    seq_cap: Annotated[int, Range(ge=1), Flag("--seq-cap", "Contexts of one feature that are ablated at most.")] = 100


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """[ablate]: what is done to a feature."""

    __pydantic_config__ = _TABLE
    intervention: Annotated[
        str, Flag("--intervention", "What replaces an activation: zero, or the feature's mean.", "zero|mean")
    ] = "zero"
    positions: Annotated[
        Literal["top", "all"],
        Flag(
            "--positions",
            "top: edit one context, read there. all: edit a whole sequence, read its last position.",
            "top|all",
        ),
    ] = "top"
    logits: Annotated[bool, Flag("--logits", "Whether to measure the next token as well.")] = True


@dataclass(frozen=True, kw_only=True)
class Effects:
    """[effects]: how effects are summed up."""

    __pydantic_config__ = _TABLE
    logit_tokens: Annotated[
        int, Range(ge=1, le=256), Flag("--logit-tokens", "Promoted, and suppressed, tokens kept for each feature.")
    ] = 10


@dataclass(frozen=True, kw_only=True)
class Graph:
    """[graph]: what is drawn."""

    __pydantic_config__ = _TABLE
    min_effect: Annotated[float, Range(ge=0), Flag("--min-effect", "Smallest mean effect, in size, that is drawn.")] = (
        0.0
    )
    max_edges: Annotated[int, Range(ge=1), Flag("--max-edges", "Edges drawn at most, the largest first.")] = 100
    formats: Annotated[
        tuple[str, ...], Flag("--format", "A format to draw: svg, png, dot or json (repeat).", "FORMAT")
    ] = ("svg", "json", "dot")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run, checked and frozen."""

    __pydantic_config__ = _TABLE
    model: Annotated[
        str, Flag("--model", "demo, gpt2, or any name or local folder that TransformerLens loads.", "NAME|DIR")
    ] = "demo"
    seed: Annotated[int, Range(ge=0, le=2**32 - 1), Flag("--seed", "Decides every random draw.")] = 0
    runtime: Runtime = field(default_factory=Runtime)
    saes: Saes = field(default_factory=Saes)
    texts: Texts = field(default_factory=Texts)
    contexts: Contexts = field(default_factory=Contexts)
    features: Features = field(default_factory=Features)
    ablate: Ablate = field(default_factory=Ablate)
    effects: Effects = field(default_factory=Effects)
    graph: Graph = field(default_factory=Graph)


# What makes a better picture of the small embedded model.
DEMO: Layers = {
    "features": {"thinning": 0.004, "branching": 3, "max_features": 12, "seq_cap": 40},
    "graph": {"max_edges": 30, "formats": ["svg", "png", "json", "dot"]},
}


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    key: str
    flag: Flag
    kind: type
    repeats: bool
    default: Any

    @property
    def parameter(self) -> str:
        """The name of the flag as a Python parameter: the key with its dots made underscores."""
        return self.key.replace(".", "__")


@lru_cache(maxsize=1)
def table() -> tuple[Setting, ...]:
    """Every setting, in the order of the tree."""
    rows: list[Setting] = []
    _collect(Settings, "", rows)
    return tuple(rows)


def _collect(tree: type, prefix: str, rows: list[Setting]) -> None:
    hints = get_type_hints(tree, include_extras=True)
    for item in dataclasses.fields(tree):
        if dataclasses.is_dataclass(hints[item.name]):
            _collect(hints[item.name], f"{item.name}.", rows)
            continue
        kind, *marks = get_args(hints[item.name])
        flag = next(mark for mark in marks if isinstance(mark, Flag))
        repeats = get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))
        plain = kind if kind in (bool, int, float) else str
        rows.append(Setting(f"{prefix}{item.name}", flag, plain, repeats, item.default))


def resolve(*layers: Layers) -> Settings:
    """The settings that partial trees make, later ones over earlier ones, all over the defaults.

    A layer that names a source of text replaces the sources of the layers below it. The demo's own values lie just
    above the defaults when the model turns out to be the demo.

    Raises:
        UsageError: An unknown key or table, a value of the wrong type or out of range, or two text sources.
    """
    model = next((layer["model"] for layer in reversed(layers) if layer.get("model")), Settings.model)
    merged: Layers = {}
    for layer in (DEMO if model == "demo" else {}, *layers):
        _merge(merged, layer)
    return _checked(merged)


def _merge(merged: Layers, layer: Layers) -> None:
    texts = layer.get("texts")
    if isinstance(texts, Mapping):
        named = [key for key in ("prompt", "file", "dataset") if texts.get(key)]
        if len(named) > 1:
            raise UsageError(
                f"Two text sources: {' and '.join(named)}.", hint="Give one of --prompt, --text and --dataset."
            )
        if named:
            layer = {**layer, "texts": {**texts, "source": named[0]}}
        below = merged.get("texts")
        if isinstance(below, dict) and (named or texts.get("source")):
            merged["texts"] = {key: value for key, value in below.items() if key not in _SOURCES}
    for key, value in layer.items():
        base = merged.get(key)
        merged[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, Mapping) else value


_SOURCES = ("source", "prompt", "file", "dataset")


def _checked(tree: Layers) -> Settings:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Settings).validate_python(tree)
    except ValidationError as error:
        raise _usage_error(error.errors()[0]) from None


def _usage_error(problem: Mapping[str, Any]) -> UsageError:
    """One of pydantic's findings, in the words of this tool."""
    places = [str(part) for part in problem["loc"] if isinstance(part, str)]
    known = [row.key for row in table()]
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        key = ".".join(places)
        return UsageError(f"Unknown setting `{key}`.", hint=nearest(key, known, what="settings"))
    key = next((k for k in known if ".".join(places).startswith(k)), ".".join(places))
    row = next((r for r in table() if r.key == key), None)
    what = f"`{key}`" + (f" ({row.flag.name})" if row and row.flag.name else "")
    value = problem.get("input")
    wanted = {"dataclass_type": "it should be a table", "tuple_type": "it should be a list"}
    message = wanted.get(problem["type"]) or str(problem["msg"]).replace("Input should", "it should")
    help_line = row.flag.help if row else "See the table of settings in the README."
    return UsageError(f"{what} can't be {value!r}: {message}.", hint=help_line)


def to_dict(settings: Settings) -> Layers:
    """The whole tree as TOML can hold it."""
    tree: Layers = dataclasses.asdict(settings)
    for part in tree.values():
        for key, value in part.items() if isinstance(part, dict) else ():
            part[key] = list(value) if isinstance(value, tuple) else value
    if settings.texts.source != "demo":
        for key in ("prompt", "file", "dataset"):
            if key != settings.texts.source:
                del tree["texts"][key]
    else:
        for key in ("prompt", "file", "dataset"):
            del tree["texts"][key]
    return tree


def nest(flat: Mapping[str, Any]) -> Layers:
    """{"texts.max_tokens": 5} → {"texts": {"max_tokens": 5}}; values that are None are left out."""
    tree: Layers = {}
    for key, value in flat.items():
        if value is None:
            continue
        head, _, name = key.rpartition(".")
        (tree.setdefault(head, {}) if head else tree)[name] = value
    return tree
