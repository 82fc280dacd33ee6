"""Answer events -> a generateContent answer (Google): a response per event, or one response.

A function call is written when it is whole. One whose arguments are no JSON object cannot be written: the answer ends
with MALFORMED_FUNCTION_CALL (or MAX_TOKENS, where it was cut off), and `finishMessage` has the model's text.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from small4.chat import (
    AnswerEvent,
    Finish,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
)
from small4.errors import EngineStoppedError
from small4.wire.call import Call, Head
from small4.wire.chat_logprobs import LOWEST
from small4.wire.chat_usage import sum_usage
from small4.wire.google_errors import format_error
from small4.wire.google_request import GenerateForm
from small4.wire.google_words import FINISH_WORDS, MALFORMED_CALL
from small4.wire.problem import Problem, problem_of
from small4.wire.sse import ServerEvent
from small4.wire.tool_arguments import object_or_none

_Json = dict[str, Any]


class Writer:
    """Writes the answers of a call, which are candidates of one response."""

    def __init__(self, call: Call, head: Head) -> None:
        self._head = head
        self._shows_thoughts = call.form.shows_thoughts if isinstance(call.form, GenerateForm) else True
        self._num_logprobs = call.request.sampling.logprobs
        self._candidates = [_Candidate() for _ in range(call.request.num_answers)]

    def start(self) -> list[ServerEvent]:
        """Nothing: the first response is the first event."""
        return []

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """A response with what this event completes."""
        candidate = self._candidates[event.index]
        parts, logprobs = self._take(candidate, event)
        candidate.parts += parts
        candidate.logprobs += logprobs
        if not parts:
            return []
        fields = self._fields(event.index, parts)
        if logprobs:
            fields["logprobsResult"] = _logprobs(logprobs, self._num_logprobs)
        return [self._event({"candidates": [fields]})]

    def finish(self) -> list[ServerEvent]:
        """The last response: how every candidate ended, and what all cost. Broken answers end in an error."""
        if (fault := self._fault()) is not None:
            return self.fail(problem_of(fault))
        candidates = []
        for index, candidate in enumerate(self._candidates):
            has_call = any("functionCall" in part for part in candidate.parts)
            # Clients join the text of all responses, which an answer without parts would make None.
            fields = self._fields(index, [] if has_call else [{"text": ""}])
            candidates.append(fields | _ending(candidate))
        return [self._event({"candidates": candidates, "usageMetadata": self._usage()})]

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """An error in the place of a response."""
        return [ServerEvent(msgspec.json.encode(format_error(problem)).decode())]

    def whole(self) -> dict[str, Any]:
        """The one response."""
        if (fault := self._fault()) is not None:
            raise fault
        candidates = []
        for index, candidate in enumerate(self._candidates):
            fields = self._fields(index, _joined(candidate.parts)) | _ending(candidate)
            if candidate.logprobs:
                fields["logprobsResult"] = _logprobs(candidate.logprobs, self._num_logprobs)
            candidates.append(fields)
        return self._response({"candidates": candidates, "usageMetadata": self._usage()})

    def _take(self, candidate: "_Candidate", event: AnswerEvent) -> tuple[list[_Json], tuple[TokenLogprobs, ...]]:
        match event.event:
            case ReasoningDelta("") | TextDelta("", ()) | ToolCallDelta(_, ""):
                return [], ()
            case ReasoningDelta(text):
                thought = [{"text": text, "thought": True}] if self._shows_thoughts else []
                return [*candidate.close_call(), *thought], ()
            case TextDelta(text, logprobs):
                return [*candidate.close_call(), {"text": text}], logprobs
            case ToolCallStart() as start:
                parts = candidate.close_call()
                candidate.call = start
                return parts, ()
            case ToolCallDelta(_, text):
                candidate.arguments.append(text)
                return [], ()
            case Finish() as finish:
                candidate.finish = finish
                return candidate.close_call(), ()

    def _fault(self) -> Exception | None:
        """Why an answer did not come to its end."""
        for candidate in self._candidates:
            finish = candidate.finish
            if finish is None or finish.reason not in FINISH_WORDS:
                error = None if finish is None else finish.error
                return error or EngineStoppedError("the answer broke off before its end; send the request again")
        return None

    def _fields(self, index: int, parts: list[_Json]) -> _Json:
        return {"index": index, "content": {"role": "model", "parts": parts}}

    def _usage(self) -> _Json:
        """The prompt once, the answers together; thoughts are counted apart from the answers."""
        ends = [candidate.finish for candidate in self._candidates if candidate.finish is not None]
        usage = sum_usage([finish.usage for finish in ends])
        return {
            "promptTokenCount": usage.prompt_tokens,
            "candidatesTokenCount": usage.completion_tokens - usage.reasoning_tokens,
            "thoughtsTokenCount": usage.reasoning_tokens,
            "cachedContentTokenCount": usage.cached_tokens,
            "totalTokenCount": usage.prompt_tokens + usage.completion_tokens,
        }

    def _response(self, fields: _Json) -> _Json:
        return {**fields, "modelVersion": self._head.model, "responseId": self._head.id}

    def _event(self, fields: _Json) -> ServerEvent:
        return ServerEvent(msgspec.json.encode(self._response(fields)).decode())


@dataclass(slots=True)
class _Candidate:
    """One answer, as far as it has come."""

    parts: list[_Json] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    call: ToolCallStart | None = None  # whose arguments are still coming
    arguments: list[str] = field(default_factory=list)
    malformed: str | None = None
    finish: Finish | None = None

    def close_call(self) -> list[_Json]:
        """The part of the call that was open."""
        call, text = self.call, "".join(self.arguments)
        self.call, self.arguments = None, []
        if call is None:
            return []
        value = object_or_none(text)
        if value is None:
            self.malformed = f"the arguments of a call of {call.name} are no JSON object: {text}"
            return []
        return [{"functionCall": {"id": call.id, "name": call.name, "args": value}}]


def _ending(candidate: _Candidate) -> _Json:
    assert candidate.finish is not None
    reason = candidate.finish.reason
    fields: _Json = {"finishReason": FINISH_WORDS[reason]}
    if candidate.malformed is not None:
        fields["finishMessage"] = candidate.malformed
        if fields["finishReason"] == "STOP":
            fields["finishReason"] = MALFORMED_CALL
    if candidate.logprobs:
        values = [max(logprobs.token.logprob, LOWEST) for logprobs in candidate.logprobs]
        fields["avgLogprobs"] = sum(values) / len(values)
    return fields


def _joined(parts: list[_Json]) -> list[_Json]:
    """Neighbouring pieces of text as one, and of thought."""
    joined: list[_Json] = []
    for part in parts:
        if joined and "text" in part and joined[-1].keys() == part.keys():
            joined[-1]["text"] += part["text"]
        else:
            joined.append(dict(part))
    return joined


def _logprobs(logprobs: tuple[TokenLogprobs, ...] | list[TokenLogprobs], num_top: int | None) -> _Json:
    fields: _Json = {"chosenCandidates": [_scored(entry.token) for entry in logprobs]}
    if num_top:
        fields["topCandidates"] = [{"candidates": [_scored(token) for token in entry.top]} for entry in logprobs]
    return fields


def _scored(token: ScoredToken) -> _Json:
    fields = {"token": token.data.decode("utf-8", "replace"), "logProbability": max(token.logprob, LOWEST)}
    return fields if token.token_id is None else fields | {"tokenId": token.token_id}
