"""`small4 keys set`, `test`, `list` and `rm`, against a small4 server that wants a key."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from small4.cli.provider_keys import provider_keys, provider_rows
from small4.gateway.known import known_providers
from small4.server.run import serving
from tests.cli.conftest import Small4
from tests.server.asgi import Served


@dataclass
class There:
    url: str
    key: str


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    served = Served(tmp_path_factory.mktemp("there"))
    key, _ = served.store.create("test")
    with serving(served.app) as url:
        yield There(url, key)


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in known_providers({}).values():
        monkeypatch.delenv(known.variable or "", raising=False)


def test_a_key_is_tried_kept_listed_tried_again_and_forgotten(small4: Small4, there: There, tmp_path: Path) -> None:
    kept = small4("keys", "set", there.url, "--name", "there", stdin=there.key.encode() + b"\n")
    assert kept.returncode == 0, kept.stderr
    assert "there: the key is good; 1 model: scripted" in kept.stdout
    assert f"ends in {there.key[-4:]}" in kept.stdout
    assert there.url in small4("keys", "list").stdout
    (row,) = json.loads(small4("keys", "list", "--json").stdout)
    assert (row["kind"], row["name"], row["ends_in"], row["from"]) == ("provider", "there", there.key[-4:], "kept")
    assert "the key is good" in small4("keys", "test", "there").stdout
    assert small4("keys", "rm", "there").returncode == 0
    assert json.loads(small4("keys", "list", "--json").stdout) == []
    assert "no key is kept" in small4("keys", "rm", "there").stderr
    shown = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert there.key.encode() not in shown


def test_a_bad_key_is_not_kept(small4: Small4, there: There) -> None:
    bad = small4("keys", "set", there.url, stdin=b"sk-wrong-0123456789\n")
    assert bad.returncode == 2
    assert "refused the key that it was given (HTTP 401)" in bad.stderr
    assert "wrong" not in bad.stderr + bad.stdout
    assert json.loads(small4("keys", "list", "--json").stdout) == []


def test_a_provider_that_is_not_there_is_told_apart_and_its_key_may_be_kept_untried(small4: Small4) -> None:
    dead = small4("keys", "set", "http://127.0.0.1:1", stdin=b"sk-0123456789abcdef\n")
    assert (dead.returncode, "no connection" in dead.stderr) == (2, True)
    assert small4("keys", "set", "http://127.0.0.1:1", "--skip-test", stdin=b"sk-0123456789abcdef\n").returncode == 0
    assert json.loads(small4("keys", "list", "--json").stdout)[0]["name"] == "127.0.0.1-1"


def test_an_entry_that_cannot_be_used_is_listed_with_its_reason_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-of-the-environment-wxyz")
    monkeypatch.setenv("INFOMANIAK_PRODUCT_ID", "1")
    keys = provider_keys()
    keys.set(keys.known["infomaniak"].endpoint, "sk-0123456789abcdef")
    monkeypatch.setenv("INFOMANIAK_PRODUCT_ID", "2")
    first, mistral = provider_rows()
    assert (first["name"], first["ends_in"]) == ("infomaniak", "")
    assert first["from"].startswith("cannot be used: the key that is kept for infomaniak is for")
    assert (mistral["name"], mistral["from"]) == ("mistral", "MISTRAL_API_KEY")
    keys.remove("infomaniak")
    monkeypatch.setenv("INFOMANIAK_PRODUCT_ID", "a b")
    mistral, last = provider_rows()
    assert (mistral["name"], last["name"]) == ("mistral", "infomaniak")
    assert "INFOMANIAK_PRODUCT_ID is no part of a path" in last["from"]


def test_the_environment_s_key_is_listed_and_wins(small4: Small4, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-of-the-environment-wxyz")
    (row,) = json.loads(small4("keys", "list", "--json").stdout)
    assert (row["name"], row["ends_in"], row["from"]) == ("mistral", "wxyz", "MISTRAL_API_KEY")
    done = small4("keys", "set", "mistral", "--skip-test", stdin=b"sk-kept-0123456789abcd\n")
    assert "MISTRAL_API_KEY is set in the environment and wins" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("set", "nobody"), b"k\n", "no provider is called 'nobody'"),
        (("set", "mistral"), b"\n", "no key was given"),
        (("set", "mistral", "--skip-test"), b"two words\n", "without blanks"),
        (("set", "http://api.example.org", "--skip-test"), b"sk-0123456789\n", "plain text"),
        (("set", "https://a.example", "--dialect", "latin"), b"k\n", "unknown dialect 'latin'"),
        (("test", "mistral"), b"", "MISTRAL_API_KEY"),
    ],
)
def test_mistakes_are_told_with_the_way_out(
    small4: Small4, arguments: tuple[str, ...], stdin: bytes, says: str
) -> None:
    done = small4("keys", *arguments, stdin=stdin)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
