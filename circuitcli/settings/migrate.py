"""From the older tool's YAML (`central_config.yaml` of sparse_circuit_discovery) to a profile.

What maps to what lies in `_KEYS`; what has no counterpart here is named, with a reason where there is one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from circuitcli.errors import CircuitError, UsageError
from circuitcli.plain_yaml import load, plain
from circuitcli.settings.resolve import GPT2, PRESETS, Layers, nest, resolve
from circuitcli.settings.template import toml_value

_RELEASE, _DATASET = GPT2["saes"]["release"], GPT2["texts"]["dataset"]

_HEAD = """\
# A profile for `circuit`, made from {name}:
# circuit run-all --profile THIS_FILE
#
# Layers and pins name the SAEs and features that they named there: `4:112` is feature 112 of the SAE trained on what
# goes into block 4 (4.resid_pre). But the older tool's ablations took that SAE to what block 4 puts out, one block
# late, and it read the block after with the same slip. Here an SAE reads the site that it was trained on, so effects
# differ from the older tool's. It also gave GPT-2 no BOS; here `texts.prepend_bos` follows the SAEs.
"""
_PROMPT_HINT = """\
# It edited every position of its prompt and read the last one; so does:
#positions = "all"
"""
_NOT_GPT2 = "name SAEs of this model in `saes.release`; the older tool trained its own"

# Reasons why a key isn't needed here, by pattern; the first that matches.
_REASONS = {
    r"WANDB_.*": "nothing is logged elsewhere; settings, records and tables lie in the run's folder",
    r"(ATTN|MLP)_.*_FILE": "files have their own names in the run's folder; SAEs of sublayers are releases of their "
    "own, such as gpt2-small-attn-out-v5-128k",
    r".*_(FILE|PATH)": "files have their own names in the run's folder",
    r"PROJECTION_FACTOR": "the SAEs' files say how wide they are",
    r"LAMBDA_L1|LEARNING_RATE|TRAINING_BATCH_SIZE|NUM_WORKERS|ACCUMULATE_GRAD_BATCHES|LOG_EVERY_N_STEPS|EPOCHS|"
    r"SYNC_DIST_LOGGING": "SAEs aren't trained here",
    r"NUM_QUESTIONS_.*|NUM_SHOT|MAX_NEW_TOKENS|NUM_RETURN_SEQUENCES": "there is no multiple-choice task here; "
    "`texts.prompt` takes any text",
    r"NUM_(DOWN|UP)_NODES": "it sized the gradient-based graph; here every edge is measured by ablation",
    r"COEFFICIENT": "`ablate.intervention` says what replaces an activation; `steer` has a strength",
    r"DIMS_IN_BATCH|LARGE_MODEL_MODE": "memory decides it (`runtime.batch_size`, `runtime.dtype`)",
    r"N_EFFECTS": "`features.branching` and `graph.max_edges` bound what is followed and drawn",
    r"SIG_FIGS|N_DIMS_PRINTED_OVERRIDE": "tables are complete, and parquet files hold every digit",
    r"ACTS_LAYER": "give layers in `saes.layers`",
    r"DIMS_PLOTTED_LIST|ABLATION_DIM_INDICES_PLOTTED": "it names no layer; pin as layer:index in `features.pinned`",
    r"HF_ACCESS_TOKEN": "it stays where it is; `hf auth login` or HF_TOKEN gives it to the hub",
}


@dataclass(frozen=True)
class Migration:
    """What became of a file: flat settings with the old keys that they come from, and what to say of the rest."""

    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # by old key
    empty: list[str] = field(default_factory=list)


def migrate(text: str, name: str) -> Migration:
    """Read the older tool's YAML.

    Args:
        text: The file.
        name: What errors call it.

    Raises:
        UsageError: It isn't YAML or no mapping, or a value is of the wrong type or out of range.
        InputError: It is too large, or asks for more than plain data.
    """
    found = Migration()
    old = load(text, name)
    for key, (setting, read) in _KEYS.items():
        value = old.get(key)
        if value not in (None, "", "None"):
            _take(found, key, setting, read(f"{name}: `{key}`", value))
    for key, value in old.items():
        if key not in _KEYS:
            found.notes[str(key)] = _reason(str(key))
        elif value == "None":
            found.notes[key] = "`None` is a word in YAML; taken as empty"
        elif value in (None, ""):
            found.empty.append(key)
    _complete(found)
    for setting, key in found.sources.items():
        _check(f"{name}: `{key}`", setting, found.settings[setting])
    return found


def _take(found: Migration, key: str, setting: str, value: Any) -> None:
    """Add one setting; of two keys for one setting the first wins, but pins add up."""
    before = found.settings.get(setting)
    if before is None:
        found.settings[setting], found.sources[setting] = value, key
    elif setting == "features.pinned":
        found.settings[setting] = list(dict.fromkeys([*before, *value]))
        found.sources[setting] += f", {key}"
    elif before != value:
        found.notes[key] = f"`{setting}` is one setting, and {found.sources[setting]} gives it"


def _complete(found: Migration) -> None:
    """What the older tool took where its file said nothing, and what it had no key for."""
    model = found.settings.setdefault("model", "gpt2")
    if "texts.dataset" in found.settings and found.settings.pop("texts.prompt", None):
        del found.sources["texts.prompt"]
        found.notes["PROMPT"] = "DATASET gives the text; `--prompt` reads one prompt in its place"
    if not {"texts.dataset", "texts.prompt"} & set(found.settings):
        found.settings["texts.dataset"] = _DATASET
    _leave_out_pins(found)
    if PRESETS.get(model) is GPT2:
        found.settings["saes.release"] = _RELEASE
    else:
        found.notes["MODEL_DIR"] = _NOT_GPT2


def _leave_out_pins(found: Migration) -> None:
    """Pins outside of the layers: the older tool passed them over, here a run refuses them."""
    start, _, stop = found.settings.get("saes.layers", ":").partition(":")
    if "-" in f"{start}{stop}":  # which layers they are, only the model can tell
        return
    pins = found.settings.get("features.pinned", [])
    inside = [p for p in pins if int(start or 0) <= int(p.partition(":")[0]) < int(stop or 2**63)]
    if inside != pins:
        key, left_out = found.sources["features.pinned"], [pin for pin in pins if pin not in inside]
        found.settings["features.pinned"] = inside
        found.notes[key] = f"{', '.join(left_out)} lie outside of the layers {start}:{stop}"


def _check(what: str, setting: str, value: Any) -> None:
    try:
        resolve(nest({setting: value}))
    except UsageError as error:
        raise UsageError(f"{what} doesn't fit here: {error.message}", hint=error.hint) from None


def _reason(key: str) -> str:
    reason = next((reason for pattern, reason in _REASONS.items() if re.fullmatch(pattern, key)), None)
    if reason is not None:
        return reason
    close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.7)
    return f"unknown, perhaps {close[0]}" if close else "unknown"


def profile(found: Migration, name: str) -> str:
    """The profile as TOML: each setting with the old key that it comes from, the rest in comments."""
    lines = _HEAD.format(name=plain(name)).splitlines()
    tree: Layers = nest(found.settings)
    lines += ["", *_lines(found, "", {key: value for key, value in tree.items() if not isinstance(value, dict)})]
    for table in ("saes", "texts", "contexts", "features", "ablate", "effects", "graph"):
        body = _lines(found, f"{table}.", tree.get(table, {}))
        if table == "saes" and "saes.release" not in found.settings:
            body.insert(0, f"# {_NOT_GPT2}:\n#release = {toml_value('…')}")
        if table == "ablate" and "texts.prompt" in found.settings:
            body.append(_PROMPT_HINT.rstrip())
        lines += ["", f"[{table}]", *body] if body else []
    if found.empty:
        lines += ["", f"# Empty there, so the defaults here stand: {', '.join(found.empty)}."]
    if found.notes:
        lines += ["", "# Not taken over:", *(f"# {line}" for line in notes(found))]
    return "\n".join(lines) + "\n"


def _lines(found: Migration, prefix: str, part: Layers) -> list[str]:
    """The lines of one table."""
    lines = []
    for key, value in part.items():
        source = found.sources.get(prefix + key)
        lines.append(f"{key} = {toml_value(value)}" + (f"  # {source}" if source else ""))
    return lines


def notes(found: Migration) -> list[str]:
    """A line for each reason, with the old keys that it concerns; no values, one might be a secret."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in found.notes.items():
        by_reason.setdefault(reason, []).append(plain(key))
    return [f"{', '.join(keys)}: {reason}." for reason, keys in by_reason.items()]


def _wrong(what: str, value: Any, wanted: str) -> CircuitError:
    return UsageError(
        f"{what} can't be {plain(repr(value))}: it should be {wanted}.", hint="Mend that line, or leave it out."
    )


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or any("\ud800" <= c <= "\udfff" for c in value):
        raise _wrong(what, value, "text")
    return value


def _texts(what: str, value: Any) -> list[str]:
    return [_text(what, value)]


def _slice(what: str, value: Any) -> str:
    """A slice as text. Without quotes YAML 1.1 reads `4:6` as a number of base 60: 246."""
    if not isinstance(value, str) or not re.fullmatch(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*", value):
        raise _wrong(what, value, 'a Python slice without a step, in quotes, such as "4:6"')
    return "".join(value.split())


def _whole(what: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(what, value, "a whole number")
    return value


def _number(what: str, value: Any) -> float:
    """A number; `1e-2` too, which YAML 1.1 reads as text."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value.strip()):
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) >= 2.0**1023:
        raise _wrong(what, value, "a number")
    return float(value)


def _power(what: str, value: Any) -> float:
    exponent = _number(what, value)
    if not -1000 <= exponent <= 1000:
        raise _wrong(what, value, "an exponent of 2 between -1000 and 1000")
    return float(2.0**exponent)


def _pins(what: str, value: Any) -> list[str]:
    """`{4: 112}` or `{4: [112, 7]}` → ["4:112", "4:7"]."""
    wanted = "layers with the indices of their features, such as `4: [112]`"
    if not isinstance(value, dict):
        raise _wrong(what, value, wanted)
    pins = []
    for layer, indices in value.items():
        for index in indices if isinstance(indices, list) else [] if indices is None else [indices]:
            if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in (layer, index)):
                raise _wrong(what, {layer: index}, wanted)
            pins.append(f"{layer}:{index}")
    return pins


# Where the older tool's keys went, and how their values are read; earlier ones win over later ones for one setting.
_KEYS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "MODEL_DIR": ("model", _text),
    "SEED": ("seed", _whole),
    "ACTS_LAYERS_SLICE": ("saes.layers", _slice),
    "DATASET": ("texts.dataset", _text),
    "PROMPT": ("texts.prompt", _texts),
    "NUM_SEQUENCES_INTERPED": ("texts.num_sequences", _whole),
    "MAX_SEQ_INTERPED_LEN": ("texts.max_tokens", _whole),
    "MAX_SEQ_LEN": ("texts.max_tokens", _whole),
    "TOP_K": ("contexts.top_k", _whole),
    "VIEW": ("contexts.view", _whole),
    "NUM_SEQUENCES_EVALED": ("contexts.num_sequences", _whole),
    "DIMS_PINNED": ("features.pinned", _pins),
    "VALIDATION_DIMS_PINNED": ("features.pinned", _pins),
    "DIMS_PLOTTED_DICT": ("features.pinned", _pins),
    "INIT_THINNING_FACTOR": ("features.thinning", _number),
    "THINNING_FACTOR": ("features.thinning", _number),
    "BRANCHING_FACTOR": ("features.branching", _whole),
    "SEQ_PER_DIM_CAP": ("features.seq_cap", _whole),
    "LOGIT_TOKENS": ("effects.logit_tokens", _whole),
    "THRESHOLD_EXP": ("graph.min_effect", _power),
    "THRESHOLD": ("graph.min_effect", _number),
}
