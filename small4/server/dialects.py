"""Which API a request speaks, told from its path and headers alone, so that refusals speak it too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import time
from typing import Any, Literal

from starlette.types import Scope

from small4.gateway.sealing import Seal, derived_key
from small4.server.responses_store import ResponsesStore, StoreConfig
from small4.wire import (
    anthropic,
    google,
    mistral,
    model_cards,
    models_list,
    openai_chat,
    openai_errors,
    openai_responses,
    openai_text,
)
from small4.wire.call import Call, Head, Writer
from small4.wire.model_entry import ModelEntry
from small4.wire.problem import Problem
from small4.wire.signature import Signer

Name = Literal["openai", "text", "responses", "anthropic", "google", "mistral", "fim"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request says beside its body."""

    owner: str  # the id of the caller's key
    model: str = ""  # in Google's paths
    is_stream: bool = False  # by Google's verb
    has_open_names: bool = False  # events of reasoning are named as Open Responses names them


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One module of `wire`, with what it needs of this instance filled in."""

    name: Name
    parse: Callable[[bytes, Asked], Call]
    writer: Callable[[Call, Head, Asked], Writer]
    format_error: Callable[[Problem, str], Json]  # the problem, and the request's id
    status: Callable[[Problem], int]
    format_models: Callable[[Sequence[ModelEntry]], Json]
    format_model: Callable[[ModelEntry], Json]
    parse_count: Callable[[bytes, Asked], Call] | None = None  # None: it counts no tokens beforehand
    format_count: Callable[[int], Json] | None = None
    keep: Callable[[str, Call, Json], None] | None = None  # the owner, what was asked, and the answer: to go on from


class Dialects:
    """All of them, for the instance with this secret; `past` holds the responses that callers may go on from."""

    def __init__(self, secret: bytes) -> None:
        self.past = ResponsesStore(StoreConfig())
        known = (_openai(), _text(), _mistral(), _fim(), _anthropic(secret), _google(), _responses(secret, self.past))
        self._by_name: Mapping[Name, Dialect] = {dialect.name: dialect for dialect in known}

    def of(self, scope: Scope) -> Dialect:
        """The dialect of a request."""
        return self._by_name[dialect_name(scope)]


def _openai() -> Dialect:
    return Dialect(
        name="openai",
        parse=lambda body, asked: openai_chat.parse_request(body),
        writer=lambda call, head, asked: openai_chat.Writer(call, head),
        format_error=lambda problem, request_id: openai_errors.format_error(problem),
        status=lambda problem: problem.status,
        format_models=models_list.format_models,
        format_model=model_cards.format_model,
    )


def _text() -> Dialect:
    return replace(
        _openai(),
        name="text",
        parse=lambda body, asked: openai_text.parse_request(body),
        writer=lambda call, head, asked: openai_text.Writer(call, head),
    )


def _mistral() -> Dialect:
    return replace(
        _openai(),
        name="mistral",
        parse=lambda body, asked: mistral.parse_request(body),
        writer=lambda call, head, asked: mistral.Writer(call, head),
        format_error=lambda problem, request_id: mistral.format_error(problem),
        status=mistral.error_status,
        format_models=model_cards.format_models,
    )


def _fim() -> Dialect:
    return replace(_mistral(), name="fim", parse=lambda body, asked: mistral.parse_fim(body))


def _anthropic(secret: bytes) -> Dialect:
    def signer(asked: Asked) -> Signer:
        return Signer(derived_key(secret, f"thoughts signed for {asked.owner}"))

    return Dialect(
        name="anthropic",
        parse=lambda body, asked: anthropic.parse_request(body, signer(asked)),
        writer=lambda call, head, asked: anthropic.Writer(call, head, signer(asked)),
        format_error=anthropic.format_error,
        status=anthropic.error_status,
        format_models=anthropic.format_models,
        format_model=anthropic.format_model,
        parse_count=lambda body, asked: anthropic.parse_count_request(body, signer(asked)),
        format_count=anthropic.format_count,
    )


def _google() -> Dialect:
    return Dialect(
        name="google",
        parse=lambda body, asked: google.parse_request(body, asked.model, asked.is_stream),
        writer=lambda call, head, asked: google.Writer(call, head),
        format_error=lambda problem, request_id: google.format_error(problem),
        status=lambda problem: problem.status,
        format_models=google.format_models,
        format_model=google.format_model,
        parse_count=lambda body, asked: google.parse_count_request(body, asked.model),
        format_count=google.format_count,
    )


def _responses(secret: bytes, past: ResponsesStore) -> Dialect:
    key = derived_key(secret, "thoughts sealed")

    def parse(body: bytes, asked: Asked) -> Call:
        return openai_responses.parse_request(body, past=past.of(asked.owner), sealer=Seal(key, asked.owner))

    def writer(call: Call, head: Head, asked: Asked) -> Writer:
        seal = Seal(key, asked.owner)
        return openai_responses.Writer(call, head, sealer=seal, clock=time, has_open_names=asked.has_open_names)

    return replace(
        _openai(),
        name="responses",
        parse=parse,
        writer=writer,
        parse_count=parse,
        format_count=openai_responses.format_count,
        keep=past.keep,
    )


# The first that a path begins with; an alias of a path is of the path's own dialect.
_PREFIXES: tuple[tuple[str, Name], ...] = (
    ("/anthropic/", "anthropic"),
    ("/google/", "google"),
    ("/mistral/v1/fim/", "fim"),
    ("/mistral/v1/responses", "responses"),
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
