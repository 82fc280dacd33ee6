"""A Messages answer (Anthropic) from a provider -> answer events."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from small4.chat import (
    AnswerEvent,
    ChatEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import FieldError, UpstreamError
from small4.wire.anthropic_errors import stream_error
from small4.wire.anthropic_words import FINISH_REASONS
from small4.wire.call_ids import native_id
from small4.wire.decode import convert, decode_object
from small4.wire.sse import ServerEvent


class Reader:
    """Reads the answer of a provider that speaks the dialect."""

    def __init__(self) -> None:
        self._block: _Block | None = None
        self._num_calls = 0
        self._has_arguments = False  # of the call that is open
        self._usage = _Usage()
        self._ending: _Delta | None = None
        self._is_over = False

    def feed(self, event: ServerEvent) -> list[AnswerEvent]:
        """The events in one event of the stream; names that nobody knows yet are passed over."""
        try:
            fields = convert(decode_object(event.data.encode("utf-8", "surrogatepass")), _Event)
            return [AnswerEvent(0, chat_event) for chat_event in self._take(fields)]
        except FieldError as error:
            raise UpstreamError(f"the provider sent an event that cannot be read: {error}") from None

    def finish(self) -> list[AnswerEvent]:
        """Nothing more, once the message has stopped."""
        if not self._is_over:
            raise UpstreamError("the provider's stream ended before its answer did")
        return []

    def whole(self, body: bytes) -> list[AnswerEvent]:
        """The events of a message."""
        try:
            fields = decode_object(body)
            if fields.get("type") == "error":
                raise stream_error(fields.get("error"))
            message = convert(fields, _Message)
        except FieldError as error:
            raise UpstreamError(f"the provider's answer cannot be read: {error}") from None
        events = [event for block in message.content for event in (*self._open(block), *self._close())]
        self._usage = message.usage
        self._ending = _Delta(stop_reason=message.stop_reason, stop_sequence=message.stop_sequence)
        return [AnswerEvent(0, event) for event in (*events, self._finish())]

    def _take(self, event: "_Event") -> Iterator[ChatEvent]:
        if self._is_over:
            return
        match event.type:
            case "error":
                raise stream_error(event.error)
            case "message_start" if event.message is not None:
                self._usage = event.message.usage
            case "content_block_start" if event.content_block is not None:
                yield from self._open(event.content_block)
            case "content_block_delta" if event.delta is not None:
                yield from self._add(event.delta)
            case "content_block_stop":
                yield from self._close()
            case "message_delta" if event.delta is not None:
                self._ending = event.delta
                self._usage = _updated(self._usage, event.usage)
            case "message_stop":
                yield self._finish()

    def _open(self, block: "_Block") -> Iterator[ChatEvent]:
        self._block = block
        match block.type:
            case "text" if block.text:
                yield TextDelta(block.text)
            case "thinking" if block.thinking:
                yield ReasoningDelta(block.thinking)
            case "tool_use":
                yield ToolCallStart(self._num_calls, native_id(block.id, "content_block.id"), block.name)
                self._num_calls += 1
                self._has_arguments = False
            case "text" | "thinking" | "redacted_thinking":
                pass
            case _:
                raise UpstreamError(f"the provider answered with a block of the unknown type {block.type[:80]!r}")

    def _add(self, delta: "_Delta") -> Iterator[ChatEvent]:
        if delta.text:
            yield TextDelta(delta.text)
        if delta.thinking:
            yield ReasoningDelta(delta.thinking)
        if delta.partial_json:
            if self._block is None or self._block.type != "tool_use":
                raise UpstreamError("the provider sent arguments outside a tool call")
            self._has_arguments = True
            yield ToolCallDelta(self._num_calls - 1, delta.partial_json)

    def _close(self) -> Iterator[ChatEvent]:
        """A call whose arguments did not come in pieces has them in its block."""
        block, self._block = self._block, None
        if block is not None and block.type == "tool_use" and not self._has_arguments:
            yield ToolCallDelta(self._num_calls - 1, json.dumps(block.arguments, ensure_ascii=False))

    def _finish(self) -> Finish:
        word = self._ending.stop_reason if self._ending is not None else None
        if self._ending is None or word not in FINISH_REASONS:
            raise UpstreamError(f"the provider ended its answer for no known reason: {str(word)[:80]}")
        self._is_over = True
        reason: FinishReason = FINISH_REASONS[word]
        return Finish(reason, _tokens(self._usage), self._ending.stop_sequence)


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    arguments: dict[str, Any] = msgspec.field(name="input", default_factory=dict)


class _Message(msgspec.Struct):
    content: list[_Block]
    usage: _Usage
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Delta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


def _updated(usage: _Usage, later: _Usage | None) -> _Usage:
    """Counts of the last event replace those of the first."""
    if later is None:
        return usage
    names = _Usage.__struct_fields__
    return _Usage(**{name: _first(getattr(later, name), getattr(usage, name)) for name in names})


def _first(value: Any, other: Any) -> Any:
    return other if value is None else value


def _tokens(usage: _Usage) -> Usage:
    cached = usage.cache_read_input_tokens or 0
    thought = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details is not None else None
    return Usage(
        prompt_tokens=(usage.input_tokens or 0) + cached + (usage.cache_creation_input_tokens or 0),
        completion_tokens=usage.output_tokens or 0,
        reasoning_tokens=thought or 0,
        cached_tokens=cached,
        is_estimated=usage.input_tokens is None or usage.output_tokens is None,
    )
