"""What names a scheduler or a cluster, and its options: checked before anything is started or imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from circuitcli.errors import InputError, UsageError, nearest

# The class of each batch system's clusters, as dask-jobqueue calls it.
BATCH = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
_KINDS = ("local:N", *BATCH, "gpu")
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})/?")
# More processes than that on one machine are a slip of the finger.
_MOST = 4096
MISSING = "Install it: `pip install 'circuitcli[dask]'`."


def check_scheduler(address: str) -> None:
    """Refuse what is no address.

    Raises:
        UsageError: It isn't `tcp://HOST:PORT`.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found[3]) < 2**16:
        raise UsageError(
            f"`{address[:80]}` is no address of a scheduler.", hint="Give --scheduler tcp://HOST:PORT, as it prints it."
        )


def check_cluster(cluster: str) -> None:
    """Refuse what is no kind of cluster, or `local:` without a number of workers.

    Raises:
        UsageError: With the nearest kind.
    """
    kind, colon, count = cluster.partition(":")
    if kind == "local" and (not count.isascii() or not count.isdigit() or not 0 < int(count[:9]) <= _MOST):
        raise UsageError(
            f"`{cluster[:80]}` has no number of workers.", hint=f"Give --cluster local:N, with N from 1 to {_MOST:,}."
        )
    if kind != "local" and (colon or kind not in _KINDS):
        raise UsageError(f"Unknown cluster `{cluster[:80]}`.", hint=nearest(cluster, _KINDS, what="clusters"))


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Options of a cluster by their names; whole numbers and truths as such, a list where one is given twice.

    Raises:
        UsageError: One has no `=`, or nothing before it.
    """
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"`{option[:80]}` is no option of a cluster.", hint="Give --cluster-option KEY=VALUE, as queue=gpu."
            )
        value: Any = _value(text.strip())
        if key in found:
            before = found[key]
            value = [*(before if isinstance(before, list) else [before]), value]
        found[key] = value
    return found


def _value(text: str) -> Any:
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def check(*, name: str, scheduler: str, cluster: str, options: Sequence[str]) -> None:
    """Refuse what doesn't go together.

    Raises:
        UsageError: With what to leave out.
    """
    if scheduler and cluster:
        raise UsageError(
            "--scheduler and --cluster are two places.", hint="Give the one that is there, or the one to start."
        )
    if name == "local" and (scheduler or cluster):
        raise UsageError(
            f"--executor local computes in this process, not on {scheduler or cluster}.",
            hint="Leave --executor out, or give --executor dask.",
        )
    if name == "dask" and not (scheduler or cluster):
        raise UsageError(
            "--executor dask doesn't say where.", hint="Give --scheduler tcp://HOST:PORT, or --cluster local:N."
        )
    if scheduler:
        check_scheduler(scheduler)
    if cluster:
        check_cluster(cluster)
    if options and (not cluster or cluster.startswith("local")):
        raise UsageError("--cluster-option is for a cluster of a batch system, or gpu.", hint="Leave it out.")
    parse_options(options)


def missing(what: str, error: ModuleNotFoundError) -> InputError:
    """What isn't installed, and the extra that has it."""
    return InputError(f"{what} takes {error.name}, which isn't installed.", hint=MISSING)
