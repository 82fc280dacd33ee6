"""OpenAI's error body, from a `Problem` and to the exception that it means when a provider sends it."""

from typing import Any

import msgspec
from msgspec import Struct

from small4.errors import (
    ContextLengthError,
    FieldError,
    RateLimitError,
    RequestError,
    Small4Error,
    UpstreamError,
)
from small4.wire.problem import Kind, Problem

MAX_QUOTED = 300  # characters of a provider's own words
RETRY_AFTER_SECONDS = 1.0  # where the body cannot tell; a header may

_TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "forbidden": "permission_error",
    "unknown_model": "invalid_request_error",
    "unknown_path": "invalid_request_error",
    "conflict": "invalid_request_error",
    "too_large": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "internal": "server_error",
    "upstream": "server_error",
    "overloaded": "server_error",
    "timeout": "server_error",
}
_CODES: dict[Kind, str] = {
    "authentication": "invalid_api_key",
    "unknown_model": "model_not_found",
    "rate_limit": "rate_limit_exceeded",
}
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")


class ErrorFields(Struct):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ErrorBody(Struct):
    error: ErrorFields | str


def format_error(problem: Problem) -> dict[str, Any]:
    return {"error": error_fields(problem)}


def error_fields(problem: Problem) -> dict[str, Any]:
    """What stands under `error`."""
    return {
        "message": problem.message,
        "type": _TYPES[problem.kind],
        "param": problem.param,
        "code": problem.code or _CODES.get(problem.kind),
    }


def parse_error(status: int, body: bytes) -> Small4Error:
    """What a provider's refusal means; one that is no error body is told by its status alone."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = ""
    fields = ErrorFields(message=error) if isinstance(error, str) else error
    return error_of(status, fields)


def error_of(status: int, fields: ErrorFields) -> Small4Error:
    """The exception for an error's fields. What providers say of keys is not repeated: it can hold one."""
    message = quote(fields.message)
    if fields.code == "context_length_exceeded":
        return ContextLengthError(message or "the provider found the context too long; shorten the prompt")
    if status in (400, 413, 422):
        message = message or "the provider refused the request without a reason"
        return FieldError(message, quote(fields.param)) if fields.param else RequestError(message)
    if status == 429 and fields.code not in _SPENT and fields.type not in _SPENT:
        return RateLimitError(message or "the provider's rate limit is reached; come again later", RETRY_AFTER_SECONDS)
    if status in (401, 402, 403):
        return UpstreamError(f"the provider refused the key that it was given (HTTP {status})", status)
    return UpstreamError(f"the provider answered with HTTP {status}: {message or 'no reason given'}", status)


def quote(text: str) -> str:
    """A provider's words, short and on one line."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_QUOTED]).strip()
