"""A hub on loopback, real HTTP, that speaks what huggingface_hub, transformers and datasets ask, and fails as planned.

    with LoopbackHub() as hub:
        hub.add("owner/repo", {"config.json": b"{}", "weights.safetensors": Path("large")})
        hub.add("owner/texts", {"train.jsonl": b"..."}, kind="dataset")
        hub.fail("weights.safetensors", status=503, times=2)
        Hub(endpoint=hub.endpoint, cache=folder)            # or HF_ENDPOINT=hub.endpoint for another process

As on the real one, large files are sent by another server (another port), to which the hub redirects. A file of a Path
is never read into memory.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = (".bin", ".msgpack", ".parquet", ".pt", ".safetensors")
CHUNK = 1 << 16


@dataclass
class Entry:
    """One file: its content, and what the hub says of it."""

    content: bytes | Path
    size: int
    blob: str  # git's sha1
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob

    def read(self, start: int, end: int) -> Any:
        if isinstance(self.content, bytes):
            yield self.content[start:end]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(CHUNK, end - start))):
                start += len(chunk)
                yield chunk


@dataclass
class Repository:
    kind: str
    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    gated: int | None = None


@dataclass
class Failure:
    where: str
    times: int
    status: int | None
    headers: Mapping[str, str]
    truncate: int | None
    hold: int | None
    corrupt: bool
    drop: bool


@dataclass
class Request:
    """What was asked, by which of the two servers, and how many bytes of a file were sent."""

    origin: str
    method: str
    path: str
    headers: Message
    status: int = 0
    sent: int = 0


class LoopbackHub:
    """Starts with `with`; `endpoint` is its address, `requests` what has been asked."""

    def __init__(self) -> None:
        self.token: str | None = None  # if set, every request to the hub needs it
        self.requests: list[Request] = []
        self.repositories: dict[str, Repository] = {}
        self.aliases: dict[str, str] = {}  # old names, which are redirected: {"gpt2": "openai-community/gpt2"}
        self.ranges = True  # whether a part of a file can be had
        self.released = threading.Event()
        self._failures: list[Failure] = []
        self._lock = threading.Lock()
        self._servers = [_server(self, origin) for origin in ("hub", "cdn")]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        *,
        kind: str = "model",
        lfs: bool | None = None,
        revision: str = "main",
        sizes: Mapping[str, int] | None = None,
    ) -> str:
        """A new commit of a repository that holds just these files; gives the commit.

        Args:
            repo: owner/name.
            files: Contents by path: bytes, or a file to send from.
            kind: model or dataset.
            lfs: Whether the files are large ones; None: by their suffixes.
            revision: The branch that moves to this commit.
            sizes: Sizes that the hub announces in place of the true ones.
        """
        entries = {}
        for path, content in files.items():
            large = path.endswith(LARGE) if lfs is None else lfs
            size = (sizes or {}).get(path, len(content) if isinstance(content, bytes) else content.stat().st_size)
            entry = Entry(content, size, "", None)
            sha1, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
            for chunk in entry.read(0, 1 << 62):
                sha1.update(chunk)
                sha256.update(chunk)
            entry.blob, entry.sha256 = sha1.hexdigest(), sha256.hexdigest() if large else None
            entries[path] = entry
        names = "".join(f"{path} {entry.etag} {entry.size}\n" for path, entry in sorted(entries.items()))
        commit = hashlib.sha1(f"{repo}\n{names}".encode()).hexdigest()
        repository = self.repositories.setdefault(_key(kind, repo), Repository(kind))
        repository.commits[commit] = entries
        repository.revisions[revision] = commit
        return commit

    def gate(self, repo: str, *, status: int = 403, kind: str = "model") -> None:
        """Show what a repository holds, but give none of it: 401 to strangers, 403 to those who haven't been let in."""
        self.repositories[_key(kind, repo)].gated = status

    def fail(
        self,
        where: str,
        *,
        status: int | None = None,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        truncate: int | None = None,
        hold: int | None = None,
        corrupt: bool = False,
        drop: bool = False,
    ) -> None:
        """Fail the next requests whose path holds `where`.

        Args:
            where: A part of the address's path: a file's path, or /api/models/owner/repo.
            status: Answer this.
            times: So many requests.
            headers: With these headers.
            truncate: Announce the whole body, but close the connection after so many bytes.
            hold: Stop after so many bytes, until `released` is set or the hub ends.
            corrupt: Send other bytes, as many.
            drop: Close the connection without an answer.
        """
        self._failures.append(Failure(where, times, status, headers or {}, truncate, hold, corrupt, drop))

    def recover(self) -> None:
        """No more planned failures."""
        self._failures.clear()

    def sent(self, path: str) -> list[Request]:
        """The requests that were sent bytes of a file."""
        return [request for request in self.requests if request.sent and request.path.endswith(path)]

    def failure(self, path: str, *, body: bool) -> Failure | None:
        """The planned failure of this request, which is used up by that: of the body of an answer, or of the answer."""
        with self._lock:
            for failure in self._failures:
                of_the_body = failure.truncate is not None or failure.hold is not None or failure.corrupt
                if failure.where in path and failure.times > 0 and of_the_body == body:
                    failure.times -= 1
                    return failure
        return None


def _key(kind: str, repo: str) -> str:
    return f"datasets/{repo}" if kind == "dataset" else repo


def _server(hub: LoopbackHub, origin: str) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "origin": origin})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub
    origin: str
    asked: Request

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.form = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.asked = Request(self.origin, self.command, path, self.headers)
        self.hub.requests.append(self.asked)
        failure = self.hub.failure(path, body=False)
        if failure and failure.drop:
            self.close_connection = True
        elif failure:
            self.reply(failure.status or 500, b"planned", failure.headers)
        elif self.origin == "cdn":
            _, key, commit, name = path.split("//")
            self.body(self.hub.repositories[key].commits[commit][name], {})
        elif self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.refuse(401, "Unauthorized", "Invalid credentials in Authorization header")
        else:
            self.route(urlsplit(self.path).path.strip("/"))

    def route(self, path: str) -> None:
        """Find the repository that the path begins with, and do what the rest asks."""
        api = path.startswith("api/")
        path = path.removeprefix("api/").removeprefix("models/")
        for old, new in self.hub.aliases.items():
            if f"{path}/".startswith(f"{old}/"):
                target = f"/{'api/models/' if api else ''}{new}{path.removeprefix(old)}"
                query = urlsplit(self.path).query
                return self.reply(307, b"", {"Location": target + (f"?{query}" if query else "")})
        found = [key for key in self.hub.repositories if f"{path}/".startswith(f"{key}/")]
        if not found:
            stranger = "Authorization" not in self.headers
            return self.refuse(401 if stranger else 404, "RepoNotFound", "Repository not found")
        key = max(found, key=len)
        repository = self.hub.repositories[key]
        verb, _, rest = path.removeprefix(key).strip("/").partition("/")
        revision, _, name = (unquote(part) for part in rest.partition("/"))  # a branch may be called a%2Fb
        revision = revision or "main"
        commit = repository.revisions.get(revision, revision)
        if verb not in ("", "revision", "tree", "paths-info", "resolve"):
            return self.refuse(404, "", "Sorry, we can't find the page you are looking for.")
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        entries = repository.commits[commit]
        if verb == "resolve":
            return self.resolve(key, commit, name, entries)
        if verb == "tree":
            return self.tree(name, entries)
        if verb == "paths-info":
            return self.json([_listed(p, entries[p]) for p in self.paths() if p in entries])
        siblings = [_sibling(p, entry, "blobs=" in self.path) for p, entry in sorted(entries.items())]
        name = key.removeprefix("datasets/")
        about = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": bool(repository.gated)}
        return self.json({**about, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def paths(self) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return list(json.loads(self.form)["paths"])
        return parse_qs(self.form.decode()).get("paths", [])

    def tree(self, folder: str, entries: dict[str, Entry]) -> None:
        """Files and folders below a folder, or just in it."""
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        start = f"{folder}/" if folder else ""
        below = {path: entry for path, entry in entries.items() if path.startswith(start)}
        if folder and not below:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        folders = {str(p) for path in below for p in Path(path).parents if str(p).startswith(start) and str(p) != "."}
        listed = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)]
        listed += [_listed(path, entry) for path, entry in sorted(below.items())]
        return self.json([x for x in listed if recursive or "/" not in str(x["path"]).removeprefix(start)])

    def resolve(self, key: str, commit: str, name: str, entries: dict[str, Entry]) -> None:
        gated = self.hub.repositories[key].gated
        if gated:
            return self.refuse(gated, "GatedRepo", f"Access to {key} is restricted.")
        if name not in entries:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        entry = entries[name]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{entry.blob}"'}
        if entry.sha256 is None:
            return self.body(entry, headers)
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
        location = quote(f"/cdn//{key}//{commit}//{name}")
        return self.reply(302, b"", {**headers, "Location": self.hub.cdn + location})

    def body(self, entry: Entry, headers: Mapping[str, str]) -> None:
        """A file, or the range of it that was asked for."""
        wanted = self.headers.get("Range") if self.hub.ranges else None
        start, end = 0, entry.size
        headers = {"ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes", **headers}
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(entry.size - int(last), 0)
            end = min(int(last) + 1, entry.size) if first and last else entry.size
            if start >= entry.size:
                return self.reply(416, b"", {"Content-Range": f"bytes */{entry.size}"})
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{entry.size}"}
        self.asked.status = 206 if wanted else 200
        self.send_response(self.asked.status)
        for header, value in {**headers, "Content-Length": str(end - start)}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send(entry, start, end, self.hub.failure(self.asked.path, body=True))
        return None

    def send(self, entry: Entry, start: int, end: int, failure: Failure | None) -> None:
        stop = failure and (failure.truncate if failure.truncate is not None else failure.hold)
        stop = end if stop is None else min(start + stop, end)
        try:
            for chunk in entry.read(start, stop):
                self.asked.sent += len(chunk)  # before a reader of the last chunk may look at it
                self.wfile.write(bytes(255 - byte for byte in chunk) if failure and failure.corrupt else chunk)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            stop = -1
        if failure and failure.hold is not None:
            self.hub.released.wait()
        self.close_connection = stop != end

    def json(self, tree: Any) -> None:
        self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        errors = {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        body = json.dumps({"error": message}).encode()
        self.reply(status, body, {**errors, "Content-Type": "application/json", **(headers or {})})

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(path: str, entry: Entry, full: bool) -> dict[str, Any]:
    if not full:
        return {"rfilename": path}
    large = {"lfs": {"sha256": entry.sha256, "size": entry.size, "pointerSize": 130}} if entry.sha256 else {}
    return {"rfilename": path, "size": entry.size, "blobId": entry.blob, **large}


def _listed(path: str, entry: Entry) -> dict[str, Any]:
    large = {"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}} if entry.sha256 else {}
    return {"type": "file", "path": path, "oid": entry.blob, "size": entry.size, **large}
