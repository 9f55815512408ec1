"""What runs in a worker's process: who it is, and one task after the other, whatever threads Dask has there."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from circuitcli.errors import CircuitError, HubError, NotHere, ResourceError
from circuitcli.executors import Task

# What decides last bits, of values or of files: another version of one of these may give others.
LIBRARIES = ("circuitcli", "torch", "transformers", "transformer_lens", "numpy", "pyarrow")
# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Facts:
    """Of a worker.

    Attributes:
        host: Its machine.
        threads: Dask's, which torch may have.
        versions: Of LIBRARIES.
        devices: The kinds on which it can compute.
    """

    host: str
    threads: int
    versions: dict[str, str]
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a task: its result, or why there is none.

    Attributes:
        result: Of the task.
        said: Lines for people.
        lacks: What isn't there, and may be elsewhere.
        memory: What memory ran out of.
        wrong: An error that is the same everywhere: its kind, message and hint.
        seconds: How long it took.
    """

    result: Any = None
    said: tuple[str, ...] = ()
    lacks: tuple[str, str] | None = None
    memory: str = ""
    wrong: tuple[type[CircuitError], str, str] | None = None
    seconds: float = 0.0


class _Held:
    """What one worker has opened; tests have several in one process."""

    def __init__(self) -> None:
        self.alone = threading.Lock()
        self.token, self.sources = "", None

    def at(self, token: str, afar: Callable[[], Any]) -> Any:
        """What `afar` makes, once."""
        if self.token != token:
            self.token, self.sources = "", None  # two models may be too much
            self.token, self.sources = token, afar()
        return self.sources


_held: defaultdict[str, _Held] = defaultdict(_Held)


@cache
def versions() -> dict[str, str]:
    """Of what decides last bits, in this process."""
    from circuitcli import __version__

    return {"circuitcli": __version__, **{name: metadata.version(name) for name in LIBRARIES[1:]}}


def greet() -> Facts:
    """Who this worker is."""
    from circuitcli.runtime.quiet import hush

    hush()
    import torch
    from distributed import get_worker

    _keep_memory()
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    threads = int(get_worker().state.nthreads)
    return Facts(socket.gethostname(), threads, versions(), tuple(kind for kind, has in there.items() if has))


def _keep_memory() -> None:
    """Let freed memory be used again, as in any process: Dask has glibc give it back to the system at once.

    Tensors of a batch come and go often; fetching their pages anew takes a quarter of the time.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for what, size in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26)):  # what glibc comes to by itself
            mallopt(what, size)


def work(task: Task[Any], token: str, afar: Callable[[], Any]) -> Answer:
    """Compute a task. A bug is raised.

    Args:
        task: What to compute.
        token: Of `afar`: what it made is kept for the next task that has the same.
        afar: Makes where the task finds what it reads.
    """
    from distributed import get_worker

    from circuitcli.runtime.device import out_of_memory

    held, said = _held[get_worker().address], list[str]()
    with held.alone:
        started = time.monotonic()
        try:
            result = task.compute(held.at(token, afar), done=_uncounted, say=said.append)
        except (NotHere, HubError) as error:
            return Answer(said=tuple(said), lacks=(error.message, error.hint))
        except ResourceError as error:
            return Answer(said=tuple(said), memory=error.message)
        except CircuitError as error:
            return Answer(said=tuple(said), wrong=(type(error), error.message, error.hint))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return Answer(said=tuple(said), memory="Out of memory.")
        return Answer(result, tuple(said), seconds=time.monotonic() - started)


def _uncounted(done: int) -> None:
    """Progress is told when a task is done."""
