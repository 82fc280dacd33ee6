"""An answer in one piece, gathered from the events that it streams as."""

from collections.abc import Iterable
from dataclasses import dataclass

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
from small4.errors import RequestError


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `aborted` marks one whose stream was left before its end, `error` one that failed on its way."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    stop: str | None = None  # the stop string that ended it, where one did
    logprobs: tuple[TokenLogprobs, ...] = ()  # of the text's tokens, if asked for
    error: Exception | None = None  # what went wrong, where the reason is "error"


class Gathering:
    """Takes events one by one and can tell at any time what they amount to so far."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._calls: list[tuple[str, str, list[str]]] = []  # id, name, pieces of the arguments
        self.finish: Finish | None = None

    def add(self, event: ChatEvent) -> None:
        """Take the next event."""
        match event:
            case TextDelta(piece, logprobs):
                self._text.append(piece)
                self._logprobs += logprobs
            case ReasoningDelta(piece):
                self._reasoning.append(piece)
            case ToolCallStart(_, call_id, name):
                self._calls.append((call_id, name, []))
            case ToolCallDelta(index, piece):
                self._calls[index][2].append(piece)
            case Finish():
                self.finish = event

    def answer(self) -> Answer:
        """What has come so far."""
        finish = self.finish or Finish("aborted", Usage())
        calls = tuple(ToolCall(call_id, name, "".join(pieces)) for call_id, name, pieces in self._calls)
        return Answer(
            "".join(self._text),
            "".join(self._reasoning),
            calls,
            finish.reason,
            finish.usage,
            finish.stop,
            tuple(self._logprobs),
            finish.error,
        )

    def whole(self) -> Answer:
        """The answer of a stream that has ended; one that ended without a `Finish` is an error."""
        if self.finish is None:
            raise RequestError("the stream ended without a Finish event; ask again")
        return self.answer()


def collect(events: Iterable[ChatEvent]) -> Answer:
    """The answer of a stream that ran to its end."""
    gathering = Gathering()
    for event in events:
        gathering.add(event)
    return gathering.whole()


def collect_all(events: Iterable[AnswerEvent]) -> list[Answer]:
    """The answers, in order, of a stream of several that ran to its end."""
    gatherings: dict[int, Gathering] = {}
    for event in events:
        gatherings.setdefault(event.index, Gathering()).add(event.event)
    return [gatherings[index].whole() for index in sorted(gatherings)]
