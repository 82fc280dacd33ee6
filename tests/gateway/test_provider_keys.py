"""Keys of providers at rest: sealed, bound to where they go, private, and passed over for the environment's."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from small4.errors import ConfigError
from small4.gateway import private_files
from small4.gateway.addresses import address_of, endpoint_of
from small4.gateway.keys import ProviderKeys
from small4.gateway.known import known_providers, small4_among, unusable_providers
from small4.providers.endpoint import endpoint_at

KEY, OTHER = "sk-first-0123456789abcdef", "sk-other-fedcba9876543210"
KNOWN = known_providers({})
MISTRAL, VENICE = KNOWN["mistral"].endpoint, KNOWN["venice"].endpoint
OWN = endpoint_at("http://127.0.0.1:8000/v1", name="own")


def keys_in(directory: Path, **environment: str) -> ProviderKeys:
    return ProviderKeys(directory, environment)


def text(keys: ProviderKeys, endpoint: Any) -> str | None:
    found = keys.find(endpoint)
    return None if found is None else found.key.text_for(endpoint.origin)


def test_a_key_comes_back_for_its_provider_alone(tmp_path: Path) -> None:
    keys = keys_in(tmp_path / "state")
    assert keys.find(MISTRAL) is None
    keys.set(MISTRAL, f" {KEY}\n")
    keys.set(OWN, OTHER)
    again = keys_in(tmp_path / "state")
    assert (text(again, MISTRAL), text(again, OWN), again.find(VENICE)) == (KEY, OTHER, None)
    keys.set(MISTRAL, OTHER)
    assert text(again, MISTRAL) == OTHER
    assert keys.remove("own").base_url == OWN.base_url
    assert again.find(OWN) is None
    with pytest.raises(ConfigError, match="no key is kept"):
        keys.remove("own")


def test_files_hold_no_key_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    keys_in(tmp_path / "state").set(MISTRAL, KEY)
    files = list((tmp_path / "state").iterdir())
    assert {file.name for file in files} == {"provider-keys.json", "provider-keys.lock", "provider-secret"}
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not any(KEY[start : start + 6].encode() in file.read_bytes() for start in range(len(KEY) - 5))


def change(directory: Path, **fields: str) -> None:
    """Change the entry of mistral as somebody would who can write the file and not read the secret."""
    file = directory / "provider-keys.json"
    listing = json.loads(file.read_text())
    entry = next(entry for entry in listing["keys"] if entry["name"] == "mistral")
    entry.update(fields)
    file.write_text(json.dumps(listing))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "https://evil.example/v1"},
        {"base_url": "https://api.mistral.ai/v2"},
        {"base_url": "https://api.mistral.ai:8443/v1"},
        {"dialect": "openai"},
    ],
)
def test_a_key_whose_entry_leads_elsewhere_is_not_used(tmp_path: Path, fields: dict[str, str]) -> None:
    keys = keys_in(tmp_path)
    keys.set(MISTRAL, KEY)
    change(tmp_path, **fields)
    with pytest.raises(ConfigError):
        keys.find(MISTRAL)
    moved = keys.kept()["mistral"].endpoint
    with pytest.raises(ConfigError, match="changed or moved"):
        keys.find(moved)


def test_a_seal_of_another_entry_a_broken_one_and_one_of_another_machine_open_nothing(tmp_path: Path) -> None:
    keys, elsewhere = keys_in(tmp_path / "here"), keys_in(tmp_path / "there")
    for each in (keys, elsewhere):
        each.set(MISTRAL, KEY)
    keys.set(VENICE, OTHER)
    own = keys.kept()["mistral"].sealed
    for sealed in (keys.kept()["venice"].sealed, elsewhere.kept()["mistral"].sealed, own[:-8], own[:-6] + "AAAA==", ""):
        change(tmp_path / "here", sealed=sealed)
        with pytest.raises(ConfigError, match="changed or moved"):
            keys.find(MISTRAL)
    change(tmp_path / "here", sealed=own)
    assert text(keys, MISTRAL) == KEY


def test_a_lost_an_open_and_a_damaged_secret_are_refused_and_never_replaced(tmp_path: Path) -> None:
    keys, secret = keys_in(tmp_path), tmp_path / "provider-secret"
    keys.set(MISTRAL, KEY)
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.find(MISTRAL)
    secret.chmod(0o600)
    data = secret.read_bytes()
    secret.write_bytes(data[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        keys.find(MISTRAL)
    secret.unlink()
    for use in (lambda: keys.find(MISTRAL), lambda: keys.set(VENICE, OTHER)):
        with pytest.raises(ConfigError, match="is gone"):
            use()
    assert not secret.exists()


def test_a_file_that_is_no_list_of_keys_is_refused(tmp_path: Path) -> None:
    for damage in ("", "{}", "[]", '{"keys": [{}]}', '{"keys": [{"name": "a", "dialect": "x"}]}', "\ud800"):
        (tmp_path / "provider-keys.json").write_text(damage, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(ConfigError, match="cannot be read"):
            keys_in(tmp_path).kept()


@pytest.mark.parametrize("name", KNOWN)
def test_a_variable_of_the_environment_wins_and_is_bound_to_its_provider(name: str, tmp_path: Path) -> None:
    known = KNOWN[name]
    assert known.variable is not None
    keys = keys_in(tmp_path, **{known.variable: f" {OTHER} "})
    keys.set(known.endpoint, KEY)
    found = keys.find(known.endpoint)
    assert found is not None
    assert (found.source, found.key.origin) == (known.variable, known.endpoint.origin)
    assert text(keys, known.endpoint) == OTHER
    imitation = endpoint_at("https://evil.example/v1", name=name)
    with pytest.raises(ConfigError, match="is for"):  # not the environment's, and not the kept one either
        keys.find(imitation)
    assert text(keys_in(tmp_path, **{known.variable: "  "}), known.endpoint) == KEY


def test_many_programs_may_set_keys_at_once(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for step in range(5):
            name = f"p{number}-{step}"
            keys_in(tmp_path).set(endpoint_at("https://a.example", name=name), f"{name}-0123456789")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = keys_in(tmp_path)
    assert len(keys.kept()) == 20
    for name, entry in keys.kept().items():
        assert text(keys, entry.endpoint) == f"{name}-0123456789"


def test_a_lock_that_was_left_behind_is_free_and_one_that_is_held_is_not_however_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "LOCK_SECONDS", 0.05)
    lock = tmp_path / "lock"
    lock.touch()
    with private_files.locked(lock):
        os.utime(lock, (0, 0))
        with pytest.raises(ConfigError, match="another program holds"), private_files.locked(lock):
            pass
    with private_files.locked(lock):
        pass


def test_no_key_is_kept_for_where_it_could_not_be_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain text"):
        keys_in(tmp_path).set(endpoint_at("http://api.example.org"), KEY)
    assert keys_in(tmp_path).kept() == {}


# --- which provider a word means ---


def test_a_word_means_a_known_provider_one_with_a_key_or_the_one_behind_a_url(tmp_path: Path) -> None:
    keys = keys_in(tmp_path, MISTRAL_API_KEY=KEY)
    keys.set(OWN, OTHER)
    address = address_of("Mistral", keys)
    assert (address.endpoint, address.model_id) == (MISTRAL, "mistral-small-2603")
    assert address_of("own", keys).endpoint == OWN
    by_url = address_of("http://127.0.0.1:8000", keys)
    assert by_url.endpoint == OWN
    assert by_url.found is not None
    stranger = address_of("http://127.0.0.1:8001", keys, "anthropic")
    assert (stranger.endpoint.dialect, stranger.found) == ("anthropic", None)
    assert address_of("https://api.mistral.ai/v1", keys).endpoint == MISTRAL
    with pytest.raises(ConfigError, match="VENICE_API_KEY"):
        address_of("venice", keys)
    with pytest.raises(ConfigError, match="no provider is called 'nobody'"):
        address_of("nobody", keys)
    with pytest.raises(ConfigError, match="its base URL"):
        endpoint_of("mistral", keys, "openai")


def test_a_key_serves_every_path_and_dialect_of_its_origin_and_no_other_origin(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    keys.set(OWN, OTHER)
    there = address_of("http://127.0.0.1:8000/anthropic/v1", keys, "anthropic")
    assert (there.endpoint.dialect, there.endpoint.path) == ("anthropic", "/anthropic/v1")
    assert there.key is not None
    assert there.key.text_for(there.endpoint.origin) == OTHER
    for url in ("http://127.0.0.1:8001/v1", "https://127.0.0.1:8000/v1", "http://127.0.0.2:8000/v1"):
        assert address_of(url, keys).key is None
    keys.set(endpoint_at("http://127.0.0.1:8000/two/v1", name="two"), KEY)
    assert address_of("http://127.0.0.1:8000/anthropic/v1", keys, "anthropic").key is None  # which of the two?


def test_a_kept_key_of_a_known_provider_is_found_for_another_path_of_its_origin(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    keys.set(MISTRAL, KEY)
    there = address_of("https://api.mistral.ai/v2", keys)
    assert there.key is not None
    assert there.key.text_for(there.endpoint.origin) == KEY


def test_a_variable_that_is_wrong_takes_its_own_provider_away_and_no_other(tmp_path: Path) -> None:
    keys = keys_in(tmp_path, INFOMANIAK_PRODUCT_ID="a b", MISTRAL_API_KEY=KEY)
    assert text(keys, MISTRAL) == KEY
    assert "infomaniak" not in keys.known
    assert "INFOMANIAK_PRODUCT_ID is no part of a path" in keys.unusable["infomaniak"]
    with pytest.raises(ConfigError, match="no part of a path"):
        address_of("infomaniak", keys)


def test_the_providers_that_people_have_keys_for_are_known_by_the_usual_names_of_their_variables() -> None:
    usual = {"mistral", "openrouter", "venice", "regolo", "nvidia", "opper"}
    assert {name: KNOWN[name].variable for name in usual} == {name: f"{name.upper()}_API_KEY" for name in usual}
    assert "openrouter/venice" not in KNOWN  # a way through OpenRouter, with its key


def test_a_base_url_with_a_variable_in_it_is_known_where_that_is_set() -> None:
    assert "infomaniak" not in KNOWN
    filled = known_providers({"INFOMANIAK_PRODUCT_ID": "12345"})["infomaniak"]
    assert "/12345/" in filled.endpoint.base_url
    for evil in ("../x", "a/b", "@evil.example", "x?y"):
        environment = {"INFOMANIAK_PRODUCT_ID": evil}
        assert "infomaniak" not in known_providers(environment)
        assert "no part of a path" in unusable_providers(environment)["infomaniak"]


def test_small4_is_found_among_other_models() -> None:
    ids = ["mistral-small-3.2", "mistralai/mistral-small-2603", "mistralai/Mistral-Small-4-119B-2603", "x/small-4"]
    assert small4_among(ids) == "mistralai/mistral-small-2603"
    assert small4_among(ids[:1]) is None
