"""Neuronpedia on loopback, real HTTP, which answers for some features and fails as planned.

    with LoopbackNeuronpedia() as service:
        service.add("tiny", "0-res", 5, answer(5, "words for light"))
        service.plan("/0-res/5", Reply(429, headers={"Retry-After": "1"}))     # the next request there gets this
        Neuronpedia(endpoint=service.endpoint, key="secret", cache=folder)

`elsewhere` is a second server, on another port, to which nothing may ever be sent.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


def answer(index: int, *explanations: str, **more: Any) -> dict[str, Any]:
    """What Neuronpedia says of a feature, with the fields that nobody reads."""
    return {
        "modelId": "tiny",
        "layer": "0-res",
        "index": str(index),
        "hookName": "blocks.0.hook_resid_post",
        "maxActApprox": 9.5,
        "frac_nonzero": 0.01,
        "explanations": [{"id": "x", "description": text, "scores": [], "typeName": "x"} for text in explanations],
        "activations": [
            {"tokens": ["the", " light", " of"], "values": [0, 4.5, 0.5], "maxValue": 4.5, "maxValueTokenIndex": 1},
            {"tokens": ["a", " day"], "values": [0, 7], "maxValue": 7},
        ],
        "pos_str": [" shine", " lamp"],
        "pos_values": [1.5, 1.25],
        "neg_str": [" dark"],
        "neg_values": [-1.75],
        **more,
    }


@dataclass(frozen=True)
class Reply:
    """How a request is answered in place of the truth.

    Attributes:
        status, headers, body: The answer.
        drop: No answer: the connection is closed.
        truncate: The whole body is announced, but the connection is closed after so many bytes.
        slow: Seconds before each byte of the body.
        endless: The body goes on for ever.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    drop: bool = False
    truncate: int | None = None
    slow: float = 0.0
    endless: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked, and when."""

    path: str
    headers: Message
    at: float


class LoopbackNeuronpedia:
    """Starts with `with`; `endpoint` is its address, `requests` what was asked, `stray` what reached `elsewhere`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stray: list[Request] = []
        self.features: dict[str, Any] = {}
        self.key: str | None = None  # if set, every request needs it
        self.pause = 0.0  # seconds before every answer
        self.most_at_once = 0
        self._at_once = 0
        self._plans: dict[str, list[Reply]] = defaultdict(list)
        self._always: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._servers = [
            self._server(self.requests, self.reply),
            self._server(self.stray, lambda path, key: Reply(200)),
        ]
        self.endpoint, self.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, model: str, source: str, index: int, tree: Any) -> None:
        """A feature, and the JSON that is answered for it."""
        self.features[f"/api/feature/{model}/{source}/{index}"] = tree

    def plan(self, where: str, *replies: Reply) -> None:
        """What the next requests whose path ends like this get."""
        self._plans[where] += replies

    def always(self, where: str, reply: Reply) -> None:
        """What every request whose path ends like this gets; "" is every path."""
        self._always[where] = reply

    def recover(self) -> None:
        """Nothing is planned any more."""
        self._plans.clear()
        self._always.clear()

    def asked(self, where: str) -> list[Request]:
        """The requests whose path ends like this."""
        return [request for request in self.requests if request.path.endswith(where)]

    def reply(self, path: str, key: str | None) -> Reply:
        with self._lock:
            for where, replies in self._plans.items():
                if replies and path.endswith(where):
                    return replies.pop(0)
        for where, reply in self._always.items():
            if path.endswith(where):
                return reply
        if self.key and key != self.key:
            return Reply(401, body=b'{"error": "Unauthorized"}')
        if path not in self.features:
            return Reply(404, body=b'{"error": "Not found"}')
        return Reply(body=json.dumps(self.features[path]).encode())

    def _server(self, log: list[Request], decide: Any) -> ThreadingHTTPServer:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                log.append(Request(self.path, self.headers, time.monotonic()))
                with service._lock:
                    service._at_once += 1
                    service.most_at_once = max(service.most_at_once, service._at_once)
                try:
                    time.sleep(service.pause)
                    self.send(decide(self.path, self.headers.get("X-Api-Key")))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with service._lock:
                        service._at_once -= 1

            def send(self, reply: Reply) -> None:
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                headers = {"Content-Type": "application/json", **reply.headers}
                if not reply.endless:
                    headers["Content-Length"] = str(len(reply.body))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                while reply.endless:
                    self.wfile.write(reply.body)
                body = reply.body[: reply.truncate]
                if reply.slow:
                    for byte in body:
                        time.sleep(reply.slow)
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                else:
                    self.wfile.write(body)
                self.close_connection = self.close_connection or reply.truncate is not None or reply.endless

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that leaves early may."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        return server
