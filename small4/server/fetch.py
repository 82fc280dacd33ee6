"""The only code that fetches an address which a caller gave: the links of images.

Off unless hosts are allowed. In this order, and nothing of the caller's is looked up or connected to before all hold:

    1. the text is a plain http(s) URL: one spelling only, no user, no port but 80 and 443, no host written as a number
    2. the host is allowed
    3. every address that the host resolves to is public
    4. the connection goes to one of those addresses, whatever the name resolves to by then; TLS still checks the name
    5. no redirect is followed, no proxy, cookie or compression used; bytes are counted as they come, time in all

Parsers that differ are how such guards fail, so the URL that is checked is taken apart here and put together again.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx2

from small4.errors import FieldError, ImageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # host and port to numeric addresses
Hold = Callable[[int], None]  # counts bytes that have come; raises where there is no room for them

NUM_RESOLVERS = 4  # threads

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_PRINTABLE = re.compile(r"[\x21-\x5B\x5D-\x7E]+")  # ASCII without blanks and backslash
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::([0-9]*))?")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")  # what resolvers take for (a part of) an IPv4 address
_PORTS = {"http": 80, "https": 443}

# What `is_global` lets pass and must not be reached: other addresses inside them, or nothing that serves images.
_BARRED = [
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "100::/64",  # discard
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """What may be fetched. Without hosts nothing is."""

    allowed_hosts: tuple[str, ...] = ()  # "example.org" itself, "*.example.org" what is below it, "*" any public host
    max_bytes: int = 10 * 2**20  # what an image may have however it comes
    timeout_seconds: float = 10.0  # for everything, names and connection included
    max_url_length: int = 2048


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed: what is connected to is made from these parts alone."""

    scheme: str
    host: str  # lower case, or a numeric address
    path: str  # with the query

    @property
    def port(self) -> int:
        return _PORTS[self.scheme]


class Fetcher:
    """What one server fetches with. A look-up that hangs cannot be ended, so look-ups have threads of their own."""

    def __init__(self, config: FetchConfig) -> None:
        self.config = config
        self._threads = ThreadPoolExecutor(NUM_RESOLVERS, "small4 resolver")

    async def fetch(self, url: str, hold: Hold) -> bytes:
        """See `fetch`."""
        return await fetch(url, self.config, resolve=self.resolve, hold=hold)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every address of a host, as the system resolves it."""
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        """Wait for no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet and leads nowhere else."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    return address.is_global and not any(address in network for network in _BARRED)


async def fetch(
    url: str,
    config: FetchConfig,
    *,
    resolve: Resolve,
    hold: Hold = lambda num_bytes: None,
    may_reach: Callable[[Address], bool] = is_public,
) -> bytes:
    """The bytes behind a URL. Raises `FieldError` where it is not allowed, `ImageError` where it cannot be had."""
    target = check_url(url, config)
    try:
        async with asyncio.timeout(config.timeout_seconds):
            address = await _checked_address(target, resolve, may_reach)
            return await _get(target, address, config, hold)
    except TimeoutError:
        raise ImageError(f"the image's host took longer than {config.timeout_seconds:g} seconds, the limit") from None
    except (httpx2.HTTPError, OSError):
        # What the network said may tell a caller about hosts that it cannot reach itself.
        raise ImageError("the image's host could not be reached, or did not answer in HTTP; send the bytes") from None


def check_url(url: str, config: FetchConfig) -> Target:
    """The parts of an allowed URL; nothing is looked up yet."""
    if not config.allowed_hosts:
        raise FieldError(
            "images by link are not fetched here; send the bytes as a data: URL, or start with --allow-media"
        )
    if len(url) > config.max_url_length:
        raise FieldError(f"the image's URL has {len(url)} characters, the limit is {config.max_url_length}")
    matched = _URL.fullmatch(url) if _PRINTABLE.fullmatch(url) else None
    if matched is None:
        raise FieldError("the image's URL must be http:// or https:// in plain ASCII, without blanks and backslashes")
    scheme, authority, path = matched[1].lower(), matched[2], matched[3]
    host = _check_host(authority, scheme)
    if not any(_matches(host, pattern) for pattern in config.allowed_hosts):
        raise FieldError(f"images are not fetched from {host[:100]}; allowed: {', '.join(config.allowed_hosts)}")
    return Target(scheme, host, path if path.startswith("/") else "/" + path)


def _check_host(authority: str, scheme: str) -> str:
    """The host of an authority that has nothing else but, perhaps, its scheme's own port."""
    matched = _AUTHORITY.fullmatch(authority.lower())
    if matched is None or (matched[3] or str(_PORTS[scheme])) != str(_PORTS[scheme]):
        raise FieldError(f"the image's URL may name a plain host only: no user, and no port but {_PORTS[scheme]}")
    numeric, name = matched[1], matched[2]
    address = _numeric(numeric or name)
    if address is not None and (address.version == 6) == (numeric is not None):
        return str(address)
    labels = [] if name is None else name.removesuffix(".").split(".")
    # A last label that is a number makes the whole an IPv4 address, in spellings that parsers read differently.
    if not labels or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        raise FieldError("the image's URL has no valid host name")
    return ".".join(labels)


def _numeric(host: str) -> Address | None:
    """An address in its usual spelling; None for names, and for other spellings, which are no names either."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:].lower())
    return host == pattern.lower()


async def _checked_address(target: Target, resolve: Resolve, may_reach: Callable[[Address], bool]) -> Address:
    """One address of the host, all of which may be reached."""
    literal = _numeric(target.host)
    try:
        texts = [str(literal)] if literal is not None else await resolve(target.host, target.port)
        addresses = [ipaddress.ip_address(text) for text in texts]
    except (OSError, ValueError):
        raise ImageError("the image's host has no address; send the bytes") from None
    if not addresses or not all(map(may_reach, addresses)):
        raise FieldError("the image's host is not on the public internet; send the bytes")
    return addresses[0]


async def _get(target: Target, address: Address, config: FetchConfig, hold: Hold) -> bytes:
    numeric = f"[{address}]" if address.version == 6 else str(address)
    authority = f"[{target.host}]" if ":" in target.host else target.host
    async with (
        httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=None) as client,
        client.stream(
            "GET",
            httpx2.URL(f"{target.scheme}://{numeric}{target.path}"),
            headers={"Host": authority, "Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "small4"},
            extensions={"sni_hostname": target.host},
        ) as response,
    ):
        return await _read(response, config, hold)


async def _read(response: httpx2.Response, config: FetchConfig, hold: Hold) -> bytes:
    if response.status_code != 200:
        raise ImageError(f"the image's host answered {response.status_code}; redirects are not followed")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ImageError("the image's host sent a compressed answer that was not asked for; send the bytes")
    too_large = ImageError(f"the image behind the link is larger than {config.max_bytes} bytes, the limit")
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > config.max_bytes:
        raise too_large
    data = bytearray()
    async for piece in response.aiter_raw():
        hold(len(piece))
        data += piece
        if len(data) > config.max_bytes:
            raise too_large
    return bytes(data)
