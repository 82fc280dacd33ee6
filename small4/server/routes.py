"""Every path that is served: its methods, its handler, and what a key must open to use it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from small4.server.auth import Needs
from small4.server.endpoints import Endpoints
from small4.server.exchange import exchange_of
from small4.server.status_endpoints import StatusEndpoints

Handler = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One row of the table."""

    path: str
    methods: tuple[str, ...]
    handler: Handler
    needs: Needs
    summary: str


def table(endpoints: Endpoints, status: StatusEndpoints) -> list[Path]:
    """All rows."""
    return [
        *_status_paths(status),
        *_chat_paths(endpoints),
    ]


def _status_paths(status: StatusEndpoints) -> list[Path]:
    return [
        _get("/", status.alive, "open", "That a server is here"),
        _get("/health", status.alive, "open", "That the process is alive"),
        _get("/ready", status.ready, "open", "Whether a request would be answered now"),
        _get("/metrics", status.metrics, "metrics", "Counters and times, for Prometheus"),
    ]


def _chat_paths(endpoints: Endpoints) -> list[Path]:
    return [
        _post(f"{mount}/v1/chat/completions", endpoints.answer, "OpenAI's chat completions")
        for mount in ("", "/openai", "/api")
    ]


def _get(path: str, handler: Handler, needs: Needs, summary: str) -> Path:
    return Path(path=path, methods=("GET",), handler=handler, needs=needs, summary=summary)


def _post(path: str, handler: Handler, summary: str) -> Path:
    return Path(path=path, methods=("POST",), handler=handler, needs="inference", summary=summary)


class Routes:
    """The table as Starlette's routes, and which row a request falls on."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.routes = [Route(row.path, row.handler, methods=list(row.methods)) for row in paths]

    def needs(self, scope: Scope) -> Needs:
        """What a key must open for this request; a path that is not served needs some key, before it is a 404."""
        found: Needs = "any"
        for row, route in zip(self.paths, self.routes, strict=True):
            match, _ = route.matches(scope)
            if match is Match.FULL:
                exchange_of(scope).route = row.path
                return row.needs
            if match is Match.PARTIAL:
                exchange_of(scope).route = row.path
        return found
