"""A base URL has one spelling, and a key goes to no other origin than its own."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.errors import ConfigError
from small4.providers.endpoint import DIALECTS, endpoint_at
from small4.providers.provider_key import MASK, ProviderKey
from small4.providers.retry_after import MAX_SECONDS, retry_after_seconds
from small4.providers.upstream import Upstream, UpstreamBounds

KEY = "sk-canary-Zm9vYmFyYmF6cXV4-0123456789"


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("https://api.example.org/v1", "https://api.example.org/v1"),
        ("HTTPS://API.Example.ORG:443/v1/", "https://api.example.org/v1"),
        ("https://api.example.org.", "https://api.example.org/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:80/api/v1", "http://[::1]/api/v1"),
        ("https://example.org:8443/a/b.c/v1", "https://example.org:8443/a/b.c/v1"),
    ],
)
def test_a_base_url_has_one_spelling(url: str, base_url: str) -> None:
    assert endpoint_at(url).base_url == base_url


def test_google_s_first_version_is_its_own() -> None:
    assert [endpoint_at("http://localhost:1", dialect=dialect).path for dialect in DIALECTS] == [
        "/v1beta" if dialect == "google" else "/v1" for dialect in DIALECTS
    ]


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.org", "ftp://example.org/", "https://", "https:///v1", "https://a b/", "https://exa\nmple.org"),
        *("https://user:secret@example.org/v1", "https://example.org/v1?key=secret", "https://example.org/v1#x"),
        *("https://example.org\\@evil.example/", "https://example.org/../v1", "https://example.org/%2e%2e/v1"),
        *(
            "http://0x7f.1/",
            "http://2130706433/",
            "http://127.1/",
            "http://0177.0.0.1/",
            "http://[::1",
            "http://[1.2]/",
        ),
        *("https://example.org:0/", "https://example.org:99999/", "https://-a.org/", "https://ex\u00e4mple.org/"),
        *("https://" + "a" * 600, "https://example.org//v1", "https://example.org:443:443/"),
    ],
)
def test_what_could_be_read_in_two_ways_is_no_base_url(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        endpoint_at(url)
    assert "secret" not in str(error.value)


def test_a_provider_is_called_after_its_host_unless_it_has_a_name() -> None:
    assert endpoint_at("http://[::1]:8000").name == "ip6---1-8000"
    assert endpoint_at("http://127.0.0.1:8000").name == "127.0.0.1-8000"
    assert endpoint_at("https://api.example.org", name="Mine").name == "mine"
    with pytest.raises(ConfigError, match="no name"):
        endpoint_at("https://api.example.org", name="two words")


# --- keys ---


def test_a_key_goes_to_its_own_origin_alone() -> None:
    key = ProviderKey(KEY, "https://api.example.org")
    assert key.text_for("https://api.example.org") == KEY
    for other in ("http://api.example.org", "https://api.example.org:8443", "https://api.example.org.evil.example"):
        with pytest.raises(ConfigError, match="not sent to"):
            key.text_for(other)
        with pytest.raises(ConfigError):
            Upstream(endpoint_at(other), key)


def test_a_key_does_not_travel_in_plain_text() -> None:
    for url in ("http://127.0.0.1:8000", "http://localhost:8000", "http://10.0.0.7", "http://[fd00::7]:1"):
        endpoint = endpoint_at(url)
        Upstream(endpoint, ProviderKey(KEY, endpoint.origin))
    for url in ("http://api.example.org", "http://8.8.8.8", "http://localhost.example.org"):
        endpoint = endpoint_at(url)
        with pytest.raises(ConfigError, match="plain text"):
            Upstream(endpoint, ProviderKey(KEY, endpoint.origin))
        Upstream(endpoint)  # without a key there is nothing to see


def test_a_key_shows_itself_nowhere() -> None:
    key = ProviderKey(KEY, "https://api.example.org")
    shown = f"{key} {key!r} {[key]} {Upstream(endpoint_at('https://api.example.org'), key)!r}"
    assert not any(KEY[start : start + 6] in shown for start in range(len(KEY) - 6))
    assert key.ending == "6789"
    assert ProviderKey("short-key", "https://a.example").ending == ""
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied"):
            copying(key)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "a\r\nX-Evil: 1", "schl\u00fcssel", "a\0b", "x" * 5000])
def test_a_key_that_no_header_can_hold_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        ProviderKey(text, "https://a.example")
    assert not text or text not in str(error.value)


@given(before=st.text(max_size=40), after=st.text(max_size=40), start=st.integers(0, 29), length=st.integers(8, 40))
def test_every_piece_of_a_key_is_masked_wherever_it_stands(before: str, after: str, start: int, length: int) -> None:
    key = ProviderKey(KEY, "https://a.example")
    piece = KEY[start : start + length]
    masked = key.redact(before + piece + after)
    assert MASK in masked
    assert not any(KEY[i : i + 8] in masked for i in range(len(KEY) - 7))


@given(text=st.text(max_size=80))
def test_text_without_the_key_stays_as_it_is(text: str) -> None:
    assert ProviderKey(KEY, "https://a.example").redact(text) == text


def test_a_key_is_masked_as_urls_write_it_and_words_are_no_keys() -> None:
    key = ProviderKey("ab/cd+ef/gh+ij/kl", "https://a.example")
    assert key.redact("?key=ab%2Fcd%2Bef%2Fgh%2Bij%2Fkl&x") == f"?key={MASK}&x"
    assert ProviderKey("x", "https://a.example").redact("extra") == "extra"


# --- when to come again ---

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"retry-after": "99999999"}, MAX_SECONDS),
        ({"retry-after": "9" * 400}, None),
        *(({"retry-after": text}, None) for text in ("-1", "nan", "inf", "1e3", "soon", "", "\u0663", "0x10")),
    ],
)
def test_when_to_come_again(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds


def test_limits_are_more_than_nothing() -> None:
    for name in UpstreamBounds.__dataclass_fields__:
        for value in (0, -1, float("nan")):
            with pytest.raises(ConfigError, match=name):
                UpstreamBounds(**{name: value})
