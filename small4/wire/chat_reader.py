"""A provider's Chat Completions answer, streamed or whole, OpenAI's or Mistral's, as answer events.

An answer has ended when its provider says so: with a finish reason for every choice, and `[DONE]` where it streams.
Anything less is an `UpstreamError`, so that no half of an answer passes for a whole one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Struct

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
from small4.errors import UpstreamError
from small4.wire.chat_logprobs import LogprobsFields, logprobs_of
from small4.wire.chat_usage import UsageFields, usage_of
from small4.wire.openai_errors import quote
from small4.wire.sse import ServerEvent

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "model_length": "context",
    "tool_calls": "tool_calls",
    "content_filter": "filtered",
}


class PieceFields(Struct):
    """A part of content: its text, or its thought."""

    type: str
    text: str | None = None
    thinking: "list[PieceFields] | str | None" = None


class FunctionPiece(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class DetailPiece(Struct):
    text: str | None = None
    summary: str | None = None


class AnswerFields(Struct):
    """A message, or the piece of one that a chunk adds."""

    content: str | list[PieceFields] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[DetailPiece] | None = None
    tool_calls: list[CallPiece] | None = None


class ChoiceFields(Struct):
    index: int = 0
    delta: AnswerFields | None = None
    message: AnswerFields | None = None
    text: str | None = None  # of the older endpoint, which has no messages
    logprobs: LogprobsFields | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class BodyFields(Struct):
    choices: list[ChoiceFields] | None = None
    usage: UsageFields | None = None
    error: Any = None
    object: str | None = None
    message: Any = None  # of Mistral's errors


class ChatReader:
    """Reads the answers to one request that asked for `num_answers`; see `call.Reader`."""

    def __init__(self, num_answers: int = 1) -> None:
        self._answers = [_Answer() for _ in range(num_answers)]
        self._usage = Usage(is_estimated=True)  # until the provider tells
        self._is_done = False

    def feed(self, event: ServerEvent) -> list[AnswerEvent]:
        """What a chunk adds; the end of the stream gives every answer its `Finish`."""
        if self._is_done:
            return []
        if event.data.strip() == "[DONE]":
            return self._end()
        return self._take(_decode(event.data.encode("utf-8", "surrogatepass")))

    def finish(self) -> list[AnswerEvent]:
        """Raises if the connection ended before the answer."""
        if not self._is_done:
            raise UpstreamError("the provider's stream ended before its answer did")
        return []

    def whole(self, body: bytes) -> list[AnswerEvent]:
        """All events of an answer in one body."""
        return self._take(_decode(body)) + self._end()

    def _take(self, fields: BodyFields) -> list[AnswerEvent]:
        if fields.usage is not None:
            self._usage = usage_of(fields.usage)
        events: list[AnswerEvent] = []
        for choice in fields.choices or ():
            if not 0 <= choice.index < len(self._answers):
                raise UpstreamError(f"the provider sent answer {choice.index}, {len(self._answers)} were asked for")
            events += [AnswerEvent(choice.index, event) for event in self._answers[choice.index].take(choice)]
        return events

    def _end(self) -> list[AnswerEvent]:
        self._is_done = True
        return [AnswerEvent(index, answer.end(self._usage_of(index))) for index, answer in enumerate(self._answers)]

    def _usage_of(self, index: int) -> Usage:
        """Providers count the answers together: the first gets it all, so that the sum is right."""
        if index == 0:
            return self._usage
        return replace(self._usage, completion_tokens=0, reasoning_tokens=0)


class _Answer:
    """One choice, as far as it has come."""

    def __init__(self) -> None:
        self._calls = _Calls()
        self._reason: FinishReason | None = None
        self._stop: str | None = None

    def take(self, choice: ChoiceFields) -> list[ChatEvent]:
        fields = choice.delta or choice.message or AnswerFields(content=choice.text)
        events = self._events(fields, choice.logprobs)
        if events and self._reason is not None:
            raise UpstreamError("the provider went on after an answer's end")
        if choice.finish_reason and self._reason is None:  # some send "" until they have one
            self._reason = _reason(choice.finish_reason)
            self._stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
        return events

    def end(self, usage: Usage) -> Finish:
        if self._reason is None:
            raise UpstreamError("the provider's answer has no finish reason, so it is not whole")
        reason: FinishReason = "tool_calls" if self._reason == "stop" and self._calls.num_calls else self._reason
        return Finish(reason, usage, self._stop)

    def _events(self, fields: AnswerFields, logprobs: LogprobsFields | None) -> list[ChatEvent]:
        thought = fields.reasoning or fields.reasoning_content or _detailed(fields.reasoning_details or ())
        events: list[ChatEvent] = [ReasoningDelta(thought)] if thought else []
        pieces = [PieceFields("text", text=fields.content)] if isinstance(fields.content, str) else fields.content
        if fields.refusal:
            pieces = [*(pieces or ()), PieceFields("text", text=fields.refusal)]
        scores = logprobs_of(logprobs)
        for piece in pieces or ():
            if piece.type == "thinking":
                events += [ReasoningDelta(text)] if (text := _thought(piece)) else []
            elif piece.type != "text":
                raise UpstreamError(f"the provider's answer holds {quote(piece.type)!r}, which cannot be passed on")
            elif piece.text or scores:
                events.append(TextDelta(piece.text or "", scores))
                scores = ()
        for call in fields.tool_calls or ():
            events += self._calls.take(call)
        return events


class _Calls:
    """Gives the calls of one answer numbers from 0, however the provider numbers their pieces."""

    def __init__(self) -> None:
        self.num_calls = 0
        self._numbers: dict[int, int] = {}  # the provider's index -> our number
        self._ids: dict[int, str] = {}  # our number -> id

    def take(self, piece: CallPiece) -> list[ChatEvent]:
        function = piece.function or FunctionPiece()
        number = self._known(piece)
        events: list[ChatEvent] = []
        if number is None:
            if not piece.id or not function.name:
                raise UpstreamError("the provider began a tool call without its id or name")
            number = self._begin(piece)
            events.append(ToolCallStart(number, piece.id, function.name))
        arguments = function.arguments
        text = arguments if isinstance(arguments, str | None) else msgspec.json.encode(arguments).decode()
        return [*events, ToolCallDelta(number, text)] if text else events

    def _known(self, piece: CallPiece) -> int | None:
        """The call that the piece belongs to; a new id begins another, since some providers give all the index 0."""
        number = self.num_calls - 1 if piece.index is None else self._numbers.get(piece.index, -1)
        if number < 0 or (piece.id and piece.id != self._ids[number]):
            return None
        return number

    def _begin(self, piece: CallPiece) -> int:
        number = self.num_calls
        self.num_calls += 1
        self._numbers[number if piece.index is None else piece.index] = number
        self._ids[number] = piece.id or ""
        return number


def _decode(data: bytes) -> BodyFields:
    try:
        fields = msgspec.json.decode(data, type=BodyFields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("the provider sent what is no chat completion") from None
    if fields.error or fields.object == "error":
        raise UpstreamError(f"the provider broke off: {_told(fields)}", _status(fields.error))
    if fields.choices is None and fields.usage is None:
        raise UpstreamError("the provider sent what is no chat completion")
    return fields


def _told(fields: BodyFields) -> str:
    message = fields.error.get("message") if isinstance(fields.error, dict) else fields.error
    message = message or fields.message
    return (quote(message) if isinstance(message, str) else "") or "no reason given"


def _status(error: object) -> int | None:
    """The HTTP status that a fault within a stream would have had, as OpenRouter tells it."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else None


def _reason(word: str) -> FinishReason:
    if word == "error":
        raise UpstreamError("the provider ended its answer with an error")
    if word not in _REASONS:
        raise UpstreamError(f"the provider's answer ended for the unknown reason {quote(word)!r}")
    return _REASONS[word]


def _thought(piece: PieceFields) -> str:
    if isinstance(piece.thinking, str):
        return piece.thinking
    return "".join(inner.text or "" for inner in piece.thinking or ())


def _detailed(details: Sequence[DetailPiece]) -> str:
    return "".join(detail.text or detail.summary or "" for detail in details)
