"""What the hub's refusals and failures mean, in two lines each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from circuitcli.errors import CircuitError, HubError

NAMED = 5  # so many missing files are named
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

_PAGE = re.compile(r"(https?://[^/]+)/(?:api/)?(?:models/)?(.+?)(?:/(?:resolve|revision|tree|paths-info)/.*)?(?:\?.*)?")


def explain(error: BaseException, what: str) -> CircuitError | None:
    """What an error of `transformers` or `datasets` says of the hub; None if the hub isn't to blame.

    `what` is what was wanted: "the model gpt2". Of all that led to the error, an answer of the hub says most. That a
    file isn't in a repository is no answer: both libraries ask for files that may or may not be there.
    """
    causes = list(_causes(error))
    answers = [c for c in causes if isinstance(c, HfHubHTTPError) and not isinstance(c, EntryNotFoundError)]
    network = [c for c in causes if _of_the_network(c)]
    not_in_cache = [c for c in causes if isinstance(c, LocalEntryNotFoundError)]
    not_found = [c for c in causes if type(c).__name__ == "DatasetNotFoundError"]  # it drops the hub's answer
    if constants.HF_HUB_OFFLINE and (not_in_cache or any(isinstance(c, ConnectionError) for c in causes)):
        return HubError(f"HF_HUB_OFFLINE is set, and {what} isn't in the cache.", hint=_online())
    if answers or network:
        return translated((answers or network)[0], what)
    if any("is a gated dataset" in str(cause) for cause in not_found):
        return _gated(what, "its page on the hub")
    if not_found:
        return _unknown(what)
    return _unreachable(what, "no connection") if not_in_cache else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it; `datasets` says `from None` of the hub's answers, but Python remembers."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _of_the_network(error: BaseException) -> bool:
    """Whether a library that talks to the network got no answer."""
    library = type(error).__module__.split(".")[0]
    talks = isinstance(error, (ConnectionError, TimeoutError)) or library in ("httpx", "httpx2", "requests", "aiohttp")
    return talks and type(error).__name__ != "HTTPStatusError"


def translated(error: BaseException, what: str) -> HubError:
    """An answer of the hub that isn't the file, or none at all, in two lines. Nothing of the request is repeated."""
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response, what)
    kind = type(error).__name__
    timed_out, refused = "Timeout" in kind, "Connect" in kind
    reason = "it didn't answer in time" if timed_out else "no connection" if refused else "the connection broke"
    return _unreachable(what, reason)


def _refusal(response: Any, what: str) -> HubError:
    """What an HTTP status other than success means."""
    status, code = response.status_code, response.headers.get("x-error-code")
    found = _PAGE.fullmatch(str(response.request.url))
    page = "/".join(found.groups()) if found else "its page on the hub"
    if code == "GatedRepo":
        return _gated(f"{what} ({status})", page)
    if code == "RevisionNotFound":
        return HubError(
            f"The hub has no such revision: {what} ({status}).", hint=f"Its branches, tags and commits are at {page}."
        )
    if code == "EntryNotFound":
        return HubError(f"The hub has no such file: {what} ({status}).", hint=f"Its files are at {page}.")
    if status == 429:
        wait = asked_wait(response)
        when = "a while" if wait is None else f"{wait:g} s"
        return HubError(
            f"The hub got too many requests, and refuses {what} for now ({status}).",
            hint=f"Wait {when}, then run the command again; more are allowed with a token: {LOG_IN}.",
        )
    if status == 403:
        return HubError(
            f"The hub forbids {what} ({status}).",
            hint=f"Ask for access at {page}, and {LOG_IN}: the token must be allowed to read it.",
        )
    if status == 401 and (code != "RepoNotFound" or "invalid" in response.headers.get("x-error-message", "").lower()):
        return HubError(
            f"The hub wants a token for {what}, or another one ({status}).", hint=f"To use a valid token, {LOG_IN}."
        )
    if status in (401, 404):
        return _unknown(f"{what} ({status})")
    return HubError(
        f"The hub failed: it answered {status} for {what}.",
        hint="Run the command again later; what has been downloaded is kept.",
    )


def _gated(what: str, page: str) -> HubError:
    return HubError(f"Access has to be asked for: {what} is gated.", hint=f"Ask for it at {page}, then {LOG_IN}.")


def _unknown(what: str) -> HubError:
    return HubError(
        f"The hub doesn't know {what}.",
        hint=f"Check the name and the revision; if it is private, {LOG_IN}.",
    )


def _unreachable(what: str, reason: str) -> HubError:
    return HubError(
        f"The hub couldn't be reached for {what}: {reason}.",
        hint="Check the network and HF_ENDPOINT, then run the command again; what has been downloaded is kept.",
    )


def nonsense(what: str) -> HubError:
    """An answer that no hub gives."""
    return HubError(
        f"What answers for {what} isn't a hub.", hint="Check HF_ENDPOINT, and whether the network wants a log-in."
    )


def offline(repo: str, revision: str, paths: Sequence[str], sizes: Mapping[str, int]) -> HubError:
    """Which files are missing and how large they are, of those whose size is known."""
    if not paths:
        return HubError(
            f"HF_HUB_OFFLINE is set, and nothing of {repo} at the revision {revision} is in the cache.", hint=_online()
        )
    names = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    known = [sizes[path] for path in paths if path in sizes]
    size = f" ({'at least ' if len(known) < len(paths) else ''}{in_units(sum(known))})" if known else ""
    return HubError(f"HF_HUB_OFFLINE is set, and the cache lacks {names} of {repo}{size}.", hint=_online())


def _online() -> str:
    return "Unset HF_HUB_OFFLINE, or fetch them on a machine with a network and copy its cache."


def outage(error: BaseException) -> bool:
    """Whether the hub, or the way to it, is at fault, and not what was asked."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in (408, 429, 500, 502, 503, 504)


def asked_wait(response: Any) -> float | None:
    """Seconds of Retry-After, or until the window of the rate limit ends."""
    limit = re.search(r";\s*t=(\d+)", response.headers.get("ratelimit", ""))
    text = response.headers.get("retry-after", limit.group(1) if limit else "")
    return float(text) if text.isdecimal() else None


def in_units(count: int) -> str:
    """Bytes in human units: 1.2 GB."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
