"""`small4 routes` and `small4 route explain`, as a user runs them."""

import json

import pytest

from small4.cli.main import main

ON = ("--on", "2026-11-21")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("MISTRAL_API_KEY", "x")
    for name in ("OPPER_API_KEY", "VENICE_API_KEY", "INFOMANIAK_PRODUCT_ID"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    return call


def test_the_filter_of_the_list_is_that_of_a_request(run) -> None:
    listed = [route["route"] for route in json.loads(run("routes", "--posture", "eu,no-training", "--json", *ON))]
    wanted = '{"regions": ["EU"], "training": "deny"}'
    explained = json.loads(run("route", "explain", "--provider", wanted, "--all-ready", "--json", *ON))
    assert listed == [candidate["route"] for candidate in explained["candidates"]] == ["opper", "local"]


def test_explain_names_each_candidate_with_its_cost_and_each_removed_route_with_every_reason(run) -> None:
    answer = json.loads(run("route", "explain", "What is 17+48?", "--policy", "eu", "--json", *ON))
    assert answer["candidates"] == []
    reasons = {one["route"]: [reason["rule"] for reason in one["reasons"]] for one in answer["removed"]}
    assert reasons["mistral"] == ["regions"]
    assert reasons["opper"] == ["ready"]
    assert reasons["venice"] == ["regions", "ready"]
    assert reasons["local"] == ["ready"]
    assert "its region is unknown, not EU" in run("route", "explain", "--policy", "eu", *ON)
    mine = json.loads(run("route", "explain", "hi", "--json", *ON))["candidates"]
    assert [(one["route"], one["usd"]) for one in mine] == [("mistral", "0.00030075")]  # 5 x 0.15 + 500 x 0.60


def test_a_request_cannot_widen_the_policy_of_its_key(run) -> None:
    wide = '{"only": ["mistral", "venice"], "regions": ["EU", "US"], "data_collection": "allow"}'
    arguments = ("--policy", "eu,only=opper", "--provider", wide, "--all-ready")
    assert json.loads(run("route", "explain", *arguments, "--json", *ON))["candidates"] == []


def test_routes_are_listed_in_the_order_in_which_they_would_be_tried(run) -> None:
    listed = json.loads(run("routes", "--json", *ON))
    assert listed[-1]["route"] == "local"
    assert listed[-1]["posture"]["zdr"] == "yes"
    assert next(route for route in listed if route["route"] == "mistral")["not_ready"] is None
    table = run("routes", "--sort", "price=2,latency=1", *ON)
    assert "no key; see small4 keys set venice" in table
    assert "a variable that its address needs is not set" in table
    assert "1 other is removed" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("routes", "--posture", "cheap"), "'cheap' is no word of a policy"),
        (("routes", "--sort", "beauty"), "--sort"),
        (("routes", "--sort", "price=lots"), "--sort"),
        (("route", "explain", "--provider", "{"), "is not JSON"),
        (("route", "explain", "--provider", '{"zrd": true}'), "unknown field `zrd`"),
    ],
)
def test_mistakes_are_told(run, arguments, message) -> None:
    assert message in run(*arguments, code=2)
