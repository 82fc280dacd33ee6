"""OpenAI's error body, from a `Problem` and to the exception that it means when a provider sends it."""

import re
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
    UpstreamKeyError,
    UpstreamTimeoutError,
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
_TIMEOUTS = (408, 504, 524)
# vLLM, SGLang, OpenRouter and Mistral say it in words alone; llama.cpp has a type for it.
_TOO_LONG = re.compile(r"(maximum|max|model'?s) context length|exceeds? the (available )?context", re.IGNORECASE)


class ErrorFields(Struct):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


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
    return error_of(status, read_error(body))


def read_error(body: bytes) -> ErrorFields:
    """The fields of an error in any of the shapes that servers of this family answer with; none where it is no error.

    `{"error": {...}}` as OpenAI, `{"error": "..."}`, the fields without a wrapper as Mistral and older vLLM, a
    `detail` that is a text or a list as web frameworks, and any of them as the one element of a list.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorFields()
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return ErrorFields()
    detail = value.get("detail", value.get("message"))
    if isinstance(detail, dict):  # Mistral puts one into the other
        detail = detail.get("detail", detail)
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return ErrorFields(_text(detail[0].get("msg")), param=_path(detail[0].get("loc")))
    error = value.get("error", detail if "detail" in value else value)
    if not isinstance(error, dict):
        return ErrorFields(_text(error))
    code = error.get("code")
    return ErrorFields(
        message=_text(error.get("message")),
        type=_text(error.get("type")) or None,
        param=_text(error.get("param")) or None,
        code=code if isinstance(code, str | int) else None,
    )


def error_of(status: int, fields: ErrorFields) -> Small4Error:
    """The exception for an error's fields. What providers say of keys is not repeated: it can hold one."""
    message = quote(fields.message)
    is_refusal = status in (400, 413, 422)
    is_long = is_refusal and (
        fields.type == "exceed_context_size_error" or _TOO_LONG.search(fields.message) is not None
    )
    if is_long or fields.code == "context_length_exceeded":
        return ContextLengthError(message or "the provider found the context too long; shorten the prompt")
    if is_refusal:
        message = message or "the provider refused the request without a reason"
        return FieldError(message, quote(fields.param)) if fields.param else RequestError(message)
    if status == 429 and fields.code not in _SPENT and fields.type not in _SPENT:
        return RateLimitError(message or "the provider's rate limit is reached; come again later", RETRY_AFTER_SECONDS)
    if status in (401, 402, 403):
        return UpstreamKeyError(f"the provider refused the key that it was given (HTTP {status})", status)
    told = f"the provider answered with HTTP {status}: {message or 'no reason given'}"
    if status == 429:
        return UpstreamKeyError(told, status)
    return UpstreamTimeoutError(told, status) if status in _TIMEOUTS else UpstreamError(told, status)


def quote(text: str) -> str:
    """A provider's words, short and on one line."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_QUOTED]).strip()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _path(location: object) -> str | None:
    """A field's path from its steps; `body`, the first of them, is no part of it."""
    steps = location if isinstance(location, list) else []
    steps = steps[1:] if steps[:1] == ["body"] else steps
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.lstrip(".") or None
