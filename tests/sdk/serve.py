"""The server that the SDKs are run against, as a process of its own: `python -m tests.sdk.serve DIRECTORY`.

It offers the nano, and beside it what the nano cannot do on demand. Its first line has the URL and the only key.
"""

import io
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from PIL import Image

from small4.chat import (
    AnswerEvent,
    ChatRequest,
    Finish,
    ImagePart,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.cli.serve import offer_of
from small4.cli.speaker import load_speaker
from small4.errors import EngineStoppedError
from small4.providers.provider import Caller
from small4.providers.scripted import SCRIPTED, ScriptedProvider, Step
from small4.server.app import create_app
from small4.server.keys import KeyStore
from small4.server.log import Log
from small4.server.models import Offer
from small4.server.run import serve

CACHE_BYTES = 16 * 2**20

TWO_CALLS: tuple[Step, ...] = (
    ToolCallStart(0, "a1B2c3D4e", "weather"),
    ToolCallDelta(0, '{"city": '),
    ToolCallDelta(0, '"Paris"}'),
    ToolCallStart(1, "b1B2c3D4e", "weather"),
    ToolCallDelta(1, '{"city": "Rome"}'),
    Finish("tool_calls", Usage(20, 12)),
)
BREAKS: tuple[Step, ...] = (TextDelta("so far"), EngineStoppedError("the engine stopped; ask again"))


class Looks:
    """Tells the kind and the size of every image that it is shown."""

    model = SCRIPTED

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """One answer of text."""
        parts = [part for message in request.messages for part in message.content if isinstance(part, ImagePart)]
        images = [Image.open(io.BytesIO(part.data)) for part in parts]
        seen = ", ".join(f"{image.format} {image.width}x{image.height}" for image in images)
        yield AnswerEvent(0, TextDelta(seen))
        yield AnswerEvent(0, Finish("stop", Usage(30, 5)))

    async def count_tokens(self, request: ChatRequest) -> int:
        """As ever many as there are messages: there are no tokens here."""
        return len(request.messages)


def main(directory: Path) -> None:
    store = KeyStore(directory)
    key, _ = store.create("sdk")
    offers = [
        offer_of(load_speaker("nano", cache_bytes=CACHE_BYTES, max_step_seconds=120)),
        Offer(id="two-calls", provider=ScriptedProvider(TWO_CALLS)),
        Offer(id="looks", provider=Looks()),
        Offer(id="breaks", provider=ScriptedProvider(BREAKS)),
    ]
    with (directory / "log").open("w", encoding="ascii") as log:
        serve(create_app(offers, store, log=Log(log)), port=0, on_start=lambda url: print(url, key, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
