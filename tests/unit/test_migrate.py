"""From the older tool's YAML to a profile: each of its forms, what has no counterpart, and what is no such file."""

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from circuitcli.errors import CircuitError, InputError, UsageError
from circuitcli.plain_yaml import MAX_CHARACTERS
from circuitcli.settings import Settings, resolve, table
from circuitcli.settings.migrate import migrate, notes, profile
from circuitcli.settings.template import template

# The keys of the older tool's last versions, with the forms that it had.
FULL = """\
## Key Params
# Throughout, leave out entries for None. Writing in `None` values will get
# you the string "None".
ACTS_LAYERS_SLICE: "3:9"
INIT_THINNING_FACTOR: 0.02
NUM_SEQUENCES_INTERPED: 150
SEQ_PER_DIM_CAP: 90
THRESHOLD_EXP: -3.0

# Only pin single dims per layer.
DIMS_PINNED:
  3: [331]
  4: 112
# Here you can freely pin multiple dims per layer.
VALIDATION_DIMS_PINNED:
  6: [8339, 14104, 18854]
  7: [2118]
  3: [331]
MODEL_DIR: "openai-community/gpt2"
DATASET: "Elriggs/openwebtext-100k"
PROMPT:
PROJECTION_FACTOR: 32
PROMPT_IDS_FILE: "activations_prompt_ids.npy"
ACTS_DATA_FILE: "activations_dataset.pt"
ATTN_ENCODER_FILE: "attn_encoder.pt"
LAMBDA_L1: 1e-2
SYNC_DIST_LOGGING: True
BRANCHING_FACTOR: 5
LOGIT_TOKENS: 12
NUM_DOWN_NODES: 3
WANDB_PROJECT: "sparse_circuit_discovery"
WANDB_ENTITY: "davidudell"
SEED: 7
NUM_SEQUENCES_EVALED: 1000
MAX_SEQ_LEN: 80
TOP_K: 8
VIEW: 4
MAX_SEQ_INTERPED_LEN: 80
NUM_SHOT: 6
"""


def made(text: str) -> dict[str, Any]:
    """The profile of a file as a TOML reader sees it."""
    return tomllib.loads(profile(migrate(text, "old.yaml"), "old.yaml"))


def test_every_key_that_has_a_counterpart():
    assert made(FULL) == {
        "model": "openai-community/gpt2",
        "seed": 7,
        "saes": {"layers": "3:9", "release": "gpt2-small-res-jb"},
        "texts": {"dataset": "Elriggs/openwebtext-100k", "num_sequences": 150, "max_tokens": 80},
        "contexts": {"top_k": 8, "view": 4, "num_sequences": 1000},
        "features": {
            "pinned": ["3:331", "4:112", "6:8339", "6:14104", "6:18854", "7:2118"],
            "thinning": 0.02,
            "branching": 5,
            "seq_cap": 90,
        },
        "effects": {"logit_tokens": 12},
        "graph": {"min_effect": 0.125},
    }
    assert resolve(made(FULL)).graph.min_effect == 0.125


def test_every_key_is_named_in_a_comment_of_the_profile():
    text = profile(migrate(FULL, "old.yaml"), "old.yaml")
    named = set(re.findall(r"[A-Z][A-Z_0-9]{3,}", " ".join(line.partition("#")[2] for line in text.splitlines())))
    keys = set(re.findall(r"^[A-Z_0-9]+", FULL, flags=re.MULTILINE))
    assert len(keys) == 28
    assert keys - named == {"MAX_SEQ_LEN"}  # it says what MAX_SEQ_INTERPED_LEN says


def test_what_has_no_counterpart_is_named_with_its_reason_and_without_its_value():
    found = migrate(FULL + "HF_ACCESS_TOKEN: hf_secret\nSEDE: 3\n5: 6\n", "old.yaml")
    lines = notes(found)
    assert any(line.startswith("WANDB_PROJECT, WANDB_ENTITY: nothing is logged elsewhere") for line in lines)
    assert any(line.startswith("PROMPT_IDS_FILE, ACTS_DATA_FILE: files have their own names") for line in lines)
    assert any(line.startswith("ATTN_ENCODER_FILE: ") and "attn-out-v5-128k" in line for line in lines)
    assert "SEDE: unknown, perhaps SEED." in lines
    assert "5: unknown." in lines
    text = profile(found, "old.yaml")
    assert all(f"# {line}" in text.splitlines() for line in lines)
    assert "hf_secret" not in text
    assert "HF_ACCESS_TOKEN" in text


def test_the_few_lines_of_its_readme():
    found = made(
        'ACTS_LAYERS_SLICE: "4:6"\nINIT_THINNING_FACTOR: 0.01\nNUM_SEQUENCES_INTERPED: 200\nDIMS_PINNED:\n 4: 112\n'
    )
    assert found["model"] == "gpt2"
    assert found["saes"] == {"layers": "4:6", "release": "gpt2-small-res-jb"}
    assert found["texts"] == {"num_sequences": 200, "dataset": "Elriggs/openwebtext-100k"}
    assert found["features"] == {"pinned": ["4:112"], "thinning": 0.01}


def test_the_slip_of_one_layer_is_told_and_pins_stay():
    text = profile(migrate('ACTS_LAYERS_SLICE: "4:6"\nDIMS_PINNED: {4: 112}', "old.yaml"), "old.yaml")
    assert "4.resid_pre" in text.partition("model =")[0]
    assert 'pinned = ["4:112"]' in text


def test_the_pinned_outside_of_the_layers_are_left_out_and_named():
    pins = "DIMS_PINNED: {3: [331]}\nVALIDATION_DIMS_PINNED: {2: 1, 4: 2, 5: 3}"
    found = migrate(f'ACTS_LAYERS_SLICE: "3:5"\n{pins}', "old.yaml")
    assert found.settings["features.pinned"] == ["3:331", "4:2"]
    assert "2:1, 5:3" in found.notes["DIMS_PINNED, VALIDATION_DIMS_PINNED"]
    everywhere = ["3:331", "2:1", "4:2", "5:3"]
    assert migrate(pins, "old.yaml").settings["features.pinned"] == everywhere
    assert migrate(f'ACTS_LAYERS_SLICE: "-3:"\n{pins}', "old.yaml").settings["features.pinned"] == everywhere
    assert migrate(f'ACTS_LAYERS_SLICE: "3:"\n{pins}', "old.yaml").settings["features.pinned"] == [
        "3:331",
        "4:2",
        "5:3",
    ]


def test_a_prompt_and_a_dataset():
    prompt = made('PROMPT: "Copyright (C"')
    assert prompt["texts"] == {"prompt": ["Copyright (C"]}
    assert '#positions = "all"' in profile(migrate("PROMPT: x", "old.yaml"), "old.yaml").splitlines()
    both = migrate("PROMPT: x\nDATASET: owner/name", "old.yaml")
    assert (both.settings["texts.dataset"], "texts.prompt" in both.settings) == ("owner/name", False)
    assert "PROMPT" in both.notes


def test_another_model_has_no_saes_to_name():
    found = migrate('MODEL_DIR: "EleutherAI/pythia-70m"', "old.yaml")
    tree = tomllib.loads(profile(found, "old.yaml"))
    assert tree["model"] == "EleutherAI/pythia-70m"
    assert "release" not in tree.get("saes", {})
    assert "saes.release" in found.notes["MODEL_DIR"]
    assert tree["texts"]["dataset"] == "Elriggs/openwebtext-100k"


def test_empty_values_and_the_word_none_change_nothing():
    found = migrate('SEED:\nTOP_K: "None"\nVIEW: None\nDIMS_PINNED:\n  4:\nPROMPT: ""', "old.yaml")
    assert set(found.settings) == {"model", "features.pinned", "texts.dataset", "saes.release"}
    assert found.settings["features.pinned"] == []
    assert found.empty == ["SEED", "PROMPT"]
    assert {"TOP_K", "VIEW"} == {key for key, reason in found.notes.items() if "None" in reason}


def test_two_lengths_that_differ():
    found = migrate("MAX_SEQ_LEN: 50\nMAX_SEQ_INTERPED_LEN: 100", "old.yaml")
    assert found.settings["texts.max_tokens"] == 100
    assert "MAX_SEQ_INTERPED_LEN" in found.notes["MAX_SEQ_LEN"]
    assert migrate("MAX_SEQ_LEN: 50", "old.yaml").settings["texts.max_tokens"] == 50


@pytest.mark.parametrize(
    ("text", "value"), [("1e-2", 0.01), ("'0.5'", 0.5), ("1", 1.0), ("1.0", 1.0), ("2.5E-1", 0.25), (".5", 0.5)]
)
def test_numbers_as_yaml_has_them(text: str, value: float):
    assert migrate(f"INIT_THINNING_FACTOR: {text}", "old.yaml").settings["features.thinning"] == value


def test_thresholds():
    for text, value in {"THRESHOLD_EXP: 5.0": 32.0, "THRESHOLD_EXP: 0": 1.0, "THRESHOLD: 5.0": 5.0}.items():
        assert migrate(text, "old.yaml").settings["graph.min_effect"] == value


WRONG = {
    "word for a number": ("SEED: many", ["`SEED`", "'many'", "whole number"]),
    "fraction": ("TOP_K: 2.5", ["`TOP_K`", "2.5", "whole number"]),
    "truth for a number": ("VIEW: yes", ["`VIEW`", "True", "whole number"]),
    "date for a number": ("SEED: 2024-01-01", ["`SEED`", "whole number"]),
    "list for text": ("MODEL_DIR: [a]", ["`MODEL_DIR`", "['a']", "text"]),
    "half a character": ('PROMPT: "\\uD800"', ["`PROMPT`", "text"]),
    "slice without quotes": ("ACTS_LAYERS_SLICE: 4:6", ["`ACTS_LAYERS_SLICE`", "246", "in quotes"]),
    "slice with a step": ('ACTS_LAYERS_SLICE: "0:6:2"', ["0:6:2", "without a step"]),
    "slice of too many digits": (f'ACTS_LAYERS_SLICE: "0:{"9" * 5000}"', ["`ACTS_LAYERS_SLICE`", "without a step"]),
    "slice of words": ('ACTS_LAYERS_SLICE: "a:b"', ["a:b", "slice"]),
    "pins as a list": ("DIMS_PINNED: [112]", ["`DIMS_PINNED`", "[112]", "`4: [112]`"]),
    "pin of a word": ("DIMS_PINNED: {4: x}", ["`DIMS_PINNED`", "{4: 'x'}"]),
    "pin of a truth": ("DIMS_PINNED: {4: [true]}", ["`DIMS_PINNED`", "{4: True}"]),
    "negative layer": ("VALIDATION_DIMS_PINNED: {-1: [3]}", ["`VALIDATION_DIMS_PINNED`", "{-1: 3}"]),
    "large exponent": ("THRESHOLD_EXP: 5000", ["`THRESHOLD_EXP`", "5000", "between"]),
    "no exponent": ("THRESHOLD_EXP: .nan", ["`THRESHOLD_EXP`", "nan"]),
    "infinite": ("THRESHOLD: .inf", ["`THRESHOLD`", "inf", "number"]),
    "out of range": ("INIT_THINNING_FACTOR: 5", ["`INIT_THINNING_FACTOR`", "5.0", "less than or equal to 1"]),
    "too many": ("TOP_K: 1000", ["`TOP_K`", "1000", "100"]),
    "negative seed": ("SEED: -1", ["`SEED`", "-1"]),
    "not YAML": ("SEED: [1\nTOP_K: 2", ["not YAML", "line 2"]),
    "a tab": ("SEED:\t[\n\t- 1", ["not YAML"]),
    "no such date": ("SEED: 2024-99-99", ["not YAML", "month"]),
    "two documents": ("SEED: 1\n---\nSEED: 2", ["not YAML", "single document"]),
    "control characters": ("SEED: \x00", ["not YAML"]),
    "a list": ("- SEED", ["holds no settings"]),
    "a word": ("hello", ["holds no settings"]),
    "comments alone": ("# SEED: 0\n", ["holds nothing"]),
    "list for a key": ("? [a]\n: 1", ["not YAML", "unhashable"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str):
    text, words = WRONG[name]
    with pytest.raises(UsageError) as error:
        migrate(text, "old.yaml")
    assert error.value.message.startswith("old.yaml")
    assert "\n" not in error.value.message
    assert all(word in error.value.message for word in words), error.value.message


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
HOSTILE = {
    "code": "SEED: !!python/object/apply:os.system ['touch owned']",
    "code in a key": "!!python/name:os.system : 1",
    "a tag of its own": "SEED: !mine 5",
    "a wrong standard tag": "SEED: !!bool maybe",
    "aliases in aliases": BOMB,
    "merged aliases": "a: &a {x: 1}\nb: {<<: [*a, *a]}",
    "itself": "a: &a [*a]",
    "too large": "#" * (MAX_CHARACTERS + 1),
    "too deep": "SEED: " + "[" * 5000,
    "a hundred thousand braces": "{" * (MAX_CHARACTERS - 1),
    "too many digits": "SEED: " + "9" * 5000,
    "too many digits of base 16": "SEED: 0x" + "f" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="it is refused"):
        migrate(HOSTILE[name], "old.yaml")
    assert not list(tmp_path.iterdir())


def test_hostile_names_do_not_leave_their_comment():
    text = 'PROMPT: "a\\n[graph]\\u202e\\x9b\\"#"\n"WANDB_\\nseed = 5\\e": 1\n'
    found = migrate(text, "old.yaml")
    written = profile(found, "old\n[x]\x1b.yaml")
    tree = tomllib.loads(written)
    assert tree["texts"]["prompt"] == ['a\n[graph]\u202e\x9b"#']
    assert set(tree) == {"model", "saes", "texts", "ablate"}
    assert tree["ablate"] == {}
    assert all(c.isprintable() or c == "\n" for c in written)


def test_the_template_changes_nothing_until_it_is_uncommented():
    assert resolve(tomllib.loads(template())) == resolve()
    lines = [line[1:] if line.startswith("#") and line[1:2] != " " else line for line in template().splitlines()]
    tree = tomllib.loads("\n".join(lines))
    assert resolve(tree) == Settings()
    flat = [k for k, v in tree.items() if not isinstance(v, dict)]
    flat += [f"{k}.{name}" for k, v in tree.items() if isinstance(v, dict) for name in v]
    assert flat == [row.key for row in table()]
    assert all(row.flag.help.split()[0] in template() for row in table())


def test_each_setting_of_the_template_alone_is_its_default():
    other, part, seen = {"model": "other"}, "", 0
    for line in template().splitlines():
        if line.startswith("["):
            part = line
        if re.match(r"#\w+ = ", line):
            seen += 1
            wanted = resolve() if line == '#model = "demo"' else resolve(other)
            assert resolve(other, tomllib.loads(f"{part}\n{line[1:]}")) == wanted, line
    assert seen == len(table())


@pytest.mark.parametrize("value", [FULL, "SEED: 1", "MODEL_DIR: my/model\nPROMPT: é – 𝄞"])
def test_what_is_made_resolves(value: str):
    found = migrate(value, "old.yaml")
    settings = resolve(tomllib.loads(profile(found, "old.yaml")))
    for key, wanted in found.settings.items():
        part, _, name = key.rpartition(".")
        got = getattr(getattr(settings, part) if part else settings, name)
        assert (list(got) if isinstance(got, tuple) else got) == wanted


ODD = ["0b_", "0x_", "1_000", "1:60", ".e5", "=", "~", "!", "&a", "*a", "-", "?", "1e999", ".inf", "{<<: 5}"]
ODD += ["2024-02-30 1:2:3", "\ufeff", "!!timestamp x", "'\u2028'", "[[[]]]", "{}", "{? {}: 1}", "|\n x"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_scalars_are_read_or_refused_in_our_words(odd: str):
    for key in ("SEED", "ACTS_LAYERS_SLICE", "DIMS_PINNED", "PROMPT", "THRESHOLD", "OTHER"):
        try:
            found = migrate(f"{key}: {odd}", "old.yaml")
        except CircuitError as error:
            said = error.message
        else:
            said = profile(found, "old.yaml")
            resolve(tomllib.loads(said))
        assert "old.yaml" in said


def test_settings_import_no_yaml():
    code = "import sys, circuitcli.cli.app; print([m for m in ('yaml', 'tomli_w', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_early_names_of_keys():
    found = migrate("DIMS_PLOTTED_DICT: {1: [2]}\nTHINNING_FACTOR: 0.5", "old.yaml").settings
    assert (found["features.pinned"], found["features.thinning"]) == (["1:2"], 0.5)
