"""The gateway before scripted routes: who answers, what is booked, what is explained."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pytest

from small4.catalog.price import Prices, Rates, Tier
from small4.chat import AnswerEvent, ChatRequest, Finish, JsonSchema, Lark, Message, Regex, TextDelta, Tool, Usage
from small4.errors import (
    BudgetError,
    BusyError,
    ConnectionsBusyError,
    ContextLengthError,
    FieldError,
    RateLimitError,
    UnpricedError,
    UnsayableError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamUnreachableError,
)
from small4.gateway.attempt import Candidate
from small4.gateway.budgets import Budget
from small4.gateway.gateway import Gateway, GatewayConfig
from small4.gateway.health import Health, Outcome
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.needs import needs_of
from small4.gateway.worst_case import most_tokens
from small4.providers.estimate import prompt_tokens
from small4.providers.provider import Caller
from small4.providers.scripted import HELLO, SCRIPTED, Pause, ScriptedProvider, Step
from tests.gateway.books import check_books, rows_of

QUESTION = ChatRequest(messages=(Message("user", "Say hello."),), max_tokens=1000)
CHEAP = Prices(tiers=(Tier(standard=Rates(prompt=Decimal("0.15"), output=Decimal("0.6"))),))
DEAR = Prices(tiers=(Tier(standard=Rates(prompt=Decimal(15), output=Decimal(60))),))
DOWN = UpstreamUnreachableError("nobody there")


@dataclass
class Bench:
    """A gateway with its routes a, b, c, its books, and a caller."""

    url: str
    ledger: Ledger
    routes: list[ScriptedProvider]
    prices: list[Prices]
    health: Health = field(default_factory=Health)
    config: GatewayConfig = field(default_factory=lambda: GatewayConfig(retry_seconds=0.01))
    caller: Caller = field(default_factory=lambda: Caller(name="alice", request_id="req_1", dialect="openai"))

    def __post_init__(self) -> None:
        candidates = [
            Candidate(route=name, provider=route, prices=prices)
            for name, route, prices in zip("abc", self.routes, self.prices, strict=False)
        ]
        self.gateway = Gateway(SCRIPTED, lambda *_: candidates, self.ledger, self.health, self.config)

    async def ask(self, request: ChatRequest = QUESTION, caller: Caller | None = None) -> list[AnswerEvent]:
        return [event async for event in self.gateway.stream(request, caller or self.caller)]

    def booked(self) -> list[tuple[str, str, str | None]]:
        """Route, state and error class of every attempt."""
        return [(row.route, row.state, row.error_class) for row in rows_of(self.url)]

    def steps(self) -> list[tuple[str, str, str | None]]:
        trail = self.gateway.trails.find(self.caller.request_id, self.caller.name)
        assert trail is not None
        return [(step.route, step.result, step.error_class) for step in trail.steps]


@pytest.fixture
def bench(tmp_path: Path):
    """A function that makes a bench of routes by their scripts."""
    url = str(tmp_path / "ledger.db")
    with Ledger(LedgerConfig(url=url)) as ledger:

        def make(
            *scripts: list[tuple[Step, ...]], prices: tuple[Prices, ...] = (CHEAP, CHEAP, CHEAP), **options
        ) -> Bench:
            return Bench(url, ledger, [ScriptedProvider(*script) for script in scripts], list(prices), **options)

        yield make


def test_answer_is_that_of_its_route_and_is_booked_with_its_cost(bench) -> None:
    it = bench([HELLO])
    plain = asyncio.run(collected(ScriptedProvider()))
    assert asyncio.run(it.ask()) == plain
    (row,) = rows_of(it.url)
    assert (row.request_id, row.key, row.dialect, row.route, row.state) == ("req_1", "alice", "openai", "a", "settled")
    assert (row.prompt_tokens, row.completion_tokens, row.finish) == (5, 3, "stop")
    assert row.cost == 5 * 150_000 + 3 * 600_000
    assert row.held >= row.cost
    assert it.steps() == [("a", "answered", None)]


async def collected(provider: ScriptedProvider) -> list[AnswerEvent]:
    return [event async for event in provider.stream(QUESTION, Caller())]


def test_money_is_held_before_the_route_is_asked(bench) -> None:
    class Witness(ScriptedProvider):
        async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
            seen.extend(it.booked())
            async for event in super().stream(request, caller):
                yield event

    seen: list = []
    it = bench([HELLO])
    it.routes[0] = Witness()
    it.__post_init__()
    asyncio.run(it.ask())
    assert seen == [("a", "held", None)]


def test_end_is_booked_before_the_caller_sees_it(bench) -> None:
    async def run() -> None:
        async for event in it.gateway.stream(QUESTION, it.caller):
            if isinstance(event.event, Finish):
                assert it.booked() == [("a", "settled", None)]

    it = bench([HELLO])
    asyncio.run(run())


def test_end_that_waits_for_no_disk_is_booked_all_the_same(bench) -> None:
    it = bench([HELLO], config=GatewayConfig(books_ends_first=False))
    asyncio.run(it.ask())
    it.ledger.close()
    assert it.booked() == [("a", "settled", None)]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (DOWN, "unreachable"),
        (UpstreamError("dead", 500), "server"),
        (RateLimitError("wait", 30.0), "rate_limit"),
        (UpstreamKeyError("no", 401), "key"),
        (UpstreamError("no such model", 404), "refused"),
        (ContextLengthError("too long for this one"), "caller"),
        (ValueError("a bug of the provider's"), "internal"),
    ],
)
def test_route_that_fails_before_its_answer_gives_way_to_the_next(bench, error: Exception, name: str) -> None:
    it = bench([(error,)], [HELLO])
    assert asyncio.run(it.ask())[-1].event == HELLO[-1]
    assert it.booked() == [("a", "released", name), ("b", "settled", None)]
    assert it.steps() == [("a", "failed", name), ("b", "answered", None)]
    assert it.gateway.trails.find("req_1", "alice").route == "b"
    assert check_books(it.url)[1] == 0


@pytest.mark.parametrize("status", [402, 403])
def test_request_that_an_account_may_not_make_takes_no_route_from_others(bench, status: int) -> None:
    it = bench([(UpstreamKeyError("not this", status),), HELLO], [HELLO])
    assert asyncio.run(it.ask())[-1].event == HELLO[-1]
    asyncio.run(it.ask(caller=replace(it.caller, name="bob", request_id="req_2")))
    assert it.booked() == [("a", "released", "key"), ("b", "settled", None), ("a", "settled", None)]


def test_our_own_limit_of_connections_says_nothing_of_a_route(bench) -> None:
    it = bench([(ConnectionsBusyError("all in use"),)], [HELLO])
    for number in range(9):
        asyncio.run(it.ask(caller=replace(it.caller, request_id=f"req_{number}")))
    assert it.booked() == [("a", "released", "busy"), ("b", "settled", None)] * 9
    assert it.health.phase("a") == "closed"
    assert it.health.measure("a", "5m").uptime is None
    alone = bench([(ConnectionsBusyError("all in use"),)], caller=Caller(name="alice", request_id="req_alone"))
    with pytest.raises(BusyError):
        asyncio.run(alone.ask())
    assert alone.steps() == [("a", "failed", "busy")]


def test_field_that_one_api_has_no_word_for_goes_to_the_next(bench) -> None:
    it = bench([(UnsayableError("no word for seed", "seed"),)], [HELLO])
    asyncio.run(it.ask())
    assert it.booked() == [("a", "released", "unsayable"), ("b", "settled", None)]
    assert it.health.measure("a", "5m").uptime is None


def test_field_that_no_api_has_a_word_for_is_told_unless_another_route_only_failed(bench) -> None:
    unsayable = (UnsayableError("no word for seed", "seed"),)
    with pytest.raises(UnsayableError):
        asyncio.run(bench([unsayable], [unsayable]).ask())
    config = GatewayConfig(max_retries=0)
    it = bench([(DOWN,)], [unsayable], config=config, caller=Caller(name="alice", request_id="req_2"))
    with pytest.raises(UpstreamUnreachableError):
        asyncio.run(it.ask())


def test_nothing_is_tried_again_once_something_was_seen(bench) -> None:
    it = bench([(TextDelta("Hel"), UpstreamError("cut"))], [HELLO])
    with pytest.raises(UpstreamError, match="cut"):
        asyncio.run(it.ask())
    assert it.routes[1].requests == []
    (row,) = rows_of(it.url)
    assert (row.state, row.finish, row.error_class, row.is_estimate) == ("settled", "error", "broken", True)
    assert row.cost > 0


def test_mistake_of_the_caller_is_told_at_once_and_costs_nothing(bench) -> None:
    it = bench([(FieldError("temperature is 9"),)], [HELLO])
    with pytest.raises(FieldError):
        asyncio.run(it.ask())
    assert it.booked() == [("a", "released", "caller")]
    assert it.health.measure("a", "5m").uptime is None


def test_answer_that_stops_without_an_end_is_an_error(bench) -> None:
    it = bench([(TextDelta("Hello"),)])
    with pytest.raises(UpstreamError, match="broke off"):
        asyncio.run(it.ask())
    assert it.booked() == [("a", "settled", "broken")]


def test_time_out_without_an_answer_is_charged_as_the_whole_hold(bench) -> None:
    it = bench([(UpstreamError("too slow", 504),)], [HELLO])
    asyncio.run(it.ask())
    slow, _ = rows_of(it.url)
    assert (slow.state, slow.error_class, slow.completion_tokens, slow.is_estimate) == ("settled", "timeout", 0, True)
    assert slow.cost == slow.held


def test_caller_who_leaves_is_booked_by_what_came(bench) -> None:
    async def run() -> None:
        async with aclosing(it.gateway.stream(QUESTION, it.caller)) as events:
            await anext(events)

    it = bench([(TextDelta("Hello " * 100), Pause(60), Finish("stop", Usage(5, 200)))])
    asyncio.run(run())
    it.ledger.close()
    (row,) = rows_of(it.url)
    assert (row.state, row.finish, row.is_estimate, row.error_class) == ("settled", "aborted", True, None)
    assert row.completion_tokens == 150
    assert it.routes[0].num_open == 0
    assert it.steps() == [("a", "left", None)]
    assert it.health.measure("a", "5m") is None


def test_request_cancelled_at_any_moment_leaves_nothing_held(bench) -> None:
    async def run() -> None:
        for number in range(40):
            caller = replace(it.caller, request_id=f"req_{number}")
            task = asyncio.create_task(it.ask(caller=caller))
            await asyncio.sleep(number * 0.0003)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    it = bench([(Pause(0.002), TextDelta("Hello"), Pause(0.002), Finish("stop", Usage(5, 1)))])
    asyncio.run(run())
    it.ledger.close()
    assert not [row for row in it.booked() if row[1] == "held"]
    assert check_books(it.url)[1] == 0
    assert it.routes[0].num_open == 0


def test_budget_passes_over_what_is_too_dear(bench) -> None:
    it = bench([HELLO], [HELLO], prices=(DEAR, CHEAP))
    it.ledger.set_budgets([Budget(scope="key", dollars=Decimal("0.01"))])
    asyncio.run(it.ask())
    assert it.booked() == [("b", "settled", None)]
    assert it.steps() == [("a", "passed over", "budget"), ("b", "answered", None)]


def test_spent_budget_refuses_and_asks_nobody(bench) -> None:
    it = bench([HELLO])
    it.ledger.set_budgets([Budget(scope="key", dollars=Decimal("0.000001"))])
    with pytest.raises(BudgetError):
        asyncio.run(it.ask())
    assert it.routes[0].requests == []


def test_unknown_price_is_refused_under_a_budget_unless_nobody_bills(bench) -> None:
    it = bench([HELLO], prices=(Prices(),))
    it.ledger.set_budgets([Budget(scope="all", dollars=Decimal(1))])
    with pytest.raises(UnpricedError):
        asyncio.run(it.ask())
    local = Candidate(route="local", provider=ScriptedProvider(), is_local=True)
    it.gateway = Gateway(SCRIPTED, lambda *_: [local], it.ledger, it.health)
    asyncio.run(it.ask())
    (row,) = rows_of(it.url)
    assert (row.route, row.held, row.cost) == ("local", 0, None)


def test_only_route_is_asked_again_after_a_pause_and_only_so_often(bench) -> None:
    it = bench([(DOWN,), (DOWN,), HELLO])
    asyncio.run(it.ask())
    assert [result for _, result, _ in it.steps()] == ["failed", "failed", "answered"]
    it = bench([(DOWN,)], caller=Caller(name="alice", request_id="req_2"))
    with pytest.raises(UpstreamUnreachableError):
        asyncio.run(it.ask())
    assert len(it.steps()) == 3


def test_provider_that_asks_for_a_long_pause_is_not_asked_again(bench) -> None:
    it = bench([(RateLimitError("wait", 30.0),)])
    with pytest.raises(RateLimitError):
        asyncio.run(it.ask())
    assert it.steps() == [("a", "failed", "rate_limit")]


def test_route_that_keeps_failing_is_left_alone(bench) -> None:
    async def run() -> None:
        for number in range(10):
            await it.ask(caller=replace(it.caller, request_id=f"req_{number}"))

    it = bench([(DOWN,)], [HELLO])
    asyncio.run(run())
    assert len(it.routes[0].requests) == 5
    assert it.gateway.trails.find("req_9", "alice").steps[0].reason.startswith("left alone for another")
    alone = bench([(DOWN,)], health=it.health, caller=Caller(name="alice", request_id="req_alone"))
    with pytest.raises(BusyError, match="all 1 routes"):
        asyncio.run(alone.ask())


def test_long_answer_of_a_probe_leaves_its_route_open_to_others(bench) -> None:
    async def run() -> None:
        for number in range(5):
            with pytest.raises(UpstreamError):
                await it.ask(caller=replace(it.caller, request_id=f"down_{number}"))
        now[0] += 10
        it.routes[0].say((TextDelta("Long"), Pause(60), Finish("stop", Usage(5, 200))), HELLO)
        async with aclosing(it.gateway.stream(QUESTION, it.caller)) as events:
            await anext(events)
            assert (await it.ask(caller=replace(it.caller, request_id="other")))[-1].event == HELLO[-1]

    now = [0.0]
    config = GatewayConfig(max_retries=0)
    it = bench([(UpstreamError("cut", 500),)], health=Health(clock=lambda: now[0]), config=config)
    asyncio.run(run())
    assert it.health.phase("a") == "closed"


def test_routes_that_are_left_alone_do_not_count_as_asked(bench) -> None:
    it = bench([(DOWN,)], [HELLO], config=GatewayConfig(max_candidates=1, max_retries=0))
    for _ in range(5):
        it.health.record("a", it.health.admit("a"), Outcome(verdict="fault"))
    assert asyncio.run(it.ask())[-1].event == HELLO[-1]
    assert it.routes[0].requests == []


def test_explanation_is_its_caller_s_own(bench) -> None:
    it = bench([HELLO])
    asyncio.run(it.ask())
    assert it.gateway.trails.find("req_1", "bob") is None
    assert it.gateway.trails.find("req_0", "bob") is None


def test_answers_to_one_request_share_their_prompt(bench) -> None:
    script = (
        AnswerEvent(0, TextDelta("a")),
        AnswerEvent(1, TextDelta("b")),
        AnswerEvent(1, Finish("stop", Usage(5, 2))),
        AnswerEvent(0, Finish("length", Usage(5, 7))),
    )
    it = bench([script])
    asyncio.run(it.ask(replace(QUESTION, num_answers=2)))
    (row,) = rows_of(it.url)
    assert (row.prompt_tokens, row.completion_tokens) == (5, 9)


def test_worst_case_is_bounded_by_bytes_and_limits() -> None:
    text = "1" * 1000  # digits are a token each
    request = ChatRequest(messages=(Message("user", text),), max_tokens=50, num_answers=2)
    prompt, answers = most_tokens(request, 262_144)
    assert 1000 <= prompt < 1100
    assert answers == 100
    assert most_tokens(replace(request, max_tokens=None), 4096) == (prompt, 8192)
    assert most_tokens(replace(request, max_tokens=None), 4096, 1000) == (prompt, 2000)


def test_cached_tokens_of_unknown_price_are_charged_as_uncached_ones(bench) -> None:
    it = bench([(TextDelta("Hello"), Finish("stop", Usage(1000, 3, cached_tokens=900)))])
    asyncio.run(it.ask())
    (row,) = rows_of(it.url)
    assert (row.cost, row.is_estimate) == (1000 * 150_000 + 3 * 600_000, True)
    assert check_books(it.url) == (row.cost, 0)


@pytest.mark.parametrize("usage", [Usage(5, 9, reasoning_tokens=340), Usage(5, 1, cached_tokens=9), Usage(-1, 2**50)])
def test_usage_that_cannot_be_is_charged_as_the_whole_hold(bench, usage: Usage) -> None:
    it = bench([(TextDelta("Hello"), Finish("stop", usage))])
    asyncio.run(it.ask())
    (row,) = rows_of(it.url)
    assert (row.state, row.finish, row.cost, row.is_estimate) == ("settled", "stop", row.held, True)
    assert check_books(it.url) == (row.held, 0)


@pytest.mark.parametrize("form", [JsonSchema({"enum": ["x" * 9000]}), Regex("x" * 9000), Lark("x" * 9000)])
def test_form_of_the_answer_counts_as_prompt(form) -> None:
    request = replace(QUESTION, response_format=form)
    assert most_tokens(request, 262_144)[0] > 9000
    assert needs_of(request, prompt_tokens(request)).prompt_tokens > 9000 // 4


def test_tool_counts_with_the_blanks_of_a_template() -> None:
    parameters = {"type": "object", "properties": {f"field_{number}": {"type": "string"} for number in range(200)}}
    tool = Tool("look_up", "Looks it up.", parameters)
    rendered = json.dumps({"type": "function", "function": {"name": tool.name, "parameters": parameters}})
    assert most_tokens(replace(QUESTION, tools=(tool,)), 262_144)[0] >= len(rendered)


def test_what_came_before_the_caller_left_is_charged_by_its_bytes(bench) -> None:
    async def run() -> None:
        request = replace(QUESTION, messages=(Message("user", DIGITS),))
        async with aclosing(it.gateway.stream(request, it.caller)) as events:
            await anext(events)

    it = bench([(TextDelta(DIGITS), Pause(60), Finish("stop", Usage(1000, 1000)))])
    asyncio.run(run())
    it.ledger.close()
    (row,) = rows_of(it.url)
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimate) == (254, 250, True)  # shown
    assert 1000 * 150_000 + 1000 * 600_000 <= row.cost <= row.held  # charged: a digit is a token


def test_answer_whose_tokens_nobody_told_is_charged_by_its_bytes(bench) -> None:
    it = bench([(TextDelta(DIGITS), Finish("stop", Usage(4, 250, is_estimated=True)))])
    asyncio.run(it.ask())
    (row,) = rows_of(it.url)
    assert row.completion_tokens == 250
    assert 1000 * 600_000 < row.cost <= row.held


DIGITS = "1" * 1000


def test_charge_by_bytes_is_no_more_than_was_held(bench) -> None:
    it = bench([(TextDelta(DIGITS), UpstreamError("cut"))])
    with pytest.raises(UpstreamError, match="cut"):
        asyncio.run(it.ask(replace(QUESTION, max_tokens=300)))
    (row,) = rows_of(it.url)
    assert row.cost == row.held
