"""Answer events -> a response of the Responses API: named, numbered events, or one whole object.

An answer is a row of items, one open at a time: a thought, a message, a call. Whatever an event belongs to closes the
item before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from small4.chat import (
    AnswerEvent,
    Finish,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
)
from small4.errors import EngineStoppedError, UpstreamError
from small4.wire.call import Call, Head
from small4.wire.chat_logprobs import format_logprobs
from small4.wire.openai_errors import error_fields
from small4.wire.problem import Problem, problem_of
from small4.wire.responses_items import Sealer
from small4.wire.responses_object import (
    BROKEN,
    INCOMPLETE,
    call_item,
    message_item,
    reasoning_item,
    reasoning_part,
    response_error,
    response_object,
    text_part,
    usage_object,
)
from small4.wire.responses_request import ResponsesForm
from small4.wire.sse import ServerEvent

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(slots=True)
class _OpenItem:
    """The item that is being written."""

    kind: Literal["reasoning", "message", "function_call"]
    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    call: ToolCallStart | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Writer:
    """Writes the one answer of a call.

    `sealer` encrypts thoughts where the caller asked for it, `clock` gives seconds since 1970 for `completed_at`, and
    `has_open_names` names events of reasoning as Open Responses does.
    """

    def __init__(
        self,
        call: Call,
        head: Head,
        *,
        sealer: Sealer | None = None,
        clock: Callable[[], float] | None = None,
        has_open_names: bool = False,
    ) -> None:
        assert isinstance(call.form, ResponsesForm)
        self._call, self._head = call, head
        self._sealer = sealer if call.form.has_sealed_reasoning else None
        self._clock = clock
        self._reasoning_event = "response.reasoning" if has_open_names else "response.reasoning_text"
        self._output: list[dict[str, Any]] = []
        self._item: _OpenItem | None = None
        self._finish: Finish | None = None
        self._completed_at: int | None = None
        self._num_events = 0

    def start(self) -> list[ServerEvent]:
        """The response, in progress."""
        response = response_object(self._call, self._head, "in_progress", [])
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """Opens, fills and closes items."""
        match event.event:
            case ReasoningDelta(text):
                return self._add_thought(text)
            case TextDelta(text, logprobs):
                return self._add_text(text, logprobs)
            case ToolCallStart() as call:
                return [*self._close(), *self._open("function_call", call)]
            case ToolCallDelta(index, arguments):
                return self._add_arguments(index, arguments)
            case Finish() as finish:
                self._finish = finish
                if finish.reason in BROKEN:
                    return []
                if self._clock is not None and finish.reason not in INCOMPLETE:
                    self._completed_at = int(self._clock())
                return self._close("incomplete" if finish.reason in INCOMPLETE else "completed")

    def finish(self) -> list[ServerEvent]:
        """The whole response; an answer that broke off ends as a failure."""
        if (fault := self._fault()) is not None:
            return self.fail(problem_of(fault))
        response = self.whole()
        return [self._event(f"response.{response['status']}", response=response)]

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """An error, for clients that look for nothing else, and the response as far as it came."""
        error = error_fields(problem)
        flat = {name: error[name] for name in ("code", "message", "param")}
        events = [self._event("error", error=error, **flat)]
        if self._item is not None:
            self._output.append(self._as_object("incomplete"))
            self._item = None
        response = response_object(self._call, self._head, "failed", self._output)
        return [*events, self._event("response.failed", response=response | {"error": response_error(problem)})]

    def whole(self) -> dict[str, Any]:
        """The response; also what a stream ended with."""
        if (fault := self._fault()) is not None:
            raise fault
        finish = self._finish
        assert finish is not None
        reason = INCOMPLETE.get(finish.reason)
        response = response_object(
            self._call, self._head, "completed" if reason is None else "incomplete", self._output
        )
        return response | {
            "completed_at": self._completed_at,
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": usage_object(finish.usage),
        }

    def _fault(self) -> Exception | None:
        """Why there is no whole answer."""
        finish = self._finish
        if finish is not None and finish.reason not in BROKEN:
            return None
        error = None if finish is None else finish.error
        return error or EngineStoppedError("the answer broke off before its end; send the request again")

    def _add_thought(self, text: str) -> list[ServerEvent]:
        if not text:
            return []
        events = self._run("reasoning")
        self._current.pieces.append(text)
        return [*events, self._item_event(f"{self._reasoning_event}.delta", content_index=0, delta=text)]

    def _add_text(self, text: str, scored: tuple[TokenLogprobs, ...]) -> list[ServerEvent]:
        if not (text or scored):
            return []
        events = self._run("message")
        logprobs = format_logprobs(scored)["content"]
        self._current.pieces.append(text)
        self._current.logprobs += logprobs
        delta = self._item_event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)
        return [*events, delta]

    def _add_arguments(self, index: int, arguments: str) -> list[ServerEvent]:
        item = self._item
        if item is None or item.call is None or item.call.index != index:
            raise UpstreamError(f"arguments of tool call {index} came when it was not open; send the request again")
        item.pieces.append(arguments)
        return [self._item_event("response.function_call_arguments.delta", delta=arguments)]

    def _run(self, kind: Literal["reasoning", "message"]) -> list[ServerEvent]:
        """Go on in the open item if it is of this kind, else open one."""
        if self._item is not None and self._item.kind == kind:
            return []
        return [*self._close(), *self._open(kind)]

    def _open(
        self, kind: Literal["reasoning", "message", "function_call"], call: ToolCallStart | None = None
    ) -> list[ServerEvent]:
        self._item = _OpenItem(kind, f"{_PREFIXES[kind]}_{self._head.id}_{len(self._output)}", call=call)
        events = [self._output_event("response.output_item.added", item=self._as_object("in_progress"))]
        if kind != "function_call":
            part = text_part("", []) if kind == "message" else reasoning_part("")
            events.append(self._item_event("response.content_part.added", content_index=0, part=part))
        return events

    def _close(self, status: str = "completed") -> list[ServerEvent]:
        """The open item is whole, or cut short by a limit."""
        if self._item is None:
            return []
        events = self._done_events(self._item)
        item = self._as_object(status)
        events.append(self._output_event("response.output_item.done", item=item))
        self._output.append(item)
        self._item = None
        return events

    def _done_events(self, item: _OpenItem) -> list[ServerEvent]:
        text = item.text
        if item.call is not None:
            return [self._item_event("response.function_call_arguments.done", name=item.call.name, arguments=text)]
        if item.kind == "reasoning":
            part = reasoning_part(text)
            done = self._item_event(f"{self._reasoning_event}.done", content_index=0, text=text)
        else:
            part = text_part(text, item.logprobs)
            name = "response.output_text.done"
            done = self._item_event(name, content_index=0, text=text, logprobs=item.logprobs)
        return [done, self._item_event("response.content_part.done", content_index=0, part=part)]

    def _as_object(self, status: str) -> dict[str, Any]:
        """The open item as the dialect writes it; one that begins has no content yet."""
        item, text = self._current, self._current.text
        if item.call is not None:
            return call_item(item.id, status, item.call.id, item.call.name, text)
        if item.kind == "reasoning":
            sealed = self._sealer.seal(text) if self._sealer is not None and status != "in_progress" else None
            return reasoning_item(item.id, status, text, sealed)
        return message_item(item.id, status, [] if status == "in_progress" else [text_part(text, item.logprobs)])

    @property
    def _current(self) -> _OpenItem:
        assert self._item is not None
        return self._item

    def _item_event(self, name: str, /, **fields: Any) -> ServerEvent:
        return self._output_event(name, item_id=self._current.id, **fields)

    def _output_event(self, name: str, /, **fields: Any) -> ServerEvent:
        return self._event(name, output_index=len(self._output), **fields)

    def _event(self, name: str, /, **fields: Any) -> ServerEvent:
        body = {"type": name, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return ServerEvent(msgspec.json.encode(body).decode(), name)
