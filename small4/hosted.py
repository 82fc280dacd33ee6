"""`Hosted`: chat with a hosted provider's model from a Python script, as `LLM` does with a model of this machine.

with small4.Hosted("mistral") as model:
    print(model.chat("17+48+36+25", effort="high").text)
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Self, TypeVar, Unpack

from small4.answer import Answer, collect, collect_all
from small4.chat import EFFORTS, AnswerEvent, ChatEvent, ChatRequest, Effort, Message
from small4.chat_options import ChatOptions, request_of
from small4.errors import ConfigError, RequestError
from small4.gateway.addresses import address_of
from small4.gateway.keys import ProviderKeys
from small4.gateway.known import small4_among
from small4.providers.discovery import list_models
from small4.providers.endpoint import Dialect
from small4.providers.hosted import SMALL4_CONTEXT, HostedProvider, served_model
from small4.providers.provider import NANO_NOTE, Caller, Provider
from small4.providers.provider_key import ProviderKey
from small4.providers.upstream import Upstream, UpstreamBounds
from small4.wire.models_reader import FoundModel

T = TypeVar("T")

NANO = "nano"  # what every small4 calls its demonstration model
MAX_NAMED = 8  # models that an error names
MAX_WAITING = 256  # events that have come and were not read; then the provider waits
ROOM_AT_ONCE = 64  # events that are read before the other thread is told
NOBODY = Caller()


class Hosted:
    """One model of a hosted provider; any number of threads may ask at once."""

    def __init__(
        self,
        provider: str,
        model: str | None = None,
        *,
        key: str | None = None,
        dialect: Dialect | None = None,
        bounds: UpstreamBounds | None = None,
        is_streamed: bool = True,
        keys: ProviderKeys | None = None,
    ) -> None:
        """`provider` is a name, such as "mistral", or a base URL, which speaks OpenAI's dialect unless told otherwise.

        Without a `model` it is Small 4 under its name there, which a base URL is asked for. Without a `key` it is the
        environment's or the one that `small4 keys set` keeps.
        """
        address = address_of(provider, keys or ProviderKeys.of_user(), dialect, needs_key=key is None)
        self.endpoint = address.endpoint
        own_key = address.key if key is None else ProviderKey(key, self.endpoint.origin)
        upstream = Upstream(self.endpoint, own_key, bounds=bounds)
        self._loop = _Loop()
        self._upstream = upstream
        try:
            found = self._find(model or address.model_id)
        except BaseException:
            self.close()
            raise
        described = served_model(found.id, found.context_length or SMALL4_CONTEXT)
        if found.id == NANO:  # it is at its best where it takes the likeliest token
            described = replace(described, temperatures=dict.fromkeys(EFFORTS, 0.0), note=NANO_NOTE)
        self.provider = HostedProvider(upstream, found.id, model=described, is_streamed=is_streamed)

    @property
    def name(self) -> str:
        """The model's id and where it is, since that is where every text goes."""
        return f"{self.provider.model_id} at {self.endpoint.base_url}"

    @property
    def is_nano(self) -> bool:
        """Whether it is a demonstration model: one that another small4 serves under that name."""
        return self.provider.model_id == NANO

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together, as far as the provider tells."""
        return self.provider.model.context_length

    @property
    def cache_tokens(self) -> int:
        """What bounds an answer beside the context: nothing that can be known from here."""
        return self.context_length

    @property
    def cache_note(self) -> str:
        """Nothing is kept on this machine."""
        return ""

    @property
    def temperatures(self) -> Mapping[Effort, float]:
        """What the model is recommended to run at, by effort; `chat` does where no temperature is given."""
        return self.provider.model.temperatures

    def chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> Answer:
        """Answer a conversation (or one user message given as text) in one piece."""
        return collect(self.stream(request_of(messages, self.temperatures, **options)))

    def answers(self, messages: str | Sequence[Message], n: int, **options: Unpack[ChatOptions]) -> list[Answer]:
        """`n` answers to the same conversation, of a provider that gives several to one request."""
        request = replace(request_of(messages, self.temperatures, **options), num_answers=n)
        return collect_all(self.events(request))

    def stream(self, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        """Answer a chat request event by event; the last one is `Finish`. Leaving early ends the answer."""
        if request.num_answers != 1:
            raise RequestError(f"the stream is of one answer, not {request.num_answers}; ask for several by `answers`")
        with closing(self.events(request)) as events:
            for event in events:
                yield event.event

    def events(self, request: ChatRequest) -> Generator[AnswerEvent, None, None]:
        """The events of all answers to a request as they come, each with the number of its answer."""
        arrived: SimpleQueue[AnswerEvent | BaseException | None] = SimpleQueue()
        room, num_read = asyncio.Semaphore(MAX_WAITING), 0
        asking = self._loop.start(_pump(self.provider, request, arrived, room))
        try:
            while (event := arrived.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
                num_read += 1
                if num_read % ROOM_AT_ONCE == 0:
                    self._loop.soon(_make_room, room)
        finally:
            asking.cancel()

    def models(self) -> tuple[FoundModel, ...]:
        """The models that the provider lists."""
        return self._loop.run(list_models(self._upstream))

    def close(self) -> None:
        """End open answers, and close all connections."""
        self._loop.close(self._upstream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, model_id: str | None) -> FoundModel:
        """The model to ask; one that is not named is looked for in the provider's list."""
        if model_id is not None:
            return FoundModel(model_id)
        listed = {model.id: model for model in self.models()}
        chosen = small4_among(listed) or (next(iter(listed)) if len(listed) == 1 else None)
        if chosen is None:
            some = ", ".join(list(listed)[:MAX_NAMED]) or "none"
            raise ConfigError(
                f"{self.endpoint.name} lists {len(listed)} models and no Small 4; name one of them: {some}"
            )
        return listed[chosen]


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="small4 hosted", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin work in the loop."""
        if self._loop.is_closed():
            work.close()
            raise ConfigError("this provider was closed; make another")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, call: Callable[..., None], *arguments: object) -> None:
        """Have the loop make a call; none where it was closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work in the loop and wait for it; Ctrl-C ends both."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what is open, do this last, and end the thread."""
        if self._loop.is_closed():
            last.close()
            return
        self.run(_cancel_others())
        self.run(last)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _pump(
    provider: Provider,
    request: ChatRequest,
    arrived: "SimpleQueue[AnswerEvent | BaseException | None]",
    room: asyncio.Semaphore,
) -> None:
    """Hand the events on to another thread as long as there is room, and last what ended them."""
    ending: BaseException | None = None
    try:
        async with aclosing(provider.stream(request, NOBODY)) as events:
            async for event in events:
                await room.acquire()
                arrived.put(event)
    except asyncio.CancelledError:
        ending = RequestError("the provider was closed while it answered")
        raise
    except Exception as error:
        ending = error
    finally:
        arrived.put(ending)


def _make_room(room: asyncio.Semaphore) -> None:
    for _ in range(ROOM_AT_ONCE):
        room.release()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
