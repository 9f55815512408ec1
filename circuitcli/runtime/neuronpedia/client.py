"""Asking for many features at once, and making the best of what fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from circuitcli.core.neuronpedia import HOME
from circuitcli.runtime.caches import user_cache
from circuitcli.runtime.neuronpedia.answer import Explained
from circuitcli.runtime.neuronpedia.cache import Cache
from circuitcli.runtime.neuronpedia.names import Address
from circuitcli.runtime.neuronpedia.rate_limit import Abandoned, RateLimit
from circuitcli.runtime.neuronpedia.service import Service, Trouble

PARALLEL, PER_SECOND = 4, 8.0
WAITS_S = (1.0, 3.0, 9.0)  # before each further try of a request that failed
LONGEST_WAIT_S = 30.0  # the longest wait that the service may ask for
FIRST_S, EACH_S = 60.0, 2.0  # for all answers: so much, and so much for each
FAILURES = 3  # so many features may fail for reasons of their own before no more are asked for


@dataclass(frozen=True)
class Answers:
    """What came of asking.

    Attributes:
        found: What is known of each feature; those that Neuronpedia hasn't got are left out.
        failure: Why the service couldn't be asked for all of them; None if it could.
    """

    found: dict[Address, Explained] = field(default_factory=dict)
    failure: str | None = None


class Neuronpedia:
    """The service, and what is remembered of it."""

    def __init__(self, *, endpoint: str | None = None, key: str | None = None, cache: Path | None = None) -> None:
        """Nothing is asked yet.

        Args:
            endpoint: Its address; None is NEURONPEDIA_ENDPOINT, else Neuronpedia's own.
            key: None is NEURONPEDIA_API_KEY, if that is set.
            cache: Folder of what is remembered; None is the user's.

        Raises:
            HubError: The endpoint is no address of a service, or the key no key.
        """
        self._service = Service(
            endpoint or os.environ.get("NEURONPEDIA_ENDPOINT") or HOME,
            key or os.environ.get("NEURONPEDIA_API_KEY") or "",
        )
        self._cache = Cache(cache or user_cache("neuronpedia"), self._service.endpoint)

    def ask(
        self, addresses: Sequence[Address], advance: Callable[[int], None] = lambda done: None, *, fresh: bool = False
    ) -> Answers:
        """What is known of these features, from the cache where it has them; `advance` is told of each.

        A service that fails is asked no more; what it had answered by then counts, and what is remembered. With `fresh`
        all are asked anew.
        """
        remembered: dict[Address, Explained | None] = {}
        for address in dict.fromkeys(addresses):
            known, explained = self._cache.get(address)
            if known:
                remembered[address] = explained
        missing = [address for address in dict.fromkeys(addresses) if fresh or address not in remembered]
        advance(len(set(addresses)) - len(missing))
        answered, failure = self._fetch(missing, advance) if missing else ({}, None)
        found = {**remembered, **answered}
        return Answers({address: explained for address, explained in found.items() if explained is not None}, failure)

    def _fetch(
        self, addresses: list[Address], advance: Callable[[int], None]
    ) -> tuple[dict[Address, Explained | None], str | None]:
        """What is answered, and why the service failed, if it did."""
        limit = RateLimit(PER_SECOND)
        until = time.monotonic() + FIRST_S + EACH_S * len(addresses)
        answered: dict[Address, Explained | None] = {}
        troubles: list[Trouble] = []
        with self._service.client() as client, ThreadPoolExecutor(PARALLEL) as pool:
            asked = {pool.submit(self._one, client, address, limit, until): address for address in addresses}
            try:
                for future in as_completed(asked):
                    try:
                        answered[asked[future]] = future.result()
                        advance(1)
                    except Trouble as trouble:
                        troubles.append(trouble)
                        if trouble.for_all or len(troubles) == FAILURES:
                            _stop(limit, asked)
                    except (Abandoned, CancelledError):
                        continue
            finally:
                _stop(limit, asked)
        return answered, troubles[0].reason if troubles else None

    def _one(self, client: httpx2.Client, address: Address, limit: RateLimit, until: float) -> Explained | None:
        """One feature, tried again where that may help.

        Raises:
            Trouble: The service fails.
            Abandoned: Another request found that it does.
        """
        waits: Iterator[float] = iter(WAITS_S)
        while True:
            limit.turn()
            if time.monotonic() > until:
                raise Trouble("it is too slow", for_all=True)
            try:
                explained = self._service.feature(client, address)
                self._cache.put(address, explained)
                return explained
            except Trouble as trouble:
                pause = next(waits, None)
                if pause is None or not trouble.again or (trouble.wait_s or 0) > LONGEST_WAIT_S:
                    raise
                if trouble.wait_s is not None:
                    limit.hold(trouble.wait_s)
                    pause = trouble.wait_s
            limit.sleep(pause)


def _stop(limit: RateLimit, asked: Iterable[Future[Explained | None]]) -> None:
    limit.stop()
    for future in asked:
        future.cancel()
