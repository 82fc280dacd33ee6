"""Mistral's own chat, `POST /v1/chat/completions`, and fill-in-the-middle, `POST /v1/fim/completions`.

Where it parts from OpenAI's: reasoning is a part of the content, calls come whole, usage comes beside the last finish
reason, the seed is `random_seed`, and errors have shapes of their own.
"""

from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from small4.errors import FieldError, Small4Error
from small4.wire.call import Call
from small4.wire.chat_format import format_chat
from small4.wire.chat_reader import ChatReader
from small4.wire.chat_request import ChatForm, parse_chat
from small4.wire.chat_writer import ChatStyle, ChatWriter
from small4.wire.model_cards import format_model, format_models
from small4.wire.openai_errors import ErrorFields, error_fields, error_of
from small4.wire.openai_text import parse_text
from small4.wire.problem import Problem

__all__ = [
    "Reader",
    "Writer",
    "error_status",
    "format_error",
    "format_model",
    "format_models",
    "format_request",
    "parse_error",
    "parse_fim",
    "parse_request",
]

FORM = ChatForm(reasoning_format="thinking_chunks")

_INVALID = 422


class DetailFields(Struct):
    msg: str = ""
    loc: list[str | int] = []


class ErrorBody(Struct):
    """Either of the two shapes."""

    detail: list[DetailFields] | str | None = None
    message: Any = None  # text, or detail once more
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


def parse_request(body: bytes | dict[str, Any]) -> Call:
    """The call that a client makes; a `FieldError` names what is wrong with it."""
    return parse_chat(body, FORM)


def parse_fim(body: bytes | dict[str, Any]) -> Call:
    """A completion of code, as far as the model can: it continues a prompt, but fills no gap before a suffix."""
    call = parse_text(body, FORM, default_max_tokens=None)
    if call.form.echo:
        raise FieldError("echo is not a field of this endpoint; leave it out", "echo")
    return call


def format_request(call: Call) -> dict[str, Any]:
    """The body for a provider; all but `form` and `ignored` comes back when it is parsed."""
    body = format_chat(call, has_thinking_parts=True)
    for name, mistral_name in (("seed", "random_seed"), ("max_completion_tokens", "max_tokens")):
        if name in body:
            body[mistral_name] = body.pop(name)
    return body


def error_status(problem: Problem) -> int:
    """Mistral answers 422 where a field is to blame."""
    return _INVALID if _is_detailed(problem) else problem.status


def format_error(problem: Problem) -> dict[str, Any]:
    """A list of details where a field is to blame, else one flat object."""
    if not _is_detailed(problem):
        return {"object": "error", **error_fields(problem)}
    path = (problem.param or "").replace("[", ".").replace("]", "").split(".")
    location = ["body", *(int(step) if step.isdecimal() else step for step in path if step)]
    return {"detail": [{"loc": location, "msg": problem.message, "type": "value_error"}]}


def parse_error(status: int, body: bytes) -> Small4Error:
    """What a provider's refusal means."""
    try:
        fields = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = ErrorBody()
    detail = fields.detail
    if isinstance(detail, list) and detail:
        param = _path(detail[0].loc)
        return error_of(status, ErrorFields(message=detail[0].msg, param=param))
    message = detail if isinstance(detail, str) else fields.message
    text = message if isinstance(message, str) else ""
    return error_of(status, ErrorFields(text, fields.type, fields.param, fields.code))


def _is_detailed(problem: Problem) -> bool:
    return problem.kind == "invalid" and problem.code is None


def _path(location: list[str | int]) -> str | None:
    steps = location[1:] if location[:1] == ["body"] else location
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.lstrip(".") or None


STYLE = ChatStyle(
    finish_reasons={
        "stop": "stop",
        "length": "length",
        "context": "model_length",
        "tool_calls": "tool_calls",
        "filtered": "error",
        "aborted": "error",
        "error": "error",
    },
    format_error=format_error,
    has_nulls=False,
    has_whole_calls=True,
    has_usage_at_finish=True,
    has_error_finish=True,
)

Writer = partial(ChatWriter, style=STYLE)
Reader = ChatReader
