"""SAEs on disk: what is refused, and with what words; what is recorded; and that nothing is ever unpickled."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 to set a trap
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from circuitcli import demo
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry, source_of
from circuitcli.saes.demo import plugin as demo_source
from circuitcli.saes.local import plugin as local

D_IN, D_SAE = 4, 6
SITE = Site(3, "resid_post")
Change = Callable[[dict[str, Any]], object]


def weights() -> dict[str, Tensor]:
    return {
        "W_enc": torch.ones(D_IN, D_SAE),
        "b_enc": torch.zeros(D_SAE),
        "W_dec": torch.ones(D_SAE, D_IN),
        "b_dec": torch.zeros(D_IN),
    }


def config() -> dict[str, Any]:
    return {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": SITE.hook, "prepend_bos": False},
    }


def write(folder: Path, *, cfg: Change | None = None, tensors: Change | None = None) -> Path:
    """A SAELens folder, its configuration and weights changed in place before they are written."""
    what, values = config(), weights()
    if cfg:
        cfg(what)
    if tensors:
        tensors(values)
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(what))
    save_file(values, folder / "sae_weights.safetensors")
    return folder


def take(release: Path) -> None:
    """What `circuit fetch-saes` does with a release, and then what any later command does."""
    source = source_of(str(release))
    for site, folder in source.folders(str(release)).items():
        source.load(source.entry(site, folder))


def refusal(release: Path) -> InputError:
    with pytest.raises(InputError) as error:
        take(release)
    assert error.value.exit_code == 3
    assert error.value.hint
    assert "\n" not in error.value.message
    return error.value


def put(**values: Any) -> Change:
    return lambda mapping: mapping.update(values)


def drop(*names: str) -> Change:
    return lambda mapping: [mapping.pop(name) for name in names]


def at(name: str, place: tuple[int, ...], value: float) -> Change:
    return lambda tensors: tensors[name].__setitem__(place, value)


def test_a_good_folder_is_taken_alone_or_inside_another(tmp_path: Path) -> None:
    inner = write(tmp_path / "release" / "any name")
    assert local.folders(str(inner)) == local.folders(str(inner.parent)) == {SITE: inner}
    entry = local.entry(SITE, inner)
    assert entry.at == SITE
    assert (entry.d_in, entry.d_sae, entry.architecture, entry.prepend_bos) == (D_IN, D_SAE, "standard", False)
    assert entry.source == str(inner / "sae_weights.safetensors")
    assert local.load(entry).w_dec.shape == (D_SAE, D_IN)


@pytest.mark.parametrize("release", ["", "  ", "no/such/folder", "demo2"])
def test_an_unknown_release_is_refused(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="Unknown release") as error:
        source_of(release)
    assert "demo" in error.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(architecture="gated"), "gated"),
        (put(architecture="transcoder"), "transcoder"),
        (put(normalize_activations="expected_average_only_in"), "expected_average_only_in"),
        (put(normalize_activations="constant_norm_rescale"), "constant_norm_rescale"),
        (put(rescale_acts_by_decoder_norm=True), "decoder norms"),
        (put(architecture="topk"), "k = None"),
        (put(architecture="topk", k=0), "k = 0"),
        (put(architecture="topk", k=D_SAE + 1), f"k = {D_SAE + 1}"),
        (put(architecture="topk", k="2"), "k = '2'"),
        (put(architecture="jumprelu"), "threshold"),
        (put(metadata={"hook_name": "blocks.3.hook_mlp_in"}), "hook_mlp_in"),
        (put(metadata={"hook_name": "blocks.x.hook_resid_post"}), "blocks.x"),
        (put(metadata={"hook_name": "transformer.h.3"}), "transformer.h.3"),
        (put(metadata={}), "no site"),
        (put(metadata=["hook_name"]), "isn't a SAELens configuration"),
        (put(activation_fn_kwargs=["k"]), "isn't a SAELens configuration"),
        (put(model_from_pretrained_kwargs="yes"), "isn't a SAELens configuration"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    assert words in refusal(write(tmp_path / "sae", cfg=change)).message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"cfg"', '{"architecture": NaN'])
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "sae")
    (folder / "cfg.json").write_text(text)
    assert str(folder / "cfg.json") in refusal(folder).message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("W_enc"), "W_enc"),
        (drop("b_dec"), "b_dec"),
        (at("W_enc", (1, 2), torch.nan), "W_enc has NaN"),
        (at("W_dec", (1, 2), torch.inf), "W_dec has NaN"),
        (at("b_enc", (0,), -torch.inf), "b_enc has NaN"),
        (put(W_enc=torch.ones(D_SAE)), "W_enc isn't a matrix"),
        (put(W_enc=torch.ones(D_SAE, D_IN)), "shape"),
        (put(W_dec=torch.ones(D_IN, D_SAE)), "W_dec has shape (4, 6)"),
        (put(b_enc=torch.ones(D_SAE + 1)), "b_enc has shape (7,)"),
        (put(b_dec=torch.ones(1, D_IN)), "b_dec has shape (1, 4)"),
    ],
)
def test_unfit_weights_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    assert words in refusal(write(tmp_path / "sae", tensors=change)).message


def test_missing_and_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        assert str(path) in refusal(folder).message
    path.unlink()
    assert str(path) in refusal(folder).message


def test_two_saes_at_one_site_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none" / "deeper").mkdir(parents=True)
    assert "no SAE" in refusal(tmp_path / "none").message
    write(tmp_path / "two" / "first")
    write(tmp_path / "two" / "second")
    message = refusal(tmp_path / "two").message
    assert "3.resid_post" in message
    assert "first" in message
    assert "second" in message


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_a_file_changed_after_it_was_recorded_is_refused(tmp_path: Path, name: str, how: str) -> None:
    folder = write(tmp_path / "sae")
    entry = local.entry(SITE, folder)
    if how == "removed":
        (folder / name).unlink()
    elif name == "cfg.json":
        (folder / name).write_text(json.dumps(config() | {"apply_b_dec_to_input": False}))
    else:
        save_file(weights() | {"b_dec": torch.full((D_IN,), 1e-6)}, folder / name)
    with pytest.raises(InputError, match="isn't the one that was recorded") as error:
        local.load(entry)
    assert "fetch-saes --force" in error.value.hint


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["sae.pt", "sae_weights.pt", "sae_weights.safetensors", "sparsity.safetensors"])
@pytest.mark.parametrize("with_config", [True, False])
def test_no_pickle_is_opened(tmp_path: Path, name: str, with_config: bool) -> None:
    folder, sprung = tmp_path / "sae", tmp_path / "sprung"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    if with_config:
        (folder / "cfg.json").write_text(json.dumps(config()))
    refusal(folder)
    assert not sprung.exists()
    pickle.loads((folder / name).read_bytes())
    assert sprung.exists(), "the trap works"


def test_the_demos_entries_say_the_same_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries() -> list[dict[str, Any]]:
        return [asdict(demo_source.entry(site, folder)) for site, folder in demo_source.folders("demo").items()]

    here = entries()
    elsewhere = shutil.copytree(demo.SAES, tmp_path / "site-packages" / "saes")
    monkeypatch.setattr(demo, "SAES", elsewhere)
    assert entries() == here
    assert len(here) == 12
    assert all(entry["source"].startswith("circuitcli/demo/saes/") for entry in here)
    assert str(Path.cwd()) not in json.dumps(here)
    moved = demo_source.folders("demo")[Site(1, "mlp_out")]
    assert moved.is_relative_to(elsewhere)
    assert demo_source.load(demo_source.entry(Site(1, "mlp_out"), moved)).d_sae > 0
    (moved / "cfg.json").write_text((moved / "cfg.json").read_text() + " ")
    with pytest.raises(InputError, match="isn't the one that was recorded"):
        demo_source.load(next(e for e in map(as_entry, here) if e.at == Site(1, "mlp_out")))


def as_entry(fields: dict[str, Any]) -> SaeEntry:
    return SaeEntry(**fields)
