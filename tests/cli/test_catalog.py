"""`small4 catalog` and `small4 cost`, as a user runs them."""

import json

import pytest

from small4.cli.main import main

ON = ("--on", "2026-11-21")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def call(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    return call


def test_every_route_stands_in_one_table_of_costs(run) -> None:
    answer = json.loads(
        run("cost", "--in", "2M", "--out", "400k", "--cached", "50%", "--reasoning", "30%", "--json", *ON)
    )
    assert answer["workload"]["cached_tokens"] == 1_000_000
    routes = {route["route"]: route for route in answer["routes"]}
    assert routes["mistral"]["usd"] == "0.405"  # 1M x 0.15 + 1M x 0.015 + 400k x 0.60
    assert routes["venice"]["usd"] is None
    assert routes["venice"]["at_most_usd"] == "0.675"  # 2M x 0.1875 + 400k x 0.75
    assert routes["local"]["usd"] is None
    assert answer["routes"][-1]["route"] == "local"
    table = run("cost", "--in", "2M", "--out", "400k", "--cached", "50%", *ON)
    assert all(f"\n{name} " in table for name in routes)


def test_batches_are_priced_where_a_price_is_claimed(run) -> None:
    answer = json.loads(run("cost", "--preset", "batch", "--json", *ON))
    known = {route["route"]: route["usd"] for route in answer["routes"] if route["usd"]}
    assert known == {"mistral": "24", "openrouter": "24"}


def test_this_machine_is_priced_by_what_you_say_of_it(run) -> None:
    said = ("--watts", "300", "--kwh", "0.30", "--read-speed", "500", "--write-speed", "60")
    answer = json.loads(run("cost", "--in", "1M", "--out", "0", "--json", *said, *ON))
    assert next(r["usd"] for r in answer["routes"] if r["route"] == "local").startswith("0.05")  # 0.09/h, 2000 s


def test_an_amount_in_the_preset_is_replaced_by_the_one_that_is_given(run) -> None:
    answer = json.loads(run("cost", "--preset", "rag", "--requests", "10", "--json", *ON))
    assert answer["workload"] | {"requests": 0} == {
        "requests": 0,
        "prompt_tokens": 6_000,
        "cached_tokens": 1_200,
        "output_tokens": 400,
        "reasoning_tokens": 0,
        "batch": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --in and --out"),
        (("--preset", "poetry"), "there is no preset 'poetry'; there are chat, rag"),
        (("--in", "lots", "--out", "1"), "--in is 'lots'; write a whole number"),
        (("--in", "1.5", "--out", "1"), "--in is '1.5'"),
        (("--in", "1", "--out", "1", "--cached", "150%"), "a share from 0% to 100%"),
        (("--in", "1", "--out", "1", "--watts", "many"), "--watts is 'many'"),
        (("--in", "1", "--out", "1", "--watts", "300"), "give both or neither"),
        (("--in", "1", "--out", "1", "--on", "today"), "--on is 'today'"),
        (("--in", "1", "--out", "1", "--model", "gpt"), "has no model 'gpt'"),
    ],
)
def test_mistakes_are_told_with_the_way_out(run, arguments, message) -> None:
    assert message in run("cost", *arguments, code=2)


def test_show_tells_value_source_and_age(run) -> None:
    fields = json.loads(run("catalog", "show", "Mistral", "--json", *ON))["fields"]
    assert fields["price.cache_read"] == {
        "value": "0.015",
        "unit": "USD/Mtok",
        "source": "genai-prices",
        "route": "mistral",
        "as_of": "2026-11-10",
        "seen": "2026-11-21",
        "freshness": "fresh",
        "note": "",
        "conflicts": [],
    }
    assert "price.input" in run("catalog", "show", "mistral")
    assert "95 d stale" in run("catalog", "show", "venice", *ON)
    assert "mistralai/mistral-small-2603" in run("catalog", "show", *ON)
    assert "there is no route 'moon'" in run("catalog", "show", "moon", code=2)


def test_diff_tells_contradictions_or_two_routes(run) -> None:
    found = json.loads(run("catalog", "diff", "--json", *ON))
    assert (None, "output_modalities") in {(one["route"], one["field"]) for one in found}
    assert "a image-generation model" in run("catalog", "diff", *ON)
    differing = json.loads(run("catalog", "diff", "mistral", "venice", "--json", *ON))
    assert differing["price.input"]["venice"]["value"] == "0.1875"
    assert differing["price.cache_read"]["venice"] is None
    assert "reasoning" not in differing
    assert "name two routes" in run("catalog", "diff", "mistral", code=2)


def test_check_counts_ages_and_refuses_a_broken_file_of_yours(run, tmp_path) -> None:
    kinds = json.loads(run("catalog", "check", "--json", *ON))["kinds"]
    assert kinds["posture"]["undated"] == kinds["posture"]["claims"] > 0
    assert kinds["price"]["fresh"] > 0
    later = json.loads(run("catalog", "check", "--json", "--on", "2027-11-21"))["kinds"]
    assert later["price"]["fresh"] == 0
    own = tmp_path / "small4" / "catalog"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text("seen = 2026-11-20\n[[claims]]\nsays = {tools = 3}\n")
    assert "mine.toml: tools is 3" in run("catalog", "check", code=2)
