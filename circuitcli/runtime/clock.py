"""How long circuit has run: what a person has waited, imports and loading included."""

from __future__ import annotations

import time

_IMPORTED = time.monotonic()


def process_seconds() -> float:
    """Seconds since `circuitcli.__main__` imported this module, which it does first.

    What the system says of a process is another start: `pipx run` installs, and becomes circuit in the same process.
    """
    return time.monotonic() - _IMPORTED
