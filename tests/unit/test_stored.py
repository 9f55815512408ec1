"""Matrices that stay in their files, beside the same tensors read by safetensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from circuitcli.core import matrix
from circuitcli.saes import _stored

N, SLOTS, D = 37, 3, 8


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def tensors(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    drawn = torch.randn(N, SLOTS, D, generator=torch.Generator().manual_seed(0)).to(request.param)
    return {"before": torch.ones(5, dtype=torch.int8), "many": drawn, "one": drawn[:, 0].contiguous()}


@pytest.fixture(params=[1, 400, 2**28], ids=["a row", "some rows", "all"])
def path(
    request: pytest.FixtureRequest, tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file, of which so many bytes are mapped at once."""
    monkeypatch.setattr(_stored, "_WINDOW", request.param)
    save_file(tensors, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


def test_rows_and_wholes_are_those_of_the_file(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    feature = torch.tensor([[36, 0, 5], [5, 5, 17]])
    [one], many = _stored.lying(path, "one"), _stored.lying(path, "many")
    assert len(many) == SLOTS
    for found, real in zip([one, *many], [tensors["one"], *tensors["many"].unbind(1)], strict=True):
        assert found.shape == (N, D)
        assert torch.equal(matrix.whole(found), real.float())
        assert torch.equal(matrix.rows(found, feature), real[feature].float())
        some = found.part(4, 21)
        assert some.shape == (17, D)
        assert torch.equal(some.whole(), real[4:21].float())
        assert torch.equal(some.vectors(torch.tensor([16, 2])), real[[20, 6]].float())


def test_an_encoder_is_turned(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    turned = _stored.turned(path, "one")["one"]
    feature = torch.tensor([3, 36, 3])
    assert turned.shape == (D, N)
    for _ in range(2):  # the second time it is one that was kept
        assert torch.equal(turned.whole(), tensors["one"].T.float())
    assert turned.whole().is_contiguous()
    assert torch.equal(matrix.columns(turned, feature), tensors["one"][feature].float())
    assert torch.equal(matrix.columns(tensors["one"].T.float(), feature), tensors["one"][feature].float())


def test_so_many_bytes_of_encoders_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stored, "_HELD", 3 * 4 * N * D)
    monkeypatch.setattr(_stored, "_kept", type(_stored._kept)())
    save_file({str(i): torch.randn(N, D) for i in range(5)}, tmp_path / "file.safetensors")
    encoders = [_stored.turned(tmp_path / "file.safetensors", str(i))[str(i)] for i in range(5)]
    for one in (*encoders[:3], encoders[0], *encoders[3:]):
        one.whole()
    assert list(_stored._kept) == [encoders[0], *encoders[3:]], "those that were asked for last"


def test_what_is_no_matrix_of_floats_lies_nowhere(path: Path) -> None:
    assert _stored.lying(path, "before") == []
    assert _stored.lying(path, "none") == []
    assert _stored.turned(path, "before") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_the_file_stays_in_memory(tmp_path: Path) -> None:
    def mapped() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    save_file({"w": torch.zeros(65_536, 256)}, tmp_path / "file.safetensors")  # 64 MiB
    [one] = _stored.lying(tmp_path / "file.safetensors", "w")
    before = mapped()
    one.vectors(torch.arange(0, 65_536, 64))
    one.whole()
    assert mapped() - before < 8_192, "kB"
