"""The rules of a v15 conversation: who may follow whom, what a turn may hold, and how messages become turns.

Model specification 5.3. Neighbouring messages of one speaker are one turn, joined by a blank line; tool results stand
in the order of their calls; each system message stays its own turn.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from small4.chat import ImageLink, ImagePart, Message, Part, TextPart, ThinkPart, ToolCall
from small4.errors import MessageOrderError, RequestError, ToolError

Piece = str | ImagePart | ThinkPart

_MAY_FOLLOW: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user", "assistant"),
    "system": ("system", "user", "assistant"),
    "user": ("user", "assistant", "system"),
    "assistant": ("user", "assistant", "tool"),
    "tool": ("user", "assistant", "tool"),
}
_MAY_HOLD: dict[str, tuple[type, ...]] = {
    "system": (TextPart,),
    "user": (TextPart, ImagePart),
    "assistant": (TextPart, ThinkPart),
    "tool": (TextPart, ImagePart),
}
_KINDS: dict[type, str] = {
    TextPart: "text",
    ImagePart: "an image",
    ImageLink: "the link of an image that was not fetched",
    ThinkPart: "reasoning",
}
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_BETWEEN_MESSAGES = "\n\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says before another does; neighbouring text is one piece."""

    role: str
    pieces: list[Piece]
    calls: tuple[ToolCall, ...] = ()
    is_open: bool = False  # a prefix that the answer continues


def check_messages(messages: Sequence[Message], *, training: bool) -> None:
    """Raises on the first message that the template cannot hold. Training ends in a finished assistant message,
    a request in anything that an answer can follow.
    """
    if not messages:
        raise MessageOrderError("the conversation is empty; it needs at least one user message")
    previous: str | None = None
    for index, message in enumerate(messages):
        if message.role not in _MAY_FOLLOW[previous]:
            raise MessageOrderError(_order_error(index, message.role, previous))
        if message.prefix and (training or index < len(messages) - 1 or message.role != "assistant"):
            raise MessageOrderError(f"message {index} is marked as a prefix; only a last assistant message can be one")
        if not isinstance(message.content, str):
            _check_parts(index, message.role, message.content)
        previous = message.role
    _check_end(messages, training)
    if any(message.tool_calls or message.role == "tool" for message in messages):
        _check_calls(messages, training)


def check_function_name(name: str, where: str) -> None:
    if not _FUNCTION_NAME.fullmatch(name):
        raise ToolError(f"{where} has the name {name[:80]!r}; use 1 to 64 of the letters a-z, A-Z, 0-9, _ and -")


def to_turns(messages: Sequence[Message]) -> list[Turn]:
    """Turns of checked messages, in the order in which they are written."""
    turns: list[Turn] = []
    call_order: dict[str | None, int] = {}
    for role, group in groupby(messages, key=lambda message: message.role):
        run = list(group)
        if role == "tool":
            run.sort(key=lambda message: call_order.get(message.tool_call_id, 0))
        if role in ("system", "tool"):
            turns.extend(Turn(role, _join([message.content])) for message in run)
            continue
        calls = tuple(call for message in run for call in message.tool_calls)
        if calls:
            call_order = {call.id: position for position, call in enumerate(calls)}
        turn = Turn(role, _join([message.content for message in run]), calls, run[-1].prefix)
        if role == "assistant":
            _check_assistant(turn)
        turns.append(turn)
    return turns


def _order_error(index: int, role: str, previous: str | None) -> str:
    allowed = ", ".join(_MAY_FOLLOW[previous])
    if role not in _MAY_HOLD:
        return f"message {index} has the unknown role {role!r}; allowed: {', '.join(_MAY_HOLD)}"
    if previous is None:
        return f"the first message has the role {role}; allowed: {allowed}"
    return f"message {index} has the role {role} after the role {previous}; allowed there: {allowed}"


def _check_parts(index: int, role: str, parts: tuple[Part, ...]) -> None:
    allowed = _MAY_HOLD[role]
    for part in parts:
        if not isinstance(part, allowed):
            kind = _KINDS.get(type(part), type(part).__name__)
            may = " and ".join(_KINDS[allowed_kind] for allowed_kind in allowed)
            raise RequestError(f"message {index} ({role}) holds {kind}; it may hold {may}")


def _check_end(messages: Sequence[Message], training: bool) -> None:
    last = messages[-1]
    if training and last.role != "assistant":
        raise MessageOrderError(f"the last message has the role {last.role}; end training with the assistant")
    if not training and not (last.role in ("user", "tool") or last.prefix):
        raise MessageOrderError(
            f"the last message has the role {last.role}, so there is nothing to answer; end with a user or tool "
            "message, or mark a last assistant message as a prefix"
        )
    # Tools and reasoning effort are written before the first user message: without one they would be lost.
    if not any(message.role == "user" for message in messages):
        raise MessageOrderError("the conversation has no user message; add one")


def _check_calls(messages: Sequence[Message], training: bool) -> None:
    """Each call has an id of its own and exactly one result before the assistant speaks again."""
    waiting: set[str] = set()
    answered: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            call_id = _check_id(message.tool_call_id, f"message {index} (tool)")
            if call_id in answered:
                raise ToolError(f"message {index} answers the tool call {call_id!r} a second time; keep one result")
            if call_id not in waiting:
                raise ToolError(
                    f"message {index} answers the unknown tool call {call_id!r}; use the id of a call above"
                )
            waiting.remove(call_id)
            answered.add(call_id)
        elif message.role == "assistant":
            _check_none_waiting(waiting)
            answered.clear()
            for call in message.tool_calls:
                where = f"a tool call of message {index}"
                check_function_name(call.name, where)
                if _check_id(call.id, where) in waiting:
                    raise ToolError(f"message {index} has two tool calls with the id {call.id!r}; give each its own")
                waiting.add(call.id)
        elif message.tool_calls:
            raise ToolError(f"message {index} ({message.role}) has tool calls; only assistant messages may")
    if not training:
        _check_none_waiting(waiting)


def _check_id(call_id: str | None, where: str) -> str:
    if not call_id or call_id == "null":
        raise ToolError(f"{where} has no tool call id; give it a text that is neither empty nor 'null'")
    return call_id


def _check_none_waiting(waiting: set[str]) -> None:
    if waiting:
        raise ToolError(f"no result for the tool call {min(waiting)!r}; add a tool message with this tool_call_id")


def _check_assistant(turn: Turn) -> None:
    if not turn.pieces and not turn.calls:
        raise MessageOrderError("an assistant message is empty; give it content or tool calls, or leave it out")
    for position, piece in enumerate(turn.pieces):
        is_last = position == len(turn.pieces) - 1 and not turn.calls
        if isinstance(piece, ThinkPart) and not piece.closed and not is_last:
            raise RequestError("text or a tool call follows reasoning that is still open; close the reasoning first")


def _join(contents: Sequence[str | tuple[Part, ...]]) -> list[Piece]:
    """Pieces of neighbouring messages: text of one message runs on, text of two is parted by a blank line."""
    if len(contents) == 1 and isinstance(contents[0], str):
        return [contents[0]] if contents[0] else []
    pieces: list[Piece] = []
    text = ""
    for content in contents:
        separator = _BETWEEN_MESSAGES
        for part in (TextPart(content),) if isinstance(content, str) else content:
            assert not isinstance(part, ImageLink)  # refused by check_messages
            if not isinstance(part, TextPart):
                if text:
                    pieces.append(text)
                text, separator = "", ""
                pieces.append(part)
            elif part.text:
                text += (separator if text else "") + part.text
                separator = ""
    if text:
        pieces.append(text)
    return pieces
