"""Which of several claims is worked with, which contradict it, and when one is too old."""

from datetime import date, timedelta

import pytest

from small4.catalog.claims import settle
from small4.catalog.fields import FIELDS, MAX_AGE_DAYS
from tests.catalog.conftest import TODAY, claim

LAST_YEAR = date(2025, 11, 21)


def test_a_route_is_believed_before_the_model_whoever_speaks() -> None:
    of_model = claim("tools", False, kind="provider")
    of_route = claim("tools", True, kind="page", route="mistral", as_of=None)
    fact = settle([of_model, of_route], TODAY)
    assert fact.value is True
    assert fact.conflicts == (of_model,)


@pytest.mark.parametrize(
    ("better", "worse"), [("own", "provider"), ("provider", "price list"), ("price list", "marketplace")]
)
def test_who_is_nearer_is_believed_though_another_is_newer(better, worse) -> None:
    near = claim("context", 1000, kind=better, as_of=LAST_YEAR)
    far = claim("context", 2000, kind=worse)
    assert settle([far, near], TODAY).claim is near


def test_of_equal_sources_the_newer_is_believed_and_an_undated_one_last() -> None:
    old, new = claim("context", 1000, as_of=LAST_YEAR), claim("context", 2000)
    undated = claim("context", 3000, as_of=None)
    assert settle([undated, old, new], TODAY).claim is new
    assert settle([undated, old], TODAY).claim is old


def test_at_the_same_date_the_careful_value_is_worked_with() -> None:
    assert (
        settle([claim("price.input", "0.06"), claim("price.input", "0.15")], TODAY).value
        == claim("price.input", "0.15").value
    )
    assert settle([claim("context", "262K"), claim("context", 200_000)], TODAY).value == 200_000
    assert settle([claim("json", True), claim("json", False)], TODAY).value is False


def test_of_claims_that_agree_the_one_with_most_digits_is_worked_with() -> None:
    coarse, fine = claim("price.input", "0.19"), claim("price.input", "0.1875")
    fact = settle([coarse, fine], TODAY)
    assert fact.claim is fine
    assert fact.conflicts == ()


def test_an_older_claim_of_the_same_digits_does_not_take_the_place_of_a_newer_one() -> None:
    old, new = claim("price.input", "0.15", as_of=LAST_YEAR), claim("price.input", "0.15")
    assert settle([old, new], TODAY).claim is new


@pytest.mark.parametrize(
    ("field", "values"),
    [("zdr", ("no", "contract", "yes")), ("training", ("yes", "opt-out", "no")), ("retention_days", (30, 7, 0))],
)
def test_the_least_private_posture_counts_whoever_claims_it(field, values) -> None:
    worst, *others = values
    claims = [claim(field, worst, kind="page", as_of=None), *(claim(field, v, kind="provider") for v in others)]
    assert settle(claims, TODAY).value == worst


def test_what_you_say_of_your_own_contract_counts_before_all() -> None:
    fact = settle([claim("zdr", "no", kind="provider"), claim("zdr", "yes", kind="own")], TODAY)
    assert fact.value == "yes"
    assert [other.value for other in fact.conflicts] == ["no"]


def test_a_country_agrees_with_the_union_that_it_is_in_and_is_taken_as_the_narrower() -> None:
    assert settle([claim("region", "EU"), claim("region", "FR")], TODAY).value == "FR"
    assert settle([claim("region", "EU"), claim("region", "US")], TODAY).conflicts


def test_a_price_holds_from_its_day_on() -> None:
    old = claim("price.input", "0.10")
    new = claim("price.input", "0.15", valid_from=TODAY)
    assert settle([old, new], TODAY).claim is new
    assert settle([old, new], TODAY - timedelta(days=1)).claim is old
    assert settle([new], TODAY - timedelta(days=1)) is None


@pytest.mark.parametrize("name", ["price.input", "zdr", "context", "tools", "licence", "throughput"])
def test_a_claim_is_stale_the_day_after_its_kind_allows_and_never_fresh_without_a_date(name) -> None:
    values = {"price.input": "1", "zdr": "no", "context": 1, "tools": True, "licence": "MIT", "throughput": 1}
    made = claim(name, values[name])
    limit = TODAY + timedelta(days=MAX_AGE_DAYS[FIELDS[name].kind])
    assert made.freshness(limit) == "fresh"
    assert made.freshness(limit + timedelta(days=1)) == "stale"
    assert claim(name, values[name], as_of=None).freshness(TODAY) == "undated"
