"""What is known of one request while it is being answered, for its log line and the metrics: sizes, never contents."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from small4.chat import Usage
from small4.server.refusal import problem_behind

UNMATCHED = "unmatched"  # the route of a path that no table holds


@dataclass(slots=True)
class Exchange:
    """One request and its answer; everybody who handles it writes what they learn."""

    id: str
    method: str
    began: float = field(default_factory=time.perf_counter)
    route: str = UNMATCHED
    status: int = 0  # 0: nothing was answered
    key_id: str | None = None
    model: str | None = None
    answered_by: str | None = None  # the route, where a gateway chose one
    operation: str = "chat"
    effort: str | None = None
    is_stream: bool = False
    num_messages: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    usage: Usage | None = None
    is_estimate: bool = False  # of the usage: the client left before it was told, or a provider did not tell it
    first_event_seconds: float | None = None
    ended: float | None = None
    has_left: bool = False  # the client, before the end
    error: str | None = None  # the kind of problem
    fault: Exception | None = None  # that is ours, for the log

    @property
    def seconds(self) -> float:
        return (self.ended or time.perf_counter()) - self.began

    def fail(self, error: Exception) -> None:
        """Note what became of the request."""
        self.error = problem_behind(error).kind
        if self.error == "internal":
            self.fault = error

    def end(self) -> None:
        """Stop its clock."""
        self.ended = time.perf_counter()

    def line(self) -> dict[str, Any]:
        """What its log line says."""
        usage = self.usage or Usage()
        return {
            "request_id": self.id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "key": self.key_id,
            "model": self.model,
            "answered_by": self.answered_by,
            "effort": self.effort,
            "stream": self.is_stream,
            "messages": self.num_messages,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "estimate": self.is_estimate,
            "first_event_seconds": _rounded(self.first_event_seconds),
            "seconds": _rounded(self.seconds),
            "left": self.has_left,
            "error": self.error,
        }


def exchange_of(scope: Scope) -> Exchange:
    """The record of the request that this scope is of."""
    exchange: Exchange = scope["small4.exchange"]
    return exchange


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
