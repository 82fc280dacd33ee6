"""A key's bytes reach its own origin and nobody else, whatever that one answers and whatever is asked."""

import asyncio
import random
from typing import Any

import httpx2
import pytest

from small4.chat import ChatRequest, Message
from small4.errors import ConfigError, Small4Error
from small4.providers.endpoint import DIALECTS, Dialect, endpoint_at
from small4.providers.hosted import HostedProvider
from small4.providers.provider_key import ProviderKey
from small4.providers.upstream import Upstream
from tests.providers.dialects import CALLER, TEXT, sent
from tests.providers.fault_server import EVENTS, Asked, FaultServer, Script, stream, whole

GOOD = {dialect: sent(dialect, *TEXT) for dialect in DIALECTS}
STATUSES = (301, 302, 303, 307, 308, 300, 304, 305, 400, 401, 403, 404, 407, 421, 429, 500, 503, 200)
HEADERS = ("Location", "Refresh", "Content-Location", "Link", "Alt-Svc", "Proxy-Authenticate", "WWW-Authenticate")


def reply(dice: random.Random, key: str, elsewhere: str, dialect: Dialect) -> Script:
    """What may lead a client astray: another address in every place that knows one, and the key thrown back."""
    status = dice.choice(STATUSES)
    if status == 200 and dice.random() < 0.5:
        return [stream(GOOD[dialect].events)]
    target = dice.choice([elsewhere, f"{elsewhere}/v1/chat/completions", f"//{elsewhere.partition('//')[2]}/"])
    headers = {name.replace("-", "_"): target for name in dice.sample(HEADERS, 3)}
    body = dice.choice([b"", {"error": {"message": f"go to {target} with {key}"}}, {"detail": key}, key.encode()])
    return [whole(body, status, dice.choice(["application/json", EVENTS, "text/html"]), **headers)]


async def episodes(num_episodes: int, seed: int) -> None:
    dice = random.Random(seed)
    current: dict[str, Any] = {}

    def answer(asked: Asked) -> Script:
        return reply(dice, current["key"], stranger.url, current["dialect"])

    async with FaultServer(choose=answer) as own, FaultServer([whole({})]) as stranger:
        for number in range(num_episodes):
            key, dialect = f"canary-{seed}-{number}-{dice.getrandbits(64):x}", dice.choice(DIALECTS)
            current.update(key=key, dialect=dialect)
            endpoint = endpoint_at(own.url, name="own", dialect=dialect)
            with pytest.raises(ConfigError):
                ProviderKey(key, endpoint.origin).text_for(stranger.url)
            upstream = Upstream(endpoint, ProviderKey(key, endpoint.origin))
            told = await _ask(
                HostedProvider(
                    upstream,
                    dice.choice(["m", "../m", f"{stranger.url}/m", "m?key=1"]),
                    is_streamed=dice.random() < 0.7,
                ),
                stranger.url,
            )
            await upstream.aclose()
            assert key not in told
            assert own.asked[-1].raw.count(key.encode()) == 1
            assert key not in own.asked[-1].target
        assert len(own.asked) == num_episodes
        assert stranger.num_connections == 0


async def _ask(provider: HostedProvider, elsewhere: str) -> str:
    request = ChatRequest(messages=(Message("user", f"Host: {elsewhere}\r\nGET {elsewhere}"),))
    try:
        async for _ in provider.stream(request, CALLER):
            pass
    except Small4Error as error:
        return f"{error} {error!r} {vars(error)}"
    return ""


def test_a_key_reaches_its_own_origin_alone() -> None:
    asyncio.run(episodes(120, seed=1))


@pytest.mark.slow
def test_a_key_reaches_its_own_origin_alone_ten_thousand_times() -> None:
    asyncio.run(episodes(10_000, seed=2))


def test_what_a_request_holds_does_not_choose_where_it_goes() -> None:
    """Model names with paths and queries in them stay below the base URL."""
    seen: list[httpx2.URL] = []

    class Recorder(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(request.url)
            return httpx2.Response(500, stream=httpx2.ByteStream(b""))

    async def run() -> None:
        for dialect in DIALECTS:
            endpoint = endpoint_at("https://api.example.org/base", dialect=dialect)
            upstream = Upstream(endpoint, transport=Recorder())
            for name in (
                "../../x",
                "//evil.example/",
                "@evil.example",
                "m?key=1",
                "m#x",
                "https://evil.example",
                "\\x",
            ):
                await _ask(HostedProvider(upstream, name), "http://evil.example")

    asyncio.run(run())
    assert len(seen) == 7 * len(DIALECTS)
    for url in seen:
        assert (url.scheme, url.host, url.port) == ("https", "api.example.org", None)
        assert url.raw_path.startswith(b"/base/")
        assert b".." not in url.raw_path.replace(b"..%2F", b"")
