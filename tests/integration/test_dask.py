"""`circuit … --executor dask`: the same bytes as here, with workers of every kind, and what is refused."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import Result, command, contents, environment, spawn, tables_of
from support.dasked import Processes, fake_slurm, started
from support.simulated import until

from circuitcli.executors import _cluster
from circuitcli.stages.spec import STAGES
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
PROMPTS = [
    "the light of the earth was void", "and the deep was upon the waters", "day and night were called",
    "let there be light in the heaven", "and God said unto the earth", "the evening and the morning",
    "the face of the deep waters", "and the spirit of God moved", "the waters were called the sea",
]  # fmt: skip
ASKED = {
    "attribute": ["--method", "exact", "--edges", "exact", "--nodes", "6"],
    "validate": ["--circuit", "none", "--draws", "1", "--nodes", "3", "--candidates", "9", "--audit", "1.resid_post.3"],
}
FLAGS = ("--thinning", "0.3", "--branching", "2", "--max-features", "40")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here as in each worker: the order of sums follows it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ablations were made here, in small shards; not to be touched."""
    root = Path(shutil.copytree(finished, tmp_path_factory.mktemp("made") / "run"))
    done = subprocess.run(
        [sys.executable, "-m", "support.small_shards", "ablate", "--run", root, "--force", *FLAGS],
        env=small(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root


def small(**more: str) -> dict[str, str]:
    tests = Path(__file__).parents[1]
    return environment(PYTHONPATH=f"{tests.parent}:{tests}", OMP_NUM_THREADS="1", **more)


@pytest.fixture
def here(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> Circuit:
    """Commands in this process, whose shards are small."""
    monkeypatch.setattr("circuitcli.stages.spreading.SHARD_FEATURES", 4)
    return circuit


@pytest.fixture
def again(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def same(run: Path, made: Path) -> None:
    """The same bytes in the same files, of which the same is recorded."""
    assert tables_of(run) == tables_of(made)
    one, other = (Run(folder, STAGES.folders).require("ablate") for folder in (run, made))
    assert list(one.files.items()) == list(other.files.items())
    assert one.fingerprint == other.fingerprint
    assert (run / "settings.toml").read_bytes() == (made / "settings.toml").read_bytes()
    assert len(list(run.glob("ablations/contexts-*"))) > 6


class Growing:
    """A scheduler of our own whose workers, started elsewhere, become more."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self._count = processes, 0
        _, self.address = processes.scheduler()

    def grow(self, workers: int) -> str:
        """Its address, once there are so many workers."""
        from distributed import Client

        for _ in range(workers - self._count):
            self._processes.worker(self.address)
        self._count = max(self._count, workers)
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(self._count, timeout=120)
        return self.address


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Growing]:
    with started(tmp_path_factory.mktemp("dask")) as processes:
        yield Growing(processes)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_write_the_same_bytes(workers: int, here: Circuit, again: Path, made: Path, cluster: Growing) -> None:
    """They find the run and the model where these are, by their hashes."""
    address = cluster.grow(workers)
    done = here("ablate", "--run", again, "--force", *FLAGS, "--scheduler", address)
    assert done.code == 0, done.err
    assert "distributed" not in done.err
    same(again, made)
    assert here("ablate", "--run", again, *FLAGS, "--scheduler", address).err.endswith("ablate: already done.\n")


@pytest.fixture(scope="module")
def judged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with an attribution and a validation, of the same prompts."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "asked.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    found = {}
    for stage in ASKED:
        found[stage] = Path(shutil.copytree(made, folder / stage))
        done = spawn(*asked(stage, found[stage]), env=small())
        assert done.code == 0, done.err
    return found


def asked(stage: str, run: Path, *args: str) -> list[str | Path]:
    return [stage, "--run", run, "--prompts", run.with_name("asked.jsonl"), *ASKED[stage], *args]


@pytest.mark.parametrize("stage", ASKED)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_say_the_same_of_prompts(
    workers: int, stage: str, here: Circuit, made: Path, judged: dict[str, Path], cluster: Growing, tmp_path: Path
) -> None:
    """Each prompt and each example is opened on whichever worker has work to do on it."""
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.copy(judged[stage].with_name("asked.jsonl"), tmp_path)
    done = here(*asked(stage, run, "--scheduler", cluster.grow(workers)))
    assert done.code == 0, done.err
    assert tables_of(run) == tables_of(judged[stage])
    one, other = (Run(folder, STAGES.folders).require(stage) for folder in (run, judged[stage]))
    assert list(one.files.items()) == list(other.files.items())
    for told in ("seconds_by_part", "peak_memory_bytes", "calibration"):  # the last of sums in NumPy's threads here
        one.facts.pop(told, None)
        other.facts.pop(told, None)
    assert one.facts == other.facts


def test_workers_know_a_prompt_by_its_tokens(here: Circuit, made: Path, cluster: Growing, tmp_path: Path) -> None:
    """A file of questions that was reordered: what a worker has opened before is of another question."""
    one, other = (Path(shutil.copytree(made, tmp_path / name)) for name in ("one", "other"))
    questions, address = tmp_path / "asked.jsonl", cluster.grow(1)
    for order in (PROMPTS[:2], PROMPTS[1::-1]):
        questions.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in order))
        assert here(*asked("attribute", one, "--force", "--scheduler", address)).code == 0
    assert here(*asked("attribute", other, "--force")).code == 0
    assert tables_of(one) == tables_of(other)


def test_workers_cache_the_same_activations(here: Circuit, made: Path, cluster: Growing, tmp_path: Path) -> None:
    """Shards of sequences; the last one is shorter."""
    one, other = (Path(shutil.copytree(made, tmp_path / name)) for name in ("one", "other"))
    assert here("cache-acts", "--run", one, "--force").code == 0
    done = here("cache-acts", "--run", other, "--force", "--scheduler", cluster.grow(2))
    assert done.code == 0, done.err
    assert tables_of(other) == tables_of(one)
    told, found = (Run(folder, STAGES.folders).require("cache-acts") for folder in (one, other))
    assert list(told.files.items()) == list(found.files.items())
    assert told.result == found.result


def test_workers_find_how_dictionaries_fit(here: Circuit, made: Path, cluster: Growing) -> None:
    one, other = (here("doctor", "--run", made, "--json", *more) for more in ((), ("--scheduler", cluster.grow(2))))
    assert (one.code, one.err.splitlines()[-2:]) == (other.code, other.err.splitlines()[-2:])
    assert other.document == one.document
    assert len(one.document["saes"]) > 1


def test_workers_without_the_files(
    here: Circuit, again: Path, tmp_path: Path, cluster: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where workers are on a machine that has no such paths."""
    from circuitcli.stages.inputs import JobInputs

    places = JobInputs.places.func

    def elsewhere(self: JobInputs) -> Any:
        found = places(self)
        return type(found)(found.here, type(found.afar)(found.afar.func, (tmp_path / "nothing",), "cpu"), found.device)

    monkeypatch.setattr(JobInputs, "places", property(elsewhere))
    done = here("ablate", "--run", again, "--force", *FLAGS, "--scheduler", cluster.grow(2))
    done.refused(
        3, "No worker has what is read.", "isn't here as it was recorded", socket.gethostname(), "CIRCUIT_FOLDERS"
    )
    told = [line for line in done.err.splitlines() if "gets no more of these shards" in line]
    assert len(told) == 1  # one host


@pytest.mark.slow
def test_slurm(here: Circuit, again: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By dask-jobqueue's own job scripts: as many jobs as there may be, all ended with the command."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("JOBS", str(jobs))
    monkeypatch.setenv("PATH", f"{fake_slurm(tmp_path / 'bin')}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    options = ["cores=1", "memory=2 GB", "maximum_jobs=2", "queue=long", "interface=lo", f"local_directory={tmp_path}"]
    flags = [word for option in options for word in ("--cluster-option", option)]
    done = here("ablate", "--run", again, "--force", *FLAGS, "--cluster", "slurm", *flags)
    assert done.code == 0, done.err
    same(again, made)
    assert "#SBATCH -p long" in (jobs / "script").read_text()
    begun = (jobs / "started").read_text().split()
    assert 1 <= len(begun) <= 2
    until(lambda: not any(alive(int(job)) for job in begun))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_what_slurm_misses_is_told(here: Circuit, again: Path) -> None:
    done = here("ablate", "--run", again, "--force", "--cluster", "slurm")
    done.refused(2, "--cluster slurm doesn't start", "cores", "--cluster-option")
    done = here("ablate", "--run", again, "--force", "--cluster", "slurm", "--cluster-option", "maximum_jobs=0")
    done.refused(2, "maximum_jobs can't be 0")
    flags = ["--cluster-option", "cores=1", "--cluster-option", "memory=1GB", "--cluster-option", "quue=a"]
    here("ablate", "--run", again, "--force", "--cluster", "slurm", *flags).refused(2, "quue")


def test_nobody_answers(here: Circuit, again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster, "_PATIENCE", 2)
    before = tables_of(again)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        done = here("ablate", "--run", again, "--force", "--scheduler", address)
    done.refused(4, f"No Dask scheduler answers at {address}")
    here("ablate", "--run", again, "--force", "--scheduler", address, "--json").refused_in_json(4)
    here("ablate", "--run", again, "--force", "--scheduler", "tcp://no-such-host.invalid:8786").refused(4, "No Dask")
    assert tables_of(again) == before


def test_something_else_answers(here: Circuit, again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong port: a server of another kind, which hangs up or says something else."""
    monkeypatch.setattr(_cluster, "_PATIENCE", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        here("ablate", "--run", again, "--force", "--scheduler", address).refused(4, "No Dask scheduler answers")
        server.shutdown(socket.SHUT_RDWR)


def test_a_shared_folder_that_cant_be_written(again: Path) -> None:
    """It is refused before anything starts, whoever asks."""
    before = contents(again)
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*alone, "mount -t tmpfs none /tmp"], check=False, capture_output=True).returncode:
        pytest.skip("no file system of its own for a process")
    read_only = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    for more in (["--force", "--cluster", "local:1"], ["--shard", "1/2"]):
        args = [*alone, read_only, "sh", again, *command("ablate", "--run", again, *more)]
        done = subprocess.run(args, env=environment(), capture_output=True, text=True, check=False, timeout=120)
        Result(done.returncode, done.stdout, done.stderr).refused(3, "can't be used: Read-only file system", str(again))
    assert contents(again) == before


def test_a_part_is_of_one_process(here: Circuit, again: Path) -> None:
    done = here("ablate", "--run", again, "--shard", "1/2", "--cluster", "local:2")
    done.refused(2, "--shard is the part of one process", "leave --cluster and --scheduler out")


def test_progress_says_how_many_shards_on_how_many_workers(here: Circuit, again: Path, made: Path, screen: Any) -> None:
    """A cluster that is started here, of one worker."""
    shown = screen(here, ["ablate", "--run", again, "--force", *FLAGS, "--cluster", "local:1"])
    same(again, made)
    assert "shards done, 1 worker" in shown
    assert "contexts" in shown
    assert "distributed" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "terminate", "kill"])
def test_its_workers_end_with_it(end: str, again: Path) -> None:
    """A key press interrupts all that the terminal runs, workers too."""
    process = subprocess.Popen(
        command("ablate", "--run", again, "--force", *FLAGS, "--seq-cap", "1000", "--cluster", "local:2"),
        env=environment(OMP_NUM_THREADS="1"), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: len(children(process.pid)) >= 2, 60)
    time.sleep(1)
    workers = children(process.pid)
    if end == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM if end == "terminate" else signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == {"interrupt": 130, "terminate": 143, "kill": -9}[end]
    until(lambda: not any(alive(worker) for worker in workers), 20)
    if end != "kill":
        word = "Interrupted." if end == "interrupt" else "Terminated."
        assert said.splitlines()[-2:] == [
            word,
            "Hint: The same command starts anew; without --force it goes on from what is done.",
        ]
        assert "Traceback" not in said


def children(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            own = int(path.parent.name)
            found += [own, *children(own)]
    return found
