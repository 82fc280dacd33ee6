"""Google's error body, from a `Problem` and to the exception that it means when a provider sends it."""

from typing import Any

import msgspec

from small4.errors import ContextLengthError, RateLimitError, Small4Error, UpstreamError, UpstreamKeyError
from small4.wire.openai_errors import ErrorFields, error_of, quote
from small4.wire.problem import Kind, Problem

# Agents look for these words to know that they must shorten the conversation.
_TOO_LONG = "The input token count exceeds the maximum number of tokens allowed"

_STATUS_WORDS: dict[Kind, str] = {
    "invalid": "INVALID_ARGUMENT",
    "authentication": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "unknown_model": "NOT_FOUND",
    "unknown_path": "NOT_FOUND",
    "conflict": "ABORTED",
    "too_large": "INVALID_ARGUMENT",
    "rate_limit": "RESOURCE_EXHAUSTED",
    "internal": "INTERNAL",
    "upstream": "UNAVAILABLE",
    "overloaded": "UNAVAILABLE",
    "timeout": "DEADLINE_EXCEEDED",
}
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_KEY_REASONS = ("API_KEY_INVALID", "API_KEY_EXPIRED")  # said with 400
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def format_error(problem: Problem) -> dict[str, Any]:
    """The error body; details name the field that is to blame, and when to come again."""
    details: list[dict[str, Any]] = []
    if problem.param is not None:
        violation = {"field": problem.param, "description": problem.message}
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [violation]})
    if problem.retry_after_seconds is not None:
        details.append({"@type": _RETRY_INFO, "retryDelay": f"{problem.retry_after_seconds:g}s"})
    is_too_long = problem.code == "context_length_exceeded"
    message = f"{_TOO_LONG}: {problem.message}" if is_too_long else problem.message
    error = {"code": problem.status, "message": message, "status": _STATUS_WORDS[problem.kind]}
    return {"error": {**error, "details": details}}


def parse_error(status: int, body: bytes) -> Small4Error:
    """What a provider's refusal means; one that is no error body is told by its status alone."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _Error()
    if status == 400 and error.message.startswith("The input token count"):
        return ContextLengthError(quote(error.message))
    if any(detail.reason in _KEY_REASONS for detail in error.details):
        return UpstreamKeyError(f"the provider refused the key that it was given (HTTP {status})", status)
    params = [violation.field for detail in error.details for violation in detail.field_violations]
    meaning = error_of(status, ErrorFields(message=error.message, param=params[0] if params else None))
    if isinstance(meaning, RateLimitError):
        delays = [_seconds(detail.retry_delay) for detail in error.details]
        meaning.retry_after_seconds = max([meaning.retry_after_seconds, *delays])
    return meaning


def stream_error(error: object) -> UpstreamError:
    """The fault that a stream ends with."""
    fields = error if isinstance(error, dict) else {}
    message, code = fields.get("message"), fields.get("code")
    told = quote(message) if isinstance(message, str) and message else "no reason given"
    return UpstreamError(f"the provider broke off: {told}", code if isinstance(code, int) else None)


class _Violation(msgspec.Struct):
    field: str = ""


class _Detail(msgspec.Struct, rename="camel"):
    field_violations: list[_Violation] = []
    retry_delay: str = ""
    reason: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: _Error


def _seconds(delay: str) -> float:
    """A duration as Google writes it, such as 1.5s."""
    number = delay.removesuffix("s")
    return float(number) if number.replace(".", "", 1).isdecimal() and len(number) < 10 else 0.0
