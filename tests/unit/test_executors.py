"""Where shards are computed, as people say it: what is refused before anything starts, and what no run keeps."""

import sys
from pathlib import Path
from typing import Any

import pytest

from circuitcli import executors
from circuitcli.errors import InputError, UsageError
from circuitcli.executors import _cluster
from circuitcli.executors._names import parse_options
from circuitcli.executors.dask import Dask
from circuitcli.executors.local import Local
from circuitcli.settings import kept, resolve
from circuitcli.stages.checks import check
from circuitcli.stages.opened import default_name

WRONG = {
    "two places": ({"scheduler": "tcp://a:1", "cluster": "local:2"}, "two places"),
    "local with a cluster": ({"name": "local", "cluster": "local:2"}, "computes in this process"),
    "dask nowhere": ({"name": "dask"}, "doesn't say where"),
    "no scheme": ({"scheduler": "127.0.0.1:8786"}, "no address"),
    "no port": ({"scheduler": "tcp://node1"}, "no address"),
    "port zero": ({"scheduler": "tcp://node1:0"}, "no address"),
    "port too large": ({"scheduler": "tcp://node1:70000"}, "no address"),
    "http": ({"scheduler": "http://node1:8786"}, "no address"),
    "spaces": ({"scheduler": "tcp://no de:8786"}, "no address"),
    "none": ({"cluster": "local:0"}, "no number of workers"),
    "a word": ({"cluster": "local:x"}, "no number of workers"),
    "without a number": ({"cluster": "local"}, "no number of workers"),
    "negative": ({"cluster": "local:-1"}, "no number of workers"),
    "too many": ({"cluster": "local:1000000"}, "no number of workers"),
    "other digits": ({"cluster": "local:²"}, "no number of workers"),
    "unknown": ({"cluster": "slrum"}, "Unknown cluster `slrum`"),
    "a number for slurm": ({"cluster": "slurm:4"}, "Unknown cluster"),
    "no equals": ({"cluster": "slurm", "options": ["queue"]}, "`queue` is no option"),
    "no key": ({"cluster": "slurm", "options": ["=4"]}, "`=4` is no option"),
    "an option of a local one": ({"cluster": "local:2", "options": ["queue=a"]}, "--cluster-option is for"),
    "an option of nothing": ({"options": ["queue=a"]}, "--cluster-option is for"),
    "unknown executor": ({"name": "ray"}, "Unknown executor `ray`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as error:
        check(resolve({"executor": given}))
    assert error.value.hint


def test_the_nearest_cluster_is_named() -> None:
    with pytest.raises(UsageError) as error:
        check(resolve({"executor": {"cluster": "slrum"}}))
    assert "Did you mean `slurm`?" in error.value.hint
    assert "local:N" in error.value.hint


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, Local),
        ({"name": "local"}, Local),
        ({"cluster": "local:2"}, Dask),
        ({"scheduler": "tcp://[::1]:8786"}, Dask),
        ({"name": "dask", "cluster": "slurm", "options": ["queue=gpu", "cores=4"]}, Dask),
        ({"cluster": "gpu"}, Dask),
    ],
)
def test_which_one_it_is(given: dict[str, Any], kind: type) -> None:
    settings = resolve({"executor": given})
    check(settings)
    made = executors.make(settings.executor, print)
    assert type(made) is kind
    made.close()  # nothing was started


def test_options_are_numbers_truths_or_texts_and_lists_where_repeated() -> None:
    given = ["cores=8", "memory=16 GB", "nanny=false", "job-extra-directives=--gres=gpu:1", "queue=a=b"]
    assert parse_options([*given, "job_extra_directives=--exclusive"]) == {
        "cores": 8,
        "memory": "16 GB",
        "nanny": False,
        "job_extra_directives": ["--gres=gpu:1", "--exclusive"],
        "queue": "a=b",
    }


def test_no_run_keeps_it_and_no_runs_name_depends_on_it() -> None:
    plain = resolve({})
    afar = resolve({"executor": {"cluster": "local:2", "mixed": True}})
    assert kept(afar) == kept(plain)
    assert default_name(afar) == default_name(plain)


@pytest.mark.parametrize(("cluster", "package"), [("local:1", "distributed"), ("slurm", "dask_jobqueue")])
def test_a_package_that_is_missing_names_the_extra(cluster: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"takes {package}, which isn't installed") as error:
        _cluster.connect("", cluster, {})
    assert "circuitcli[dask]" in error.value.hint


def test_a_gpu_cluster_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="no CUDA device"):
        _cluster.connect("", "gpu", {})


def test_a_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dask-cuda: each process sees one, of those that this process sees."""
    made: list[Any] = []

    def client(cluster: Any, name: str) -> _cluster.Connection:
        made.append(cluster)
        return _cluster.Connection(None, name=name)

    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(_cluster, "_client", client)
    monkeypatch.setattr("distributed.SpecCluster", lambda workers, **more: workers)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    _cluster.connect("", "gpu", {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    _cluster.connect("", "gpu", {})
    seen = [[one["options"]["env"]["CUDA_VISIBLE_DEVICES"] for one in workers.values()] for workers in made]
    assert seen == [["3", "5"], ["0", "1"]]
    with pytest.raises(InputError, match="dask_cuda"):
        _cluster.connect("", "gpu", {"rmm_pool_size": 1})


@pytest.mark.parametrize(
    ("cores", "said", "workers", "each"), [(8, "", 2, 4), (8, "4", 2, 2), (2, "", 4, 1), (8, "x", 8, 1)]
)
def test_threads_are_shared(cores: int, said: str, workers: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert _cluster.threads_each(workers) == each


def test_workers_look_in_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuitcli.errors import NotHere
    from circuitcli.stages.contents import Content
    from circuitcli.stages.sources import on_worker
    from circuitcli.store import files

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "other name").write_bytes(b"what is read")
    content = Content("acts/tokens.safetensors", files.digest(tmp_path / "own" / "other name"), 12)
    monkeypatch.delenv("CIRCUIT_FOLDERS", raising=False)
    with pytest.raises(NotHere, match=r"acts/tokens\.safetensors isn't here") as error:
        on_worker((tmp_path / "run",), "cpu").file(content)
    assert "CIRCUIT_FOLDERS" in error.value.hint
    monkeypatch.setenv("CIRCUIT_FOLDERS", f"{tmp_path / 'none'}:{tmp_path / 'own'}")
    assert on_worker((tmp_path / "run",), "cpu").file(content) == tmp_path / "own" / "other name"
