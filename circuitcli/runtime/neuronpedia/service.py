"""One request to Neuronpedia: where it goes, what it carries, and what its answers mean."""

from __future__ import annotations

import datetime
import time
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2

from circuitcli import __version__
from circuitcli.core.neuronpedia import HOME
from circuitcli.errors import HubError
from circuitcli.runtime.neuronpedia.answer import Explained, NoFeature, parse
from circuitcli.runtime.neuronpedia.names import Address

ANSWER_S, SILENCE_S = 30.0, 10.0  # for one answer, and for its next bytes
MAX_BYTES = 8 << 20


class Trouble(Exception):
    """A request without an answer; nothing of the request or the answer is in its reason.

    Attributes:
        reason: Why, in words that follow "Neuronpedia fails:".
        again: Whether another try may help.
        wait_s: The wait that the service asks for before that.
        for_all: Whether other features would fare the same.
    """

    def __init__(self, reason: str, *, again: bool = False, wait_s: float | None = None, for_all: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait_s, self.for_all = reason, again, wait_s, for_all


class Service:
    """An address, and perhaps a key."""

    def __init__(self, endpoint: str, key: str) -> None:
        """Nothing is asked yet.

        Raises:
            HubError: The address is none of a service, or the key is no key.
        """
        self.endpoint = endpoint.rstrip("/")
        self._loopback = _check(self.endpoint)
        self._key = key.strip()
        if not (self._key.isascii() and (self._key.isprintable())):  # an error of the library would show it
            raise HubError(
                "NEURONPEDIA_API_KEY has characters that no key has.", hint="Set it to your key, or unset it."
            )

    def client(self) -> httpx2.Client:
        """What requests go through, from any thread; a redirect is an answer like others."""
        headers = {"User-Agent": f"circuitcli/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"}
        return httpx2.Client(
            headers={**headers, "X-Api-Key": self._key} if self._key else headers,
            timeout=SILENCE_S,
            follow_redirects=False,
            trust_env=not self._loopback,  # proxies
        )

    def feature(self, client: httpx2.Client, address: Address) -> Explained | None:
        """What the service says of one feature; None if it has no such feature.

        Raises:
            Trouble: It says nothing that counts.
        """
        url = f"{self.endpoint}/api/feature/{address.model}/{address.source}/{address.feature}"
        deadline = time.monotonic() + ANSWER_S
        try:
            with client.stream("GET", url) as response:
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    raise _refusal(response, key=bool(self._key))
                body = _body(response, deadline)
        except httpx2.TimeoutException:
            raise Trouble("it didn't answer in time", again=True) from None
        except httpx2.ConnectError:
            raise Trouble("no connection", for_all=True) from None
        except httpx2.HTTPError:
            raise Trouble("the connection broke", again=True) from None
        try:
            return parse(body, address.feature, datetime.date.today().isoformat())
        except NoFeature:
            raise Trouble("its answer describes no feature") from None


def _body(response: httpx2.Response, deadline: float) -> bytes:
    """A whole answer, of a reasonable size, in a reasonable time."""
    if response.headers.get("content-encoding", "identity").lower() not in ("identity", "gzip"):
        raise Trouble("its answer is packed in a way that nobody asked for")
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Trouble(f"its answer is larger than {MAX_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise Trouble("it didn't answer in time", again=True)
    return bytes(body)


def _refusal(response: httpx2.Response, *, key: bool) -> Trouble:
    """What an HTTP status other than 200 and 404 means; nothing of the request or the answer is repeated."""
    status, wait_s = response.status_code, _asked_wait(response.headers.get("retry-after", ""))
    if status in (401, 403):
        which = "it refuses the key in" if key else "it wants a key in"
        return Trouble(f"{which} NEURONPEDIA_API_KEY ({status})", for_all=True)
    if status == 429:
        asked = "" if wait_s is None else f", and asks to wait {wait_s:.0f} s"
        return Trouble(f"it got too many requests ({status}){asked}", again=True, wait_s=wait_s, for_all=True)
    if 300 <= status < 400:
        return Trouble(f"it sends us to another address ({status})", for_all=True)
    return Trouble(f"it answered {status}", again=status == 408 or status >= 500, wait_s=wait_s)


def _asked_wait(header: str) -> float | None:
    """Seconds of Retry-After: a number, or a date."""
    if header.isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _check(endpoint: str) -> bool:
    """Whether an address is on loopback; what is no address, or would send the key in the open, is refused."""
    refused = HubError(
        "NEURONPEDIA_ENDPOINT is no address of Neuronpedia.",
        hint=f"Unset it, or set it to one like {HOME}: https, or http on loopback, without user and password.",
    )
    try:
        parts = urlsplit(endpoint)
        valid = parts.port != 0 and parts.hostname and "@" not in parts.netloc
    except ValueError:
        raise refused from None
    loopback = parts.hostname == "localhost" or _loopback(parts.hostname or "")
    plain = endpoint.isascii() and endpoint.isprintable() and not (parts.query or parts.fragment or " " in endpoint)
    if not (valid and plain) or parts.scheme not in (("http", "https") if loopback else ("https",)):
        raise refused
    return loopback


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
