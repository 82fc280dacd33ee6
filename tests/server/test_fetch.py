"""What the fetcher reaches, and what it must never reach: listeners on loopback tell."""

import asyncio
import ipaddress
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx2
import pytest

from small4.errors import FieldError, ImageError, Small4Error
from small4.server.fetch import FetchConfig, Target, check_url, fetch, is_public

ANY = FetchConfig(allowed_hosts=("*",), timeout_seconds=2)


@dataclass
class Canary:
    """A host on loopback that answers every connection the same, and keeps what it was asked."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
    asked: list[bytes] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()


def with_canary(canary: Canary, use: Callable[[int], Awaitable[object]]) -> object:
    """Run something beside a canary, given its port."""

    async def run() -> object:
        server = await asyncio.start_server(canary, "127.0.0.1", 0)
        async with server:
            return await use(server.sockets[0].getsockname()[1])

    return asyncio.run(run())


async def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def get(canary: Canary, url: str, config: FetchConfig = ANY, may_reach: Callable[..., bool] = lambda address: True):
    """Fetch with the names of all hosts leading to the canary; the port is the only thing that is not as it will be."""

    async def use(port: int) -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("small4.server.fetch._PORTS", {"http": port, "https": port})
            url_there = url.replace("http://images.example", f"http://images.example:{port}")
            # The URL that is connected to has no port of its own, as 80 and 443 need none.
            patch.setattr("small4.server.fetch.httpx2.URL", lambda text: real_url(text).copy_with(port=port))
            return await fetch(url_there, config, resolve=loopback, may_reach=may_reach)

    real_url = httpx2.URL
    return with_canary(canary, use)


def test_an_allowed_image_comes_with_the_host_it_was_asked_of():
    canary = Canary()
    assert get(canary, "http://images.example/a.png?size=2#top") == b"image"
    head = canary.asked[0].decode().lower()
    assert head.startswith("get /a.png?size=2 http/1.1")
    assert "host: images.example\r\n" in head
    assert "cookie" not in head
    assert "authorization" not in head


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(status: str):
    canary = Canary(f"HTTP/1.1 {status}\r\nLocation: http://images.example/b\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(ImageError, match="redirects are not followed"):
        get(canary, "http://images.example/a")
    assert len(canary.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + bytes(101),
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(101),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"40\r\n" + bytes(64) + b"\r\n40\r\n" + bytes(64),
    ],
)
def test_bytes_are_counted_as_they_come(answer: bytes):
    config = FetchConfig(allowed_hosts=("*",), timeout_seconds=2, max_bytes=100)
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        get(Canary(answer), "http://images.example/a", config)


def test_a_compressed_answer_is_refused():
    with pytest.raises(ImageError, match="compressed"):
        get(
            Canary(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"),
            "http://images.example/a",
        )


def test_a_host_that_says_nothing_ends_in_time():
    async def hang(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(ImageError, match=r"longer than 0\.05 seconds"):
        asyncio.run(fetch("http://a.example/", FetchConfig(allowed_hosts=("*",), timeout_seconds=0.05), resolve=hang))


def test_a_name_that_leads_inside_is_never_connected_to():
    canary = Canary()
    with pytest.raises(FieldError, match="not on the public internet"):
        get(canary, "http://images.example/a", may_reach=is_public)
    assert canary.asked == []


@pytest.mark.parametrize(
    "other", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:8.8.8.8", "fe80::1%eth0", "64:ff9b::808:808"]
)
def test_one_inner_address_among_public_ones_bars_the_host(other: str):
    async def both(host: str, port: int) -> list[str]:
        return ["93.184.215.14", other]

    with pytest.raises(FieldError, match="not on the public internet"):
        asyncio.run(fetch("http://a.example/", ANY, resolve=both))


# One address of each range that must not be reached, in the spellings that parsers of the world accept.
INNER = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254", "172.16.0.1", "192.0.0.8",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
]  # fmt: skip
INNER_6 = [
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip


def spellings(address: str) -> list[str]:
    """Ways to write an IPv4 address of which one or another parser makes that address."""
    parts = [int(part) for part in address.split(".")]
    value = int(ipaddress.IPv4Address(address))
    short = f"{parts[0]}.{value & 0xFFFFFF}"
    dotted = itertools.product(*[(str(p), f"0x{p:x}", f"0{p:o}", f"0{p}") for p in parts])
    wide = "".join(chr(0xFF10 + int(c)) if c.isdigit() else "。" for c in address)
    percent = "".join(f"%{ord(c):02x}" for c in address)
    return [".".join(p) for p in dotted] + [
        str(value), hex(value), f"0{value:o}", short, f"{address}.", wide, percent, f"[{address}]", f"{address}%00",
        f"[::ffff:{address}]", f"[::ffff:{value >> 16:x}:{value & 0xFFFF:x}]", f"a@{address}", f"a.example@{address}",
        f"{address}:22", f"{address}\\@a.example", f"a.example\\@{address}", f"{address}#@a.example/",
        f"{address}?@a.example/", f"{address}/@a.example", f"\t{address}", f"{address}\n", f" {address}",
        f"[::{address}]",
    ]  # fmt: skip


async def refuse_to_resolve(host: str, port: int) -> list[str]:
    """Were a spelling taken for a name, a lenient resolver would make this of it."""
    return ["127.0.0.1"]


def test_no_spelling_of_an_inner_address_passes():
    urls = [f"http://{s}/x" for address in INNER for s in spellings(address)] + [f"http://[{a}]/x" for a in INNER_6]
    assert len(urls) > 2000
    reached = []

    async def try_all() -> None:
        for url in urls:
            try:
                await fetch(url, ANY, resolve=refuse_to_resolve)
            except Small4Error:
                continue
            reached.append(url)

    asyncio.run(try_all())
    assert reached == []


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example/x.png", Target("https", "a.example", "/x.png")),
        ("HTTPS://A.Example:443/x", Target("https", "a.example", "/x")),
        ("http://a.example", Target("http", "a.example", "/")),
        ("http://a.example.?q=1", Target("http", "a.example", "/?q=1")),
        ("http://93.184.215.14:80/a@b:c", Target("http", "93.184.215.14", "/a@b:c")),
        ("http://[2606:2800:21f::1]/", Target("http", "2606:2800:21f::1", "/")),
        ("https://xn--bcher-kva.example/%20?a=b&c=%2F#d", Target("https", "xn--bcher-kva.example", "/%20?a=b&c=%2F")),
        ("http://a.example:/80", Target("http", "a.example", "/80")),  # an empty port is the scheme's own
        ("http://3com.example/", Target("http", "3com.example", "/")),
    ],
)
def test_honest_addresses_pass(url: str, target: Target):
    assert check_url(url, ANY) == target


@pytest.mark.parametrize(
    "url",
    [
        "", "a.png", "//a.example/x", "file:///etc/passwd", "ftp://a.example/", "gopher://a.example/",
        "http:/a.example", "http:a.example", "javascript:1", "http://", "http:///x", "http://a..example/", "http://-a.example/",
        "http://a.example:8080/", "https://a.example:80/", "http://u:p@a.example/",
        "http://bücher.example/", "http://a_b.example/", "http://[::1", "http://[::1]x/", "http://[fe80::1%25eth0]/",
        "http://a.example/\r\nX: y", "http://a.example/ x", "http://a.example\\x", "http://1/", "http://a.0x7f/",
        "http://" + "a" * 64 + ".example/", "http://a.example/" + "x" * 2048,
    ],
)  # fmt: skip
def test_other_addresses_are_refused_before_anything_is_looked_up(url: str):
    with pytest.raises(FieldError):
        check_url(url, ANY)


def test_only_allowed_hosts_are_fetched_from():
    config = FetchConfig(allowed_hosts=("cdn.example", "*.images.example"))
    assert check_url("https://cdn.example/a", config).host == "cdn.example"
    assert check_url("https://a.b.images.example/a", config).host == "a.b.images.example"
    for host in ("images.example", "evilimages.example", "a.cdn.example", "cdn.example.evil.example"):
        with pytest.raises(FieldError, match=r"allowed: cdn.example, \*.images.example"):
            check_url(f"https://{host}/a", config)
    with pytest.raises(FieldError, match="--allow-media"):
        check_url("https://cdn.example/a", FetchConfig())
