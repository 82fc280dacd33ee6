"""Which API a request speaks, told from its path and headers alone, so that refusals speak it too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from starlette.types import Scope

from small4.wire import mistral, model_cards, openai_chat, openai_errors, openai_text
from small4.wire.call import Call, Head, Writer
from small4.wire.model_entry import ModelEntry
from small4.wire.problem import Problem

Name = Literal["openai", "text", "responses", "anthropic", "google", "mistral", "fim"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One module of `wire`, with what it needs of this instance filled in."""

    name: Name
    parse: Callable[[bytes], Call]
    writer: Callable[[Call, Head], Writer]
    format_error: Callable[[Problem, str], Json]  # the problem, and the request's id
    status: Callable[[Problem], int]
    format_models: Callable[[Sequence[ModelEntry]], Json]
    format_model: Callable[[ModelEntry], Json]


class Dialects:
    """All of them, for the instance with this secret."""

    def __init__(self, secret: bytes) -> None:
        known = (_openai(), _text(), _mistral(), _fim())
        self._by_name: Mapping[Name, Dialect] = {dialect.name: dialect for dialect in known}

    def of(self, scope: Scope) -> Dialect:
        """The dialect of a request."""
        return self._by_name.get(dialect_name(scope), self._by_name["openai"])


def _openai() -> Dialect:
    return Dialect(
        name="openai",
        parse=openai_chat.parse_request,
        writer=openai_chat.Writer,
        format_error=lambda problem, request_id: openai_errors.format_error(problem),
        status=lambda problem: problem.status,
        format_models=model_cards.format_models,
        format_model=model_cards.format_model,
    )


def _text() -> Dialect:
    return replace(_openai(), name="text", parse=openai_text.parse_request, writer=openai_text.Writer)


def _mistral() -> Dialect:
    return replace(
        _openai(),
        name="mistral",
        parse=mistral.parse_request,
        writer=mistral.Writer,
        format_error=lambda problem, request_id: mistral.format_error(problem),
        status=mistral.error_status,
    )


def _fim() -> Dialect:
    return replace(_mistral(), name="fim", parse=mistral.parse_fim)


# The first that a path begins with; an alias of a path is of the path's own dialect.
_PREFIXES: tuple[tuple[str, Name], ...] = (
    ("/anthropic/", "anthropic"),
    ("/google/", "google"),
    ("/mistral/v1/fim/", "fim"),
    ("/mistral/", "mistral"),
    ("/v1beta/", "google"),
    ("/v1/messages", "anthropic"),
    ("/v1/responses", "responses"),
    ("/v1/completions", "text"),
    ("/v1/fim/", "fim"),
)
_ALIASES = ("/openai", "/api")  # before /v1


def dialect_name(scope: Scope) -> Name:
    """The dialect of a request."""
    path: str = scope["path"]
    for alias in _ALIASES:
        if path.startswith(f"{alias}/v1/"):
            path = path.removeprefix(alias)
    for prefix, name in _PREFIXES:
        if path.startswith(prefix):
            return name
    if path == scope["path"] and path.startswith("/v1/"):
        return _by_client(path, dict(scope["headers"]))
    return "openai"


def _by_client(path: str, headers: dict[bytes, bytes]) -> Name:
    """Whose client this is, where several share a path."""
    if path.startswith("/v1/models"):
        if b"anthropic-version" in headers:
            return "anthropic"
        if b"x-goog-api-key" in headers or ":" in path:
            return "google"
    if headers.get(b"user-agent", b"").startswith((b"mistral-client-python/", b"mistral-client-typescript/")):
        return "mistral"
    return "openai"
