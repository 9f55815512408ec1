"""What devices are called: all that can be said of one without asking for it."""

from __future__ import annotations

from circuitcli.errors import UsageError, nearest


def check_device_name(name: str) -> None:
    """Refuse what isn't a device's name, without asking for the device."""
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(
            f"Unknown device `{name}`.", hint=nearest(name, ("auto", "cpu", "cuda", "cuda:N", "mps"), what="devices")
        )
