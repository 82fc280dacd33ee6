"""A server with a gateway: names, wishes, fallback, refusals, budgets, explanations and counters, in every dialect."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from small4.errors import ConfigError
from small4.gateway.budgets import Budget
from small4.gateway.config import RoutingConfig
from small4.gateway.policy import Policy
from small4.server.keys import SCOPES
from tests.gateway.books import check_books, rows_of
from tests.gateway.routed import ANSWER, BROKEN, PRICED, Made, Standing, standing
from tests.providers.fault_server import Close, head, whole
from tests.server.asgi import Client, Reply

MODEL = "mistral-small-2603"
QUESTION = [{"role": "user", "content": "Hi there"}]
CHAT = {"model": MODEL, "messages": QUESTION, "max_tokens": 100}
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", CHAT),
    "text": ("/v1/completions", {"model": MODEL, "prompt": "Hi", "max_tokens": 100}),
    "mistral": ("/mistral/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", {"model": MODEL, "input": "Hi", "max_output_tokens": 100}),
    "anthropic": ("/v1/messages", {"model": MODEL, "messages": QUESTION, "max_tokens": 100}),
    "google": (
        f"/v1beta/models/{MODEL}:generateContent",
        {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"maxOutputTokens": 100}},
    ),
}
CHEAP = {**PRICED, "price.input": "0.01", "price.output": "0.02"}
EU = {**PRICED, "region": "EU", "training": "no"}


def run(directory: Path, *routes: Made, check: Callable[[Standing], Awaitable[None]], **options: Any) -> None:
    async def all_of_it() -> None:
        async with standing(directory, *routes, **options) as it:
            await check(it)
            it.served.log.close()

    asyncio.run(all_of_it())


async def chat(it: Standing, client: Client | None = None, **fields: Any) -> Reply:
    return await (client or it.served.client).post("/v1/chat/completions", {**CHAT, **fields})


async def explained(it: Standing, reply: Reply, client: Client | None = None) -> Any:
    found = await (client or it.served.client).get(f"/v1/small4/requests/{reply.headers['x-request-id']}")
    assert found.status == 200
    return found.json


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_falls_back_and_says_where_it_went(tmp_path: Path, dialect: str) -> None:
    async def check(it: Standing) -> None:
        target, body = DIALECTS[dialect]
        reply = await it.served.client.post(target, body)
        assert (reply.status, reply.headers["x-small4-route"]) == (200, "sound")
        assert "żółte" in json.dumps(reply.json, ensure_ascii=False)
        rows = [(row.route, row.state, row.error_class, row.key, row.dialect) for row in rows_of(it.url)]
        assert rows == [
            ("failing", "released", "server", "local", dialect),
            ("sound", "settled", None, "local", dialect),
        ]
        told = await explained(it, reply)
        assert told["route"] == "sound"
        assert [one["route"] for one in told["decision"]["candidates"]] == ["failing", "sound"]
        assert [(step["route"], step["result"], step["error_class"]) for step in told["attempts"]] == [
            ("failing", "failed", "server"),
            ("sound", "answered", None),
        ]
        assert all(step["duration_seconds"] > 0 for step in told["attempts"])

    run(tmp_path, Made("failing", BROKEN, CHEAP), Made("sound"), check=check)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_spent_budget_is_a_typed_429_in_every_dialect_and_asks_nobody(tmp_path: Path, dialect: str) -> None:
    async def check(it: Standing) -> None:
        target, body = DIALECTS[dialect]
        reply = await it.served.client.post(target, body)
        assert reply.status == 429
        assert "the budget of" in reply.body.decode()
        assert int(reply.headers["retry-after"]) > 0
        assert it.providers["sound"].asked == []
        assert rows_of(it.url) == []

    run(tmp_path, Made("sound"), check=check, budgets=[Budget(scope="key", dollars=Decimal("0.000001"))])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_policy_that_leaves_nothing_is_a_404_with_its_reasons_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    async def check(it: Standing) -> None:
        target, body = DIALECTS[dialect]
        reply = await it.served.client.post(target, body)
        assert reply.status == 404
        assert "its region is unknown, not EU, training on prompts is unknown" in reply.body.decode()
        assert it.providers["sound"].asked == []
        told = await explained(it, reply)
        assert [reason["rule"] for reason in told["decision"]["removed"][0]["reasons"]] == ["regions", "training"]

    run(
        tmp_path,
        Made("sound"),
        check=check,
        config=RoutingConfig(policy=Policy(regions=frozenset({"EU"}), no_training=True)),
    )


@pytest.mark.parametrize("dialect", ["anthropic", "google", "responses"])
def test_field_that_a_route_s_api_cannot_say_goes_to_a_route_that_can(tmp_path: Path, dialect: str) -> None:
    async def check(it: Standing) -> None:
        reply = await chat(it, logit_bias={"7": 1.0})
        assert (reply.status, reply.headers["x-small4-route"]) == (200, "sound")
        assert it.providers["narrow"].asked == []
        alone = await chat(it, logit_bias={"7": 1.0}, model="narrow")
        assert (alone.status, alone.json["error"]["param"]) == (400, "logit_bias")

    run(tmp_path, Made("narrow", says=CHEAP, dialect=dialect), Made("sound"), check=check)


def test_budget_stops_after_what_it_allows(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        replies = [await chat(it) for _ in range(8)]
        statuses = [reply.status for reply in replies]
        assert statuses == sorted(statuses)
        assert {200, 429} == set(statuses)
        spent, held = check_books(it.url)
        assert held == 0
        assert 0 < spent <= 100_000_000  # 0.0001 dollars in units of 1e-12

    run(tmp_path, Made("sound"), check=check, budgets=[Budget(scope="all", dollars=Decimal("0.0001"))])


def test_request_narrows_its_policy_and_can_be_refused_by_name(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        assert (await chat(it)).headers["x-small4-route"] == "cheap"
        eu = await chat(it, provider={"regions": ["EU"], "training": "deny"})
        assert eu.headers["x-small4-route"] == "eu"
        assert "x-ignored-fields" not in eu.headers
        assert (await chat(it, provider={"order": ["eu"]})).headers["x-small4-route"] == "eu"
        wrong = await chat(it, provider={"trainng": "deny"})
        assert (wrong.status, wrong.json["error"]["param"]) == (400, "provider")
        assert b"trainng" in wrong.body

    run(tmp_path, Made("cheap", says=CHEAP), Made("eu", says=EU), check=check)


FIM = ("/v1/fim/completions", {"model": MODEL, "prompt": "Hi", "max_tokens": 100})


@pytest.mark.parametrize("dialect", [*DIALECTS, "fim"])
def test_wish_for_no_retention_is_heard_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    async def check(it: Standing) -> None:
        target, body = {**DIALECTS, "fim": FIM}[dialect]
        reply = await it.served.client.post(target, {**body, "provider": {"zdr": True, "data_collection": "deny"}})
        assert reply.status == 404
        assert "zero data retention is unknown" in reply.body.decode()
        assert it.providers["sound"].asked == []
        wrong = await it.served.client.post(target, {**body, "provider": {"zdrr": True}})
        assert wrong.status in (400, 422)
        assert b"zdrr" in wrong.body
        heard = await it.served.client.post(target, {**body, "provider": {"only": ["sound"]}})
        assert (heard.status, "x-ignored-fields" in heard.headers) == (200, False)

    run(tmp_path, Made("sound"), check=check)


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("mistral-small-4", "cheap"),
        ("mistralai/mistral-small-2603", "cheap"),
        ("mistral/mistral-small-2603", "cheap"),
        ("mistral-small-4:floor", "cheap"),
        ("mistral-small-4:nitro", "cheap"),
        ("eu", "eu"),
        ("eu/m", "eu"),
    ],
)
def test_model_ids_name_routes(tmp_path: Path, name: str, route: str) -> None:
    async def check(it: Standing) -> None:
        assert (await chat(it, model=name)).headers["x-small4-route"] == route

    run(tmp_path, Made("cheap", says=CHEAP), Made("eu", says=EU), check=check)


def test_any_model_of_a_provider_with_a_key_is_a_route_of_unknown_price(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        for name in ("lab/Some-Model", "lab/some-model"):
            reply = await chat(it, model=name)
            assert (reply.status, reply.headers["x-small4-route"]) == (200, "lab/some-model")
        assert it.providers["lab"].asked[0].json["model"] == "Some-Model"
        assert it.providers["lab"].asked[0].headers["authorization"] == f"Bearer {Made('lab').key}"
        assert [row.cost for row in rows_of(it.url)] == [None, None]
        assert (await chat(it)).status == 404  # it is no Small 4
        it.ledger.set_budgets([Budget(scope="all", dollars=Decimal(1))])
        refused = await chat(it, model="lab/Some-Model")
        assert refused.status == 403
        assert len(it.providers["lab"].asked) == 2

    config = RoutingConfig(routes=frozenset({"lab/Some-Model"}))
    run(tmp_path, Made("sound"), kept=[Made("lab")], check=check, config=config)


def test_model_of_a_provider_that_is_small_4_joins_its_routes(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        assert (await chat(it)).headers["x-small4-route"] == "lab/mistral-small-2603"
        assert (await chat(it, model="mistral-small-4")).status == 200

    config = RoutingConfig(routes=frozenset({"lab/mistral-small-2603"}))
    run(tmp_path, kept=[Made("lab")], check=check, config=config)


def test_route_that_nothing_knows_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no route 'nowhere'"):
        run(tmp_path, Made("sound"), check=chat, config=RoutingConfig(routes=frozenset({"nowhere"})))


def test_streams_name_their_route_and_models_are_listed(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        reply = await chat(it, stream=True)
        assert (reply.status, reply.headers["x-small4-route"]) == (200, "sound")
        assert reply.events[-1] == "[DONE]"
        listed = (await it.served.client.get("/v1/models")).json["data"]
        assert {"mistral-small-4", "sound"} <= {one["id"] for one in listed}
        unknown = await chat(it, model="gpt-9")
        assert unknown.status == 404
        assert unknown.json["error"]["code"] == "model_not_found"

    run(tmp_path, Made("sound"), check=check)


def test_explanations_are_the_key_s_own_and_another_s_are_as_none(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        first, _ = it.served.store.create("first")
        second, _ = it.served.store.create("second")
        ours, theirs = Client(it.served.app, first), Client(it.served.app, second)
        reply = await chat(it, ours)
        assert (await explained(it, reply, ours))["route"] == "sound"
        target = f"/v1/small4/requests/{reply.headers['x-request-id']}"
        foreign, none = await theirs.get(target), await theirs.get("/v1/small4/requests/req_0123456789abcdef01234567")
        assert (foreign.status, foreign.body) == (none.status, none.body)
        assert foreign.status == 404
        assert (await it.served.client.get(target)).status == 401

    run(tmp_path, Made("sound"), check=check)


def test_policy_of_one_key_holds_for_it_alone(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        text, key = it.served.store.create("careful")
        other, _ = it.served.store.create("other")
        it.assembly.chooser.config = RoutingConfig(by_key={key.id: Policy(no_training=True)})
        assert (await chat(it, Client(it.served.app, other))).headers["x-small4-route"] == "cheap"
        assert (await chat(it, Client(it.served.app, text))).headers["x-small4-route"] == "eu"

    run(tmp_path, Made("cheap", says=CHEAP), Made("eu", says=EU), check=check)


def test_counters_of_routes_grow_by_what_ended(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        for _ in range(3):
            await chat(it)
        for _ in range(2):
            page = (await it.served.client.get("/metrics")).body.decode()
            assert 'small4_route_attempts_total{result="server",route="failing"} 3.0' in page
            assert 'small4_route_attempts_total{result="success",route="sound"} 3.0' in page
            assert 'small4_route_output_tokens_total{route="sound"} 51.0' in page
            assert 'small4_route_left_alone{route="failing"} 0.0' in page
        for _ in range(3):
            await chat(it)
        page = (await it.served.client.get("/metrics")).body.decode()
        assert 'small4_route_left_alone{route="failing"} 1.0' in page

    run(tmp_path, Made("failing", BROKEN, CHEAP), Made("sound"), check=check)


FAILURES = {
    "echoes the key": lambda key: [whole({"error": {"message": f"bad key {key}", "param": key}}, status=401)],
    "echoes it in a 400": lambda key: [whole({"error": {"message": f"{key} is wrong", "param": key}}, status=400)],
    "echoes it in a 500": lambda key: [whole({"error": f"{key}"}, status=500, x_key=key)],
    "answers with it as a type": lambda key: [whole(b"{}", kind=f"text/{key}")],
    "cuts the head": lambda key: [head(200, "text/event-stream"), Close()],
}


@pytest.mark.parametrize("kind", FAILURES)
def test_no_piece_of_a_provider_s_key_or_of_a_prompt_leaves_by_a_failure(tmp_path: Path, kind: str) -> None:
    canary = "prompt-canary-7f3a9c"
    made = Made("leaky")

    async def check(it: Standing) -> None:
        bodies = []
        for target, body in DIALECTS.values():
            text = json.dumps(body).replace("Hi", canary)
            reply = await it.served.client.post(target, text.encode())
            assert reply.status >= 400
            bodies += [reply.body, json.dumps(reply.headers).encode()]
            bodies.append(json.dumps(await explained(it, reply)).encode())
        bodies.append((await it.served.client.get("/metrics")).body)
        bodies.append(repr(rows_of(it.url)).encode())
        bodies += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "catalog" not in file.parts]
        it.served.log.close()
        bodies.append(it.served.lines.getvalue().encode())
        seen = b"\n".join(bodies).decode("latin-1")
        assert canary not in seen
        assert not [made.key[i : i + 12] for i in range(len(made.key) - 11) if made.key[i : i + 12] in seen]
        assert it.providers["leaky"].asked[0].headers["authorization"] == f"Bearer {made.key}"

    run(tmp_path, Made("leaky", FAILURES[kind](made.key)), check=check)


def test_every_scope_but_inference_is_refused_an_explanation(tmp_path: Path) -> None:
    async def check(it: Standing) -> None:
        for scope in SCOPES:
            text, _ = it.served.store.create(scope, frozenset({scope}))
            reply = await Client(it.served.app, text).get("/v1/small4/requests/req_1")
            assert reply.status == (404 if scope == "inference" else 403)

    run(tmp_path, Made("sound", ANSWER), check=check)
