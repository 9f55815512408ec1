"""A connection to Dask: to a scheduler that is there, or to a cluster that is started for a while.

Pickles go between processes of one person's, over connections that Dask's configuration may have encrypted; a local
cluster listens on this machine alone. Nothing is spilled to files.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from circuitcli.errors import HubError, InputError
from circuitcli.executors import _jobs
from circuitcli.executors._jobs import Jobs
from circuitcli.executors._names import missing

# Seconds to wait for a scheduler.
_PATIENCE = 10
_OWN = {
    # A worker whose memory is full of tensors can neither spill nor wait: it ends, and its task is cut in two.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # It drops second copies of results, of which there are none here, and looks at all tasks every two seconds.
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}


@dataclass
class Connection:
    """A client of a scheduler, and the cluster if it is our own.

    Attributes:
        client: Of distributed.
        cluster: To be closed with it; None: somebody else's.
        jobs: Of the batch system whose cluster it is.
        name: As people know it.
    """

    client: Any
    cluster: Any = None
    jobs: Jobs | None = None
    name: str = ""

    @property
    def here(self) -> bool:
        """Whether its workers are processes of this machine, which start at once."""
        return self.cluster is not None and self.jobs is None

    def close(self) -> None:
        """Leave the scheduler; end a cluster of our own."""
        _leave(self.client)
        if self.cluster is not None:
            with suppress(Exception):
                self.cluster.close(timeout=10)


def connect(scheduler: str, cluster: str, options: Mapping[str, Any]) -> Connection:
    """Connect to a scheduler, or start a cluster.

    Raises:
        InputError: A package isn't installed, or the batch system isn't here.
        UsageError: An option isn't one of the cluster's.
        HubError: There is no such scheduler.
    """
    _hush()
    try:
        return _joined(scheduler) if scheduler else _started(cluster, options)
    except (KeyboardInterrupt, SystemExit):
        _forget()
        raise


def _hush() -> None:
    """Dask's own lines stay off the terminal."""
    import logging

    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        import distributed  # noqa: F401 -- sets levels as it is imported
    except ModuleNotFoundError as error:
        raise missing("--executor dask", error) from None
    for name in [*logging.root.manager.loggerDict, "distributed"]:
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    for module in ("distributed", "dask_jobqueue"):
        warnings.filterwarnings("ignore", module=module)


def _forget() -> None:
    """Stopped half-way: what isn't whole can't be closed, and a cluster's processes end with this one."""
    import atexit

    from distributed import Client
    from distributed.deploy import spec

    atexit.unregister(spec.close_clusters)
    for client in list(Client._instances):
        if client.status != "running":
            client.status = "closed"


def _leave(client: Any) -> None:
    """Close a client, whatever is broken there; it doesn't try again by itself."""
    with suppress(Exception):
        client.close(timeout=2)
    client.status = "closed"


def _joined(address: str) -> Connection:
    from distributed import Client

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False, name="circuit")
    except Exception:  # noqa: BLE001 -- whatever answers there, it is no scheduler
        raise HubError(
            f"No Dask scheduler answers at {address}.",
            hint="Check the address, which `dask scheduler` prints, and that this machine reaches it.",
        ) from None
    return Connection(client, name=address)


def _started(cluster: str, options: Mapping[str, Any]) -> Connection:
    import dask

    kind, _, count = cluster.partition(":")
    with dask.config.set(_OWN):
        if kind == "local":
            return _client(_local(int(count)), cluster)
        if kind == "gpu":
            return _client(_gpus(options), "one worker for each GPU")
        jobs = _jobs.make(kind, options)
        return _client(jobs.cluster, kind, jobs)


def _client(cluster: Any, name: str, jobs: Jobs | None = None) -> Connection:
    from distributed import Client

    # Results come from workers at once, and not by way of the scheduler: it reaches them from this process too.
    client = Client(cluster, timeout=_PATIENCE, set_as_default=False, direct_to_workers=True)
    return Connection(client, cluster, jobs, name)


def threads_each(workers: int) -> int:
    """Threads of each of so many workers here: this process's, OMP_NUM_THREADS or the cores, divided."""
    from dask.system import CPU_COUNT

    said = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(int(CPU_COUNT), int(said)) if said.isdigit() and int(said) else int(CPU_COUNT)
    return max(1, cores // workers)


def _local(workers: int, environments: list[dict[str, str]] | None = None) -> Any:
    """Processes here, of one task at a time each; this machine alone reaches them."""
    from distributed import Nanny, Scheduler, SpecCluster

    threads = threads_each(workers)
    shared = {"host": "127.0.0.1", "nthreads": threads, "dashboard": False, "memory_limit": 0.9 / workers}
    spec = {
        number: {"cls": Nanny, "options": {**shared, "env": environments[number] if environments else {}}}
        for number in range(workers)
    }
    dashboard = {"dashboard": True, "dashboard_address": "127.0.0.1:0"} if _bokeh() else {"dashboard": False}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, **dashboard}}
    runner = _undisturbed()
    try:
        return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=False, loop=runner.loop)
    finally:
        runner.stop()  # unless the cluster has it


def _undisturbed() -> Any:
    """An event loop in a thread where the key that interrupts is blocked, so it is in the processes that it starts.

    These end with this one; told by the terminal, each would end with a traceback.
    """
    from multiprocessing import resource_tracker

    from distributed.utils import LoopRunner

    resource_tracker.ensure_running()  # started later, it would take the block away
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return runner


def _bokeh() -> bool:
    from importlib.util import find_spec

    return find_spec("bokeh") is not None


def _gpus(options: Mapping[str, Any]) -> Any:
    """A worker for each GPU here: by dask-cuda where that is, else by CUDA_VISIBLE_DEVICES alone."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise InputError("There is no CUDA device here.", hint="Give --cluster local:N for processes on the CPU.")
    try:
        from dask_cuda import LocalCUDACluster
    except ModuleNotFoundError:
        if options:
            raise InputError(
                "Options of --cluster gpu take dask_cuda, which isn't installed.",
                hint="Install it: `pip install dask-cuda`, or leave --cluster-option out.",
            ) from None
        said = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = said if len(said) == count and all(said) else [str(number) for number in range(count)]
        return _local(count, [{"CUDA_VISIBLE_DEVICES": name} for name in names])
    dashboard = "127.0.0.1:0" if _bokeh() else None
    return _jobs.made(LocalCUDACluster, {"host": "127.0.0.1", "dashboard_address": dashboard, **options}, "gpu")


def dashboard(client: Any) -> str:
    """Where Dask shows what goes on; nothing where it doesn't, as without bokeh."""
    from urllib.error import URLError
    from urllib.request import urlopen

    if "dashboard" not in client.scheduler_info(n_workers=0).get("services", {}):
        return ""
    link = str(client.dashboard_link or "")
    if not link.startswith(("http://", "https://")):
        return ""
    try:
        with urlopen(link, timeout=2) as page:
            return "" if b"needs bokeh" in page.read(10_000) else link
    except (URLError, OSError, ValueError):
        return ""
