"""Where a hosted provider is and which API it speaks: a base URL in one spelling, and the origin that a key is for."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, get_args

from small4.errors import ConfigError

Dialect = Literal["openai", "responses", "anthropic", "google", "mistral"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

# The text itself is not repeated: it may hold a password.
NO_URL = "this is no base URL; write https://HOST/PATH or http://HOST:PORT/PATH, without user, query and blanks"
MAX_URL = 512  # characters
MAX_NAME = 64

_URL = re.compile(r"(https?)://(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::([0-9]{1,5}))?((?:/[\w.~-]+)*)/?", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")  # what resolvers take for a part of an IPv4 address
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PORTS = {"http": 80, "https": 443}
_FIRST_PATH: dict[Dialect, str] = {"google": "/v1beta"}  # of a URL that names none; /v1 for the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A provider's address, as `endpoint_at` makes it from what a person wrote."""

    name: str  # under which it is configured and shown
    origin: str  # scheme, host and port: what a key is bound to
    path: str  # before the paths of the dialect, with the version: /v1
    dialect: Dialect

    @property
    def base_url(self) -> str:
        return self.origin + self.path

    @property
    def host(self) -> str:
        """The host without port and brackets."""
        authority = self.origin.partition("://")[2]
        if authority.startswith("["):
            return authority[1:].partition("]")[0]
        return authority.partition(":")[0]

    @property
    def is_confidential(self) -> bool:
        """Whether a key may travel there: by TLS, or without leaving this machine or its private network."""
        return self.origin.startswith("https://") or self.host == "localhost" or _is_private(self.host)


def endpoint_at(url: str, *, name: str | None = None, dialect: Dialect = "openai") -> Endpoint:
    """The endpoint behind a base URL, in one spelling; without a name it is called after its host."""
    matched = _URL.fullmatch(url) if len(url) <= MAX_URL and url.isascii() else None
    if matched is None:
        raise ConfigError(NO_URL)
    if dialect not in DIALECTS:
        raise ConfigError(f"unknown dialect {dialect!r}; choose one of {', '.join(DIALECTS)}")
    scheme, host = matched[1].lower(), _host(matched[2], matched[3])
    port = int(matched[4] or _PORTS[scheme])
    if not 0 < port < 65536 or any(step in (".", "..") for step in matched[5].split("/")):
        raise ConfigError(NO_URL)
    shown = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{shown}" + ("" if port == _PORTS[scheme] else f":{port}")
    path = matched[5] or _FIRST_PATH.get(dialect, "/v1")
    return Endpoint(name=_name(name or host_name(origin)), origin=origin, path=path, dialect=dialect)


def _host(numeric: str | None, name: str | None) -> str:
    """A host in its one spelling: a name of labels, or an address as it is usually written."""
    text = (numeric or name or "").lower()
    address = _address(text)
    if address is not None and (address.version == 6) == (numeric is not None):
        return str(address)
    labels = text.removesuffix(".").split(".") if numeric is None else []
    # A last label that is a number makes the whole an IPv4 address, in spellings that parsers read differently.
    if not labels or len(text) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        raise ConfigError(NO_URL)
    return ".".join(labels)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_private(host: str) -> bool:
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_private)


def host_name(origin: str) -> str:
    """What a provider without a name is called: its host and port, in characters that names may have."""
    return origin.partition("://")[2].translate({ord("["): "ip6-", ord("]"): None, ord(":"): "-"})


def _name(text: str) -> str:
    """A name that can stand in listings, headers and file names."""
    name = text.lower()
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ConfigError(f"{text[:100]!r} is no name for a provider; use up to {MAX_NAME} of a-z, 0-9, '.', '_', '-'")
    return name
