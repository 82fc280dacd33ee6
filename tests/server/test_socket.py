"""Over a real socket: what only the bytes of a connection show."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import h11
import httpx2
import pytest

from small4.chat import Finish, TextDelta, Usage
from small4.errors import ConfigError
from small4.providers.scripted import Pause
from small4.server.bounds import Bounds
from small4.server.protocol import StreamingConnection
from small4.server.run import check_address, open_files, serving
from tests.server.asgi import CHAT, STREAM, Served

BODY = json.dumps(CHAT).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


def talk(url: str, data: bytes, *, seconds: float = 2.0) -> bytes:
    """Send bytes; everything that comes back until the other side closes, or nothing comes for so long."""
    with socket.create_connection(address(url), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            received += b"<still open>"
        except ConnectionResetError:
            pass
        return received


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("state"), bounds=Bounds(header_seconds=0.1, body_idle_seconds=0.1))
    with serving(served.app) as url:
        yield url


def whole(head: bytes, body: bytes = BODY) -> bytes:
    return head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_honest_request_is_answered(url):
    reply = talk(url, whole(HEAD))
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"Hello!" in reply


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_parts_of_a_body_are_framed_as_h11_frames_them(version):
    sent = []
    for connection in (StreamingConnection(h11.SERVER), h11.Connection(h11.SERVER)):
        connection.receive_data(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        while connection.next_event() is not h11.NEED_DATA and connection.their_state is not h11.DONE:
            pass
        events = [h11.Response(status_code=200, headers=[])]
        events += [h11.Data(data=data) for data in (b"a", b"", b"x" * 70_000)]
        sent.append([bytes(connection.send(event)) for event in [*events, h11.EndOfMessage()]])
        with pytest.raises(h11.LocalProtocolError):
            connection.send(h11.Data(data=b"behind the end"))
    assert sent[0] == sent[1]


def chunked(body: bytes = BODY) -> bytes:
    return b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


def test_chunked_body_is_read(url):
    reply = talk(url, HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked())
    assert b"Hello!" in reply


HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
SMUGGLED = {
    "length and chunks": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": HEAD + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY + HIDDEN,
    "the same length twice": HEAD + LENGTH + LENGTH + b"\r\n" + BODY + HIDDEN,
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n" + b"xxxxx" + HIDDEN,
    "signed length": HEAD + b"Content-Length: +5\r\n\r\n" + b"xxxxx" + HIDDEN,
    "hexadecimal length": HEAD + b"Content-Length: 0x5\r\n\r\n" + b"xxxxx" + HIDDEN,
    "blank in a name": HEAD + b"Content-Length : 5\r\n\r\n" + b"xxxxx" + HIDDEN,
    "folded header": HEAD + b"X-A: 1\r\n Content-Length: 5\r\n\r\n" + b"xxxxx" + HIDDEN,
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + HIDDEN,
    "one bare line feed": HEAD + b"X-A: 1\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "carriage return in a value": HEAD + b"X-A: 1\rContent-Length: 0\r\n\r\n" + HIDDEN,
    "nothing in a name": HEAD + b": 1\r\n\r\n" + HIDDEN,
    "two hosts": HEAD + b"Host: evil.example\r\n\r\n" + HIDDEN,
    "no host": b"GET /health HTTP/1.1\r\n\r\n" + HIDDEN,
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked() + HIDDEN,
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked() + HIDDEN,
    "coding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked() + HIDDEN,
    "bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + HIDDEN,
    "chunk without its end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + HIDDEN,
    "null byte": HEAD + b"X-A: \x00\r\n\r\n" + HIDDEN,
    "other protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "old protocol": b"GET /health\r\n\r\n" + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_request_that_can_be_read_in_two_ways_ends_its_connection(url, name):
    reply = talk(url, SMUGGLED[name])
    assert reply.startswith(b"HTTP/1.1 400 "), reply
    assert reply.count(b"HTTP/1.1 ") == 1, reply  # what was hidden behind it is not answered
    assert not reply.endswith(b"<still open>")


def test_two_honest_requests_in_one_packet_are_both_answered(url):
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    reply = talk(url, HEAD + length + BODY + whole(HEAD))
    assert reply.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("start", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_headers_that_do_not_come_are_not_waited_for(url, start):
    began = time.monotonic()
    reply = talk(url, start, seconds=5.0)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 3.0


def test_headers_that_come_byte_by_byte_are_not_waited_for_either(url):
    began = time.monotonic()
    with socket.create_connection(address(url), timeout=5) as connection:
        try:
            for _ in range(500):
                connection.sendall(b"G")
                time.sleep(0.01)
        except OSError:
            pass
    assert time.monotonic() - began < 3.0


def test_next_request_of_a_connection_has_its_headers_timed_too(url):
    reply = talk(url, HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"GET /heal", seconds=5.0)
    assert (reply.count(b"HTTP/1.1 200 "), reply.count(b"HTTP/1.1 408 ")) == (1, 1)


def test_body_that_does_not_come_is_not_waited_for(url):
    reply = talk(url, HEAD + b"Content-Length: 100\r\n\r\n{", seconds=5.0)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert not reply.endswith(b"<still open>")


def test_declared_body_over_the_limit_is_refused_and_the_connection_closed(url):
    reply = talk(url, HEAD + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 1000)
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert not reply.endswith(b"<still open>")


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/embeddings", b"/v1/responses/x/cancel", b"/unheard"])
def test_refusal_of_an_unread_body_closes_the_connection(url, path):
    reply = talk(url, b"POST %s HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000000\r\n\r\nxxx" % path)
    assert reply.startswith(b"HTTP/1.1 403 ")
    assert not reply.endswith(b"<still open>")
    reply = talk(url, b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\n{" % path)
    assert not reply.endswith(b"<still open>")


def test_refusal_of_a_body_that_was_read_keeps_the_connection(url):
    bad = HEAD + b"Content-Length: 1\r\n\r\n{"
    reply = talk(url, bad + whole(HEAD))
    assert (reply.count(b"HTTP/1.1 400 "), reply.count(b"HTTP/1.1 200 ")) == (1, 1)


def test_every_line_of_the_log_is_json_whatever_was_sent(tmp_path, capfd):
    served = Served(tmp_path)
    with serving(served.app) as url:
        for data in SMUGGLED.values():
            talk(url, data)
    lines = served.logged()
    assert {line["event"] for line in lines} <= {"http", "request"}
    assert any(line["event"] == "http" for line in lines)
    assert capfd.readouterr().err == ""


def test_headers_over_the_limit_end_the_connection(url):
    for headers in (b"X-A: " + b"y" * 40_000 + b"\r\n", b"X-A: 1\r\n" * 65):
        reply = talk(url, HEAD + headers + b"\r\n")
        assert reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert not reply.endswith(b"<still open>")


def test_connections_are_bounded(tmp_path):
    with serving(Served(tmp_path, bounds=Bounds(max_connections=2)).app) as url:
        held = [socket.create_connection(address(url)) for _ in range(2)]
        time.sleep(0.05)
        assert talk(url, b"").startswith(b"HTTP/1.1 503 ")
        for connection in held:
            connection.close()
        time.sleep(0.05)
        assert b" 200 " in talk(url, whole(HEAD))


def test_no_header_names_the_software(url):
    reply = talk(url, whole(HEAD)).lower()
    assert b"uvicorn" not in reply
    assert b"\r\nserver:" not in reply


def test_leaving_ends_the_answer_at_once(tmp_path):
    served = Served(tmp_path, [TextDelta("a"), Pause(60)])
    with serving(served.app) as url:
        with httpx2.stream("POST", url + "/v1/chat/completions", json=STREAM) as reply:
            parts = reply.iter_bytes()
            next(parts)
            assert served.provider.num_open == 1
        deadline = time.monotonic() + 2
        while served.provider.num_open and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (served.provider.num_open, served.provider.num_left) == (0, 1)


def test_slow_reader_fills_no_memory_here(tmp_path):
    words = [TextDelta("x" * 10_000) for _ in range(4000)]
    served = Served(tmp_path, [*words, Finish("stop", Usage(1, 4000))])
    with serving(served.app) as url, socket.create_connection(address(url)) as connection:
        body = json.dumps(STREAM).encode()
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
        exchange_bytes = 40_000_000
        assert served.provider.num_open == 1  # 40 MB were to be sent, and wait with the provider
        received = 0
        while served.provider.num_open:
            received += len(connection.recv(2**20))
        assert received > exchange_bytes / 2


LARGE = [TextDelta("x" * 2**20) for _ in range(12)]  # more than the system's buffers of a connection hold
ONE_BY_ONE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
UNREAD = {
    "whole": ONE_BY_ONE,
    "whole, then closed": whole(HEAD),
    "whole, another behind it": ONE_BY_ONE * 2,
    "stream": whole(HEAD, json.dumps(STREAM).encode()),
    "pages": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400,
}


def unread(url: str, data: bytes, buffer_bytes: int = 4096) -> socket.socket:
    """A connection whose client has asked and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect(address(url))
    connection.settimeout(0.1)
    with suppress(TimeoutError):  # the server reads no further while its answers wait
        connection.sendall(data)
    return connection


@pytest.mark.parametrize("name", UNREAD)
def test_client_that_reads_nothing_holds_its_connection_no_longer_than_the_limit(tmp_path, name):
    bounds = Bounds(max_connections=1, send_stall_seconds=0.1, heartbeat_seconds=60)
    served = Served(tmp_path, [*LARGE, Finish("stop", Usage(1, 12))], bounds=bounds)
    with serving(served.app) as url, unread(url, UNREAD[name]):
        assert talk(url, b"").startswith(b"HTTP/1.1 503 ")  # it is held
        deadline = time.monotonic() + 10
        while b" 200 " not in (reply := talk(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds=0.2)):
            assert time.monotonic() < deadline, reply
            time.sleep(0.02)
        assert served.provider.num_open == 0


def test_client_that_reads_slower_than_the_least_rate_is_let_go(tmp_path):
    bounds = Bounds(send_stall_seconds=0.1, min_send_bytes_per_second=200 * 2**20)
    served = Served(tmp_path, [*LARGE, Finish("stop", Usage(1, 12))], bounds=bounds)
    with serving(served.app) as url, unread(url, whole(HEAD), 2**18) as connection:
        connection.settimeout(5)
        received = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(2**16):
                received += len(part)
                time.sleep(0.01)
        assert received < 12 * 2**20


def test_client_that_reads_slowly_gets_all_of_it(tmp_path):
    served = Served(tmp_path, [*LARGE, Finish("stop", Usage(1, 12))], bounds=Bounds(send_stall_seconds=0.8))
    with serving(served.app) as url, unread(url, whole(HEAD), 2**18) as connection:
        connection.settimeout(5)
        began, received = time.monotonic(), 0
        while part := connection.recv(2**18):
            received += len(part)
            time.sleep(0.02)
        assert received > 12 * 2**20
        assert time.monotonic() - began > 0.8


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 524_288, (4352, 4096)),  # as most systems have it
        (20_000, 20_000, (20_000, 4096)),
        (1024, 2048, (2048, 1792)),
        (100, 100, (100, 50)),
        (1024, resource.RLIM_INFINITY, (4352, 4096)),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, (resource.RLIM_INFINITY, 4096)),
    ],
)
def test_connections_leave_files_to_be_opened(soft, hard, expected):
    assert open_files(4096, soft, hard) == expected


def test_server_asks_for_as_many_files_as_it_has_connections(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, limits[1]))
    try:
        with serving(Served(tmp_path, bounds=Bounds(max_connections=1000)).app):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_address_open_to_others_needs_a_key_first(tmp_path):
    served = Served(tmp_path)
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org", ""):
        with pytest.raises(ConfigError, match="no key"):
            check_address(served.service.store, host, 0)
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_address(served.service.store, host, 0)
    served.store.create("laptop")
    check_address(served.service.store, "0.0.0.0", 0)


PROGRAM = """
import sys
from pathlib import Path
from small4.chat import Finish, TextDelta, Usage
from small4.providers.scripted import Pause, ScriptedProvider
from small4.server.app import create_app
from small4.server.bounds import Bounds
from small4.server.keys import KeyStore
from small4.server.models import Offer
from small4.server.run import serve
script = [TextDelta("first"), Pause(0.5), TextDelta("last"), Finish("stop", Usage(1, 2))]
offer = Offer(id="scripted", provider=ScriptedProvider(script))
app = create_app([offer], KeyStore(Path(sys.argv[1])), bounds=Bounds(drain_seconds=float(sys.argv[2])))
serve(app, port=0, on_start=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize(
    ("grace", "end"), [("5", b"[DONE]"), pytest.param("0.05", b"stopping", marks=pytest.mark.slow)]
)
def test_sigterm_lets_open_streams_end_within_the_grace_and_exits_with_0(tmp_path, grace, end):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), grace]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    url = process.stdout.readline().decode().strip()
    with httpx2.stream("POST", url + "/v1/chat/completions", json=STREAM) as reply:
        parts = reply.iter_bytes()
        received = next(parts)
        process.send_signal(signal.SIGTERM)
        received += b"".join(parts)
    assert end in received
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in log.splitlines()].count("request") == 1
