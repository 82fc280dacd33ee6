"""What requests and workloads cost: by hand, by another calculator, and by what holds for every price."""

import random
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest

from small4.catalog.forecast import PRESETS, Workload
from small4.catalog.local_cost import LocalCost
from small4.catalog.price import Prices, Rates, Tier, cost_of, prices_of
from small4.chat import Usage
from small4.errors import CatalogError, ConfigError
from tests.catalog.conftest import TODAY, claim

MISTRAL = Rates(prompt=Decimal("0.15"), output=Decimal("0.6"), cached=Decimal("0.015"))


def prices(rates=MISTRAL, **more) -> Prices:
    return Prices(tiers=(Tier(standard=rates),), **more)


def test_a_bill_by_hand() -> None:
    usage = Usage(prompt_tokens=10_000, cached_tokens=4_000, completion_tokens=2_000, reasoning_tokens=500)
    cost = cost_of(usage, prices())
    # 6,000 x 0.15 + 4,000 x 0.015 + 1,500 x 0.6 + 500 x 0.6, per million
    assert cost.usd == cost.at_most_usd == Decimal("0.00216")
    assert [(line.what, line.usd) for line in cost.lines] == [
        ("input", Decimal("0.0009")),
        ("cached", Decimal("0.00006")),
        ("output", Decimal("0.0009")),
        ("reasoning", Decimal("0.0003")),
    ]


def test_thoughts_calls_and_images_have_prices_of_their_own_where_claimed() -> None:
    rates = Rates(prompt=Decimal(1), output=Decimal(2), reasoning=Decimal(3))
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=2_000_000, reasoning_tokens=1_000_000)
    cost = cost_of(usage, prices(rates, request_usd=Decimal("0.5"), image_usd=Decimal("0.25")), num_images=3)
    assert cost.usd == Decimal("1") + 2 + 3 + Decimal("0.5") + Decimal("0.75")


def test_what_is_unknown_is_no_zero_but_has_a_bound_where_there_is_one() -> None:
    usage = Usage(prompt_tokens=1_000_000, cached_tokens=500_000)
    without_cache = cost_of(usage, prices(Rates(prompt=Decimal("0.2"), output=Decimal(1))))
    assert without_cache.usd is None
    assert without_cache.at_most_usd == Decimal("0.2")
    assert without_cache.unknown == ("cached",)
    nothing = cost_of(usage, Prices())
    assert nothing.usd is None
    assert nothing.at_most_usd is None


def test_no_tokens_cost_nothing_at_an_unknown_rate() -> None:
    assert cost_of(Usage(), Prices()).usd == 0


def test_a_batch_without_a_price_is_unknown_though_the_standard_price_is_known() -> None:
    assert cost_of(Usage(prompt_tokens=10), prices(), is_batch=True).at_most_usd is None


def test_a_longer_prompt_pays_the_price_of_its_tier_for_all_of_it() -> None:
    high = Tier(above_prompt_tokens=200_000, standard=Rates(prompt=Decimal(3), output=Decimal(9)))
    tiered = Prices(tiers=(Tier(standard=Rates(prompt=Decimal(1), output=Decimal(4))), high))
    assert cost_of(Usage(prompt_tokens=200_000), tiered).usd == Decimal("0.2")
    assert cost_of(Usage(prompt_tokens=200_001, completion_tokens=1_000_000), tiered).usd == Decimal("9.600003")


def test_tiers_come_from_claims_and_take_over_what_they_do_not_say(card) -> None:
    longer = claim("price.input", "0.3", kind="own", route="mistral", above_prompt_tokens=100_000)
    more = type(card)(**{name: getattr(card, name) for name in card.__slots__} | {"claims": (*card.claims, longer)})
    tiers = prices_of(more, "mistral", TODAY).tiers
    assert [(tier.above_prompt_tokens, tier.standard.prompt) for tier in tiers] == [
        (0, Decimal("0.15")),
        (100_000, Decimal("0.3")),
    ]
    assert tiers[1].standard.output == tiers[0].standard.output


def test_more_cached_or_reasoning_tokens_than_there_are_tokens_is_refused() -> None:
    with pytest.raises(CatalogError, match="part of"):
        cost_of(Usage(prompt_tokens=1, cached_tokens=2), prices())


def test_a_cost_equals_its_sum_by_hand_and_grows_with_every_count_of_tokens() -> None:
    draw = random.Random(16)
    for _ in range(2_000):
        rates = Rates(
            prompt=Decimal(draw.randint(0, 999)) / 1000,
            output=Decimal(draw.randint(0, 999)) / 100,
            cached=Decimal(draw.randint(0, 999)) / 10_000,
            reasoning=draw.choice([None, Decimal(draw.randint(0, 999)) / 100]),
        )
        uncached, cached, answer, thought = (draw.choice([0, draw.randint(1, 300_000)]) for _ in range(4))
        usage = Usage(uncached + cached, answer + thought, thought, cached)
        cost = cost_of(usage, prices(rates)).usd
        reasoning = rates.output if rates.reasoning is None else rates.reasoning
        by_hand = uncached * rates.prompt + cached * rates.cached + answer * rates.output + thought * reasoning
        assert cost * 1_000_000 == by_hand
        more = draw.randint(1, 1_000)
        for grown in (
            Usage(uncached + cached + more, answer + thought, thought, cached),
            Usage(uncached + cached + more, answer + thought, thought, cached + more),
            Usage(uncached + cached, answer + thought + more, thought, cached),
            Usage(uncached + cached, answer + thought + more, thought + more, cached),
        ):
            assert cost_of(grown, prices(rates)).usd >= cost


@pytest.mark.parametrize(
    ("route", "provider", "model"),
    [("mistral", "mistral", "mistral-small-2603"), ("openrouter", "openrouter", "mistralai/mistral-small-2603")],
)
def test_our_bill_is_that_of_genai_prices(card, route, provider, model) -> None:
    ours = prices_of(card, route, TODAY)
    draw = random.Random(3)
    for _ in range(50):
        prompt, output = draw.randint(1, 200_000), draw.randint(0, 50_000)
        cached = draw.randint(0, prompt)
        theirs = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=output),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime(2026, 11, 21, tzinfo=UTC),
        )
        usage = Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=output)
        assert cost_of(usage, ours).usd == theirs.total_price


def test_the_day_recorded_for_genai_prices_is_that_of_the_locked_version() -> None:
    root = Path(__file__).parents[2]
    sources = (root / "small4/catalog/data/sources.toml").read_text()
    recorded = re.search(r'version = "([\d.]+)"', sources)[1]
    assert f"genai-prices=={recorded} " in (root / "requirements/run.txt").read_text()


def test_a_workload_costs_as_much_as_its_requests() -> None:
    work = Workload(
        num_requests=7,
        prompt_tokens=1_001,
        output_tokens=300,
        cached_share=Decimal("0.5"),
        reasoning_share=Decimal("0.3"),
    )
    assert work.usage == Usage(1_001, 300, 90, 500)
    assert work.cost(prices()).usd == 7 * cost_of(work.usage, prices()).usd
    assert [line.number for line in work.cost(prices()).lines] == [7 * 501, 3_500, 7 * 210, 630]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_cost_something_on_mistrals_route_and_fit_its_context(card, name) -> None:
    cost = PRESETS[name].cost(prices_of(card, "mistral", TODAY))
    assert cost.usd > 0
    assert PRESETS[name].prompt_tokens + PRESETS[name].output_tokens <= 262_144


def test_impossible_workloads_are_refused() -> None:
    with pytest.raises(ConfigError, match="cached share is 2"):
        Workload(prompt_tokens=1, output_tokens=1, cached_share=Decimal(2))
    with pytest.raises(ConfigError, match="no fewer than 0"):
        Workload(prompt_tokens=-1, output_tokens=1)


def test_a_local_token_costs_power_and_hardware_over_what_is_done_in_an_hour() -> None:
    machine = LocalCost(
        watts=Decimal(400),
        usd_per_kwh=Decimal("0.25"),
        hardware_usd=Decimal(2628),
        hardware_years=Decimal(3),
        used_share=Decimal("0.5"),
        prompt_tokens_per_second=Decimal(1000),
        output_tokens_per_second=Decimal(50),
    )
    assert machine.usd_per_hour == Decimal("0.1") + Decimal("0.2")
    rates = machine.prices().tiers[0].standard
    assert rates.prompt.quantize(Decimal("1e-9")) == (Decimal("0.3") / Decimal("3.6")).quantize(Decimal("1e-9"))
    assert rates.output.quantize(Decimal("1e-9")) == (Decimal("0.3") / Decimal("0.18")).quantize(Decimal("1e-9"))
    assert rates.cached == 0


def test_a_local_token_is_unknown_without_money_or_without_a_speed() -> None:
    assert LocalCost().prices().tiers[0].standard == Rates()
    assert LocalCost(output_tokens_per_second=Decimal(5)).prices().tiers[0].standard == Rates()
    only_power = LocalCost(watts=Decimal(100), usd_per_kwh=Decimal("0.3"), output_tokens_per_second=Decimal(10))
    assert only_power.prices().tiers[0].standard.output is not None
    assert only_power.prices().tiers[0].standard.prompt is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"watts": Decimal(5)},
        {"used_share": Decimal(0)},
        {"hardware_years": Decimal(0)},
        {"prompt_tokens_per_second": Decimal(0)},
    ],
)
def test_impossible_machines_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        LocalCost(**wrong)
