"""A hub on this machine: the part of the hub's protocol that a download uses, with a second server as its CDN."""

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", "tekken.json", ".bin")  # stored apart and served by the CDN


@dataclass
class FakeHub:
    """One repository; the fields steer how it misbehaves, the counters tell what was asked."""

    repo_id: str
    files: dict[str, bytes]
    status: int = 200  # of every answer of the hub itself
    error_code: str = ""
    drops: int = 0  # how many transfers still break off ...
    drop_after: int = 0  # ... once so many bytes are sent
    cdn_failures: int = 0  # how many transfers still end in 503
    ignores_ranges: bool = False
    corrupted: set[str] = field(default_factory=set)  # names whose bytes arrive changed
    other_etag: set[str] = field(default_factory=set)  # names whose resolve address contradicts the listing
    listed_bytes: dict[str, int] = field(default_factory=dict)  # sizes that the listing claims instead of the true ones
    commit: str = COMMIT
    sent_bytes: int = 0  # by the CDN
    ranges: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens_at_hub: list[str] = field(default_factory=list)
    tokens_at_cdn: list[str] = field(default_factory=list)
    endpoint: str = ""
    cdn: str = ""

    def digest(self, name: str) -> str:
        content = self.files[name]
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def listing(self) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for name, content in self.files.items():
            size = self.listed_bytes.get(name, len(content))
            entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": self.digest(name)}
            if name.endswith(LARGE):
                entry["lfs"] = {"size": size, "oid": self.digest(name), "pointerSize": 134}
            entries.append(entry)
        return entries


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the hub and its CDN on two free ports of this machine."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, answer)) for answer in (_answer_hub, _answer_cdn)]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(hub: FakeHub, answer: object) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, hub)  # type: ignore[operator]

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


def _answer_hub(handler: BaseHTTPRequestHandler, hub: FakeHub) -> None:
    path = handler.path.partition("?")[0]
    hub.requests.append(f"{handler.command} {path}")
    if token := handler.headers.get("Authorization"):
        hub.tokens_at_hub.append(token)
    if hub.status != 200:
        return _send(handler, hub.status, X_Error_Code=hub.error_code)
    api = f"/api/models/{hub.repo_id}"
    if path in (api, f"{api}/revision/main", f"{api}/revision/{hub.commit}"):
        return _send(handler, 200, json.dumps({"id": hub.repo_id, "sha": hub.commit, "siblings": []}).encode())
    if path == f"{api}/tree/{hub.commit}":
        return _send(handler, 200, json.dumps(hub.listing()).encode())
    if path.startswith(f"{api}/revision/"):
        return _send(handler, 404, X_Error_Code="RevisionNotFound")
    match = re.fullmatch(f"/{hub.repo_id}/resolve/{hub.commit}/(.+)", path)
    if match is None or match[1] not in hub.files:
        return _send(handler, 404, X_Error_Code="RepoNotFound")
    name = match[1]
    digest = "0" * 64 if name in hub.other_etag else hub.digest(name)
    if name.endswith(LARGE):
        size = str(hub.listed_bytes.get(name, len(hub.files[name])))
        headers = {"X_Repo_Commit": hub.commit, "X_Linked_Etag": f'"{digest}"', "X_Linked_Size": size}
        return _send(handler, 302, Location=f"{hub.cdn}/{hub.digest(name)}", **headers)
    return _send(handler, 200, hub.files[name], X_Repo_Commit=hub.commit, ETag=f'"{digest}"')


def _answer_cdn(handler: BaseHTTPRequestHandler, hub: FakeHub) -> None:
    if token := handler.headers.get("Authorization"):
        hub.tokens_at_cdn.append(token)
    if hub.cdn_failures > 0:
        hub.cdn_failures -= 1
        return _send(handler, 503)
    name = next(name for name in hub.files if hub.digest(name) == handler.path[1:])
    content = hub.files[name]
    if name in hub.corrupted:
        content = bytes([content[0] ^ 1]) + content[1:]
    wanted = handler.headers.get("Range", "")
    start = 0 if hub.ignores_ranges or not wanted else int(wanted.removeprefix("bytes=").removesuffix("-"))
    hub.ranges.append(wanted)
    body = content[start:]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    breaks_off = hub.drops > 0 and len(body) > hub.drop_after
    if breaks_off:
        hub.drops -= 1
        body = body[: hub.drop_after]
    hub.sent_bytes += len(body)  # before the write: the client may be done before this thread goes on
    handler.wfile.write(body)
    if breaks_off:
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
    return None
