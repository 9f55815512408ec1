"""The tree of settings: precedence, what is refused and how, and the way to TOML and back."""

import tomllib
from typing import Any

import pytest
import tomli_w

from circuitcli.cli.options import rows_of
from circuitcli.errors import UsageError
from circuitcli.settings import APART, PRESETS, Settings, nest, resolve, table, to_dict
from circuitcli.stages.spec import STAGES

DEMO, OTHER = PRESETS["demo"], {"model": "pythia-70m"}


def test_nothing_given_is_the_defaults() -> None:
    assert resolve(OTHER) == Settings(model="pythia-70m")
    assert resolve(OTHER).texts.max_tokens == 100
    assert resolve(OTHER).features.thinning == 0.01


def test_later_layers_win_key_by_key() -> None:
    own = {"seed": 1, "texts": {"max_tokens": 10, "num_sequences": 20}, "graph": {"max_edges": 7}}
    profile = {"seed": 2, "texts": {"max_tokens": 30}}
    flags = {"texts": {"prepend_bos": False}, "seed": 3}
    found = resolve(OTHER, own, profile, flags)
    assert found.seed == 3
    assert (found.texts.max_tokens, found.texts.num_sequences, found.texts.prepend_bos) == (30, 20, False)
    assert (found.graph.max_edges, found.graph.min_effect) == (7, 0.0)


def test_the_layers_are_left_as_they_were() -> None:
    layers: list[dict[str, Any]] = [{"texts": {"file": "a"}}, {"texts": {"prompt": ["x"]}}]
    resolve(OTHER, *layers)
    assert layers == [{"texts": {"file": "a"}}, {"texts": {"prompt": ["x"]}}]


def test_the_demos_own_values_lie_just_above_the_defaults() -> None:
    assert resolve().features.branching == DEMO["features"]["branching"] != Settings().features.branching
    assert resolve({"features": {"branching": 8}}).features.branching == 8
    assert resolve({"features": {"branching": 8}}).features.thinning == DEMO["features"]["thinning"]
    assert resolve({"model": "demo"}, OTHER).features == Settings().features
    assert resolve(OTHER, {"model": "demo"}) == resolve()


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_gpt2_comes_with_its_saes_and_web_text(name: str) -> None:
    found = resolve({"model": name})
    assert (found.saes.release, found.texts.source) == ("gpt2-small-res-jb", "dataset")
    assert found.features == Settings().features
    other = resolve({"model": name}, {"saes": {"release": "mine"}, "texts": {"file": "mine.txt"}})
    assert (other.saes.release, other.texts.source, other.texts.dataset) == ("mine", "file", "")


@pytest.mark.parametrize(
    ("layer", "key", "nearest"),
    [
        ({"sead": 1}, "sead", "seed"),
        ({"texts": {"max_token": 5}}, "texts.max_token", "texts.max_tokens"),
        ({"contexts": {"topk": 5}}, "contexts.topk", "contexts.top_k"),
        ({"feature": {"pinned": []}}, "feature", None),
    ],
)
def test_unknown_keys_name_the_nearest(layer: dict[str, Any], key: str, nearest: str | None) -> None:
    with pytest.raises(UsageError) as error:
        resolve(layer)
    assert f"`{key}`" in error.value.message
    assert nearest is None or f"Did you mean `{nearest}`?" in error.value.hint
    assert "graph.max_edges" in error.value.hint  # and all known ones


@pytest.mark.parametrize(
    ("layer", "flag"),
    [
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"seed": "many"}, "--seed"),
        ({"runtime": {"batch_size": 0}}, "--batch-size"),
        ({"runtime": {"batch_size": "large"}}, "--batch-size"),
        ({"runtime": {"dtype": "float64"}}, "--dtype"),
        ({"texts": {"max_tokens": 1}}, "--max-tokens"),
        ({"texts": {"max_tokens": 2.5}}, "--max-tokens"),
        ({"texts": {"prompt": "no list"}}, "--prompt"),
        ({"contexts": {"top_k": 101}}, "--top-k"),
        ({"features": {"thinning": 0.0}}, "--thinning"),
        ({"features": {"thinning": 1.1}}, "--thinning"),
        ({"features": {"thinning": float("nan")}}, "--thinning"),
        ({"features": {"pinned": "4:112"}}, "--pin"),
        ({"ablate": {"positions": "some"}}, "--positions"),
        ({"effects": {"logit_tokens": 257}}, "--logit-tokens"),
        ({"graph": {"min_effect": -0.1}}, "--min-effect"),
        ({"saes": {"sites": [1]}}, "--site"),
        ({"validate": {"split": 1.0}}, "--split"),
        ({"validate": {"split": 0.0}}, "--split"),
        ({"validate": {"sizes": [3, 0]}}, "--size"),
        ({"validate": {"sizes": ["3"]}}, "--size"),
        ({"validate": {"num_examples": 1}}, "--num-examples"),
    ],
)
def test_values_that_make_no_sense_name_their_flag(layer: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(layer)
    assert f"({flag})" in error.value.message


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        ({"texts": {"prepend_bos": "maybe"}}, "can't be 'maybe': it should be 'auto' or true or false."),
        ({"texts": {"prepend_bos": []}}, "can't be []: it should be 'auto' or true or false."),
        ({"runtime": {"batch_size": 0}}, "can't be 0: it should be 'auto' or greater than or equal to 1."),
        ({"saes": {"sites": 5}}, "can't be 5: it should be 'auto' or a list."),
        ({"saes": {"sites": [1, 2]}}, "can't be [1, 2]: it should be 'auto' or a valid string."),
        ({"runtime": {"batch_size": 0, "dtype": "x"}, "texts": 5}, "it should be 'float32', 'bfloat16' or 'float16'."),
        ({"texts": 5, "saes": 6}, "can't be 6: it should be a table."),
        ({"seed": 10**6000}, "can't be a number of 19,932 bits: it should be less than or equal to 4294967295."),
    ],
)
def test_all_that_a_value_could_be_is_named(layer: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(layer)
    assert error.value.message.endswith(wanted)


def test_a_table_that_is_none_is_refused() -> None:
    for layers in ([{"texts": 5}], [{"texts": 5}, {"seed": 1}]):
        with pytest.raises(UsageError, match="`texts`"):
            resolve(*layers)


def test_two_text_sources_in_one_layer_are_refused() -> None:
    with pytest.raises(UsageError, match="prompt and file"):
        resolve({"texts": {"prompt": ["a"], "file": "b"}})


def test_a_text_source_replaces_those_of_the_layers_below() -> None:
    below = {"texts": {"file": "b.txt", "max_tokens": 9}}
    found = resolve(OTHER, below, {"texts": {"prompt": ["a"]}}).texts
    assert (found.source, found.prompt, found.file, found.max_tokens) == ("prompt", ("a",), "", 9)
    found = resolve(OTHER, below, {"texts": {"source": "demo"}}).texts
    assert (found.source, found.file) == ("demo", "")
    assert resolve(OTHER, below, {"texts": {"max_tokens": 5}}).texts.file == "b.txt"
    assert resolve(OTHER, below).texts.source == "file"
    assert resolve(OTHER, {"texts": {"dataset": "d"}}).texts.source == "dataset"


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"model": "gpt2", "texts": {"prompt": ["one", "two\n“three”"]}},
        {"texts": {"file": "a b.txt", "prepend_bos": True}},
        {"texts": {"dataset": "org/name"}, "saes": {"sites": ["z", "mlp_out"], "layers": "-2:"}},
        {"runtime": {"batch_size": 7}, "features": {"pinned": ["4:1", "0.z.2"]}, "graph": {"formats": ["png"]}},
    ],
)
def test_a_tree_survives_toml(layer: dict[str, Any]) -> None:
    found = resolve(layer)
    text = tomli_w.dumps(to_dict(found))
    assert resolve(tomllib.loads(text)) == found
    assert resolve(OTHER, tomllib.loads(text)) == found  # whole: it leaves nothing to the layers below


def test_every_setting_is_in_the_table_once_with_a_flag_of_its_own() -> None:
    keys = [row.key for row in table()]
    tree = to_dict(Settings(model="gpt2"))
    flat = {f"{k}.{name}" for k, part in tree.items() if isinstance(part, dict) for name in part}
    flat |= {name for name, part in tree.items() if not isinstance(part, dict)}
    late = {row.key for row in table() if row.flag.late}  # left out while they have their defaults
    assert flat | {"texts.prompt", "texts.file", "texts.dataset"} | late == set(keys)
    assert not flat & late
    assert len(set(keys)) == len(keys)
    for command in (*STAGES, "run-all", "doctor", "bench"):
        flags = [row.flag.name for row in rows_of(command)]
        assert len(set(flags)) == len(flags), command
    assert [row.key for row in table() if row.flag.name is None] == ["texts.source", "texts.half", "attribute.half"]


def test_a_late_setting_is_written_where_it_isnt_the_default() -> None:
    """And so decides a run's numbers there; a run that was made without it has the same settings as before."""
    assert "strength" not in to_dict(resolve({"ablate": {"strength": 2}}))["ablate"]
    tree = to_dict(resolve({"ablate": {"strength": -1.5}}))
    assert tree["ablate"]["strength"] == -1.5
    assert resolve(tree).ablate.strength == -1.5


def test_a_table_of_late_settings_alone_is_left_out_while_it_has_its_defaults() -> None:
    """So that a run without a name keeps the one that it had, and a question of another is in it."""
    tree = to_dict(resolve())
    assert "attribute" not in tree
    assert "of" not in tree["graph"]
    asked = resolve({"attribute": {"target": " heavens", "nodes": 7}, "graph": {"of": "attribution"}})
    assert to_dict(asked)["attribute"] == {"target": " heavens", "nodes": 7}
    assert resolve(tomllib.loads(tomli_w.dumps(to_dict(asked)))) == asked
    assert resolve(to_dict(asked), {"attribute": {"target": ""}}).attribute.target == ""


def test_flags_that_were_not_typed_change_nothing() -> None:
    assert nest({"seed": None, "texts.max_tokens": 5, "saes.layers": None, "model": "gpt2"}) == {
        "texts": {"max_tokens": 5},
        "model": "gpt2",
    }


def test_run_all_has_no_flags_of_what_it_does_not_do() -> None:
    """Whose names may be those of others: `--baseline` is of attribute there, and of validate in validate."""
    assert not [row.key for row in rows_of("run-all") if row.key.startswith(APART)]
    assert {row.key for row in rows_of("run-all")} >= {"attribute.baseline", "attribute.prompts", "features.pinned"}
    own = {row.flag.name: row.key for row in rows_of("validate")}
    assert {own["--baseline"], own["--pin"]} == {"validate.baseline", "validate.pinned"}
    assert "attribute.baseline" not in own.values()
    assert {row.key for row in table() if row.key.startswith("validate.")} <= {*own.values()}


def test_a_list_of_numbers_is_typed_as_numbers() -> None:
    [row] = [row for row in table() if row.key == "validate.sizes"]
    assert (row.kind, row.repeats, row.words) == (int, True, ())
    assert resolve(nest({row.key: row.typed([30, 100])})).validate.sizes == (30, 100)
