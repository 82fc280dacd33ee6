"""Files of claims: the user's own are read, and a mistake in one is named."""

import pytest

from small4.catalog.load import load_catalog
from small4.catalog.route import routes_of
from small4.errors import CatalogError
from tests.catalog.conftest import MODEL, TODAY

OWN = """
name = "My contract"
seen = 2026-11-20
[[routes]]
name = "Rack"
model = "mistral-small-4"
model_id = "small4"
dialect = "openai"
base_url = "http://10.0.0.5:8000/v1"
[[claims]]
route = "rack"
[claims.says]
region = "DE"
zdr = "yes"
[[claims]]
route = "opper"
[claims.says]
zdr = "yes"
retention_days = 0
"""


def test_your_own_files_add_routes_and_decide_about_yours(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(OWN)
    card = load_catalog(tmp_path).find(MODEL)
    routes = {route.name: route for route in routes_of(card, TODAY)}
    assert routes["rack"].posture.region == "DE"
    assert routes["rack"].address.key_variable is None
    assert routes["opper"].posture.zdr == "yes"
    assert "your own mine.toml" in {claim.source.name for claim in card.claims}


def test_a_missing_directory_of_your_own_is_no_mistake(tmp_path) -> None:
    assert load_catalog(tmp_path / "none").cards == load_catalog().cards


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "mine.toml is not TOML"),
        ('name = "x"', "mine.toml needs `seen`"),
        ('seen = 2026-11-20\nnmae = "x"', "mine.toml: unknown nmae"),
        ('seen = 2026-11-20\n[[claims]]\nroute = "moon"\nsays = {tools = true}', "speaks of the route 'moon'"),
        ("seen = 2026-11-20\n[[claims]]\nsays = {tols = true}", "there is no field 'tols'"),
        ('seen = 2026-11-20\n[[claims]]\nsays = {tools = "yes"}', "tools is 'yes'; it takes true or false"),
        ('seen = 2026-11-20\n[[claims]]\nsays = {zdr = "maybe"}', "zdr is 'maybe'; it takes no, contract, yes"),
        ('seen = 2026-11-20\n[[claims]]\nsays = {region = "europe"}', "region is 'europe'"),
        ("seen = 2026-11-20\n[[claims]]\nsays = {context = -1}", "context is -1"),
        ('seen = 2026-11-20\n[[claims]]\nsource = "gossip"\nsays = {tools = true}', "'gossip' is not in sources.toml"),
        ('seen = 2026-11-20\n[[claims]]\nsays = {tools = true}\nnotes = {tols = "?"}', "unknown tols"),
        (OWN.replace('"openai"', '"telepathy"'), "dialect 'telepathy' is unknown"),
        (OWN.replace('model_id = "small4"', ""), "needs a model_id"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, message) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CatalogError, match=message):
        load_catalog(tmp_path)
