"""Images in requests of every dialect, decoded by a real provider: a bomb ends nothing but its own request."""

import asyncio
import base64
from io import BytesIO

import pytest
from PIL import Image

from small4.chat import ChatRequest, ImagePart, Message
from small4.engine.config import EngineConfig
from small4.model.transformer import Transformer
from small4.providers.local import LocalProvider
from small4.providers.provider import Caller, collect
from small4.server.models import Offer
from small4.tokenizer.images import ImageGrid
from small4.tokenizer.isolated_images import ImageLimits
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import nano_tekken
from small4.train.optim import initialise
from small4.train.presets import preset
from tests.server.asgi import Served
from tests.tokenizer.bombs import progressive_bomb

LIMITS = ImageLimits(max_seconds=0.15, num_processes=1)


@pytest.fixture(scope="module")
def provider() -> LocalProvider:
    config = preset("test-whole").model
    network = Transformer(config)
    initialise(network, config.n_layers, seed=1)
    network.requires_grad_(False)
    tokenizer = Tokenizer.from_content(nano_tekken(vision=ImageGrid(patch_size=8, max_image_size=128)), "with images")
    engine = EngineConfig(block_size=4, cache_bytes=2_000_000)
    provider = LocalProvider("tiny", network, tokenizer, engine=engine, image_limits=LIMITS)
    request = ChatRequest(messages=(Message("user", (ImagePart(jpeg()),)),), max_tokens=1)
    asyncio.run(collect(provider.stream(request, Caller())))  # so that all is loaded that takes its time
    return provider


def openai_chat(data: str) -> tuple[str, dict]:
    content = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}]
    return "/v1/chat/completions", {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def mistral(data: str) -> tuple[str, dict]:
    path, body = openai_chat(data)
    return f"/mistral{path}", body


def responses(data: str) -> tuple[str, dict]:
    content = [{"type": "input_image", "image_url": f"data:image/jpeg;base64,{data}"}]
    return "/v1/responses", {"model": "m", "max_output_tokens": 2, "input": [{"role": "user", "content": content}]}


def anthropic(data: str) -> tuple[str, dict]:
    content = [{"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": data}}]
    return "/v1/messages", {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def google(data: str) -> tuple[str, dict]:
    parts = [{"inlineData": {"mimeType": "image/jpeg", "data": data}}]
    body = {"contents": [{"parts": parts}], "generationConfig": {"maxOutputTokens": 2}}
    return "/v1beta/models/m:generateContent", body


def counted(data: str) -> tuple[str, dict]:
    path, body = anthropic(data)
    return f"{path}/count_tokens", body


def jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("asking", [openai_chat, mistral, responses, anthropic, google, counted])
def test_a_bomb_is_a_refusal_that_says_why_while_others_are_answered(tmp_path, provider, asking):
    served = Served(tmp_path, provider=provider, offers=[Offer(id="m", provider=provider)])

    async def ask():
        path, body = asking(base64.b64encode(progressive_bomb(1000, 4000)).decode())
        bombed = served.client.visit("POST", path, body)
        text = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        beside = await served.client.post("/v1/chat/completions", text)
        path, body = asking(base64.b64encode(jpeg()).decode())
        return beside, await bombed.reply(), await served.client.post(path, body)

    beside, bombed, honest = asyncio.run(ask())
    assert (beside.status, bombed.status, honest.status) == (200, 422 if asking is mistral else 400, 200)
    assert b"takes more than 0.15 s or 1280 MiB to decode" in bombed.body
