"""Anthropic's error body, from a `Problem` and to the exception that it means when a provider sends it."""

from typing import Any

import msgspec

from small4.errors import ContextLengthError, Small4Error, UpstreamError
from small4.wire.openai_errors import ErrorFields, error_of, quote
from small4.wire.problem import Kind, Problem

# Agents look for these words to know that they must shorten the conversation.
_TOO_LONG = "prompt is too long"

_TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "forbidden": "permission_error",
    "unknown_model": "not_found_error",
    "unknown_path": "not_found_error",
    "conflict": "invalid_request_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "internal": "api_error",
    "upstream": "api_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
}
_STATUS = {  # of a fault that a stream reports
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def format_error(problem: Problem, request_id: str | None = None) -> dict[str, Any]:
    """The error body; `request_id` is that of the header `request-id`."""
    is_too_long = problem.code == "context_length_exceeded"
    message = f"{_TOO_LONG}: {problem.message}" if is_too_long else problem.message
    error = {"type": _TYPES[problem.kind], "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def error_status(problem: Problem) -> int:
    """The HTTP status: Anthropic's own number for an overloaded server, else the usual one."""
    return _STATUS["overloaded_error"] if problem.kind == "overloaded" else problem.status


def parse_error(status: int, body: bytes) -> Small4Error:
    """What a provider's refusal means; one that is no error body is told by its status alone."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _Error()
    if status == 400 and error.message.startswith(_TOO_LONG):
        return ContextLengthError(quote(error.message))
    return error_of(status, ErrorFields(message=error.message))


def stream_error(error: object) -> UpstreamError:
    """The fault that an `error` event reports."""
    fields = error if isinstance(error, dict) else {}
    message, word = fields.get("message"), fields.get("type")
    told = quote(message) if isinstance(message, str) and message else "no reason given"
    return UpstreamError(f"the provider broke off: {told}", _STATUS.get(word) if isinstance(word, str) else None)


class _Error(msgspec.Struct):
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error
