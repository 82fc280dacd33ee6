"""Items of the Responses API to messages, and messages to items.

What one assistant turn is made of comes as several items: its thoughts, its text, its calls. They become one message as
long as they stand in that order; an item that breaks the order begins the next message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct, field

from small4.chat import Message, Part, TextPart, ThinkPart, ToolCall
from small4.errors import FieldError
from small4.wire.call_ids import native_id
from small4.wire.decode import Ignored
from small4.wire.limits import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, check_length
from small4.wire.responses_parts import Item, TextFields, content_of, fields_of, part_item

MAX_ITEMS = 4 * MAX_MESSAGES  # a turn of an agent is a thought, a text, a call and its result


# Records of tools that only their vendor runs: nothing here calls them, and the text after them tells what they found.
_RECORDS = frozenset(
    "additional_tools apply_patch_call apply_patch_call_output code_interpreter_call computer_call "
    "computer_call_output configuration_update file_search_call ghost_snapshot image_generation_call local_shell_call "
    "local_shell_call_output mcp_approval_request mcp_approval_response mcp_call mcp_list_tools program "
    "program_output shell_call shell_call_output tool_search_call tool_search_output web_search_call".split()
)


class Sealer(Protocol):
    """Encrypts a thought for a caller to keep, so that only this instance can read it and nobody can change it."""

    def seal(self, text: str) -> str:
        """The text, encrypted and authenticated."""

    def open(self, sealed: str) -> str | None:
        """The text that was sealed; None where the seal is not ours or was broken."""


class Conversation:
    """Takes items one after the other; `messages` holds what they say."""

    def __init__(self, ignored: Ignored, sealer: Sealer | None = None) -> None:
        self.messages: list[Message] = []
        self._ignored, self._sealer = ignored, sealer

    def add(self, item: object, path: str) -> None:
        """Take an item; `path` is where it stands in the request."""
        if not isinstance(item, dict):
            raise FieldError(f"{path}: an item must be a JSON object", path)
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str) or not (kind in _TAKE or kind in _RECORDS):
            raise FieldError(f"{path}.type: {str(kind)[:40]!r} is no kind of item that is known here", f"{path}.type")
        if kind in _RECORDS:
            self._ignored.add(path)
            return
        _TAKE[kind](self, item, path)
        check_length(self.messages, MAX_MESSAGES, path)

    def _message(self, item: Item, path: str) -> None:
        fields = fields_of(item, _Message, path, self._ignored)
        content = content_of(fields.content, f"{path}.content", self._ignored)
        if fields.role == "assistant":
            self._assistant_text(content)
        else:
            self.messages.append(Message("user" if fields.role == "user" else "system", content))

    def _assistant_text(self, content: str | tuple[Part, ...]) -> None:
        thoughts = self._open_thoughts()
        if thoughts is None:
            self.messages.append(Message("assistant", content))
            return
        parts = (TextPart(content),) if isinstance(content, str) else content
        self.messages[-1] = replace(self.messages[-1], content=(*thoughts, *parts))

    def _reasoning(self, item: Item, path: str) -> None:
        fields = fields_of(item, _Reasoning, path, self._ignored)
        text = "".join(part.text for part in fields.content or ())
        if not text and fields.encrypted_content and self._sealer is not None:
            text = self._sealer.open(fields.encrypted_content) or ""
        if not text:
            self._ignored.add(path)
            return
        thoughts = self._open_thoughts()
        if thoughts is None:
            self.messages.append(Message("assistant", (ThinkPart(text),)))
            return
        check_length(thoughts, MAX_PARTS - 1, path)
        self.messages[-1] = replace(self.messages[-1], content=(*thoughts, ThinkPart(text)))

    def _open_thoughts(self) -> tuple[Part, ...] | None:
        """The thoughts of a last message that holds nothing else: text or another thought may follow them."""
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant" or last.tool_calls or isinstance(last.content, str):
            return None
        return last.content if all(isinstance(part, ThinkPart) for part in last.content) else None

    def _function_call(self, item: Item, path: str) -> None:
        fields = fields_of(item, _FunctionCall, path, self._ignored)
        self._call(ToolCall(native_id(fields.call_id, f"{path}.call_id"), fields.name, fields.arguments), path)

    def _custom_call(self, item: Item, path: str) -> None:
        """A call whose argument is free text; here it is the only argument of a function."""
        fields = fields_of(item, _CustomCall, path, self._ignored)
        arguments = msgspec.json.encode({"input": fields.text}).decode()
        self._call(ToolCall(native_id(fields.call_id, f"{path}.call_id"), fields.name, arguments), path)

    def _call(self, call: ToolCall, path: str) -> None:
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant"))
        calls = (*self.messages[-1].tool_calls, call)
        check_length(calls, MAX_TOOLS, path)
        self.messages[-1] = replace(self.messages[-1], tool_calls=calls)

    def _call_output(self, item: Item, path: str) -> None:
        fields = fields_of(item, _CallOutput, path, self._ignored)
        content = content_of(fields.output, f"{path}.output", self._ignored)
        call_id = native_id(fields.call_id, f"{path}.call_id")
        self.messages.append(Message("tool", content, tool_call_id=call_id))

    def _compaction(self, item: Item, path: str) -> None:
        """A conversation's summary, sealed; without it the answer would know nothing of what came before."""
        fields = fields_of(item, _Compaction, path, self._ignored)
        text = None if self._sealer is None else self._sealer.open(fields.encrypted_content)
        if text is None:
            raise FieldError(
                f"{path}: this compaction was not made here and cannot be read; send the conversation itself", path
            )
        self.messages.append(Message("user", text))


def items_of(messages: Iterable[Message]) -> list[Item]:
    """The items that say these messages; `Conversation` reads them back."""
    return [item for message in messages for item in _items_of(message)]


def kept_item(item: Item, item_id: str) -> Item:
    """The item as lists of items show it: with an id, which a caller may have given, a type, and its parts."""
    fields = {"id": item_id, "type": "message"} | {name: value for name, value in item.items() if value is not None}
    content = fields.get("content")
    if fields["type"] == "message" and isinstance(content, str):
        kind = "output_text" if fields.get("role") == "assistant" else "input_text"
        fields["content"] = [{"type": kind, "text": content} | ({"annotations": []} if kind == "output_text" else {})]
    return fields


def _items_of(message: Message) -> list[Item]:
    if message.role == "tool":
        content = message.content
        output = content if isinstance(content, str) else [part_item(part, "input_text") for part in content]
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": output}]
    if message.role != "assistant":
        return [_message_item(message.role, message.content, "input_text")]
    return _assistant_items(message)


def _assistant_items(message: Message) -> list[Item]:
    content: tuple[Part, ...] | str = message.content
    items: list[Item] = []
    if not isinstance(content, str):
        thoughts = [part.text for part in content if isinstance(part, ThinkPart)]
        items = [_reasoning_item(text) for text in thoughts]
        content = tuple(part for part in content if not isinstance(part, ThinkPart))
    if content or not (items or message.tool_calls):
        items.append(_message_item("assistant", content, "output_text"))
    return items + [_call_item(call) for call in message.tool_calls]


def _message_item(role: str, content: str | tuple[Part, ...], text_kind: str) -> Item:
    if not isinstance(content, str):
        return {"type": "message", "role": role, "content": [part_item(part, text_kind) for part in content]}
    return {"type": "message", "role": role, "content": content}


def _reasoning_item(text: str) -> Item:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def _call_item(call: ToolCall) -> Item:
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


class _Message(Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Item]
    type: str | None = None
    id: str | None = None
    status: str | None = None


class _Reasoning(Struct):
    type: str
    id: str | None = None
    summary: Any = None
    content: list[TextFields] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class _FunctionCall(Struct):
    type: str
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class _CustomCall(Struct):
    type: str
    call_id: str
    name: str
    text: str = field(name="input")
    id: str | None = None
    status: str | None = None


class _CallOutput(Struct):
    type: str
    call_id: str
    output: str | list[Item]
    id: str | None = None
    status: str | None = None
    name: str | None = None  # of the tool, as some agents send


class _Compaction(Struct):
    type: str
    encrypted_content: str
    id: str | None = None


_TAKE: Mapping[str, Any] = {
    "message": Conversation._message,
    "reasoning": Conversation._reasoning,
    "function_call": Conversation._function_call,
    "function_call_output": Conversation._call_output,
    "custom_tool_call": Conversation._custom_call,
    "custom_tool_call_output": Conversation._call_output,
    "compaction": Conversation._compaction,
    "compaction_summary": Conversation._compaction,
}
