"""Tokens and passwords: they go to the hub alone, and are never printed."""

from pathlib import Path

import pytest
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, TOKEN, get, refused

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub

pytestmark = pytest.mark.hub


def test_the_token_goes_to_the_hub_alone(server: LoopbackHub, client: Hub) -> None:
    server.token = TOKEN
    assert get(client) == list(FILES.values())
    assert {request.headers["Accept-Encoding"] for request in server.sent("")} == {"identity"}
    told = {(request.origin, request.headers["Authorization"]) for request in server.requests}
    assert told == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}


def test_a_password_in_the_address_of_the_hub_is_not_printed(tmp_path: Path) -> None:
    for endpoint in ("https://user:S3cret@proxy/hf", "https://S3cret@proxy", "user:S3cret@proxy", "S3cret"):
        words = refused(HubError, 4, lambda endpoint=endpoint: Hub(endpoint=endpoint, cache=tmp_path))
        assert "HF_ENDPOINT" in words
        assert "no user and password" in words
        assert "S3cret" not in words


def test_a_token_that_is_none_is_not_printed(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = client.files(REPO, [LARGE])
    for token in ("hf_pläned", "hf_pla\x07nned"):
        monkeypatch.setenv("HF_TOKEN", token)
        for action in (lambda: client.listing(REPO), lambda: client.fetch(files)):
            words = refused(HubError, 4, action)
            assert "characters that no token has" in words
            assert token not in words
