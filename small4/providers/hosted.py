"""A model of a hosted provider: chat request -> the provider's JSON over HTTP -> answer events.

    format     the request in the provider's dialect                   spoken.py, wire/
    ask        over the provider's own connections, with its key       upstream.py
    read       events, or one body, to answer events                   wire/
    settle     usage that the provider did not tell is estimated       estimate.py

Whatever goes wrong on the way is a typed error, raised where it stands: no half of an answer passes for a whole one.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec

from small4.chat import TEMPERATURES, AnswerEvent, ChatRequest, Finish
from small4.errors import ConfigError, RequestError, UpstreamError
from small4.providers.asking import ask, naming, refusal
from small4.providers.estimate import Tally, prompt_tokens
from small4.providers.provider import Ability, Caller, ServedModel
from small4.providers.spoken import SPOKEN
from small4.providers.upstream import Reply, Upstream
from small4.wire.call import Call, Reader
from small4.wire.sse import EventReader, ServerEvent

DRAIN_SECONDS = 0.1  # after the last event, for the body's end
# What a provider does to a request of its own accord unless it is told not to: Venice puts a system prompt first.
PLAIN: Mapping[str, dict[str, Any]] = {
    "https://api.venice.ai": {"venice_parameters": {"include_venice_system_prompt": False}},
}
SMALL4_CONTEXT = 262_144  # tokens that the release answers for
SMALL4_ABILITIES: frozenset[Ability] = frozenset({"tools", "reasoning", "images", "structured output"})


def served_model(
    name: str, context_length: int = SMALL4_CONTEXT, abilities: frozenset[Ability] = SMALL4_ABILITIES
) -> ServedModel:
    """Small 4 as some provider serves it."""
    return ServedModel(name=name, context_length=context_length, abilities=abilities, temperatures=TEMPERATURES)


class HostedProvider:
    """One model of one hosted provider; `model_id` is its name there. To be used in one event loop.

    `held_to` names the one provider that a marketplace may hand the request to, in OpenRouter's words.
    """

    def __init__(
        self,
        upstream: Upstream,
        model_id: str,
        *,
        model: ServedModel | None = None,
        is_streamed: bool = True,
        held_to: str | None = None,
    ) -> None:
        if held_to is not None and upstream.endpoint.dialect != "openai":
            raise ConfigError(f"only OpenAI's dialect can hold a marketplace to {held_to}; give the route that one")
        self.upstream, self.model_id, self.is_streamed, self.held_to = upstream, model_id, is_streamed, held_to
        self.model = model or served_model(model_id)
        self._spoken = SPOKEN[upstream.endpoint.dialect]

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """See `Provider.stream`; nothing about the caller is sent."""
        call = Call(request=request, model=self.model_id, is_stream=self.is_streamed)
        body = _encoded(self._spoken.format_request(call) | PLAIN.get(self.upstream.endpoint.origin, {}) | self._hold())
        tally = Tally(request)
        with naming(self.upstream):
            async with ask(self.upstream, "POST", self._spoken.path(call), body) as reply:
                if reply.status != 200:
                    raise await refusal(reply, self.upstream)
                async with aclosing(self._read(reply, request.num_answers)) as events:
                    async for event in events:
                        yield tally.settle(event)

    async def count_tokens(self, request: ChatRequest) -> int:
        """About how many tokens the prompt has: it is told from its text, and nobody is asked."""
        return prompt_tokens(request)

    def _hold(self) -> dict[str, Any]:
        if self.held_to is None:
            return {}
        return {"provider": {"only": [self.held_to], "allow_fallbacks": False}}

    async def _read(self, reply: Reply, num_answers: int) -> AsyncGenerator[AnswerEvent, None]:
        """The events of an answer, in whichever of the two forms it comes."""
        reader = self._spoken.reader(num_answers)
        match reply.content_type:
            case "text/event-stream":
                async with aclosing(self._read_stream(reply, reader, num_answers)) as events:
                    async for event in events:
                        yield event
            case "application/json":
                body = await reply.whole()
                with _reading():
                    answer = reader.whole(body)
                for event in answer:
                    yield event
            case kind:
                raise UpstreamError(f"the provider answered with {kind[:80] or 'no media type'!r}, which is no answer")

    async def _read_stream(self, reply: Reply, reader: Reader, num_answers: int) -> AsyncGenerator[AnswerEvent, None]:
        lines, num_open = self._event_reader(), num_answers
        async for piece in reply.pieces():
            for event in _events(lines.feed(piece), reader):
                num_open -= isinstance(event.event, Finish)
                yield event
            if num_open == 0:
                await reply.drain(DRAIN_SECONDS)
                return
        for event in _events(lines.end(), reader, is_end=True):
            yield event

    def _event_reader(self) -> EventReader:
        bounds = self.upstream.bounds
        line = bounds.max_event_bytes if self._spoken.has_large_lines else bounds.max_line_bytes
        return EventReader(bounds.max_event_bytes, line)


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise RequestError("a text of the request is not valid Unicode; convert it first") from None


def _events(events: Iterator[ServerEvent], reader: Reader, *, is_end: bool = False) -> Iterator[AnswerEvent]:
    """The answer events in events of a stream; those before a fault come before its error."""
    with _reading():
        for event in events:
            if event.data.strip():  # some keep a connection alive with events of nothing
                yield from reader.feed(event)
        if is_end:
            yield from reader.finish()


@contextmanager
def _reading() -> Iterator[None]:
    """What a provider sent wrong is no mistake of the caller's."""
    try:
        yield
    except RequestError as error:
        raise UpstreamError(f"the provider sent what cannot be read: {error}") from None
