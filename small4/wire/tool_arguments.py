"""Arguments of a tool call as a JSON object, for the dialects that carry them so, and back to text.

A model may write arguments that are no object, or be cut off inside them. Such text travels as the only value of an
object with the name that Anthropic's documentation proposes for it, so nothing is lost and nothing is guessed.
"""

import json
from typing import Any

import msgspec

_INVALID = "INVALID_JSON"


def arguments_object(text: str) -> dict[str, Any]:
    """The object that the text spells; no text is an empty one."""
    value = object_or_none(text)
    return {_INVALID: text} if value is None else value


def object_or_none(text: str) -> dict[str, Any] | None:
    """The object that the text spells, or None if it spells none."""
    try:
        value = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    return value if isinstance(value, dict) else None


def arguments_text(value: dict[str, Any]) -> str:
    """The text of an object, as the model would write it."""
    text = value.get(_INVALID)
    if len(value) == 1 and isinstance(text, str):
        return text
    return json.dumps(value, ensure_ascii=False)
