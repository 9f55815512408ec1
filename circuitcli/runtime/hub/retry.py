"""Trying a request to the hub again where that may help, and refusing a token that can't be one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's in 1.x, httpx2's in 2.x
    HfHubHTTPError,
    HTTPError,
)

from circuitcli.errors import HubError
from circuitcli.runtime.hub.errors import LOG_IN, asked_wait, outage

T = TypeVar("T")

WAITS_S = (1.0, 3.0, 9.0)  # before each further try of a request that failed
LONGEST_WAIT_S = 15.0  # the longest wait that the hub may ask for


class Broken(HubError):
    """A download that ended too early."""


def retried(request: Callable[[], T], *, once: bool = False) -> T:
    """Try again where that may help, and where the hub asks for no long wait.

    Raises:
        HTTPError: What the last try raised.
        Broken: Likewise.
    """
    waits: Iterator[float] = iter(() if once else WAITS_S)
    while True:
        try:
            return request()
        except (HTTPError, Broken) as error:
            pause = _pause(error, next(waits, None))
            if pause is None:
                raise
        time.sleep(pause)


def _pause(error: BaseException, wait_s: float | None) -> float | None:
    """Seconds before the next try; None if there should be none."""
    if wait_s is None or type(error).__name__.startswith("Connect"):
        return None
    if not isinstance(error, HfHubHTTPError):
        return wait_s
    if not outage(error):
        return None
    asked = asked_wait(error.response)
    return wait_s if asked is None else asked if asked <= LONGEST_WAIT_S else None


def check_token() -> None:
    """A token that can't be a header would end up in an error's text.

    Raises:
        HubError: There is one, and it can't be.
    """
    token = get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise HubError("The token for the hub has characters that no token has.", hint=f"To replace it, {LOG_IN}.")
