"""The join of routing and gateway: who may answer a request, by its policy, wishes, keys, measurements and breakers."""

import time
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from small4.catalog.route import Posture
from small4.chat import ChatRequest, Message
from small4.errors import NoRouteError
from small4.gateway.candidates import KEPT_SECONDS, Chooser, Speeds
from small4.gateway.config import RoutingConfig
from small4.gateway.explanation import explain
from small4.gateway.health import Health, Outcome
from small4.gateway.policy import Policy, Preference
from small4.gateway.trail import Trail
from small4.providers.provider import Caller
from small4.providers.scripted import ScriptedProvider
from small4.wire.routing_fields import parse_provider
from tests.gateway.made_routes import route

QUESTION = ChatRequest(messages=(Message("user", "Say hello."),), max_tokens=100)
EU = Posture(region="EU", training="no", zdr="yes", retention_days=0, age_days=3)
ROUTES = [
    route("cheap", prompt="0.1", output="0.2"),
    route("eu", prompt="1", output="2", posture=EU),
    route("dear", prompt="5", output="9"),
    route("local", is_local=True, prompt=None, output=None),
]
NAMES = [one.name for one in ROUTES]


class Desk:
    """A chooser among made routes, with a clock for all of it."""

    def __init__(self, *, providers=NAMES, routes_on=None, **config) -> None:
        self.health = Health(clock=lambda: self.now)
        self.now, self.day = 1000.0, date(2026, 11, 21)
        self.providers = {name: ScriptedProvider() for name in providers}
        given = routes_on or (lambda day: ROUTES)
        self.chooser = Chooser(given, self.providers, self.health, RoutingConfig(**config), lambda: self.day)

    def choose(self, key: str = "alice", request: ChatRequest = QUESTION, among=NAMES, **wishes) -> list[str]:
        self.trail = Trail("req_1", key)
        caller = Caller(name=key, wishes=parse_provider(wishes) if wishes else None)
        self.chosen = self.chooser.among(among)(request, caller, self.trail)
        return [candidate.route for candidate in self.chosen]


def test_candidates_are_those_with_a_provider_the_cheapest_first() -> None:
    desk = Desk(providers=["dear", "cheap", "local"])
    assert desk.choose() == ["cheap", "dear", "local"]
    assert [one.provider for one in desk.chosen] == [desk.providers[name] for name in ("cheap", "dear", "local")]
    assert [one.is_local for one in desk.chosen] == [False, False, True]
    assert desk.chosen[0].prices.rates(0).output == Decimal("0.2")


def test_a_name_leads_to_its_own_routes_alone() -> None:
    assert Desk().choose(among=["dear"]) == ["dear"]


def test_policy_of_a_key_narrows_that_of_all_and_a_request_only_narrows_further() -> None:
    desk = Desk(policy=Policy(ignore=frozenset({"dear"})), by_key={"bob": Policy(no_training=True)})
    assert desk.choose("alice") == ["cheap", "eu", "local"]
    assert desk.choose("bob") == ["eu", "local"]
    assert desk.choose("bob", training="allow", only=["cheap", "eu", "dear"]) == ["eu"]


def test_a_request_s_order_wins_over_the_server_s_and_what_it_leaves_open_is_the_server_s() -> None:
    desk = Desk(preference=Preference(weights={"uptime": 1.0}))
    passed = desk.health.admit("dear")
    desk.health.record("dear", passed, Outcome(verdict="success", duration_seconds=1.0))
    for _ in NAMES:
        desk.choose()  # each decision takes one measurement
    assert desk.choose()[0] == "dear"
    assert desk.choose(sort="price")[0] == "cheap"
    assert desk.choose(order=["eu"])[:2] == ["eu", "dear"]


def test_a_route_that_is_left_alone_comes_last_and_is_still_there() -> None:
    desk = Desk()
    for _ in range(5):
        passed = desk.health.admit("cheap")
        desk.health.record("cheap", passed, Outcome(verdict="fault", error_class="server"))
    assert desk.choose() == ["eu", "dear", "local", "cheap"]
    desk.now += 10
    assert desk.choose()[0] == "cheap"


def test_a_route_whose_probe_is_on_its_way_comes_last_until_it_answers() -> None:
    desk = Desk()
    for _ in range(5):
        passed = desk.health.admit("cheap")
        desk.health.record("cheap", passed, Outcome(verdict="fault", error_class="server"))
    desk.now += 10
    probe = desk.health.admit("cheap")
    assert desk.choose() == ["eu", "dear", "local", "cheap"]
    assert desk.health.begin("cheap", probe) == "normal"
    assert desk.choose()[0] == "cheap"


def test_nothing_left_is_told_with_its_reason_and_explained() -> None:
    desk = Desk(providers=["cheap", "dear"], policy=Policy(regions=frozenset({"EU"}), no_training=True))
    with pytest.raises(NoRouteError, match="cheap: its region is unknown, not EU"):
        desk.choose()
    told = explain(desk.trail, {"eu": "no key"})
    rules = {one["route"]: [reason["rule"] for reason in one["reasons"]] for one in told["decision"]["removed"]}
    assert rules == {"cheap": ["regions", "training"], "dear": ["regions", "training"], "eu": ["ready"]}
    assert told["decision"]["candidates"] == []


def test_claims_are_read_again_on_another_day() -> None:
    first, second = date(2026, 11, 21), date(2026, 11, 22)
    read = []

    def routes_on(day: date):
        read.append(day)
        return ROUTES if day == first else [replace(ROUTES[0], posture=EU), *ROUTES[1:]]

    desk = Desk(policy=Policy(no_training=True), routes_on=routes_on)
    assert desk.choose() == desk.choose() == ["eu", "local"]
    desk.day = second
    assert desk.choose() == desk.choose() == ["cheap", "eu", "local"]
    assert read == [first, second]


def test_kept_measurements_are_the_definition_s_within_their_age() -> None:
    now = 1000.0
    health = Health(clock=lambda: now)
    speeds = Speeds(health, clock=lambda: now)
    for number in range(200):
        for one in ROUTES:
            passed = health.admit(one.name)
            health.record(one.name, passed, Outcome(verdict="success", first_token_seconds=0.1 + number / 100))
        now += 0.37
        known = speeds.of(ROUTES)
    now += KEPT_SECONDS
    for _ in ROUTES:
        known = speeds.of(ROUTES)
    assert known == {one.name: health.measure(one.name, "30m") for one in ROUTES}


def test_what_was_removed_is_kept_once_for_equal_decisions() -> None:
    desk = Desk(policy=Policy(no_training=True))
    desk.choose()
    before = desk.trail.routing
    desk.choose(request=replace(QUESTION, max_tokens=50))
    assert desk.trail.routing.removed is before.removed
    assert desk.trail.routing.candidates != before.candidates


def test_a_decision_takes_well_under_a_millisecond() -> None:
    desk = Desk(policy=Policy(ignore=frozenset({"dear"})))
    times = []
    for _ in range(200):
        began = time.thread_time()
        desk.choose()
        times.append(time.thread_time() - began)
    assert sorted(times)[100] < 0.001
