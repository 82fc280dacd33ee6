"""The answer of a Chat Completions request, as a stream of chunks or as one body, in OpenAI's way or in Mistral's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from small4.answer import Answer, Gathering
from small4.chat import (
    AnswerEvent,
    ChatEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.wire.call import Call, Head
from small4.wire.chat_logprobs import format_logprobs
from small4.wire.chat_request import ChatForm
from small4.wire.chat_usage import format_usage, sum_usage
from small4.wire.problem import Problem
from small4.wire.sse import ServerEvent

DONE = ServerEvent("[DONE]")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStyle:
    """Where the dialects part."""

    finish_reasons: Mapping[FinishReason, str]
    format_error: Callable[[Problem], dict[str, Any]]
    has_nulls: bool = True  # OpenAI's system_fingerprint and refusal, which are always null here
    has_whole_calls: bool = False  # a call comes in one chunk, since the client reads no pieces of one
    has_usage_at_finish: bool = False  # usage stands beside the last finish_reason, not in a chunk of its own
    has_error_finish: bool = False  # before an error, each answer that has not ended gets the finish_reason for it


class ChatWriter:
    """Writes what OpenAI's and Mistral's chat clients read; see `call.Writer`."""

    def __init__(self, call: Call, head: Head, *, style: ChatStyle) -> None:
        assert isinstance(call.form, ChatForm)
        self._call = call
        self._form = call.form
        self._head = head
        self._style = style
        self._answers = [_Answer() for _ in range(call.request.num_answers)]
        self._has_logprobs = call.request.sampling.logprobs is not None
        self._around_text: dict[
            int, tuple[str, str]
        ] = {}  # what stands before and behind the text of an answer's chunk

    def start(self) -> list[ServerEvent]:
        """One opening chunk per answer."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(index, delta) for index in range(len(self._answers))]

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """The chunks that this event adds; an answer that is not streamed is only gathered."""
        answer = self._answers[event.index]
        answer.take(event.event, keeps_text=not self._call.is_stream)
        if not self._call.is_stream:
            return []
        return self._chunks(event.index, answer, event.event)

    def finish(self) -> list[ServerEvent]:
        """The chunk with the usage, where it was asked for, and the end."""
        assert all(answer.finish is not None for answer in self._answers), "an answer has no Finish yet"
        if self._form.has_stream_usage and not self._style.has_usage_at_finish:
            return [self._event({"choices": [], "usage": self._usage()}), DONE]
        return [DONE]

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """The error as an event; that the end is missing tells it from an answer."""
        ends = [
            self._last_chunk(index, answer, Finish("error", Usage()))
            for index, answer in enumerate(self._answers)
            if answer.finish is None and self._style.has_error_finish
        ]
        return [*ends, ServerEvent(_json(self._style.format_error(problem)))]

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [self._choice(index, answer.gathering.answer()) for index, answer in enumerate(self._answers)]
        body = self._envelope("chat.completion") | {"choices": choices, "usage": self._usage()}
        return body | ({"metadata": dict(self._call.metadata)} if self._call.metadata else {})

    def _chunks(self, index: int, answer: "_Answer", event: ChatEvent) -> list[ServerEvent]:
        chunks = []
        if self._style.has_whole_calls and not isinstance(event, ToolCallDelta) and answer.open_call is not None:
            chunks.append(self._chunk(index, _whole_call(*answer.close_call())))
        match event:
            case ReasoningDelta(text):
                chunks += [self._chunk(index, delta) for delta in self._reasoning_delta(text)]
            case TextDelta(text, ()):
                chunks.append(self._text_chunk(index, text))
            case TextDelta(text, logprobs):
                chunks.append(self._chunk(index, {"content": text}, logprobs))
            case ToolCallStart() | ToolCallDelta() if self._style.has_whole_calls:
                answer.gather_call(event)
            case ToolCallStart(number, call_id, name):
                chunks.append(self._chunk(index, _call_opener(number, call_id, name)))
            case ToolCallDelta(number, arguments):
                chunks.append(self._chunk(index, _call_piece(number, arguments)))
            case Finish():
                chunks.append(self._last_chunk(index, answer, event))
        return chunks

    def _reasoning_delta(self, text: str) -> list[dict[str, Any]]:
        match self._form.reasoning_format:
            case "both":
                return [{"reasoning": text, "reasoning_content": text}]
            case "hidden":
                return []
            case "thinking_chunks":
                return [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}]
            case name:
                return [{name: text}]

    def _last_chunk(self, index: int, answer: "_Answer", finish: Finish) -> ServerEvent:
        choice = self._choice_head(index, {"delta": {}}, answer.has_calls, finish)
        fields: dict[str, Any] = {"choices": [choice]}
        if self._style.has_usage_at_finish:
            if all(other.finish is not None for other in self._answers):
                fields["usage"] = self._usage()
        elif self._form.has_stream_usage:
            fields["usage"] = None
        return self._event(fields)

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: tuple[TokenLogprobs, ...] = ()) -> ServerEvent:
        scores = format_logprobs(logprobs) if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": None}
        fields: dict[str, Any] = {"choices": [choice]}
        if self._form.has_stream_usage and not self._style.has_usage_at_finish:
            fields["usage"] = None
        return self._event(fields)

    def _text_chunk(self, index: int, text: str) -> ServerEvent:
        """`_chunk` of a content without scores, as most are: only the text differs from one to the next."""
        if index not in self._around_text:
            head, _, tail = self._chunk(index, {"content": ""}).data.partition('{"content":""}')
            self._around_text[index] = (head + '{"content":', "}" + tail)
        head, tail = self._around_text[index]
        return ServerEvent(head + _json(text) + tail)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        finish = self._answers[index].finish
        assert finish is not None, "the answer has no Finish yet"
        message = {"role": "assistant", "content": self._content(answer), **self._reasoning(answer)}
        if self._style.has_nulls:
            message["refusal"] = None
        if answer.tool_calls:
            message["tool_calls"] = [_format_call(call) for call in answer.tool_calls]
        choice = self._choice_head(index, {"message": message}, bool(answer.tool_calls), finish)
        if self._has_logprobs:
            choice["logprobs"] = format_logprobs(answer.logprobs)
        return choice

    def _choice_head(self, index: int, body: dict[str, Any], has_calls: bool, finish: Finish) -> dict[str, Any]:
        # Agent loops end on "stop", so an answer with calls must never say it.
        reason: FinishReason = "tool_calls" if finish.reason == "stop" and has_calls else finish.reason
        choice = {"index": index, **body, "logprobs": None, "finish_reason": self._style.finish_reasons[reason]}
        return choice if finish.stop is None else choice | {"stop_reason": finish.stop}

    def _content(self, answer: Answer) -> str | list[dict[str, Any]] | None:
        if self._form.reasoning_format != "thinking_chunks" or not answer.reasoning:
            return answer.text or (None if answer.tool_calls else "")
        thought = [{"type": "text", "text": answer.reasoning}]
        text = [{"type": "text", "text": answer.text}] if answer.text else []
        return [{"type": "thinking", "thinking": thought, "closed": True}, *text]

    def _reasoning(self, answer: Answer) -> dict[str, Any]:
        names = {
            "both": ("reasoning", "reasoning_content"),
            "reasoning": ("reasoning",),
            "reasoning_content": ("reasoning_content",),
        }
        return dict.fromkeys(names.get(self._form.reasoning_format, ()), answer.reasoning or None)

    def _usage(self) -> dict[str, Any]:
        return format_usage(sum_usage([answer.finish.usage for answer in self._answers if answer.finish is not None]))

    def _event(self, fields: dict[str, Any]) -> ServerEvent:
        return ServerEvent(_json(self._envelope("chat.completion.chunk") | fields))

    def _envelope(self, kind: str) -> dict[str, Any]:
        head = self._head
        envelope = {"id": f"chatcmpl-{head.id}", "object": kind, "created": head.created, "model": head.model}
        return envelope | ({"system_fingerprint": None} if self._style.has_nulls else {})


class _Answer:
    """What is known of one answer so far."""

    def __init__(self) -> None:
        self.gathering = Gathering()
        self.finish: Finish | None = None
        self.has_calls = False
        self.open_call: ToolCallStart | None = None  # whose arguments are being gathered
        self._arguments: list[str] = []

    def take(self, event: ChatEvent, *, keeps_text: bool) -> None:
        if keeps_text:
            self.gathering.add(event)
        if isinstance(event, Finish):
            self.finish = event
        self.has_calls = self.has_calls or isinstance(event, ToolCallStart)

    def gather_call(self, event: ToolCallStart | ToolCallDelta) -> None:
        if isinstance(event, ToolCallStart):
            self.open_call = event
        else:
            self._arguments.append(event.arguments)

    def close_call(self) -> tuple[ToolCallStart, str]:
        """The call that was gathered, with its whole arguments."""
        assert self.open_call is not None
        call, arguments = self.open_call, "".join(self._arguments)
        self.open_call, self._arguments = None, []
        return call, arguments


def _call_opener(number: int, call_id: str, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    return {"tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]}


def _call_piece(number: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}


def _whole_call(start: ToolCallStart, arguments: str) -> dict[str, Any]:
    call = ToolCall(start.id, start.name, arguments)
    return {"tool_calls": [{"index": start.index, **_format_call(call)}]}


def _format_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _json(body: dict[str, Any] | str) -> str:
    return _encode(body).decode()
