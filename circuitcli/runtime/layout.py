"""Graphviz: the only place that imports the `graphviz` package and runs its program."""

from __future__ import annotations

import json
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired

from graphviz.backend import execute

from circuitcli.errors import InputError, ResourceError

TIMEOUT_S = 300.0


@cache
def program() -> str:
    """Path of the Graphviz to run.

    In this order: `graphviz-pure` beside the running interpreter's scripts (it is a dependency of this package),
    `graphviz-pure` on PATH, `dot` on PATH.

    Raises:
        InputError: None is installed.
    """
    scripts = sysconfig.get_path("scripts")
    beside = shutil.which("graphviz-pure", path=scripts) if scripts else None
    found = beside or shutil.which("graphviz-pure") or shutil.which("dot")
    if found is None:
        raise InputError(
            "Graphviz isn't installed, so svg and png can't be drawn.",
            hint="Run `pip install graphviz-pure`, or draw without it: --format dot --format json.",
        )
    return found


def lay_out(source: str, suffix: str, *, dpi: int = 72, timeout_s: float = TIMEOUT_S) -> bytes:
    """A picture of DOT source, in the format of that suffix (svg, png), by the engine that it names, else `dot`.

    Raises:
        InputError: Graphviz is missing, doesn't start, or refuses the source.
        ResourceError: It took too long, or ended by a signal (most often: out of memory).
    """
    binary = program()
    command = [binary, f"-T{suffix}", f"-Gdpi={dpi}"]
    try:
        done = execute.run_check(command, input=source.encode(), capture_output=True, quiet=True, timeout=timeout_s)
    except TimeoutExpired as error:
        raise ResourceError(
            f"Graphviz wasn't done after {timeout_s:g} s.", hint="Draw fewer edges: a smaller --max-edges."
        ) from error
    except CalledProcessError as error:
        raise _failure(binary, error) from error
    except (execute.ExecutableNotFound, OSError) as error:
        raise InputError(
            f"Graphviz doesn't start: {binary}.", hint="Reinstall it: `pip install --force-reinstall graphviz-pure`."
        ) from error
    return bytes(done.stdout)


def coordinates(source: str) -> dict[str, tuple[float, float]]:
    """Where Graphviz puts the centre of each node of DOT source: points, x to the right, y upwards.

    Raises: as `lay_out`.
    """
    drawn = json.loads(lay_out(source, "json"))
    placed = {thing["name"]: thing["pos"].split(",") for thing in drawn.get("objects", ()) if "pos" in thing}
    return {name: (float(x), float(y)) for name, (x, y) in placed.items()}


def _failure(binary: str, error: CalledProcessError) -> InputError | ResourceError:
    """What Graphviz's exit says: a signal is a lack of memory, anything else its error, or its last words."""
    name = Path(binary).name
    if error.returncode < 0:
        return ResourceError(
            f"{name} was ended by signal {-error.returncode}.", hint="Draw fewer edges: a smaller --max-edges."
        )
    words = (error.stderr or b"").decode(errors="replace").strip().splitlines() or ["no message"]
    told = next((line for line in words if line.startswith("Error")), words[-1])  # warnings may follow it
    return InputError(
        f"{name} failed: {told[:200]}",
        hint="Draw with --format dot --format json, and report the dot file if Graphviz should have drawn it.",
    )
