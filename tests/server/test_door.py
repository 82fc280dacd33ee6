"""Targets, hosts, origins and headers: what is refused before anything is looked up."""

import asyncio

import pytest

from small4.server.bounds import Bounds
from small4.server.door import Access
from tests.server.asgi import CHAT, Client, Served

PATHS = ["/v1/chat/completions", "/v1/models", "/metrics", "/health", "/"]


def mutations(path: str) -> set[str]:
    """Other spellings of a path that some reader of URLs takes for the same."""
    spelled = set()
    for position in [i for i, letter in enumerate(path) if letter == "/"]:
        for slash in ("//", "/./", "/../", "/x/../", "%2f", "%2F", "%5c", "\\", "/;/", "/;a=b/", "/%2e/", "/%2e%2e/"):
            spelled.add(path[:position] + slash + path[position + 1 :])
    for position in [i for i, letter in enumerate(path) if letter.isalpha()]:
        spelled.add(f"{path[:position]}%{ord(path[position]):02x}{path[position + 1 :]}")
        spelled.add(f"{path[:position]}%25{ord(path[position]):02x}{path[position + 1 :]}")
    spelled |= {
        path + end for end in (";", ";x", "%00", "%0a", "%20", "%23", "%3f", "/.", "/..", "\x00", "é", "?", "|")
    }
    spelled |= {f"http://localhost{path}", f"//localhost{path}", path.lstrip("/") or "*", "*", ""}
    return spelled - {path, path + "?"}


ALL_MUTATIONS = sorted({spelled for path in PATHS for spelled in mutations(path)})


def test_no_other_spelling_of_a_path_is_served(tmp_path):
    served = Served(tmp_path)

    async def check():
        replies = {}
        for target in ALL_MUTATIONS:
            for method in ("GET", "POST"):
                replies[method, target] = (await served.client.request(method, target, CHAT)).status
        return replies

    replies = asyncio.run(check())
    assert len(replies) > 400
    assert not {target: status for target, status in replies.items() if status not in (400, 404)}


def test_trailing_slash_is_no_redirect(tmp_path):
    reply = asyncio.run(Served(tmp_path).client.get("/health/"))
    assert reply.status == 404


def test_escaped_colon_is_the_one_escape_that_is_read(tmp_path):
    served = Served(tmp_path)
    assert asyncio.run(served.client.get("/v1/models/a%3Ab")).status == 404
    assert asyncio.run(served.client.get("/v1/models/a%40b")).status == 400


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:4119", "127.0.0.1:4119", "[::1]:4119", "192.168.1.7", "LOCALHOST", "api.example:80"],
)
def test_served_hosts_are_served(tmp_path, host):
    served = Served(tmp_path, access=Access(hosts=("api.example",)))
    assert asyncio.run(served.client.get("/health", headers={"host": host})).status == 200


FOREIGN_HOSTS = [
    *("", None, "evil.example", "localhost.evil.example", "evil.example:4119", "127.0.0.1.evil.example"),
    *("localhost@evil.example", "localhost:4119@evil.example", "evil.example/localhost", "evil.example?localhost"),
    *("localhost#", "localhost,evil.example", "localhost evil.example", "[::1", "[::1]x", "[evil.example]:1"),
    *(
        "localhost:port",
        "localhost:1:2",
        "api.example.",
        "xapi.example",
        "locälhost",
        "0x7f000001",
        "2130706433",
        "127.1",
    ),
]


def test_foreign_hosts_are_refused_even_where_no_key_is_needed(tmp_path):
    served = Served(tmp_path, access=Access(hosts=("api.example",)))

    async def check():
        for host in FOREIGN_HOSTS:
            for path in ("/health", "/v1/chat/completions"):
                assert (await served.client.get(path, headers={"host": host})).status == 403, host

    asyncio.run(check())


def test_any_host_is_served_where_that_was_asked_for(tmp_path):
    served = Served(tmp_path, access=Access(hosts=("*",)))
    assert asyncio.run(served.client.get("/health", headers={"host": "anything.example"})).status == 200
    assert asyncio.run(served.client.get("/health", headers={"host": "a/b"})).status == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost:4119", "http://localhost", "", "*"]
)
def test_pages_of_other_origins_are_refused(tmp_path, origin):
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", CHAT, headers={"origin": origin}))
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


def test_own_and_allowed_origins_are_answered_and_named(tmp_path):
    served = Served(tmp_path, access=Access(origins=("https://chat.example",)))
    for origin in ("http://localhost:4119", "https://chat.example"):
        reply = asyncio.run(served.client.post("/v1/chat/completions", CHAT, headers={"origin": origin}))
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)


def test_preflight_is_answered_without_a_key_for_allowed_origins_only(tmp_path):
    served = Served(tmp_path, access=Access(origins=("https://chat.example",)))
    served.store.create("laptop")

    async def ask(origin: str, path: str = "/v1/chat/completions"):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        return await served.client.request("OPTIONS", path, headers=headers)

    assert asyncio.run(ask("https://chat.example")).status == 204
    assert asyncio.run(ask("https://evil.example")).status == 403
    assert not served.provider.requests


@pytest.mark.parametrize(
    "name", ["host", "authorization", "x-api-key", "x-goog-api-key", "origin", "content-length", "idempotency-key"]
)
def test_doubled_header_is_refused_even_where_both_say_the_same(tmp_path, name):
    value = "localhost" if name == "host" else "1"
    headers = [("host", "localhost")] if name != "host" else []
    reply = asyncio.run(Served(tmp_path).client.get("/health", headers=[*headers, (name, value), (name, value)]))
    assert reply.status == 400
    assert name in reply.json["error"]["message"]


def test_two_lengths_are_refused(tmp_path):
    headers = {"content-length": "5", "transfer-encoding": "chunked"}
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", CHAT, headers=headers))
    assert reply.status == 400
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_compressed_body_is_refused_unread(tmp_path, encoding):
    headers = {"content-encoding": encoding}
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", CHAT, headers=headers))
    assert reply.status == 415


def test_number_of_headers_is_bounded_at_its_limit(tmp_path):
    served = Served(tmp_path, bounds=Bounds(max_headers=10))
    for num_more, status in ((9, 200), (10, 431)):
        headers = {f"x-{number}": "1" for number in range(num_more)}
        assert asyncio.run(served.client.get("/health", headers=headers)).status == status


def test_size_of_headers_is_bounded_at_its_limit(tmp_path):
    size = len("host") + len("localhost:4119") + len("x-a")
    served = Served(tmp_path, bounds=Bounds(max_header_bytes=100))
    for length, status in ((100 - size, 200), (101 - size, 431)):
        assert asyncio.run(served.client.get("/health", headers={"x-a": "y" * length})).status == status


def test_length_of_the_target_is_bounded_at_its_limit(tmp_path):
    served = Served(tmp_path, bounds=Bounds(max_target_bytes=50))
    for length, status in ((50, 200), (51, 414)):
        assert asyncio.run(served.client.get("/health?" + "x" * (length - len("/health")))).status == status


def test_client_address_is_not_taken_from_a_header(tmp_path):
    client = Client(Served(tmp_path).app, address=("192.0.2.1", 1))
    headers = {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1", "x-real-ip": "127.0.0.1"}
    assert asyncio.run(client.post("/v1/chat/completions", CHAT, headers=headers)).status == 403
