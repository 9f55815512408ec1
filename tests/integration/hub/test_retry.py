"""What may pass is tried again, after waits that grow and end."""

from typing import Any

import pytest
from support.hub import LoopbackHub
from support.hub_client import LARGE, WEIGHTS, get, refused

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub, retry

pytestmark = pytest.mark.hub


@pytest.mark.parametrize(("status", "times"), [(408, 2), (429, 2), (500, 2), (502, 2), (503, 2), (504, 2)])
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_a_passing_failure_is_tried_again(
    server: LoopbackHub, client: Hub, where: str, status: int, times: int
) -> None:
    server.fail(where, status=status, times=times)
    assert get(client, LARGE) == [WEIGHTS]
    assert [r.status for r in server.requests if where in r.path][:3] == [
        status,
        status,
        302 if "res" in where else 200,
    ]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "15"}, 15),
        ({"RateLimit": '"api";r=0;t=9'}, 9),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1),  # as without
    ],
)
def test_a_short_wait_is_waited(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], waited: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retry, "WAITS_S", (1.0,))
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    server.fail("/api/models/", status=429, headers=headers)
    assert get(client, LARGE) == [WEIGHTS]
    assert pauses == [waited]


@pytest.mark.parametrize(
    ("failure", "waited"),
    [
        ({"status": 503}, [1, 3, 9]),
        ({"status": 429, "headers": {"Retry-After": "2"}}, [2, 2, 2]),
        ({"drop": True}, [1, 3, 9]),
        ({"truncate": 9}, [1, 3, 9]),
    ],
)
def test_waits_grow_and_end(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, failure: dict[str, Any], waited: list[int]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retry, "WAITS_S", (1.0, 3.0, 9.0))
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    server.fail("/cdn/", times=9, **failure)
    refused(HubError, 4, lambda: get(client, LARGE))
    assert pauses == waited
    assert sum(request.path.startswith("/cdn/") for request in server.requests) == 4


@pytest.mark.parametrize(("status", "headers"), [(404, {}), (403, {}), (429, {"Retry-After": "16"})])
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_refusals_are_not_asked_again(
    server: LoopbackHub, client: Hub, where: str, status: int, headers: dict[str, str]
) -> None:
    server.fail(where, status=status, times=99, headers=headers)
    refused(HubError, 4, lambda: get(client, LARGE))
    assert sum(where in request.path for request in server.requests) == 1
