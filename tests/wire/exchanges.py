"""Golden exchanges, one JSON file each, and requests and answers that are drawn at random.

In those of Chat Completions, `call` is what the request means and `events` what the answer does, with dataclasses of
`small4.chat` as `{"TextDelta": {"text": "a"}}`, with the fields that differ from their defaults.

In those of Anthropic and Google, `request` is how we ourselves write it, `variants` say the same in other ways;
`stream` and `answer` are one answer, as events and as a whole. `hidden` is a thought that the client did not want to
read.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from small4 import chat
from small4.chat import (
    AnswerEvent,
    Finish,
    ImageLink,
    ImagePart,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import FieldError, RequestError
from small4.tokenizer.conversation import check_messages, to_turns
from small4.wire.call import Call
from small4.wire.signature import Signer
from small4.wire.sse import ServerEvent

ROOT = Path(__file__).parent / "golden"
SIGNER = Signer(b"golden golden golden")
BOUNDARIES = (-1, 0, 1, 2**31 - 1, 2**31, 2**63, 1e308, -1e308, -0.0, 0.5, True, "1", None, [], {})


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


def load(dialect: str) -> list[Any]:
    """The exchanges of Anthropic or Google."""
    return [{"name": path.stem, **json.loads(path.read_text())} for path in sorted((ROOT / dialect).glob("*.json"))]


def said(call: Call, merged: bool = False) -> Any:
    """What a call asks for; with `merged`, neighbouring messages of one speaker count as one."""
    check_messages([_fetched(message) for message in call.request.messages], training=False)
    call = replace(call, ignored=())
    if not merged:
        return call
    return replace(call, request=replace(call.request, messages=())), to_turns(call.request.messages)


def _fetched(message: Message) -> Message:
    """The message with images in the place of their links, as the server hands it on."""
    if isinstance(message.content, str):
        return message
    return replace(message, content=tuple(ImagePart(b"") if isinstance(p, ImageLink) else p for p in message.content))


def joined(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """The events with neighbouring pieces put together, empty ones left out, and arguments that are nothing as {}."""
    kept: list[AnswerEvent] = []
    for event in events:
        last = kept[-1] if kept else None
        match event.event, last.event if last is not None and last.index == event.index else None:
            case ((TextDelta("") | ReasoningDelta("") | ToolCallDelta(_, "")), _):
                continue
            case TextDelta(text, logprobs), TextDelta(before, earlier):
                kept[-1] = AnswerEvent(event.index, TextDelta(before + text, earlier + logprobs))
            case ReasoningDelta(text), ReasoningDelta(before):
                kept[-1] = AnswerEvent(event.index, ReasoningDelta(before + text))
            case ToolCallDelta(index, text), ToolCallDelta(_, before):
                kept[-1] = AnswerEvent(event.index, ToolCallDelta(index, before + text))
            case _:
                kept.append(event)
    return kept


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
RUNS = st.lists(
    st.one_of(
        st.builds(lambda pieces: [TextDelta(piece) for piece in pieces], st.lists(TEXTS, min_size=1, max_size=3)),
        st.builds(lambda pieces: [ReasoningDelta(piece) for piece in pieces], st.lists(TEXTS, min_size=1, max_size=3)),
        st.builds(
            lambda name, value, cut: [name, json.dumps(value, ensure_ascii=False), cut],
            st.from_regex(r"[a-z]{1,8}", fullmatch=True),
            st.dictionaries(TEXTS, st.none() | st.integers(-9, 9) | TEXTS, max_size=2),
            st.integers(0, 20),
        ),
    ),
    max_size=5,
)
USAGES = st.builds(
    lambda cached, prompt, thought, text: Usage(cached + prompt, thought + text, thought, cached),
    *[st.integers(0, 10**6)] * 4,
)


def events_of(runs: list[list[Any]], finish: Finish) -> list[AnswerEvent]:
    """The events of one answer; runs are pieces of text or of thought, or calls as name, arguments and a cut."""
    events: list[Any] = []
    num_calls = 0
    for run in runs:
        if isinstance(run[0], str):
            name, arguments, cut = run
            events.append(ToolCallStart(num_calls, f"{num_calls:09}", name))
            events += [ToolCallDelta(num_calls, piece) for piece in (arguments[:cut], arguments[cut:])]
            num_calls += 1
        else:
            events += run
    return [AnswerEvent(0, event) for event in (*events, finish)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


def changed(body: Any, data: st.DataObject) -> Any:
    """A copy of a request with something else at up to three places."""
    body = json.loads(json.dumps(body))
    for _ in range(data.draw(st.integers(1, 3))):
        _change(body, data)
    return body


def _change(value: Any, data: st.DataObject) -> None:
    while keys := list(value) if isinstance(value, dict) else list(range(len(value))):
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(value[key], dict | list) and data.draw(st.booleans())):
            value[key] = data.draw(JSON)
            return
        value = value[key]


def check_changed(
    data: st.DataObject,
    exchanges: list[Any],
    parse: Callable[[Any], Call],
    format_request: Callable[[Call], Any],
) -> None:
    """A golden request that was changed is refused, or written as it was read."""
    exchange = data.draw(st.sampled_from(exchanges))
    body = changed(data.draw(st.sampled_from([exchange["request"], *exchange["variants"]])), data)
    try:
        call = parse(body)
    except RequestError:
        return
    assert parse(format_request(call)) == replace(call, ignored=())


def refused_field(parse: Callable[[Any], Call], body: Any) -> str | None:
    """The field that a body is refused for."""
    try:
        parse(body)
    except FieldError as error:
        return error.param
    return None
