"""OpenAI's Chat Completions: `POST /v1/chat/completions`, with the fields that OpenRouter and local servers add.

The names that every dialect has, see `call.py`. What it shares with Mistral's dialect is in the `chat_*.py` beside it.
"""

from functools import partial
from typing import Any

from small4.wire.call import Call
from small4.wire.chat_format import format_chat
from small4.wire.chat_reader import ChatReader
from small4.wire.chat_request import ChatForm, parse_chat
from small4.wire.chat_writer import ChatStyle, ChatWriter
from small4.wire.model_cards import format_model, format_models
from small4.wire.openai_errors import format_error, parse_error

__all__ = [
    "Reader",
    "Writer",
    "format_error",
    "format_model",
    "format_models",
    "format_request",
    "parse_error",
    "parse_request",
]

STYLE = ChatStyle(
    finish_reasons={
        "stop": "stop",
        "length": "length",
        "context": "length",
        "tool_calls": "tool_calls",
        "filtered": "content_filter",
        "aborted": "error",
        "error": "error",
    },
    format_error=format_error,
)

Writer = partial(ChatWriter, style=STYLE)
Reader = ChatReader


def parse_request(body: bytes | dict[str, Any]) -> Call:
    """The call that a client makes; a `FieldError` names what is wrong with it."""
    return parse_chat(body, ChatForm())


def format_request(call: Call) -> dict[str, Any]:
    """The body for a provider; all but `form` and `ignored` comes back when it is parsed."""
    body = format_chat(call, has_thinking_parts=False)
    return body | ({"stream_options": {"include_usage": True}} if call.is_stream else {})
