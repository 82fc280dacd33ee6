"""small4.toml and the environment: precedence, every key, and every mistake told with its place."""

from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pytest

from small4.catalog.local_cost import LocalCost
from small4.errors import ConfigError
from small4.gateway.budgets import Budget
from small4.gateway.policy import Policy, PriceCap
from small4.settings import LOCAL_COST, Settings, load_settings

FULL = """
[serve]
host = "0.0.0.0"
port = 5000
model = "nano"

[gateway]
ledger = "postgresql+pg8000://small4@db/ledger"
routes = ["mistral", "OpenRouter/venice"]
sort = { blend = { price = 2, latency = 0.5 } }

[policy]
regions = ["EU"]
training = "deny"
max_price = { prompt = 0.2, completion = 0.8 }

[policies.0123456789ab]
zdr = true

[[budgets]]
scope = "key"
dollars = 2.50

[[budgets]]
scope = "all"
dollars = 100
period = "month"

[local]
watts = 300
usd_per_kwh = 0.31
"""


@pytest.fixture
def settle(tmp_path: Path):
    """The settings of a file's text, an environment and flags."""

    def load(text: str = "", flags=None, **environment: str) -> Settings:
        file = tmp_path / "small4.toml"
        file.write_text(text)
        return load_settings(flags, config=file, environment=environment)

    return load


def test_nothing_said_is_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = load_settings(environment={})
    assert (settings.file, settings.host, settings.port, settings.model) == (None, "127.0.0.1", 4119, None)
    assert not settings.has_gateway
    assert settings.ledger.endswith("ledger.db")


def test_file_of_the_user_is_found_and_one_in_the_current_directory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small4.toml").write_text("[serve]\nport = 1\n")
    assert load_settings(environment={}).port == 4119
    (tmp_path / "small4").mkdir()
    (tmp_path / "small4" / "small4.toml").write_text("[serve]\nport = 2\n")
    assert load_settings(environment={}).port == 2


def test_every_key_of_the_file_arrives(settle) -> None:
    settings = settle(FULL)
    assert (settings.host, settings.port, settings.model, settings.has_gateway) == ("0.0.0.0", 5000, "nano", True)
    assert settings.ledger == "postgresql+pg8000://small4@db/ledger"
    assert settings.routing.routes == {"mistral", "OpenRouter/venice"}
    assert settings.routing.preference.weights == {"price": 2.0, "latency": 0.5}
    cap = PriceCap(prompt=Decimal("0.2"), completion=Decimal("0.8"))
    assert settings.routing.policy == Policy(regions=frozenset({"EU"}), no_training=True, max_price=cap)
    assert settings.routing.by_key == {"0123456789ab": Policy(zdr=True)}
    assert settings.budgets == (
        Budget(scope="key", dollars=Decimal("2.50")),
        Budget(scope="all", dollars=Decimal(100), period="month"),
    )
    assert settings.books_ends_first
    assert not settle("[gateway]\nbooks_ends_first = false\n").books_ends_first
    assert LocalCost(**settings.local_cost).usd_per_hour == Decimal("0.093")


def test_flag_wins_over_variable_over_file_over_default(settle) -> None:
    text = "[serve]\nport = 1\ngateway = true\n[gateway]\nledger = 'file'\n"
    assert settle(text).port == 1
    assert settle(text, SMALL4_PORT="2").port == 2
    assert settle(text, {"port": 3}, SMALL4_PORT="2").port == 3
    assert settle(text, {"port": None}).port == 1
    assert settle(text, SMALL4_LEDGER="variable").ledger == "variable"
    assert not settle(text, SMALL4_GATEWAY="0").has_gateway
    assert settle(text, {"gateway": True}, SMALL4_GATEWAY="0").has_gateway


@pytest.mark.parametrize("text", ["[gateway]\n", "[policy]\n", "[policies]\n", "[[budgets]]\nscope='all'\ndollars=1\n"])
def test_whoever_writes_of_a_gateway_gets_one(settle, text: str) -> None:
    assert settle(text).has_gateway
    assert not settle("[local]\nwatts = 1\n").has_gateway


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gatway]\n", "gatway"),
        ("[serve]\nprot = 1\n", "serve.prot"),
        ("[gateway]\nroute = []\n", "gateway.route"),
        ("[policy]\nregoins = ['EU']\n", "regoins"),
        ("[policies.abc]\ntrainng = 'deny'\n", "trainng"),
        ("[policy]\nsort = 'price'\n", "policy.sort"),
        ("[[budgets]]\nscope = 'key'\ndollar = 1\n", "budgets.dollar"),
        ("[local]\nwatt = 1\n", "local.watt"),
    ],
)
def test_unknown_key_is_an_error_that_names_it_and_its_file(settle, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settle(text)
    assert named in str(refused.value)
    assert "small4.toml" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "serve = 1",
        "serve = [",
        "budgets = {}",
        "[serve]\nport = 65536",
        "[serve]\nport = 4.5",
        "[serve]\nport = true",
        "[serve]\ngateway = 'perhaps'",
        "[gateway]\nroutes = 'mistral'",
        "[gateway]\nsort = 'best'",
        "[policy]\nregions = 'EU'",
        "[policies]\nabc = 1",
        "[[budgets]]\nscope = 'team'\ndollars = 1",
        "[[budgets]]\nscope = 'key'",
        "[[budgets]]\nscope = 'key'\ndollars = -1",
        "[[budgets]]\nscope = 'key'\ndollars = nan",
        "[[budgets]]\nscope = 'key'\ndollars = 1\nname = 4",
        "[local]\nwatts = 'many'",
    ],
)
def test_wrong_value_is_refused(settle, text: str) -> None:
    with pytest.raises(ConfigError):
        settle(text)


def test_budget_of_apps_is_refused_until_there_are_apps(settle) -> None:
    with pytest.raises(ConfigError, match=r"scope 'app'.*limit nobody"):
        settle("[[budgets]]\nscope = 'app'\ndollars = 1")


def test_wrong_variable_and_missing_file_are_told(settle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SMALL4_PORT is 'high'"):
        settle(SMALL4_PORT="high")
    missing = str(tmp_path / "other.toml")
    with pytest.raises(ConfigError, match="there is no"):
        load_settings(environment={"SMALL4_CONFIG": missing})


def test_keys_of_the_local_table_are_the_fields_of_the_cost() -> None:
    assert set(LOCAL_COST) == {field.name for field in fields(LocalCost)}
