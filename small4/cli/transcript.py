"""A conversation as a file: Markdown to read, or JSON to use."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from small4.chat import ImagePart, Message, TextPart, ThinkPart
from small4.errors import RequestError


def save_transcript(path: Path, messages: Sequence[Message], model: str) -> Path:
    """Write the conversation to a new file; an existing one is never overwritten."""
    path = path.expanduser()
    if path.exists():
        raise RequestError(f"{path} exists and is left alone; give another name")
    if not path.parent.is_dir():
        raise RequestError(f"there is no directory {path.parent}; make it, or save elsewhere")
    text = _as_json(messages, model) if path.suffix == ".json" else _as_markdown(messages, model)
    path.write_text(text, encoding="utf-8")
    return path


def _as_json(messages: Sequence[Message], model: str) -> str:
    content = {"model": model, "messages": [_plain(message) for message in messages]}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _as_markdown(messages: Sequence[Message], model: str) -> str:
    blocks = [f"# Conversation with {model}"]
    for message in map(_plain, messages):
        blocks.append(f"## {message['role']}")
        if "reasoning" in message:
            blocks.append("\n".join(f"> {line}".rstrip() for line in message["reasoning"].splitlines()))
        if "num_images" in message:
            blocks.append(f"({message['num_images']} image(s), not saved)")
        blocks.append(message["text"])
    return "\n\n".join(blocks) + "\n"


def _plain(message: Message) -> dict[str, Any]:
    parts = (TextPart(message.content),) if isinstance(message.content, str) else message.content
    plain: dict[str, Any] = {
        "role": message.role,
        "text": "".join(part.text for part in parts if isinstance(part, TextPart)),
    }
    if reasoning := "".join(part.text for part in parts if isinstance(part, ThinkPart)):
        plain["reasoning"] = reasoning
    if num_images := sum(isinstance(part, ImagePart) for part in parts):
        plain["num_images"] = num_images
    return plain
