"""Default deny: every path times method times credential, from the table of paths itself."""

import asyncio
import re

import pytest

from small4.server.auth import extract_key
from small4.server.door import Access
from small4.server.keys import SCOPES
from tests.server.asgi import CHAT, Client, Served

OPEN = {"/", "/health", "/ready"}
METHODS = ("GET", "HEAD", "POST", "DELETE", "MADE_UP")
CARRIERS = ("bearer", "x-api-key", "x-goog-api-key", "query")


def filled(path: str) -> str:
    """A path of the table with something in its parameters."""
    return re.sub(r"\{[^}]*\}", "scripted", path)


def carried(key: str | None, carrier: str, path: str) -> tuple[str, dict[str, str]]:
    if key is None:
        return path, {}
    match carrier:
        case "bearer":
            return path, {"authorization": f"Bearer {key}"}
        case "query":
            return f"{path}?key={key}", {}
        case _:
            return path, {carrier: key}


class Locked:
    """A server with keys of every kind."""

    def __init__(self, directory) -> None:
        self.now = 1_800_000_000.0
        self.served = Served(directory)
        store = self.served.store
        store._clock = lambda: self.now
        self.keys: dict[str, str | None] = {"none": None, "empty": "", "nonsense": "sk-123"}
        self.keys["expired"] = store.create("expired", frozenset(SCOPES), 1.0)[0]
        self.keys["revoked"], revoked = store.create("revoked", frozenset(SCOPES))
        store.revoke(revoked.id)
        self.keys["mistyped"] = self.keys["revoked"][:-1] + "!"
        for scope in SCOPES:
            self.keys[scope] = store.create(scope, frozenset({scope}))[0]
        self.now += 10

    def expected(self, needs: str, name: str) -> bool:
        """Whether this key opens a path that needs this."""
        return needs == "open" or (name in SCOPES and needs in ("any", name))


def needs_of(rows, path: str, method: str) -> str:
    """What the table says of a request, read off it without the router."""
    for row in rows:
        pattern = re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\w+:path\}", ".*", row.path))
        if re.fullmatch(pattern, path) and ("GET" if method == "HEAD" else method) in row.methods:
            return row.needs
    return "any"


def test_every_path_method_and_credential_is_decided_by_the_table(tmp_path):
    locked = Locked(tmp_path)
    client = Client(locked.served.app)
    rows = locked.served.app.state.routes.paths

    async def check():
        wrong, num_cells = [], 0
        for row in rows:
            for method in METHODS:
                names = locked.keys if method in row.methods else ("none", "inference")
                for name in names:
                    key = locked.keys[name]
                    path, headers = carried(key, CARRIERS[num_cells % 4], filled(row.path))
                    reply = await client.request(method, path, CHAT, headers=headers)
                    is_let_in = reply.status not in (401, 403)
                    num_cells += 1
                    if is_let_in != locked.expected(needs_of(rows, filled(row.path), method), name):
                        wrong.append((row.path, method, name, reply.status))
        return wrong, num_cells

    wrong, num_cells = asyncio.run(check())
    assert not wrong
    assert num_cells > 800


def test_open_paths_do_not_look_at_credentials(tmp_path):
    locked = Locked(tmp_path)
    client = Client(locked.served.app)
    for headers in ({"authorization": "Basic YTpi"}, {"x-api-key": "one", "x-goog-api-key": "another"}):
        assert asyncio.run(client.request("GET", "/health", headers=headers)).status == 200
        assert asyncio.run(client.request("GET", "/v1/models", headers=headers)).status in (400, 401)


def test_only_the_named_paths_are_open_and_only_to_be_read(tmp_path):
    rows = Served(tmp_path).app.state.routes.paths
    assert {row.path for row in rows if row.needs == "open"} == OPEN
    assert all(row.methods == ("GET",) for row in rows if row.needs == "open")
    assert {row.needs for row in rows} <= {"open", "any", *SCOPES}


def test_every_route_of_the_application_is_a_row_of_the_table(tmp_path):
    app = Served(tmp_path).app
    assert [route.path for route in app.routes] == [row.path for row in app.state.routes.paths]


def test_all_four_carriers_open_the_same(tmp_path):
    served = Served(tmp_path)
    text, _ = served.store.create("laptop")
    client = Client(served.app)

    async def check():
        for carrier in CARRIERS:
            path, headers = carried(text, carrier, "/v1/chat/completions")
            assert (await client.post(path, CHAT, headers=headers)).status == 200, carrier
            path, headers = carried(text[:-1], carrier, "/v1/chat/completions")
            assert (await client.post(path, CHAT, headers=headers)).status == 401, carrier

    asyncio.run(check())


def test_path_that_no_table_holds_needs_a_key_before_it_is_a_404(tmp_path):
    served = Served(tmp_path)
    text, _ = served.store.create("laptop")
    assert asyncio.run(served.client.get("/v1/secret")).status == 401
    assert asyncio.run(Client(served.app, text).get("/v1/secret")).status == 404


def test_without_a_key_only_this_machine_may_call(tmp_path):
    served = Served(tmp_path)
    for address, status in ((("127.0.0.1", 1), 200), (("::1", 1), 200), (("10.0.0.1", 1), 403), (("0.0.0.0", 1), 403)):
        assert asyncio.run(Client(served.app, address=address).post("/v1/chat/completions", CHAT)).status == status


def test_any_key_text_is_let_pass_on_this_machine_while_none_exists(tmp_path):
    client = Client(Served(tmp_path).app, key="unused")  # SDKs insist on sending one
    assert asyncio.run(client.post("/v1/chat/completions", CHAT)).status == 200


def test_first_key_shuts_the_door_to_this_machine_too(tmp_path):
    served = Served(tmp_path)
    assert asyncio.run(served.client.post("/v1/chat/completions", CHAT)).status == 200
    served.store.create("laptop")
    assert asyncio.run(served.client.post("/v1/chat/completions", CHAT)).status == 401


def test_two_different_keys_in_one_request_are_refused(tmp_path):
    served = Served(tmp_path)
    one, _ = served.store.create("one")
    two, _ = served.store.create("two")
    client = Client(served.app)
    assert (
        asyncio.run(client.post("/v1/chat/completions", CHAT, headers={"x-api-key": one, "x-goog-api-key": two})).status
        == 400
    )
    same = {"x-api-key": one, "authorization": f"Bearer {one}"}
    assert asyncio.run(client.post("/v1/chat/completions", CHAT, headers=same)).status == 200


@pytest.mark.parametrize("value", ["Basic abc", "Digest x", "s4_key", "Token KEY"])
def test_other_schemes_of_authorization_open_nothing(tmp_path, value):
    served = Served(tmp_path)
    served.store.create("laptop")
    reply = asyncio.run(served.client.post("/v1/chat/completions", CHAT, headers={"authorization": value}))
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"


def test_key_in_the_query_is_read_only_where_allowed(tmp_path):
    served = Served(tmp_path, access=Access(accepts_key_in_query=False))
    text, _ = served.store.create("laptop")
    assert asyncio.run(served.client.post(f"/v1/chat/completions?key={text}", CHAT)).status == 401


@pytest.mark.parametrize("query", [b"key=%ff", b"key=a&key=b", b"key=" + b"&x" * 100])
def test_odd_queries_are_no_way_in(tmp_path, query):
    served = Served(tmp_path)
    served.store.create("laptop")
    reply = asyncio.run(served.client.post(f"/v1/chat/completions?{query.decode()}", CHAT))
    assert reply.status in (400, 401)


def test_extractor_reads_a_key_whatever_the_case_of_bearer():
    for value in (b"Bearer k", b"bearer k", b"BEARER  k "):
        scope = {"headers": [(b"authorization", value)], "query_string": b""}
        assert extract_key(scope, accepts_query=True) == "k"


def test_caller_and_salt_come_from_the_key_and_from_nothing_else(tmp_path):
    served = Served(tmp_path)
    (one, key_one), (two, _) = served.store.create("one"), served.store.create("two")
    body = {**CHAT, "user": "someone", "cache_salt": "mine", "prompt_cache_key": "mine"}

    async def check():
        for key in (one, two, one):
            await Client(served.app, key).post("/v1/chat/completions", body)

    asyncio.run(check())
    callers = [caller for _, caller in served.provider.requests]
    assert (callers[0].name, callers[0].salt) == (callers[2].name, callers[2].salt)
    assert callers[0].name == key_one.id
    assert callers[0].salt != callers[1].salt
    assert len(callers[0].salt) == 32
