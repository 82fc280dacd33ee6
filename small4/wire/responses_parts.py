"""Parts of a message in the Responses API: text, images and files, from their JSON and back to it."""

import binascii
import re
from typing import Any

from msgspec import Struct

from small4.chat import ImageLink, ImagePart, Part, TextPart, ThinkPart
from small4.errors import FieldError
from small4.wire.decode import Ignored, S, convert
from small4.wire.images import image_of_base64, image_of_url, image_url
from small4.wire.limits import MAX_PARTS, check_length

MAX_FILE_CHARACTERS = 2**20  # of text in an input_file

Item = dict[str, Any]

_INDEX = re.compile(r"\[\d+\]")  # one name for the same unknown field of many items


def content_of(content: str | list[Item], path: str, ignored: Ignored) -> str | tuple[Part, ...]:
    """Text, or parts where there is more than one text."""
    if isinstance(content, str):
        return content
    check_length(content, MAX_PARTS, path)
    parts = tuple(_part(part, f"{path}[{index}]", ignored) for index, part in enumerate(content))
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts or ""


def _part(part: Item, path: str, ignored: Ignored) -> Part:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "summary_text"):
        return TextPart(fields_of(part, TextFields, path, ignored).text)
    if kind == "reasoning_text":
        return ThinkPart(fields_of(part, TextFields, path, ignored).text)
    if kind == "refusal":
        return TextPart(fields_of(part, _Refusal, path, ignored).refusal)
    if kind == "input_image":
        return _image(part, path, ignored)
    if kind == "input_file":
        return _file(part, path, ignored)
    raise FieldError(
        f"{path}.type: {str(kind)[:40]!r} is no part that is read here; send text or images", f"{path}.type"
    )


def _image(part: Item, path: str, ignored: Ignored) -> Part:
    fields = fields_of(part, _Image, path, ignored)
    if fields.image_url is None:
        raise FieldError(f"{path}: no files are kept here; send the image in image_url", f"{path}.file_id")
    if fields.detail not in (None, "auto"):
        ignored.add(_INDEX.sub("", f"{path}.detail"))
    return image_of_url(fields.image_url, f"{path}.image_url")


def _file(part: Item, path: str, ignored: Ignored) -> Part:
    fields = fields_of(part, _File, path, ignored)
    if fields.file_data is None:
        name = "file_url" if fields.file_url is not None else "file_id"
        raise FieldError(f"{path}.{name}: files are read from file_data only; send the file there", f"{path}.{name}")
    return _file_part(fields.file_data, fields.filename, f"{path}.file_data")


def part_item(part: Part, text_kind: str) -> Item:
    """The part as the dialect writes it; `text_kind` is its word for text there."""
    if isinstance(part, (ImagePart, ImageLink)):
        return {"type": "input_image", "image_url": image_url(part), "detail": "auto"}
    if isinstance(part, ThinkPart):
        return {"type": "reasoning_text", "text": part.text}
    item: Item = {"type": text_kind, "text": part.text}
    return item | {"annotations": []} if text_kind == "output_text" else item


def fields_of(item: Item, kind: type[S], path: str, ignored: Ignored) -> S:
    """An item or a part as its struct; what the struct has no place for is told as ignored."""
    ignored.unknown(item, kind, _INDEX.sub("", path))
    return convert(item, kind, path)


def _file_part(data: str, filename: str | None, path: str) -> Part:
    """The text or the image that a file holds; other kinds are refused, since the model could not see them."""
    head, comma, text = data.partition(",")
    kind, _, encoding = head.removeprefix("data:").partition(";")
    if not comma or not head.startswith("data:") or not encoding.endswith("base64"):
        raise FieldError(f"{path}: a file has the form data:text/plain;base64,...", path)
    if kind.startswith("image/"):
        return image_of_base64(text, path, kind)
    if not (kind.startswith("text/") or kind == "application/json"):
        raise FieldError(f"{path}: {kind[:80]!r} cannot be read; send its text, or its pages as images", path)
    if len(text) > MAX_FILE_CHARACTERS:
        raise FieldError(f"{path} has {len(text)} characters, the limit is {MAX_FILE_CHARACTERS}; send less", path)
    try:
        content = binascii.a2b_base64(text.encode("ascii"), strict_mode=True).decode()
    except (binascii.Error, UnicodeError):
        raise FieldError(f"{path}: this is not UTF-8 text in base64; encode it again", path) from None
    return TextPart(f"{filename}:\n{content}" if filename else content)


class TextFields(Struct):
    text: str
    type: str | None = None
    annotations: Any = None
    logprobs: Any = None


class _Refusal(Struct):
    refusal: str
    type: str


class _Image(Struct):
    type: str
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class _File(Struct):
    type: str
    filename: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
