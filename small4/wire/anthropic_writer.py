"""Answer events -> a Messages answer (Anthropic): named events, or one message.

Each run of one kind is a content block of its own: a thought, text, a call. Anthropic tells the prompt's length when it
begins; we know it at the end, so `message_start` counts 0 and `message_delta`, whose counts replace them, has all.
"""

from typing import Any

import msgspec

from small4.chat import (
    AnswerEvent,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import EngineStoppedError
from small4.wire.anthropic_errors import format_error
from small4.wire.anthropic_request import MessagesForm
from small4.wire.anthropic_words import STOP_REASONS
from small4.wire.call import Call, Head
from small4.wire.problem import Problem, problem_of
from small4.wire.signature import Signer
from small4.wire.sse import ServerEvent
from small4.wire.tool_arguments import arguments_object


class Writer:
    """Writes the one answer of a call; `signer` signs its thoughts."""

    def __init__(self, call: Call, head: Head, signer: Signer) -> None:
        self._head = head
        self._signer = signer
        self._shows_thoughts = call.form.shows_thoughts if isinstance(call.form, MessagesForm) else True
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the block that is open
        self._is_open = False
        self._finish: Finish | None = None

    def start(self) -> list[ServerEvent]:
        """`message_start`, and the `ping` that clients know after it."""
        message = {**self._message(), "content": [], "usage": _usage(Usage(), num_output=1)}
        return [_event("message_start", message=message), _event("ping")]

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """Opens, fills and closes blocks."""
        match event.event:
            case ReasoningDelta("") | TextDelta("") | ToolCallDelta(_, ""):
                return []  # a block without text cannot be sent back
            case ReasoningDelta(text):
                events = self._run({"type": "thinking", "thinking": "", "signature": ""})
                shown = [_delta(self._index, "thinking_delta", thinking=text)] if self._shows_thoughts else []
                return [*events, *self._add(text, shown)]
            case TextDelta(text):
                events = self._run({"type": "text", "text": ""})
                return [*events, *self._add(text, [_delta(self._index, "text_delta", text=text)])]
            case ToolCallStart(_, call_id, name):
                return [*self._close(), *self._open({"type": "tool_use", "id": call_id, "name": name, "input": {}})]
            case ToolCallDelta(_, text):
                return self._add(text, [_delta(self._index, "input_json_delta", partial_json=text)])
            case Finish() as finish:
                self._finish = finish
                return self._close()

    def finish(self) -> list[ServerEvent]:
        """How the answer ended and what it cost; an answer that broke off ends in an error."""
        finish = self._finish
        if finish is None or finish.reason not in STOP_REASONS:
            return self.fail(problem_of(_fault(finish)))
        return [
            _event("message_delta", delta=self._ending(finish), usage=_usage(finish.usage)),
            _event("message_stop"),
        ]

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """An error event."""
        return [_event("error", error=format_error(problem)["error"])]

    def whole(self) -> dict[str, Any]:
        """The message."""
        finish = self._finish
        if finish is None or finish.reason not in STOP_REASONS:
            raise _fault(finish)
        return {**self._message(), **self._ending(finish), "usage": _usage(finish.usage)}

    def _ending(self, finish: Finish) -> dict[str, Any]:
        reason = finish.reason
        if reason == "stop" and finish.stop is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
        if reason == "stop" and any(block["type"] == "tool_use" for block in self._blocks):
            reason = "tool_calls"  # agents take any other end for the last word
        return {"stop_reason": STOP_REASONS[reason], "stop_sequence": None}

    @property
    def _index(self) -> int:
        return len(self._blocks) - 1

    def _message(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self._head.id}",
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": self._blocks,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _run(self, block: dict[str, Any]) -> list[ServerEvent]:
        """Go on in the open block if it is of this type, else open this one."""
        if self._is_open and self._blocks[-1]["type"] == block["type"]:
            return []
        return [*self._close(), *self._open(block)]

    def _open(self, block: dict[str, Any]) -> list[ServerEvent]:
        self._blocks.append(dict(block))
        self._pieces, self._is_open = [], True
        return [_event("content_block_start", index=self._index, content_block=block)]

    def _add(self, text: str, events: list[ServerEvent]) -> list[ServerEvent]:
        self._pieces.append(text)
        return events

    def _close(self) -> list[ServerEvent]:
        if not self._is_open:
            return []
        self._is_open = False
        block, text = self._blocks[-1], "".join(self._pieces)
        events = []
        if block["type"] == "thinking":
            block["thinking"] = text if self._shows_thoughts else ""
            block["signature"] = self._signer.sign(text)
            events = [_delta(self._index, "signature_delta", signature=block["signature"])]
        elif block["type"] == "text":
            block["text"] = text
        else:
            block["input"] = arguments_object(text)
        return [*events, _event("content_block_stop", index=self._index)]


def _fault(finish: Finish | None) -> Exception:
    """Why the answer did not come to its end."""
    error = None if finish is None else finish.error
    return error or EngineStoppedError("the answer broke off before its end; send the request again")


def _usage(usage: Usage, num_output: int | None = None) -> dict[str, Any]:
    """Anthropic counts the cached part of the prompt apart from the rest."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens if num_output is None else num_output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _delta(index: int, kind: str, **fields: str) -> ServerEvent:
    return _event("content_block_delta", index=index, delta={"type": kind, **fields})


def _event(name: str, **fields: Any) -> ServerEvent:
    return ServerEvent(msgspec.json.encode({"type": name, **fields}).decode(), name)
