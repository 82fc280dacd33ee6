"""Mistral's own chat, `POST /v1/chat/completions`, and fill-in-the-middle, `POST /v1/fim/completions`.

Where it parts from OpenAI's: reasoning is a part of the content, calls come whole, usage comes beside the last finish
reason, the seed is `random_seed`, and errors have shapes of their own.
"""

from functools import partial
from typing import Any

from small4.errors import FieldError
from small4.wire.call import Call
from small4.wire.chat_format import format_chat
from small4.wire.chat_reader import ChatReader
from small4.wire.chat_request import ChatForm, parse_chat
from small4.wire.chat_writer import ChatStyle, ChatWriter
from small4.wire.model_cards import format_model, format_models
from small4.wire.openai_errors import error_fields, parse_error
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


def _is_detailed(problem: Problem) -> bool:
    return problem.kind == "invalid" and problem.code is None


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
