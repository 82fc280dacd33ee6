"""A provider's end of a connection without a network: for tests that need thousands of answers."""

from collections.abc import AsyncIterator

import httpx2

from tests.providers.fault_server import EVENTS


class Pieces(httpx2.AsyncBaseTransport):
    """Answers every request with the same pieces of one body."""

    def __init__(self, pieces: list[bytes], kind: str = EVENTS) -> None:
        self._pieces, self._kind = pieces, kind

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": self._kind}, stream=_Body(self._pieces))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
