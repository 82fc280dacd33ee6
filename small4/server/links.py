"""Puts the images in place of the links that a request gives, before a model sees it."""

import asyncio
from dataclasses import replace

from small4.chat import ChatRequest, ImageLink, ImagePart, Message, Part
from small4.errors import ImageError
from small4.server.fetch import FetchConfig, fetch

MAX_LINKS = 16  # images of one request, as the tokenizer takes


async def with_images(request: ChatRequest, config: FetchConfig) -> ChatRequest:
    """The request without links; each is fetched once, whatever it raises is raised."""
    urls = {part.url for message in request.messages for part in _parts(message) if isinstance(part, ImageLink)}
    if not urls:
        return request
    if len(urls) > MAX_LINKS:
        raise ImageError(f"{len(urls)} images are linked, the limit is {MAX_LINKS}; send fewer")
    images = dict(zip(urls, await asyncio.gather(*(fetch(url, config) for url in urls)), strict=True))
    return replace(request, messages=tuple(_with_images(message, images) for message in request.messages))


def _with_images(message: Message, images: dict[str, bytes]) -> Message:
    if isinstance(message.content, str):
        return message
    parts = tuple(ImagePart(images[part.url]) if isinstance(part, ImageLink) else part for part in message.content)
    return replace(message, content=parts)


def _parts(message: Message) -> tuple[Part, ...]:
    return () if isinstance(message.content, str) else message.content
