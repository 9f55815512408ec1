"""What the hub refuses or doesn't know: which status ends in which two lines."""

import os
from dataclasses import replace

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, get, refused, shown

from circuitcli.errors import HubError, UsageError
from circuitcli.runtime.hub import Hub

pytestmark = pytest.mark.hub

# What the hub does to the request for the repository or for a file, and what the error then says.
REFUSALS = {
    401: ["401", "hf auth login", "HF_TOKEN"],
    403: ["403", "Ask for access", f"/{REPO}", "HF_TOKEN"],
    404: ["404", "Check the name and the revision"],
    418: ["418", "again later"],
    429: ["429", "Wait 120 s", "HF_TOKEN"],
    500: ["500", "again later"],
    503: ["503", "again later"],
}


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/", "/cdn/"])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_is_two_lines_and_the_next_try_works(
    server: LoopbackHub, client: Hub, status: int, where: str
) -> None:
    server.fail(where, status=status, times=99, headers={"Retry-After": "120"} if status == 429 else {})
    words = refused(HubError, 4, lambda: get(client, LARGE))
    assert all(word in words for word in (*REFUSALS[status], REPO) if where != "/cdn/" or "/" not in word)
    assert not shown(client)
    server.recover()
    assert get(client) == list(FILES.values())


def test_a_gated_repository_says_where_to_ask(server: LoopbackHub, client: Hub) -> None:
    for status in (401, 403):
        server.gate(REPO, status=status)
        words = refused(HubError, 4, lambda: get(client))
        assert "gated" in words
        assert f"Ask for it at {server.endpoint}/{REPO}, then log in with `hf auth login` or set HF_TOKEN" in words
    server.repositories[REPO].gated = None
    assert get(client) == list(FILES.values())


def test_a_wrong_token_is_not_an_unknown_repository(server: LoopbackHub, client: Hub) -> None:
    server.token = "another"
    assert "wants a token" in refused(HubError, 4, lambda: get(client))


def test_what_is_unknown_is_named(server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "doesn't know owner/none" in refused(HubError, 4, lambda: client.listing("owner/none"))
    monkeypatch.delenv("HF_TOKEN")  # the hub answers strangers 401, so as not to tell what is private
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
    assert "doesn't know owner/none" in refused(HubError, 4, lambda: client.listing("owner/none"))
    words = refused(HubError, 4, lambda: client.listing(REPO, "v9"))
    assert f"no such revision: {REPO} at the revision v9" in words
    assert f"{server.endpoint}/{REPO}." in words
    words = refused(HubError, 4, lambda: client.files(REPO, ["blocks.0/sae_weigths.safetensors"]))
    assert f"{REPO} has no file blocks.0/sae_weigths.safetensors at the revision main." in words
    assert f"Did you mean `{LARGE}`?" in words
    for name in ("a/b/c", "../..", "", "owner/with space"):
        assert "no name of a repository" in refused(UsageError, 2, lambda name=name: client.listing(name))


def test_a_long_listing_is_not_printed(server: LoopbackHub, client: Hub) -> None:
    server.add(REPO, {f"blocks.{i}/cfg.json": b"{}" for i in range(100)})
    words = refused(HubError, 4, lambda: client.files(REPO, ["blocks.7/cfg.jsn"]))
    assert "`blocks.7/cfg.json`" in words
    assert "blocks.55" not in words
    assert "blocks.55" not in refused(HubError, 4, lambda: client.files(REPO, ["zzz"]))


def test_a_file_that_has_gone(server: LoopbackHub, client: Hub) -> None:
    (file,) = client.files(REPO, [LARGE])
    words = refused(HubError, 4, lambda: client.fetch([replace(file, path="gone")]))
    assert f"no such file: gone of {REPO} (404)" in words
    assert f"{server.endpoint}/{REPO}." in words
