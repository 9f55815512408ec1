"""The list of releases is SAELens's own, for what it has of GPT-2 small; and its registry's names resolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_lens", reason="SAELens isn't here: it needs transformer_lens < 4 (`nox -s saelens`)")

from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.hub import Hub
from circuitcli.saes import entry, load, provider_of
from circuitcli.saes import registry as source
from circuitcli.saes._place import CONFIG, WEIGHTS
from circuitcli.saes.hub import Listed, releases

pytestmark = [pytest.mark.saelens, pytest.mark.filterwarnings("ignore")]

ONLY_OURS = {"gpt2-small-res-jb-first-format"}  # SAELens has dropped it
SPLITTING = "gpt2-small-res-jb-feature-splitting"  # one name there for eight widths, one each here


def theirs(release: str) -> PretrainedSAELookup:
    return get_pretrained_saes_directory()[SPLITTING if "res_fs" in release else release]


# Their registry has no transcoders of GPT-2.
TRANSCODERS = {name for name, row in releases().items() if row.saes[0].layout != "saelens" or row.saes[0].stated.writes}


@pytest.mark.parametrize("release", sorted(set(releases()) - ONLY_OURS - TRANSCODERS))
def test_places_and_statements_are_those_of_saelens(release: str) -> None:
    ours, registered = releases()[release], theirs(release)
    assert ours.repository == registered.repo_id
    overrides: dict[str, Any] = dict(registered.config_overrides or {})
    options = overrides.get("model_from_pretrained_kwargs", {})
    if not release.endswith("-ajt"):  # SAELens says nothing of these; their training code loads the processed model
        assert bool(ours.saes[0].stated.center_writing_weights) == bool(options.get("center_writing_weights"))
    for sae in ours.saes:
        name = f"{sae.site.hook.replace('attn.', '')}" + (f"_{sae.d_sae}" if "res_fs" in release else "")
        assert _path(sae) == registered.saes_map[name], sae.site
        assert sae.stated.scaling_factor == registered.norm_scaling_factor.get(name)
        source_there = registered.neuronpedia_id[name]
        assert source_there in (None, f"gpt2-small/{sae.neuronpedia}")
    if "res_fs" not in release:
        assert len(ours.saes) == len(registered.saes_map)


def _path(sae: Listed) -> str:
    return sae.weights.removesuffix(f"/{WEIGHTS}")


def test_none_of_gpt2_small_is_left_out() -> None:
    known = {n for n, found in get_pretrained_saes_directory().items() if found.model in ("gpt2-small", "gpt2")}
    assert known - set(releases()) <= {SPLITTING}


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A release of three SAEs in SAELens's registry, two of them for one site, that its hub is a folder for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = {"layer_1/width_1": 1, "layer_2/width_1": 2, "layer_2/width_2": 2}
    folders = {}
    for number, (name, layer) in enumerate(places.items()):
        metadata = SAEMetadata(model_name="gpt2", hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=True)
        sae = StandardSAE(StandardSAEConfig(d_in=4, d_sae=8, metadata=metadata))
        torch.manual_seed(number)
        sae.W_enc.data, sae.b_dec.data = torch.randn(4, 8), torch.randn(4)
        sae.save_model(tmp_path / "hub" / name)
        folders[name] = tmp_path / "hub" / name
    lookup = PretrainedSAELookup("tiny", "owner/repo", "gpt2", None, {n: n for n in places}, {}, {}, {}, {}, {})
    monkeypatch.setitem(get_pretrained_saes_directory(), "tiny", lookup)
    local = lambda repo_id, filename, **more: str(tmp_path / "hub" / filename)  # noqa: E731
    monkeypatch.setattr(loaders, "hf_hub_download", _present(local))
    source._matching.cache_clear()
    return folders


def _present(local: Any) -> Any:
    def download(*args: Any, **more: Any) -> str:
        path = local(*args, **more)
        if not Path(path).exists():
            raise loaders.EntryNotFoundError("not there")
        return path

    return download


def test_a_name_of_the_registry_resolves(registered: dict[str, Path]) -> None:
    release = "tiny/*/width_1"
    assert provider_of(release) == "registry"
    assert source.plugin.sites(release, "main") == [Site(1, "resid_post"), Site(2, "resid_post")]
    [located] = source.plugin.locate(release, "main", [Site(2, "resid_post")])
    recorded = entry("registry", located, located.files({}))
    again = load(recorded, Hub())
    original = SAE.load_from_disk(registered["layer_2/width_1"])
    assert torch.equal(again.w_enc, original.W_enc)
    assert torch.equal(again.b_dec, original.b_dec)
    assert json.loads(Path(str(recorded.config)).read_text())["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    assert Path(recorded.source).parent == Path(str(recorded.config)).parent
    assert Path(str(recorded.config)).name == CONFIG


def test_several_saes_for_one_site_need_a_pattern(registered: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="several SAEs for one site: layer_2/width_1, layer_2/width_2") as error:
        source.plugin.sites("tiny", "main")
    assert "tiny/layer_2/width_1" in error.value.hint
    with pytest.raises(InputError, match="No SAE of tiny matches nothing"):
        source.plugin.sites("tiny/nothing", "main")
    with pytest.raises(InputError, match="revision"):
        source.plugin.locate("tiny/*/width_1", "v2", [Site(1, "resid_post")])


def test_of_two_processes_one_is_first(registered: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """While SAELens still reads an SAE here, another process has kept it."""
    original = SAE.from_pretrained

    def late(*args: Any) -> Any:
        monkeypatch.setattr(SAE, "from_pretrained", original)
        first.append(source._kept("tiny", "layer_1/width_1"))
        return original(*args)

    first: list[Path] = []
    monkeypatch.setattr(SAE, "from_pretrained", late)
    folder = source._kept("tiny", "layer_1/width_1")
    assert [folder] == first
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert (folder / CONFIG).is_file()
    (folder / CONFIG).unlink()
    with pytest.raises(OSError, match="not empty"):  # of what nobody finished nothing is made better
        source._kept("tiny", "layer_1/width_1")
