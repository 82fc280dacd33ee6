"""Golden exchanges: a JSON file with a request, the call that it means, an answer's events, and how these are written.

Dataclasses of `small4.chat` stand as `{"TextDelta": {"text": "a"}}`, with the fields that differ from their defaults.
"""

import json
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small4 import chat
from small4.chat import AnswerEvent, ChatRequest
from small4.wire.sse import ServerEvent

ROOT = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Exchange:
    name: str
    request: dict[str, Any]
    call: dict[str, Any]  # fields of the Call, `request` among them as a ChatRequest
    is_canonical: bool  # what format_request writes is the request
    events: list[AnswerEvent]
    stream: list[ServerEvent]
    body: dict[str, Any]


def exchanges(dialect: str) -> list[Exchange]:
    return [read(path) for path in sorted((ROOT / dialect).glob("*.json"))]


def read(path: Path) -> Exchange:
    fields = json.loads(path.read_text())
    call = fields["call"]
    return Exchange(
        name=path.stem,
        request=fields["request"],
        call={name: tuple(value) if name == "ignored" else build(value) for name, value in call.items()},
        is_canonical=fields.get("is_canonical", True),
        events=[AnswerEvent(index, build(event)) for index, event in fields.get("events", [])],
        stream=[ServerEvent(data if isinstance(data, str) else json.dumps(data)) for data in fields.get("stream", [])],
        body=fields.get("body", {}),
    )


def build(value: Any) -> Any:
    """The dataclass that a JSON value stands for; other objects stay as they are."""
    if isinstance(value, list):
        return tuple(map(build, value))
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((name, fields),) = value.items()
    if name == "bytes":
        return b64decode(fields)
    kind = getattr(chat, name, None)
    if not isinstance(kind, type):
        return value
    return kind(**{key: field if key in ("schema", "parameters") else build(field) for key, field in fields.items()})


def request_of(call: dict[str, Any]) -> ChatRequest:
    request = call["request"]
    assert isinstance(request, ChatRequest)
    return request
