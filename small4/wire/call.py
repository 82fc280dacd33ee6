"""What every dialect has in common: the request as a `Call`, and the answer through a `Writer`.

A dialect is a module of pure functions and two small classes, the same names in each:

    parse_request(body)          a client's JSON -> Call
    Writer(call, head)           answer events -> the client's events, or one whole body
    format_request(call)         Call -> the JSON for a provider that speaks the dialect
    Reader()                     that provider's events, or its whole body -> answer events
    format_error, parse_error    Problem <-> the dialect's error body

Nothing here reads a clock, draws an id or opens a connection: ids and times come in a `Head`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from small4.chat import AnswerEvent, ChatRequest
from small4.wire.problem import Problem
from small4.wire.sse import ServerEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as one dialect spoke it."""

    request: ChatRequest
    model: str  # the name that the caller used
    is_stream: bool = False
    has_temperature: bool = True  # False: the caller left it open, and the request has the release's for its effort
    ignored: tuple[str, ...] = ()  # paths of fields that changed nothing; the server names them in x-ignored-fields
    metadata: Mapping[str, str] = field(default_factory=dict)
    provider: Any = None  # OpenRouter's object, as it came and unread; whoever has several routes parses it
    form: Any = None  # the dialect's own dataclass: what its Writer must know, such as whether usage is streamed


@dataclass(frozen=True, slots=True)
class Head:
    """What names one answer."""

    id: str  # unique, without the dialect's prefix
    created: int  # seconds since 1970
    model: str  # the id under which the model is served


class Writer(Protocol):
    """Turns the events of one call's answers into a dialect; `finish` after the last `Finish`, or `fail`, ends it."""

    def start(self) -> list[ServerEvent]:
        """What a stream opens with."""

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """What this event adds to a stream."""

    def finish(self) -> list[ServerEvent]:
        """What a stream that ran to its end closes with."""

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """What a stream closes with that did not."""

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed, once all events were pushed."""


class Reader(Protocol):
    """Turns what a provider sends for one call into answer events."""

    def feed(self, event: ServerEvent) -> list[AnswerEvent]:
        """The next event of a stream; raises `UpstreamError` where it reports a fault or is nonsense."""

    def finish(self) -> list[AnswerEvent]:
        """The connection has ended; raises `UpstreamError` if the answer had not."""

    def whole(self, body: bytes) -> list[AnswerEvent]:
        """All events of an answer that was not streamed."""
