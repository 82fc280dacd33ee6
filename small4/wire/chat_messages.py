"""The messages of a Chat Completions request, from its JSON and back to it.

Reasoning of earlier turns comes as `reasoning`, `reasoning_content`, `reasoning_details` or thinking parts, whatever
the client kept; it becomes `ThinkPart`s at the place where it stood, or before all else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from small4.chat import ImageLink, ImagePart, Message, Part, TextPart, ThinkPart, ToolCall
from small4.errors import FieldError
from small4.wire.call_ids import native_id
from small4.wire.chat_fields import (
    AssistantFields,
    Content,
    DeveloperFields,
    FunctionCallFields,
    ImageFields,
    ImageUrlFields,
    MessageFields,
    PartFields,
    RefusalFields,
    SystemFields,
    TextFields,
    ThinkingFields,
    ToolCallFields,
    ToolResultFields,
    UserFields,
)
from small4.wire.decode import Ignored
from small4.wire.images import image_of_url, image_url
from small4.wire.system_texts import place_system_texts


def messages_of(messages: Sequence[MessageFields]) -> tuple[Message, ...]:
    """The conversation; what order the model accepts is for its template to say, but for system texts."""
    return place_system_texts([_message(fields, f"messages[{index}]") for index, fields in enumerate(messages)])


def format_messages(messages: Sequence[Message], *, has_thinking_parts: bool) -> list[dict[str, Any]]:
    """The conversation as JSON; reasoning as thinking parts, or in fields of its own where these can hold it."""
    return [_format_message(message, has_thinking_parts) for message in messages]


def list_unknown_of_messages(
    raw: Sequence[Mapping[str, Any]], messages: Sequence[MessageFields], ignored: Ignored
) -> None:
    """Take the fields of messages and their parts that nobody reads."""
    for fields, message in zip(raw, messages, strict=True):
        ignored.unknown(fields, type(message), "messages")
        if isinstance(message.content, list):
            for raw_part, part in zip(fields["content"], message.content, strict=True):
                _list_unknown_of_part(raw_part, part, ignored)
        if isinstance(message, AssistantFields):
            for raw_call in fields.get("tool_calls") or ():
                ignored.unknown(raw_call, ToolCallFields, "messages.tool_calls")
                ignored.unknown(raw_call["function"], FunctionCallFields, "messages.tool_calls.function")
            if any(detail.text is None and detail.summary is None for detail in message.reasoning_details or ()):
                ignored.add("messages.reasoning_details")


def _list_unknown_of_part(raw: Mapping[str, Any], part: PartFields, ignored: Ignored) -> None:
    ignored.unknown(raw, type(part), "messages.content")
    if isinstance(part, ImageFields) and isinstance(part.image_url, ImageUrlFields):
        ignored.unknown(raw["image_url"], ImageUrlFields, "messages.content.image_url")
        ignored.set(part.image_url, ["detail"], "messages.content.image_url")
    if isinstance(part, ThinkingFields):
        ignored.set(part, ["signature"], "messages.content")


def _message(fields: MessageFields, path: str) -> Message:
    match fields:
        case SystemFields() | DeveloperFields():
            return Message("system", _content(fields.content, path))
        case UserFields():
            return Message("user", _content(fields.content, path))
        case ToolResultFields():
            call_id = native_id(fields.tool_call_id, f"{path}.tool_call_id")
            return Message("tool", _content(fields.content, path), tool_call_id=call_id)
        case AssistantFields():
            return _assistant(fields, path)


def _assistant(fields: AssistantFields, path: str) -> Message:
    for name, value in (("audio", fields.audio), ("function_call", fields.function_call)):
        if value:
            raise FieldError(f"{path}.{name} cannot be honoured; send text and tool_calls", f"{path}.{name}")
    content = _content(fields.content, path) or fields.refusal or ""
    thought = _thought(fields)
    if thought and not (isinstance(content, tuple) and any(isinstance(part, ThinkPart) for part in content)):
        content = (ThinkPart(thought), *(_as_parts(content)))
    return Message(
        "assistant",
        content,
        tool_calls=tuple(
            _tool_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(fields.tool_calls or ())
        ),
        prefix=fields.prefix is True,
    )


def _thought(fields: AssistantFields) -> str:
    details = (detail.text or detail.summary or "" for detail in fields.reasoning_details or ())
    return fields.reasoning or fields.reasoning_content or "".join(details)


def _tool_call(fields: ToolCallFields, path: str) -> ToolCall:
    arguments = fields.function.arguments
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return ToolCall(native_id(fields.id, f"{path}.id"), fields.function.name, text)


def _content(content: Content | None, path: str) -> str | tuple[Part, ...]:
    if content is None or isinstance(content, str):
        return content or ""
    return tuple(_part(part, f"{path}.content[{index}]") for index, part in enumerate(content))


def _part(part: PartFields, path: str) -> Part:
    match part:
        case TextFields(text) | RefusalFields(text):
            return TextPart(text)
        case ImageFields(image):
            url = image if isinstance(image, str) else image.url
            return image_of_url(url, f"{path}.image_url")
        case ThinkingFields(thinking, closed):
            text = thinking if isinstance(thinking, str) else "".join(piece.text for piece in thinking)
            return ThinkPart(text, closed is not False)


def _as_parts(content: str | tuple[Part, ...]) -> tuple[Part, ...]:
    if isinstance(content, tuple):
        return content
    return (TextPart(content),) if content else ()


def _format_message(message: Message, has_thinking_parts: bool) -> dict[str, Any]:
    content = message.content
    fields: dict[str, Any] = {"role": message.role}
    if not has_thinking_parts and (parted := _part_thought(content)) is not None:
        thought, content = parted
        fields |= {"reasoning": thought, "reasoning_content": thought}
    fields["content"] = content if isinstance(content, str) else [_format_part(part) for part in content]
    if message.tool_calls:
        fields["content"] = fields["content"] or None
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.prefix:
        fields["prefix"] = True
    return fields


def _part_thought(content: str | tuple[Part, ...]) -> tuple[str, str | tuple[Part, ...]] | None:
    """A closed thought before all else, and the rest; None where the fields for it would lose something."""
    match content:
        case (ThinkPart(text, closed=True), *rest) if text and not any(isinstance(part, ThinkPart) for part in rest):
            match rest:
                case []:
                    return text, ""
                case [TextPart(answer)] if answer:
                    return text, answer
            return text, tuple(rest)
    return None


def _format_part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ThinkPart(text, closed):
            return {"type": "thinking", "thinking": [{"type": "text", "text": text}], "closed": closed}
        case ImagePart() | ImageLink():
            return {"type": "image_url", "image_url": {"url": image_url(part)}}
