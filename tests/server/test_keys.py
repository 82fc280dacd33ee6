"""Gateway keys: what is kept of them, and what opens."""

import json
import stat
import threading

import pytest

from small4.errors import AuthenticationError, ConfigError
from small4.server.keys import SCOPES, KeyStore


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_no_key_exists_at_first_and_one_does_once_made(tmp_path):
    store = KeyStore(tmp_path)
    assert not store.exists()
    text, key = store.create("laptop")
    assert store.exists()
    assert store.identify(text).id == key.id


def test_files_hold_no_key_and_only_their_owner_reads_them(tmp_path):
    text, key = KeyStore(tmp_path / "state").create("laptop")
    secret = text.split("_")[2]
    for file in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert secret.encode() not in file.read_bytes()
    assert key.digest in (tmp_path / "state" / "gateway-keys.json").read_text()


def test_key_has_256_random_bits_and_two_are_never_alike(tmp_path):
    store = KeyStore(tmp_path)
    secrets = {store.create("k")[0].split("_")[2][:-8] for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) == 52 for secret in secrets)  # base 32: 5 bits each


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.upper(),
        lambda text: text[:20] + ("a" if text[20] != "a" else "b") + text[21:],
        lambda text: "",
        lambda text: "s4_",
        lambda text: text[3:],
        lambda text: "é" * 76,
        lambda text: "x" * 100_000,
    ],
)
def test_spoiled_key_opens_nothing(tmp_path, spoil):
    store = KeyStore(tmp_path)
    text, _ = store.create("laptop")
    with pytest.raises(AuthenticationError):
        store.identify(spoil(text))


def test_key_of_another_instance_opens_nothing(tmp_path):
    here, there = KeyStore(tmp_path / "here"), KeyStore(tmp_path / "there")
    here.create("laptop")
    text, _ = there.create("laptop")
    with pytest.raises(AuthenticationError):
        here.identify(text)


def test_record_copied_to_another_instance_opens_nothing_there(tmp_path):
    here, there = KeyStore(tmp_path / "here"), KeyStore(tmp_path / "there")
    text, _ = here.create("laptop")
    there.create("other")
    (tmp_path / "there" / "gateway-keys.json").write_bytes((tmp_path / "here" / "gateway-keys.json").read_bytes())
    with pytest.raises(AuthenticationError):
        there.identify(text)


def test_revoked_key_fails_at_once_in_a_running_server(tmp_path):
    running, command_line = KeyStore(tmp_path), KeyStore(tmp_path)
    text, key = command_line.create("laptop")
    assert running.identify(text).id == key.id
    command_line.revoke(key.id)
    with pytest.raises(AuthenticationError):
        running.identify(text)
    assert running.exists()  # so the door stays shut


def test_key_expires_at_its_second(tmp_path):
    clock = Clock()
    store = KeyStore(tmp_path, clock)
    text, _ = store.create("week", lifetime_seconds=7.0)
    clock.now += 6.999
    store.identify(text)
    clock.now += 0.001
    with pytest.raises(AuthenticationError, match="expired"):
        store.identify(text)


def test_salts_differ_between_callers_and_instances_and_stay_the_same(tmp_path):
    store, other = KeyStore(tmp_path / "one"), KeyStore(tmp_path / "two")
    assert store.salt("a") == KeyStore(tmp_path / "one").salt("a")
    assert len({store.salt("a"), store.salt("b"), other.salt("a")}) == 3


def test_identity_shows_no_salt(tmp_path):
    store = KeyStore(tmp_path)
    text, _ = store.create("laptop")
    identity = store.identify(text)
    assert identity.salt not in repr(identity)


@pytest.mark.parametrize(
    ("name", "scopes", "lifetime"),
    [
        ("", frozenset({"inference"}), None),
        ("a\nb", frozenset({"inference"}), None),
        ("x" * 65, frozenset({"inference"}), None),
        ("ok", frozenset(), None),
        ("ok", frozenset({"root"}), None),
        ("ok", frozenset({"inference"}), 0.0),
        ("ok", frozenset({"inference"}), float("nan")),
    ],
)
def test_key_that_makes_no_sense_is_not_made(tmp_path, name, scopes, lifetime):
    store = KeyStore(tmp_path)
    with pytest.raises(ConfigError):
        store.create(name, scopes, lifetime)
    assert not store.exists()


def test_listing_names_every_key_and_scope(tmp_path):
    store = KeyStore(tmp_path)
    store.create("one")
    store.create("two", frozenset(SCOPES))
    assert [key.name for key in store.all_keys()] == ["one", "two"]
    assert store.all_keys()[1].scopes == frozenset(SCOPES)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": [{}]}', '{"keys": 3}', "\x00"])
def test_damaged_listing_lets_nobody_in(tmp_path, content):
    store = KeyStore(tmp_path)
    text, _ = store.create("laptop")
    (tmp_path / "gateway-keys.json").write_text(content)
    with pytest.raises(ConfigError):
        store.identify(text)
    with pytest.raises(ConfigError):
        store.exists()


def test_scope_that_is_unknown_here_opens_nothing(tmp_path):
    store = KeyStore(tmp_path)
    text, _ = store.create("laptop")
    file = tmp_path / "gateway-keys.json"
    listing = json.loads(file.read_text())
    listing["keys"][0]["scopes"] = ["everything"]
    file.write_text(json.dumps(listing))
    assert store.identify(text).scopes == frozenset()


def test_keys_made_at_the_same_time_are_all_kept(tmp_path):
    threads = [threading.Thread(target=KeyStore(tmp_path).create, args=(f"key {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyStore(tmp_path).all_keys()) == 8


def test_revoking_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no key"):
        KeyStore(tmp_path).revoke("0" * 12)
