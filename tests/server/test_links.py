"""Linked images: fetched when it is their request's turn, and counted among all that requests hold."""

import asyncio
import socket
import threading

import pytest

from small4.chat import ImagePart
from small4.errors import ImageError
from small4.providers.scripted import HELLO, Pause
from small4.server.bounds import Bounds
from small4.server.fetch import FetchConfig, Fetcher, fetch
from tests.server.asgi import CHAT, Served, holds

PATH = "/v1/chat/completions"


def linking(*urls: str) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]}


class Images:
    """So many bytes behind every URL; none behind one with "bad" in it, and "slow" ones once `may_end` is set."""

    def __init__(self, num_bytes: int = 100) -> None:
        self.data = b"i" * num_bytes
        self.fetched: list[str] = []
        self.num_open = 0
        self.may_end = asyncio.Event()

    async def fetch(self, url, hold):
        self.fetched.append(url)
        self.num_open += 1
        try:
            hold(len(self.data))
            if "slow" in url:
                await self.may_end.wait()
            if "bad" in url:
                raise ImageError("the image's host could not be reached")
            return self.data
        finally:
            self.num_open -= 1


def serving(directory, *scripts, num_bytes: int = 100, **bounds) -> tuple[Served, Images]:
    served, images = Served(directory, *scripts, bounds=Bounds(**bounds)), Images(num_bytes)
    served.service.fetcher = images
    return served, images


def test_image_takes_the_place_of_its_link(tmp_path):
    served, images = serving(tmp_path)
    assert asyncio.run(served.client.post(PATH, linking("https://a/b", "https://a/c", "https://a/b"))).status == 200
    parts = served.provider.requests[0][0].messages[0].content
    assert [part for part in parts if isinstance(part, ImagePart)] == [ImagePart(images.data)] * 3
    assert sorted(images.fetched) == ["https://a/b", "https://a/c"]


def test_nothing_is_fetched_for_a_request_that_waits_or_is_refused(tmp_path):
    served, images = serving(tmp_path, [Pause(60)], HELLO, max_concurrent=1, max_queued=1)

    async def check():
        first = served.client.visit("POST", PATH, CHAT)
        await holds(lambda: served.provider.num_open == 1)
        waiting = served.client.visit("POST", PATH, linking("https://a/b"))
        await holds(lambda: served.service.admission.num_queued == 1)
        assert (await served.client.post(PATH, linking("https://a/c"))).status == 503
        assert images.fetched == []
        first.leave()
        assert (await waiting.reply()).status == 200
        assert images.fetched == ["https://a/b"]

    asyncio.run(check())


def test_fetched_bytes_count_as_held_until_the_answer_has_been_given(tmp_path):
    served, _ = serving(tmp_path, [Pause(60)], HELLO, num_bytes=1000, max_held_body_bytes=2000)

    async def check():
        first = served.client.visit("POST", PATH, linking("https://a/b"))
        await holds(lambda: served.provider.num_open == 1)
        assert served.service.bodies.held_bytes > 1000
        reply = await served.client.post(PATH, linking("https://a/c"))
        assert (reply.status, "retry-after" in reply.headers) == (503, True)
        first.leave()
        await first.task
        assert served.service.bodies.held_bytes == 0
        assert (await served.client.post(PATH, linking("https://a/c"))).status == 200

    asyncio.run(check())


@pytest.mark.parametrize("streams", [False, True])
def test_image_that_cannot_be_had_is_a_400_and_ends_the_other_fetches(tmp_path, streams):
    served, images = serving(tmp_path)

    async def check():
        reply = await served.client.post(PATH, {**linking("https://a/slow", "https://a/bad"), "stream": streams})
        assert (reply.status, "could not be reached" in reply.json["error"]["message"]) == (400, True)
        assert (images.num_open, served.service.bodies.held_bytes) == (0, 0)
        assert served.service.admission.num_running == 0

    asyncio.run(check())


def test_stream_does_not_begin_before_its_images_are_there(tmp_path):
    served, images = serving(tmp_path, heartbeat_seconds=0.02)

    async def check():
        visit = served.client.visit("POST", PATH, {**linking("https://a/slow"), "stream": True})
        await holds(lambda: images.num_open == 1)
        await asyncio.sleep(0.05)
        assert visit.messages == []
        images.may_end.set()
        assert (await visit.reply()).status == 200

    asyncio.run(check())


def test_tokens_of_linked_images_are_counted_within_the_same_bounds(tmp_path):
    served, images = serving(tmp_path, [Pause(60)], max_concurrent=1)
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b"}}
    body = {"model": "scripted", "messages": [{"role": "user", "content": [image]}]}

    async def check():
        first = served.client.visit("POST", PATH, CHAT)
        await holds(lambda: served.provider.num_open == 1)
        counting = served.client.visit("POST", "/v1/messages/count_tokens", body)
        await holds(lambda: served.service.admission.num_queued == 1)
        assert images.fetched == []
        first.leave()
        assert (await counting.reply()).status == 200
        assert (images.fetched, served.service.bodies.held_bytes) == (["https://a/b"], 0)

    asyncio.run(check())


def test_names_that_are_never_resolved_hold_up_nothing_else(monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: may_end.wait(10))
    config = FetchConfig(allowed_hosts=("*",), timeout_seconds=0.1)

    async def check():
        fetcher = Fetcher(config)
        fetching = [fetch(f"http://{n}.example/", config, resolve=fetcher.resolve) for n in range(64)]
        hanging = asyncio.gather(*fetching, return_exceptions=True)
        await asyncio.sleep(0.02)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 0.5) == "done"
        assert {type(error) for error in await hanging} == {ImageError}
        may_end.set()
        fetcher.close()

    try:
        asyncio.run(check())
    finally:
        may_end.set()
