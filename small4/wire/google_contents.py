"""Contents of a generateContent request -> messages."""

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

from small4.chat import ImageLink, ImagePart, Message, Part, TextPart, ThinkPart, ToolCall
from small4.wire import google_fields as google
from small4.wire.call_ids import native_id
from small4.wire.decode import Ignored
from small4.wire.google_fields import wrong
from small4.wire.images import image_of_base64, image_of_url
from small4.wire.limits import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, check_length
from small4.wire.message_parts import ERROR_MARK, plain, with_calls_together
from small4.wire.tool_arguments import arguments_text

BETWEEN_PARTS = "\n\n"  # of the system's instruction
_USER_ROLES = ("user", "function", "tool")

T = TypeVar("T")

_Piece = tuple[str, google.Part]  # with its path


def read_contents(body: google.Body, ignored: Ignored) -> tuple[Message, ...]:
    """The conversation in the order that the template takes it; a last turn of the model is the answer's beginning."""
    messages: list[Message] = []
    if body.system_instruction is not None and (text := _system_text(body.system_instruction)):
        messages.append(Message("system", text))
    contents = _as_list(body.contents)
    check_length(contents, MAX_MESSAGES, "contents")
    turns = [
        (_is_model(content, f"contents[{i}]"), _pieces(content, f"contents[{i}]")) for i, content in enumerate(contents)
    ]
    calls = _Calls()
    for is_model, run in groupby(turns, key=lambda turn: turn[0]):
        said = [pieces for _, pieces in run]
        if is_model:
            messages += with_calls_together([message for pieces in said for message in _said_by_model(pieces, calls)])
        else:
            messages += [message for pieces in said for message in calls.results(pieces)]
            messages += [message for pieces in said for message in _said_by_user(pieces)]
    if any(piece.thought_signature is not None for _, pieces in turns for _, piece in pieces):
        ignored.add("contents.parts.thoughtSignature")
    if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages[-1] = replace(messages[-1], prefix=True)
    return tuple(messages)


class _Calls:
    """Calls that wait for their results, in the order in which they were made."""

    def __init__(self) -> None:
        self._waiting: defaultdict[tuple[str, str], deque[ToolCall]] = defaultdict(deque)
        self._answered: set[str] = set()

    def made(self, call: google.FunctionCall, path: str) -> ToolCall:
        """A call; one without an id gets one by its place, which stays as the conversation grows."""
        tool_call = ToolCall(native_id(call.id or path, f"{path}.id"), call.name, arguments_text(call.args or {}))
        self._answered.discard(tool_call.id)
        for key in [("id", call.id), ("named", call.name)] if call.id else [("nameless", call.name)]:
            self._waiting[key].append(tool_call)
        return tool_call

    def results(self, pieces: Sequence[_Piece]) -> Iterator[Message]:
        """The results in a turn."""
        for path, piece in pieces:
            if piece.function_response is not None:
                place = f"{path}.functionResponse"
                yield _result(piece.function_response, self._call_id(piece.function_response, place), place)

    def _call_id(self, response: google.FunctionResponse, path: str) -> str:
        """The call with the same id; else the first of that name without one; else, if none was given, of that name."""
        keys = [("id", response.id)] if response.id else []
        keys += (
            [("nameless", response.name)] if response.id else [("nameless", response.name), ("named", response.name)]
        )
        for waiting in (self._waiting[key] for key in keys):
            while waiting:
                call = waiting.popleft()
                if call.id not in self._answered:
                    self._answered.add(call.id)
                    return call.id
        raise wrong(path, f"no call of {response.name[:80]!r} waits for a result; send the call too")


def _result(response: google.FunctionResponse, call_id: str, path: str) -> Message:
    text = _result_text(response.response or {})
    images = [
        _image(part.inline_data, part.file_data, f"{path}.parts[{index}]")
        for index, part in enumerate(response.parts or [])
    ]
    parts: list[Part] = [*([TextPart(text)] if text else []), *images]
    return Message("tool", plain(parts), tool_call_id=call_id)


def _result_text(response: dict[str, object]) -> str:
    """Google's rule: `output` holds the result, `error` what went wrong, and without both the whole is the result."""
    if len(response) == 1:
        [(name, value)] = response.items()
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if name in ("output", "error"):
            return text if name == "output" else ERROR_MARK + text
    return json.dumps(response, ensure_ascii=False)


def _said_by_model(pieces: Sequence[_Piece], calls: _Calls) -> Iterator[Message]:
    """One message, or none where the turn is empty."""
    parts: list[Part] = []
    made = []
    for path, piece in pieces:
        if piece.function_call is not None:
            made.append(calls.made(piece.function_call, f"{path}.functionCall"))
        elif piece.text is None:
            raise wrong(path, "the model's turns hold text, thoughts and function calls only")
        elif piece.text:
            parts.append(ThinkPart(piece.text) if piece.thought else TextPart(piece.text))
    check_length(made, MAX_TOOLS, "contents.parts.functionCall")
    if parts or made:
        yield Message("assistant", plain(parts), tuple(made))


def _said_by_user(pieces: Sequence[_Piece]) -> Iterator[Message]:
    """One message, or none if the turn has only results of functions."""
    said = [(path, piece) for path, piece in pieces if piece.function_response is None]
    if said or not pieces:
        yield Message("user", plain([_user_part(piece, path) for path, piece in said]))


def _user_part(piece: google.Part, path: str) -> Part:
    if piece.function_call is not None or piece.thought:
        raise wrong(path, "thoughts and function calls belong to turns of the role model")
    return TextPart(piece.text) if piece.text is not None else _file(piece, path)


def _file(piece: google.Part, path: str) -> Part:
    blob = piece.inline_data
    if blob is not None and blob.mime_type.lower().startswith("text/"):
        return TextPart(_text_of(blob, f"{path}.inlineData.data"))
    return _image(blob, piece.file_data, path)


def _text_of(blob: google.Blob, param: str) -> str:
    try:
        return b64decode(_standard(blob.data), validate=True).decode()
    except (Base64Error, UnicodeError):
        raise wrong(param, "this is not UTF-8 text in base64") from None


def _image(blob: google.Blob | None, file: google.FileData | None, path: str) -> ImagePart | ImageLink:
    if blob is not None:
        return image_of_base64(_standard(blob.data), f"{path}.inlineData.data", blob.mime_type)
    if file is None:
        raise wrong(path, "this part holds nothing that the model can read; send text or an image")
    if file.mime_type and not file.mime_type.lower().startswith("image/"):
        param = f"{path}.fileData.mimeType"
        raise wrong(param, f"{file.mime_type[:80]!r} is not an image; the model sees images only")
    return image_of_url(file.file_uri, f"{path}.fileData.fileUri")


def _standard(data: str) -> str:
    """Base64 in its usual alphabet; Google's own clients write the one for URLs, sometimes without padding."""
    data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


def _system_text(content: google.Content) -> str:
    texts = []
    for path, piece in _pieces(content, "systemInstruction"):
        if piece.text is None:
            raise wrong(path, "the system's instruction is text only")
        texts.append(piece.text)
    return BETWEEN_PARTS.join(text for text in texts if text)


def _is_model(content: google.Content, path: str) -> bool:
    """Whose turn it is; without a role the user's, unless it calls functions."""
    if not content.role:
        return any(piece.function_call is not None for piece in _as_list(content.parts or []))
    if content.role != "model" and content.role not in _USER_ROLES:
        raise wrong(f"{path}.role", f"{content.role[:40]!r} is unknown; use user or model")
    return content.role == "model"


def _pieces(content: google.Content, path: str) -> list[_Piece]:
    """The parts with their paths; those that hold only a signature say nothing."""
    parts = _as_list(content.parts or [])
    check_length(parts, MAX_PARTS, f"{path}.parts")
    return [
        (f"{path}.parts[{i}]", part) for i, part in enumerate(parts) if not _is_signature(part, f"{path}.parts[{i}]")
    ]


def _is_signature(part: google.Part, path: str) -> bool:
    held = (part.text, part.inline_data, part.file_data, part.function_call, part.function_response)
    num_held = len(held) - held.count(None)
    if num_held > 1:
        raise wrong(path, f"{num_held} things in one part; send one in each")
    if not num_held and part.thought_signature is None:
        raise wrong(path, "this part holds nothing that the model can read; send text or an image")
    return not num_held


def _as_list(value: list[T] | T) -> list[T]:
    return value if isinstance(value, list) else [value]
