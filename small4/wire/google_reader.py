"""A generateContent answer (Google) from a provider -> answer events."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from small4.chat import (
    AnswerEvent,
    ChatEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import FieldError, UpstreamError
from small4.wire.call_ids import native_id
from small4.wire.decode import convert, decode_object
from small4.wire.google_errors import stream_error
from small4.wire.google_fields import FunctionCall
from small4.wire.google_words import FINISH_REASONS
from small4.wire.sse import ServerEvent


class Reader:
    """Reads the answers of a provider that speaks the dialect; `num_answers` are what the call asked for."""

    def __init__(self, num_answers: int = 1) -> None:
        self._num_calls = [0] * num_answers
        self._reasons: list[FinishReason | None] = [None] * num_answers
        self._usage = _Usage()
        self._is_over = False

    def feed(self, event: ServerEvent) -> list[AnswerEvent]:
        """The events in one response of the stream."""
        return self._read(event.data.encode("utf-8", "surrogatepass"))

    def finish(self) -> list[AnswerEvent]:
        """How the answers ended: the dialect has no event for the end, but every answer has a reason."""
        if self._is_over:
            return []
        usage = _tokens(self._usage)
        events = []
        for index, reason in enumerate(self._reasons):
            if reason is None:
                raise UpstreamError("the provider's stream ended before its answer did")
            # Google counts all answers together, so the first one carries the count.
            share = usage if index == 0 else replace(usage, completion_tokens=0, reasoning_tokens=0)
            events.append(AnswerEvent(index, Finish(reason, share)))
        self._is_over = True
        return events

    def whole(self, body: bytes) -> list[AnswerEvent]:
        """The events of a response that was not streamed."""
        return [*self._read(body), *self.finish()]

    def _read(self, body: bytes) -> list[AnswerEvent]:
        try:
            fields = decode_object(body)
            if fields.get("error") is not None:
                raise stream_error(fields["error"])
            return list(self._take(convert(fields, _Response)))
        except FieldError as error:
            raise UpstreamError(f"the provider's answer cannot be read: {error}") from None

    def _take(self, response: "_Response") -> Iterator[AnswerEvent]:
        self._usage = response.usage_metadata or self._usage
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason and not response.candidates:
            self._reasons = ["filtered"] * len(self._reasons)
        for candidate in response.candidates or []:
            if not 0 <= candidate.index < len(self._reasons):
                raise UpstreamError(f"the provider sent answer {candidate.index}, which was not asked for")
            scores = _logprobs(candidate.logprobs_result)
            for part in (candidate.content.parts or []) if candidate.content is not None else []:
                for event in self._events(part, candidate.index, response.response_id, scores):
                    yield AnswerEvent(candidate.index, event)
                scores = () if part.text else scores  # they belong to the first text
            if candidate.finish_reason not in (None, "FINISH_REASON_UNSPECIFIED"):
                self._reasons[candidate.index] = self._reason(candidate)

    def _events(
        self, part: "_Part", index: int, response_id: str, scores: tuple[TokenLogprobs, ...]
    ) -> Iterator[ChatEvent]:
        if part.executable_code is not None or part.inline_data is not None:
            raise UpstreamError("the provider answered with code that it ran, or with a file; only text can be read")
        if part.text:
            yield ReasoningDelta(part.text) if part.thought else TextDelta(part.text, scores)
        if part.function_call is not None:
            call, number = part.function_call, self._num_calls[index]
            self._num_calls[index] += 1
            call_id = native_id(call.id or f"{response_id}.{index}.{number}", "functionCall.id")
            yield ToolCallStart(number, call_id, call.name)
            yield ToolCallDelta(number, json.dumps(call.args or {}, ensure_ascii=False))

    def _reason(self, candidate: "_Candidate") -> FinishReason:
        reason = FINISH_REASONS.get(candidate.finish_reason or "")
        if reason is None:
            more = f": {candidate.finish_message[:500]}" if candidate.finish_message else ""
            raise UpstreamError(f"the provider ended its answer with {(candidate.finish_reason or '')[:80]}{more}")
        return "tool_calls" if reason == "stop" and self._num_calls[candidate.index] else reason


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    executable_code: Any = None
    inline_data: Any = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Scored(msgspec.Struct, rename="camel"):
    token: str = ""
    token_id: int | None = None
    log_probability: float = 0.0


class _Top(msgspec.Struct):
    candidates: list[_Scored] = []


class _LogprobsResult(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Scored] = []
    top_candidates: list[_Top] = []


class _Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: _LogprobsResult | None = None


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Response(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _PromptFeedback | None = None
    response_id: str = ""


def _tokens(usage: _Usage) -> Usage:
    thought = usage.thoughts_token_count or 0
    return Usage(
        prompt_tokens=usage.prompt_token_count or 0,
        completion_tokens=(usage.candidates_token_count or 0) + thought,
        reasoning_tokens=thought,
        cached_tokens=usage.cached_content_token_count or 0,
        # The answer's count is left out where there was none, so that the prompt's alone tells.
        is_estimated=usage.prompt_token_count is None,
    )


def _logprobs(result: _LogprobsResult | None) -> tuple[TokenLogprobs, ...]:
    if result is None:
        return ()
    chosen, tops = result.chosen_candidates, result.top_candidates or [_Top()] * len(result.chosen_candidates)
    if len(chosen) != len(tops):
        raise UpstreamError("the provider sent log-probabilities of two lengths")
    return tuple(
        TokenLogprobs(_scored(token), tuple(_scored(other) for other in top.candidates))
        for token, top in zip(chosen, tops, strict=True)
    )


def _scored(token: _Scored) -> ScoredToken:
    return ScoredToken(token.token_id, token.token.encode("utf-8", "surrogatepass"), token.log_probability)
