"""From partial trees, one over another, to checked settings, and back to TOML.

pydantic checks values, and is imported only when there are values to check, so that `circuit --help` stays quick.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from circuitcli import plugins
from circuitcli.errors import UsageError, nearest
from circuitcli.settings.table import Setting, table
from circuitcli.settings.tree import Settings

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Layers = dict[str, Any]  # a partial tree: {"seed": 1, "texts": {"max_tokens": 50}}

# The keys of [texts] that name a source of their own, of which a layer may name one.
_SOURCES = ("prompt", "file", "dataset")

# What makes a better picture of the small embedded model.
DEMO: Layers = {
    "contexts": {"top_k": 4},
    "features": {"thinning": 0.004, "branching": 3, "max_features": 12, "seq_cap": 40},
    "graph": {"max_edges": 24, "formats": ["html", "svg", "png", "json", "dot"]},
}
# What people mean by GPT-2 small when they say no more.
GPT2: Layers = {
    "saes": {"release": "gpt2-small-res-jb"},
    "texts": {"source": "dataset", "dataset": "Elriggs/openwebtext-100k"},
}
PRESETS: dict[str, Layers] = {"demo": DEMO, **dict.fromkeys(("gpt2", "gpt2-small", "openai-community/gpt2"), GPT2)}


def resolve(*layers: Layers) -> Settings:
    """The settings that partial trees make, later ones over earlier ones, all over the defaults.

    A layer that names a source of text replaces the sources of the layers below it. A model's own values
    (PRESETS) lie just above the defaults when the model turns out to be that one.

    Raises:
        UsageError: An unknown key or table, a value of the wrong type or out of range, or two text sources.
    """
    return explain(*(("", layer) for layer in layers))[0]


def explain(*layers: tuple[str, Layers]) -> tuple[Settings, dict[str, str]]:
    """The settings that named partial trees make, and by key the name of the layer that each value came from.

    Values that no layer gave have the name `default`, a model's own (PRESETS) `preset`.

    Raises:
        UsageError: As `resolve`.
    """
    model = next((layer["model"] for _, layer in reversed(layers) if layer.get("model")), Settings.model)
    merged: Layers = {}
    origins: dict[str, str] = {}
    preset = PRESETS.get(model, {}) if isinstance(model, str) else {}
    for name, layer in (("preset", preset), *layers):
        _checked(layer)  # each by itself: what a later one hides is no less wrong
        layer, dropped = _sourced(layer, merged)
        for key in dropped:
            del merged["texts"][key]
            del origins[f"texts.{key}"]
        for key, value in layer.items():
            base = merged.get(key)
            over = base if isinstance(base, dict) else {}
            merged[key] = {**over, **value} if isinstance(value, Mapping) else value
        origins |= dict.fromkeys(_keys(layer), name)
    return _checked(merged), {row.key: origins.get(row.key, "default") for row in table()}


def _sourced(layer: Layers, merged: Layers) -> tuple[Layers, list[str]]:
    """A layer with its source of text spelled out, and the keys below it that this source replaces."""
    texts, below = layer.get("texts"), merged.get("texts")
    if not isinstance(texts, Mapping):
        return layer, []
    named = [key for key in _SOURCES if texts.get(key)]
    if len(named) > 1:
        raise UsageError(
            f"Two text sources: {' and '.join(named)}.", hint="Give one of --prompt, --text and --dataset."
        )
    if named:
        layer = {**layer, "texts": {**texts, "source": named[0]}}
    replaces = isinstance(below, dict) and (named or texts.get("source"))
    return layer, [key for key in ("source", *_SOURCES) if key in below] if replaces and below else []


def _keys(layer: Layers) -> list[str]:
    """The dotted keys of a partial tree."""
    tables = {key: value for key, value in layer.items() if isinstance(value, Mapping)}
    return [key for key in layer if key not in tables] + [f"{t}.{key}" for t, part in tables.items() for key in part]


def _checked(tree: Layers) -> Settings:
    from pydantic import ValidationError

    try:
        settings: Settings = _adapter().validate_python(tree)
    except ValidationError as error:
        raise _usage_error(error.errors()) from None
    _check_texts(settings)
    _check_names(settings)
    return settings


@cache
def _adapter() -> TypeAdapter[Settings]:
    from pydantic import TypeAdapter

    return TypeAdapter(Settings)


def _check_texts(settings: Settings) -> None:
    """Refuse texts that settings.toml can't hold, and paths that no system takes."""
    for row in table():
        value = row.of(settings)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
                wanted = "text without NUL characters" if "\0" in text else "UTF-8, as settings.toml is"
                raise UsageError(f"{_named(row)} can't be {_SHORT.repr(text)}: it should be {wanted}.", hint=row.help)


def _check_names(settings: Settings) -> None:
    """Refuse names that no plug-in has."""
    for row in table():
        value = row.of(settings)
        for name in value if isinstance(value, tuple) else (value,):
            if row.plugins is not None and name not in row.plugins.beside:
                plugins.check(row.plugins.folder, name)


class _Short(reprlib.Repr):
    """A value on part of a line, however long or deep it is."""

    def repr_int(self, x: int, level: int) -> str:
        """Python writes no number of more than some thousand digits."""
        return repr(x) if x.bit_length() <= 128 else f"a number of {x.bit_length():,} bits"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def _named(row: Setting) -> str:
    return f"`{row.key}`" + (f" ({row.flag.name})" if row.flag.name else "")


# What pydantic says in longer or other words, by the type of its finding.
_WANTED = {
    "dataclass_type": "a table",
    "tuple_type": "a list",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


def _usage_error(problems: Sequence[Mapping[str, Any]]) -> UsageError:
    """The first setting that pydantic finds fault with, and all that it could be, in the words of this tool."""
    problem = problems[0]
    places = [str(part) for part in problem["loc"] if isinstance(part, str)]
    known = [row.key for row in table()]
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        key = ".".join(places)
        key = key if len(key) <= 80 else f"{key[:79]}…"
        return UsageError(f"Unknown setting `{key}`.", hint=nearest(key, known, what="settings"))
    key = next((k for k in known if f"{'.'.join(places)}.".startswith(f"{k}.")), ".".join(places))
    row = next((r for r in table() if r.key == key), None)
    value = _SHORT.repr(problem.get("input"))
    depth = key.count(".") + 1
    same = [p for p in problems if p["loc"][:depth] == problem["loc"][:depth]]
    wanted = [_WANTED.get(p["type"]) or str(p["msg"]).removeprefix("Input should be ") for p in same]
    message = f"it should be {' or '.join(dict.fromkeys(wanted))}"
    help_line = row.help if row else "See docs/settings.md."
    return UsageError(f"{_named(row) if row else f'`{key}`'} can't be {value}: {message}.", hint=help_line)


def to_dict(settings: Settings) -> Layers:
    """The whole tree as TOML can hold it; of the text sources only the one that is used, and no late setting that has
    its default (see `Flag`), nor a table of such alone.
    """
    tree: Layers = dataclasses.asdict(settings)
    for part in tree.values():
        for key, value in part.items() if isinstance(part, dict) else ():
            part[key] = list(value) if isinstance(value, tuple) else value
    for source in set(_SOURCES) - {settings.texts.source}:
        del tree["texts"][source]
    for row in table():
        if row.flag.late and row.of(settings) == row.default:
            head, _, name = row.key.rpartition(".")
            del (tree[head] if head else tree)[name]
    return {key: part for key, part in tree.items() if part != {}}


def kept(settings: Settings) -> Layers:
    """The tree as a run keeps it: without where it was computed, which is said each time."""
    tree = to_dict(settings)
    tree.pop("executor", None)
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
