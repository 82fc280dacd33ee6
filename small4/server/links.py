"""Puts the images in place of the links that a request gives, before a model sees it."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

from small4.chat import ChatRequest, ImageLink, ImagePart, Message, Part
from small4.errors import ImageError

MAX_LINKS = 16  # images of one request, as the tokenizer takes

Fetch = Callable[[str], Coroutine[Any, Any, bytes]]


async def with_images(request: ChatRequest, fetch: Fetch) -> ChatRequest:
    """The request without links; each is fetched once, and the first that fails ends the others."""
    urls = {part.url for message in request.messages for part in _parts(message) if isinstance(part, ImageLink)}
    if not urls:
        return request
    if len(urls) > MAX_LINKS:
        raise ImageError(f"{len(urls)} images are linked, the limit is {MAX_LINKS}; send fewer")
    images = await _fetched(urls, fetch)
    return replace(request, messages=tuple(_with_images(message, images) for message in request.messages))


async def _fetched(urls: Collection[str], fetch: Fetch) -> dict[str, bytes]:
    try:
        async with asyncio.TaskGroup() as group:
            fetching = {url: group.create_task(fetch(url)) for url in urls}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {url: task.result() for url, task in fetching.items()}


def _with_images(message: Message, images: dict[str, bytes]) -> Message:
    if isinstance(message.content, str):
        return message
    parts = tuple(ImagePart(images[part.url]) if isinstance(part, ImageLink) else part for part in message.content)
    return replace(message, content=parts)


def _parts(message: Message) -> tuple[Part, ...]:
    return () if isinstance(message.content, str) else message.content
