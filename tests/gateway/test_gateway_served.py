"""The gateway behind the server: every dialect's request is booked under the id that its caller was told."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from small4.errors import UpstreamUnreachableError
from small4.gateway.attempt import Candidate
from small4.gateway.budgets import Budget
from small4.gateway.gateway import Gateway
from small4.gateway.health import Health
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.providers.scripted import HELLO, SCRIPTED, ScriptedProvider
from tests.gateway.books import rows_of
from tests.gateway.test_gateway import CHEAP
from tests.server.asgi import CHAT, Reply, Served

MESSAGES = {"model": "scripted", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def served(tmp_path: Path):
    """A server before a gateway whose first route is down, and the ledger's address."""
    url = str(tmp_path / "ledger.db")
    down = ScriptedProvider((UpstreamUnreachableError("nobody there"),))
    candidates = [
        Candidate(route="a", provider=down, prices=CHEAP),
        Candidate(route="b", provider=ScriptedProvider(HELLO), prices=CHEAP),
    ]
    with Ledger(LedgerConfig(url=url)) as ledger:
        gateway = Gateway(SCRIPTED, lambda *_: candidates, ledger, Health())
        server = Served(tmp_path / "state", provider=gateway)
        yield server, ledger, url
        server.log.close()


def post(server: Served, target: str, body: Any) -> Reply:
    return asyncio.run(server.client.post(target, body))


@pytest.mark.parametrize(
    ("target", "body", "dialect"),
    [
        ("/v1/chat/completions", CHAT, "openai"),
        ("/v1/chat/completions", {**CHAT, "stream": True}, "openai"),
        ("/v1/messages", MESSAGES, "anthropic"),
    ],
)
def test_request_is_booked_under_the_id_that_its_caller_was_told(served, target: str, body: Any, dialect: str) -> None:
    server, _, url = served
    reply = post(server, target, body)
    assert reply.status == 200
    assert b"Hello" in reply.body
    down, up = rows_of(url)
    assert {down.request_id, up.request_id} == {reply.headers["x-request-id"]}
    assert [(row.route, row.attempt, row.state, row.dialect) for row in (down, up)] == [
        ("a", 0, "released", dialect),
        ("b", 1, "settled", dialect),
    ]


def test_spent_budget_is_told_in_the_caller_s_dialect_with_its_renewal(served) -> None:
    server, ledger, url = served
    ledger.set_budgets([Budget(scope="all", dollars=Decimal("0.00001"))])
    reply = post(server, "/v1/chat/completions", CHAT)
    assert (reply.status, reply.json["error"]["code"]) == (429, "insufficient_quota")
    assert "renews at" in reply.json["error"]["message"]
    assert 0 < int(reply.headers["retry-after"]) <= 86_400
    assert rows_of(url) == []


def test_ledger_that_cannot_be_written_is_a_503(served) -> None:
    server, ledger, _ = served
    ledger.close()
    reply = post(server, "/v1/chat/completions", CHAT)
    assert reply.status == 503
    assert "retry-after" in reply.headers
