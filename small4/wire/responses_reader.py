"""What a provider answers in the Responses API -> answer events, from a stream or from one object.

Only a response that says how it ended is an answer: a stream that stops before, a failed response and anything that is
not as documented raise `UpstreamError`. Summaries stand in for a thought where the provider shows nothing else of it.
"""

import msgspec
from msgspec import Raw, Struct

from small4.chat import (
    AnswerEvent,
    ChatEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import UpstreamError
from small4.wire.chat_logprobs import LogprobsFields, TokenFields, logprobs_of
from small4.wire.decode import S
from small4.wire.openai_errors import ErrorFields, quote
from small4.wire.sse import ServerEvent

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_THOUGHT_DELTAS = frozenset({"response.reasoning_text.delta", "response.reasoning.delta"})
_TEXT_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONS: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "filtered"}
_BETWEEN_SUMMARIES = "\n\n"


class Reader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # output index -> number of the call
        self._told: set[tuple[int, str]] = set()  # output index and kind of what was streamed
        self._is_over = False

    def feed(self, event: ServerEvent) -> list[AnswerEvent]:
        """What an event of the stream adds; names that are unknown add nothing."""
        if self._is_over or event.data.strip() == "[DONE]":
            return []
        fields = _decode(event.data.encode(), _Event)
        name = fields.type
        if name == "error":
            raise _fault(fields.error or ErrorFields(message=fields.message, code=fields.code))
        if name in _TERMINAL:
            return self._events(self._end(_whole(fields.response)))
        return self._events(self._read(name, fields))

    def finish(self) -> list[AnswerEvent]:
        """Raises if the response has not said how it ended."""
        if not self._is_over:
            raise UpstreamError("the provider's stream ended in the middle of the answer; send the request again")
        return []

    def whole(self, body: bytes) -> list[AnswerEvent]:
        """The events of a response that was not streamed."""
        response = _decode(body, _Response)
        events: list[ChatEvent] = []
        for index, raw in enumerate(response.output):
            events += self._item(index, _item_of(raw))
        return self._events(events + self._end(response))

    def _events(self, events: list[ChatEvent]) -> list[AnswerEvent]:
        return [AnswerEvent(0, event) for event in events]

    def _read(self, name: str, fields: "_Event") -> list[ChatEvent]:
        index = fields.output_index
        if name in _THOUGHT_DELTAS:
            return self._thought(index, "text", fields.delta)
        if name == "response.reasoning_summary_text.delta":
            return self._thought(index, "summary", fields.delta)
        if name == "response.reasoning_summary_part.added" and (index, "summary") in self._told:
            return self._thought(index, "summary", _BETWEEN_SUMMARIES)
        if name in _TEXT_DELTAS:
            self._told.add((index, "message"))
            return [TextDelta(fields.delta, _logprobs(fields.logprobs))]
        if name == "response.output_item.added":
            item = _item_of(fields.item)
            return [] if item is None or item.type != "function_call" else [self._start(index, item)]
        if name == "response.function_call_arguments.delta":
            return self._arguments(index, fields.delta)
        if name == "response.output_item.done":
            return self._item(index, _item_of(fields.item))
        return []

    def _thought(self, index: int, kind: str, text: str) -> list[ChatEvent]:
        """A piece of the thought itself or of its summary, whichever came first."""
        other = "text" if kind == "summary" else "summary"
        if not text or (index, other) in self._told:
            return []
        self._told.add((index, kind))
        return [ReasoningDelta(text)]

    def _start(self, index: int, item: "_Item") -> ToolCallStart:
        if index in self._calls or not (item.call_id and item.name):
            raise UpstreamError("the provider began a tool call without an id or a name, or began it twice")
        self._calls[index] = len(self._calls)
        return ToolCallStart(self._calls[index], item.call_id, item.name)

    def _arguments(self, index: int, arguments: str) -> list[ChatEvent]:
        if index not in self._calls:
            raise UpstreamError("the provider sent arguments of a tool call that it had not begun")
        if not arguments:
            return []
        self._told.add((index, "arguments"))
        return [ToolCallDelta(self._calls[index], arguments)]

    def _item(self, index: int, item: "_Item | None") -> list[ChatEvent]:
        """What a whole item says beyond what was streamed of it."""
        if item is None:
            return []
        if item.type == "function_call":
            events: list[ChatEvent] = [] if index in self._calls else [self._start(index, item)]
            known = (index, "arguments") in self._told
            return events + ([] if known else self._arguments(index, item.arguments))
        if item.type == "reasoning":
            if (index, "text") in self._told or (index, "summary") in self._told:
                return []
            text = "".join(part.text for part in item.content or ())
            return self._thought(
                index, "text", text or _BETWEEN_SUMMARIES.join(part.text for part in item.summary or ())
            )
        if item.type == "message" and (index, "message") not in self._told:
            return [_text_of(part) for part in item.content or () if part.text or part.refusal]
        return []

    def _end(self, response: "_Response") -> list[ChatEvent]:
        if response.error is not None or response.status not in ("completed", "incomplete"):
            raise _fault(response.error or ErrorFields(message=f"the response is {response.status}"))
        reason: FinishReason | None = "tool_calls" if self._calls else "stop"
        if response.status == "incomplete":
            details = response.incomplete_details
            reason = _REASONS.get(details.reason) if details is not None else None
        if reason is None:
            raise UpstreamError("the provider cut the answer short and gave no reason that is known")
        self._is_over = True
        return [Finish(reason, _usage(response.usage))]


def _item_of(raw: Raw) -> "_Item | None":
    """The item, if it is of a kind that is read."""
    if not raw or _decode(raw, _Kind).type not in ("message", "reasoning", "function_call"):
        return None
    return _decode(raw, _Item)


def _fault(error: ErrorFields) -> UpstreamError:
    code, message = quote(str(error.code or "")), quote(error.message)
    return UpstreamError(f"the provider broke off: {message or 'no reason given'}{f' ({code})' if code else ''}")


def _logprobs(tokens: list[TokenFields] | None) -> tuple[TokenLogprobs, ...]:
    return logprobs_of(LogprobsFields(tokens))


def _text_of(part: "_Part") -> TextDelta:
    return TextDelta(part.text or part.refusal, _logprobs(part.logprobs))


def _usage(usage: "_Usage | None") -> Usage:
    if usage is None:
        return Usage(is_estimated=True)
    return Usage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        reasoning_tokens=usage.output_tokens_details.reasoning_tokens if usage.output_tokens_details else 0,
        cached_tokens=usage.input_tokens_details.cached_tokens if usage.input_tokens_details else 0,
    )


def _whole(response: "_Response | None") -> "_Response":
    if response is None:
        raise UpstreamError("the provider's last event holds no response")
    return response


def _decode(data: bytes | Raw, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UpstreamError(f"the provider sent what is no answer of the Responses API: {str(error)[:200]}") from None


class _Part(Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""
    logprobs: list[TokenFields] | None = None


class _Kind(Struct):
    type: str


class _Item(Struct):
    type: str
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _InputDetails(Struct):
    cached_tokens: int = 0


class _OutputDetails(Struct):
    reasoning_tokens: int = 0


class _Usage(Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Details(Struct):
    reason: str = ""


class _Response(Struct):
    status: str
    output: list[Raw] = []
    error: ErrorFields | None = None
    incomplete_details: _Details | None = None
    usage: _Usage | None = None


class _Event(Struct):
    type: str
    output_index: int = 0
    delta: str = ""
    logprobs: list[TokenFields] | None = None
    item: Raw = Raw()
    response: _Response | None = None
    error: ErrorFields | None = None
    code: str | None = None
    message: str = ""
