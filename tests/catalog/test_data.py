"""What the catalogue holds as it comes: what the pages say, contradictions included, and one model by all its names."""

import pytest

from small4.catalog.route import local_route, routes_of
from small4.errors import UnknownModelError
from tests.catalog.conftest import MODEL, TODAY

# Route, field, value and source, read off the pages by hand.
STATED = """
mistral            price.input   0.150   osfoundry
mistral            price.output  0.600   osfoundry
mistral            price.input   0.15    signal-lens
mistral            price.output  0.60    signal-lens
openrouter         price.input   0.1500  directory
openrouter         price.output  0.6000  directory
openrouter/venice  price.input   0.188   directory
openrouter/venice  price.output  0.75    directory
openrouter/venice  context       256K    directory
openrouter/venice  quantization  fp8     directory
openrouter/venice  throughput    96      directory
openrouter/venice  first_token   666     directory
openrouter/mistral price.input   0.15    directory
openrouter/mistral price.output  0.6     directory
openrouter/mistral context       262K    directory
openrouter/mistral tools         True    directory
openrouter/mistral json          True    directory
openrouter/mistral throughput    29      directory
openrouter/mistral first_token   440     directory
openrouter/venice  price.input   0.19    rankings
openrouter/venice  price.output  0.75    rankings
openrouter/venice  quantization  fp8     rankings
openrouter/venice  uptime        100.0   rankings
openrouter/mistral price.output  0.60    rankings
openrouter/mistral uptime        100.0   rankings
opper              price.input   0.15    opper
opper              price.output  0.60    opper
opper              output_limit  8K      opper
opper              context       256K    opper
opper              region        EU      opper
opper              region        FR      opper
opper              zdr           contract opper
opper              training      no      opper
opper              retention_days 30     opper
opper              dpa           True    opper
-                  context       262K    osfoundry
-                  context       262K    directory
-                  context       262144  rankings
-                  context       256K    signal-lens
-                  context       256K    opper
-                  output_limit  256K    signal-lens
-                  output_limit  8K      opper
-                  tools         False   directory
-                  structured_output False directory
-                  active_parameters 6.5B signal-lens
-                  active_parameters 6B  opper
venice             price.input   0.1875  models.dev
regolo             price.output  3       models.dev
infomaniak         price.input   0.25    models.dev
nvidia             context       128000  models.dev
mistral            price.cache_read 0.015 genai-prices
mistral            price.batch.input 0.075 genai-prices
mistral            price.batch.output 0.3 genai-prices
openrouter         price.batch.input 0.075 genai-prices
"""


@pytest.mark.parametrize("line", STATED.strip().splitlines())
def test_the_catalogue_has_what_a_source_states(card, line) -> None:
    route, field, value, source = line.split()
    found = [
        claim
        for claim in card.claims
        if (claim.route or "-", claim.field.name, str(claim.value), claim.source.id) == (route, field, value, source)
    ]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("output_modalities", {("text",), ("image",)}),
        ("self_host", {True, False}),
        ("weights", {"open", "none"}),
        ("tools", {True, False}),
        ("output_limit", {"8K", "256K"}),
        ("active_parameters", {6095717376, "6.5B"}),
        ("slug", {"mistral/mistral-small-2603", "mistralai/mistral-small-2603"}),
    ],
)
def test_contradictions_of_the_pages_are_told(card, field, values) -> None:
    conflict = next(c for c in card.conflicts(TODAY) if c.route is None and c.fact.field.name == field)
    assert {conflict.fact.value, *(claim.value for claim in conflict.fact.conflicts)} == values


def test_a_routes_ability_stands_against_a_page_that_denies_it(card) -> None:
    conflict = next(c for c in card.conflicts(TODAY) if (c.route, c.fact.field.name) == ("venice", "structured_output"))
    assert conflict.fact.value is True
    assert [(claim.value, claim.source.id) for claim in conflict.fact.conflicts] == [(False, "directory")]


@pytest.mark.parametrize(
    "name",
    [
        "mistral/mistral-small-2603",
        "mistralai/mistral-small-2603",
        "mistral-small-2603",
        "mistral-small-4",
        "MistralAI/Mistral-Small-4-119B-2603",
        " mistral-small-latest ",
    ],
)
def test_every_name_of_the_model_finds_it(catalog, name) -> None:
    assert catalog.find(name).id == MODEL


def test_a_model_that_is_not_there_is_refused_with_those_that_are(catalog) -> None:
    with pytest.raises(UnknownModelError, match="has no model 'gpt-4'; it has mistral-small-4"):
        catalog.find("gpt-4")


def test_a_route_has_only_what_is_claimed_of_it(card) -> None:
    routes = {route.name: route for route in routes_of(card, TODAY)}
    assert routes["opper"].posture.region == "FR"
    assert routes["opper"].posture.zdr == "contract"
    assert not routes["opper"].posture.keeps_nothing
    assert routes["venice"].posture.region is None
    assert routes["venice"].posture.training is None
    assert routes["nvidia"].context_tokens == 128_000
    assert routes["openrouter/mistral"].max_output_tokens is None
    assert "structured_output" not in routes["opper"].abilities
    assert routes["empiriolabs"].abilities["reasoning"] is False
    assert {"tools", "seed"} <= routes["mistral"].parameters


def test_nothing_leaves_by_the_local_route_and_its_price_is_unknown() -> None:
    route = local_route(MODEL)
    assert route.is_local
    assert route.posture.keeps_nothing
    assert route.posture.training == "no"
    assert route.prices.tiers[0].standard.prompt is None
