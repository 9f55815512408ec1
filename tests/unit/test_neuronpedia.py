"""Asking Neuronpedia: real HTTP on loopback, with all that can go wrong."""

import gzip
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from support.neuronpedia import LoopbackNeuronpedia, Reply, answer

from circuitcli.core.circuit import Context
from circuitcli.errors import HubError
from circuitcli.runtime.neuronpedia import Address, Weight, address, address_of_page, client, service
from circuitcli.runtime.neuronpedia.answer import NoFeature, parse
from circuitcli.runtime.neuronpedia.client import Neuronpedia

KEY = "np-secret-0123456789"
FIVE = Address("tiny", "0-res", 5)


@pytest.fixture
def loopback() -> Iterator[LoopbackNeuronpedia]:
    """A service with the features 0 … 19."""
    with LoopbackNeuronpedia() as found:
        for index in range(20):
            found.add("tiny", "0-res", index, answer(index, f"words of {index}", "another"))
        yield found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAITS_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr(client, "PER_SECOND", 1000.0)
    for name in ("NEURONPEDIA_ENDPOINT", "NEURONPEDIA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def asking(loopback: LoopbackNeuronpedia, tmp_path: Path) -> Neuronpedia:
    return Neuronpedia(endpoint=loopback.endpoint, key=KEY, cache=tmp_path / "cache")


def places(*indices: int) -> list[Address]:
    return [Address("tiny", "0-res", index) for index in indices]


def test_what_is_said_of_a_feature(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    found = asking.ask([FIVE]).found[FIVE]
    assert found.label == "words of 5"
    assert found.explanations == ("words of 5", "another")
    assert found.contexts == (  # the strongest first
        Context(("a", " day"), (0.0, 7.0), 1, -1, -1),
        Context(("the", " light", " of"), (0.0, 4.5, 0.5), 1, -1, -1),
    )
    assert found.promoted == (Weight(" shine", 1.5), Weight(" lamp", 1.25))
    assert found.suppressed == (Weight(" dark", -1.75),)
    [request] = loopback.requests
    assert request.path == "/api/feature/tiny/0-res/5"
    assert request.headers["X-Api-Key"] == KEY
    assert request.headers["User-Agent"].startswith("circuitcli/")


def test_many_are_asked_at_once_but_not_too_many_and_not_too_fast(
    asking: Neuronpedia, loopback: LoopbackNeuronpedia, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "PER_SECOND", 20.0)
    loopback.pause = 0.3
    done = []
    answers = asking.ask(places(*range(12), 3), done.append)
    assert answers.failure is None
    assert {place.feature: found.label for place, found in answers.found.items()} == {
        index: f"words of {index}" for index in range(12)
    }
    assert sum(done) == 12
    assert loopback.most_at_once == client.PARALLEL
    starts = sorted(request.at for request in loopback.requests)
    assert len(starts) == 12
    assert starts[-1] - starts[0] > 11 / 20 * 0.9


def test_answers_are_remembered(asking: Neuronpedia, loopback: LoopbackNeuronpedia, tmp_path: Path):
    first = asking.ask(places(1, 2, 99))
    assert set(first.found) == set(places(1, 2))  # there is no 99, which is no failure
    assert first.failure is None
    loopback.always("", Reply(500))
    again = Neuronpedia(endpoint=loopback.endpoint, cache=tmp_path / "cache").ask(places(1, 2, 99))
    assert again == first
    assert len(loopback.requests) == 3
    assert Neuronpedia(endpoint=loopback.elsewhere, cache=tmp_path / "cache").ask(places(1)).found == {}  # its own


def test_fresh_asks_anew_and_falls_back_on_what_is_remembered(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    asking.ask(places(1, 2))
    loopback.add("tiny", "0-res", 1, answer(1, "better words"))
    loopback.always("/2", Reply(500))
    answers = asking.ask(places(1, 2), fresh=True)
    assert {place.feature: found.label for place, found in answers.found.items()} == {
        1: "better words",
        2: "words of 2",
    }
    assert answers.failure == "it answered 500"
    assert asking.ask(places(1)).found[places(1)[0]].label == "better words"


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(500),
        Reply(503, headers={"Retry-After": "0"}),
        Reply(429, headers={"Retry-After": "0"}),
        Reply(429),
        Reply(drop=True),
        Reply(truncate=40, body=json.dumps(answer(5, "x")).encode()),
    ],
    ids=["500", "503", "429", "429 without a wait", "dropped", "truncated"],
)
def test_what_may_pass_is_tried_again(asking: Neuronpedia, loopback: LoopbackNeuronpedia, trouble: Reply):
    loopback.plan("/5", trouble, trouble)
    answers = asking.ask([FIVE])
    assert (answers.failure, answers.found[FIVE].label) == (None, "words of 5")
    assert len(loopback.asked("/5")) == 3


def test_retry_after_holds_all_requests_back(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.plan("/5", Reply(429, headers={"Retry-After": "1"}))
    assert len(asking.ask(places(*range(20))).found) == 20
    first, second = loopback.asked("/5")
    assert second.at - first.at >= 1
    late = [request for request in loopback.requests if first.at + 0.3 < request.at < first.at + 0.95]
    assert not late


def test_retry_after_may_be_a_date(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.plan("/5", Reply(503, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)}))
    assert asking.ask([FIVE]).found
    first, second = loopback.asked("/5")
    assert 0.5 < second.at - first.at < 3


ODD = {
    "HTML": Reply(headers={"Content-Type": "text/html"}, body=b"<html><title>Sign in</title></html>"),
    "no JSON": Reply(body=b'{"index": "5", "explanations": ['),
    "no feature": Reply(body=b'{"error": "teapot"}'),
    "another feature": Reply(body=json.dumps(answer(6, "six")).encode()),
    "a list": Reply(body=b"[1, 2]"),
    "a number": Reply(body=b"7"),
    "no UTF-8": Reply(body=b'{"explanations": ["\xff"]}'),
    "infinite": Reply(body=b'{"pos_str": ["a"], "pos_values": [Infinity]}'),
    "a huge number": Reply(body=b'{"pos_str": ["a"], "pos_values": [1' + b"0" * 400 + b"]}"),
    "a huger number": Reply(body=b'{"pos_str": ["a"], "pos_values": [1' + b"0" * 9000 + b"]}"),
    "deep": Reply(body=b'{"explanations": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "words for numbers": Reply(body=b'{"activations": [{"tokens": ["a"], "values": ["high"]}]}'),
}


@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_is_none(name: str, asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.always("/5", ODD[name])
    answers = asking.ask(places(4, 5))
    assert answers.failure == "its answer describes no feature"
    assert set(answers.found) == set(places(4))
    assert len(loopback.asked("/5")) == 1
    loopback.recover()
    assert set(asking.ask(places(4, 5)).found) == set(places(4, 5))  # and nothing of it is remembered


REFUSALS = {
    "a key wanted": (Reply(401), "it refuses the key in NEURONPEDIA_API_KEY (401)"),
    "forbidden": (Reply(403), "it refuses the key in NEURONPEDIA_API_KEY (403)"),
    "a long wait": (
        Reply(429, headers={"Retry-After": "3600"}),
        "it got too many requests (429), and asks to wait 3600 s",
    ),
    "a teapot": (Reply(418), "it answered 418"),
    "packed": (
        Reply(headers={"Content-Encoding": "zstd"}, body=b"\x28\xb5\x2f\xfd"),
        "its answer is packed in a way that nobody asked for",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_not_asked_again(name: str, asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    reply, why = REFUSALS[name]
    loopback.always("/5", reply)
    assert asking.ask([FIVE]).failure == why
    assert len(loopback.requests) == 1
    assert not list(Path(asking._cache._folder).rglob("5.json"))


def test_a_key_that_is_wanted_but_not_there(loopback: LoopbackNeuronpedia, tmp_path: Path):
    loopback.key = KEY
    stranger = Neuronpedia(endpoint=loopback.endpoint, cache=tmp_path)
    assert stranger.ask([FIVE]).failure == "it wants a key in NEURONPEDIA_API_KEY (401)"
    assert "X-Api-Key" not in loopback.requests[0].headers
    assert Neuronpedia(endpoint=loopback.endpoint, key=f" {KEY}\n", cache=tmp_path).ask([FIVE]).failure is None


def test_a_service_that_is_down_is_soon_left_alone(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.always("", Reply(503))
    answers = asking.ask(places(*range(20)))
    assert answers == client.Answers({}, "it answered 503")
    tries = len(client.WAITS_S) + 1
    assert len(loopback.requests) <= (client.FAILURES + client.PARALLEL) * tries < 20 * tries


def test_a_service_that_is_not_there(tmp_path: Path):
    with LoopbackNeuronpedia() as gone:
        pass
    assert Neuronpedia(endpoint=gone.endpoint, cache=tmp_path).ask(places(*range(20))).failure == "no connection"


def test_one_bad_feature_does_not_spoil_the_others(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.always("/5", Reply(500))
    answers = asking.ask(places(*range(20)))
    assert len(answers.found) == 19
    assert answers.failure == "it answered 500"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_goes_nowhere_else(status: int, asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.always("/5", Reply(status, headers={"Location": f"{loopback.elsewhere}/api/feature/tiny/0-res/5"}))
    assert asking.ask([FIVE]).failure == f"it sends us to another address ({status})"
    assert loopback.stray == []


def test_slow_answers_have_an_end(asking: Neuronpedia, loopback: LoopbackNeuronpedia, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "ANSWER_S", 0.2)
    monkeypatch.setattr(client, "WAITS_S", (0.01,))
    loopback.always("/5", Reply(body=json.dumps(answer(5, "x")).encode(), slow=0.05))
    began = time.monotonic()
    assert asking.ask([FIVE]).failure == "it didn't answer in time"
    assert time.monotonic() - began < 5
    monkeypatch.setattr(service, "SILENCE_S", 0.1)
    loopback.recover()
    loopback.pause = 1.0
    assert asking.ask([FIVE]).failure == "it didn't answer in time"
    monkeypatch.setattr(service, "SILENCE_S", 5.0)
    monkeypatch.setattr(client, "FIRST_S", 0.1)
    monkeypatch.setattr(client, "EACH_S", 0.01)
    assert asking.ask(places(*range(20))).failure == "it is too slow"


def test_large_answers_have_an_end(asking: Neuronpedia, loopback: LoopbackNeuronpedia, monkeypatch: pytest.MonkeyPatch):
    loopback.always("/5", Reply(body=b" " * 65536, endless=True))
    packed = gzip.compress(b" " * (64 << 20))
    loopback.always("/6", Reply(headers={"Content-Encoding": "gzip"}, body=packed))
    assert asking.ask(places(5)).failure == "its answer is larger than 8 MiB"
    assert asking.ask(places(6)).failure == "its answer is larger than 8 MiB"


def test_gzip_is_read(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    body = gzip.compress(json.dumps(answer(5, "packed words")).encode())
    loopback.always("/5", Reply(headers={"Content-Encoding": "gzip"}, body=body))
    assert asking.ask([FIVE]).found[FIVE].label == "packed words"


def test_hostile_text_is_cut_and_stays_text(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    hostile = "</script><b>[/b]\ud800 \u202eevil\u0000 " + "x" * 10_000
    tokens = ["[/b]", "\udfff\ud83d", "y" * 10_000, "\u0000"]
    passage = {"tokens": tokens, "values": [1, 2, 3, 4]}
    loopback.add("tiny", "0-res", 5, answer(5, hostile, activations=[passage], pos_str=tokens, pos_values=[4, 3, 2, 1]))
    found = asking.ask([FIVE]).found[FIVE]
    assert found.label is not None
    assert found.label.startswith("</script><b>[/b]\ufffd \u202eevil\u0000 xxx")
    assert len(found.label) == 1000
    assert found.contexts[0].tokens == ("[/b]", "\ufffd\ufffd", "y" * 100, "\u0000")
    found.label.encode()
    assert asking.ask([FIVE]).found[FIVE] == found  # from the cache


def test_a_feature_without_explanations_or_with_empty_ones(asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    loopback.add("tiny", "0-res", 1, answer(1))
    loopback.add("tiny", "0-res", 2, answer(2, "", " \n ", "second"))
    loopback.add("tiny", "0-res", 3, {"explanations": None, "activations": None})
    loopback.add("tiny", "0-res", 4, None)
    found = asking.ask(places(1, 2, 3, 4)).found
    assert [found[place].label for place in places(1, 2, 3)] == [None, "second", None]
    assert places(4)[0] not in found


def test_long_passages_are_cut_around_their_largest_value():
    tokens = [f"t{i}" for i in range(100)]
    passage = {"tokens": tokens, "values": [0.0] * 60 + [5.0] + [0.0] * 39}
    odd = {"tokens": ["a"], "values": [1, 2]}
    silent = {"tokens": ["a"], "values": [0]}
    found = parse(json.dumps({"index": 5, "activations": [odd, silent, passage, {}]}).encode(), 5, "2026-01-01")
    assert found is not None
    assert found.contexts == (Context(tuple(tokens[50:71]), (0.0,) * 10 + (5.0,) + (0.0,) * 10, 10, -1, -1),)
    with pytest.raises(NoFeature):
        parse(b"{", 5, "2026-01-01")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 9, "explained": null}', b'{"schema": 1}', b"\xff",
                                    b'{"schema": 1, "explained": {"fetched": 7}}'])  # fmt: skip
def test_a_damaged_cache_is_as_good_as_none(damage: bytes, asking: Neuronpedia, loopback: LoopbackNeuronpedia):
    asking.ask([FIVE])
    [path] = Path(asking._cache._folder).rglob("5.json")
    path.write_bytes(damage)
    assert asking.ask([FIVE]).found[FIVE].label == "words of 5"
    assert len(loopback.requests) == 2
    asking.ask([FIVE])
    assert len(loopback.requests) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(loopback: LoopbackNeuronpedia, tmp_path: Path):
    (tmp_path / "file").write_text("")
    asking = Neuronpedia(endpoint=loopback.endpoint, cache=tmp_path / "file")
    assert asking.ask([FIVE]).found[FIVE].label == "words of 5"


def hammer(endpoint: str, folder: Path, start: int) -> None:
    client.PER_SECOND = 1000.0
    for _ in range(5):
        asking = Neuronpedia(endpoint=endpoint, cache=folder)
        answers = asking.ask(places(*range(start, start + 10)), fresh=True)
        assert len(answers.found) == 10
        assert answers.failure is None


def test_two_processes_share_a_cache(loopback: LoopbackNeuronpedia, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=hammer, args=(loopback.endpoint, tmp_path, start)) for start in (0, 5, 5)]
    for process in processes:
        process.start()
    torn = []

    def watch() -> None:
        while any(process.is_alive() for process in processes):
            for path in tmp_path.rglob("*.json"):
                try:
                    json.loads(path.read_bytes())
                except ValueError:
                    torn.append(path)

    thread = threading.Thread(target=watch)
    thread.start()
    for process in processes:
        process.join(60)
    thread.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not torn
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(f"{i}.json" for i in range(15))


def test_the_key_is_nowhere_on_disk_nor_in_an_error(asking: Neuronpedia, loopback: LoopbackNeuronpedia, tmp_path: Path):
    asking.ask(places(1, 99))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    with pytest.raises(HubError) as error:
        Neuronpedia(endpoint=loopback.endpoint, key="gehe\u00efm\nX", cache=tmp_path)
    assert "gehe" not in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize(
    "endpoint",
    ["http://www.neuronpedia.org", "ftp://127.0.0.1", "neuronpedia.org", "https://", "https://me:secret@host",
     "https://host:99999", "https://host:0", "http://127.0.0.1.evil.org", "https://host/?x=1", "https://a b", "http://[::1",
     "https://h\u00f6st"],
)  # fmt: skip
def test_addresses_that_are_refused(endpoint: str, tmp_path: Path):
    with pytest.raises(HubError) as error:
        Neuronpedia(endpoint=endpoint, cache=tmp_path)
    assert "NEURONPEDIA_ENDPOINT" in error.value.message
    assert "secret" not in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize("endpoint", ["https://www.neuronpedia.org/", "http://localhost:80", "http://[::1]:8080/np"])
def test_addresses_that_are_taken(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", endpoint)
    assert Neuronpedia(cache=tmp_path)._service.endpoint == endpoint.rstrip("/")


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Neuronpedia()._cache._folder == tmp_path / "circuitcli" / "neuronpedia" / "www.neuronpedia.org"


def test_where_features_are():
    assert address("gpt2", "4-res-jb", 7) == Address("gpt2-small", "4-res-jb", 7)
    assert address("openai-community/gpt2", "4-res-jb", 7) == Address("gpt2-small", "4-res-jb", 7)
    assert address("anything", "gpt2-small/4-res-jb", 7) == Address("gpt2-small", "4-res-jb", 7)
    assert address("google/Gemma-2-2B", "4-x", 7) == Address("gemma-2-2b", "4-x", 7)
    for source in (None, "", "../..", "a/b/c", "x y", "a\n", "%2e", ".hidden", "é"):
        assert address("gpt2", source, 7) is None, source


def test_the_feature_of_a_page():
    home = "https://www.neuronpedia.org"
    assert address_of_page(f"{home}/gpt2-small/4-res-jb/7") == Address("gpt2-small", "4-res-jb", 7)
    for url in (None, "", home, f"{home}/a/b", f"{home}/a/b/x", f"{home}/../b/1", f"{home}/a/b/1/2", f"{home}/a/b/1?x",
                "https://evil.org/a/b/1", f"{home}/a/b/\u0661", f"{home}/a%2f/b/1", "a/b/1"):  # fmt: skip
        assert address_of_page(url) is None, url
