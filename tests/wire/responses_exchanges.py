"""Golden exchanges of the Responses API, and short ways to a request and an answer of it."""

import json
from pathlib import Path
from typing import Any

from small4.chat import (
    AnswerEvent,
    Finish,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.wire.call import Call, Head
from small4.wire.openai_responses import Reader, Writer, parse_request
from small4.wire.sse import ServerEvent

GOLDEN = Path(__file__).parent / "golden" / "responses"
EXCHANGES = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))}
REQUESTS = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("requests/*.json"))}
HEAD = Head("0a1b", 1763600000, "mistral-small-4")


class PlainSealer:
    """A `Sealer` whose seals can be read in a recorded request."""

    def seal(self, text: str) -> str:
        return f"SEALED {text}"

    def open(self, sealed: str) -> str | None:
        return sealed.removeprefix("SEALED ") if sealed.startswith("SEALED ") else None


def parse(fields: dict[str, Any]) -> Call:
    return parse_request(json.dumps(fields).encode(), sealer=PlainSealer())


def ask(**fields: Any) -> Call:
    return parse({"model": "m", "input": "hi"} | fields)


def writer(call: Call, **options: Any) -> Writer:
    return Writer(call, HEAD, clock=lambda: 1763600002.9, **options)


def answer_of(rows: list[list[Any]]) -> list[AnswerEvent]:
    return [AnswerEvent(0, event_of(*row)) for row in rows]


def event_of(kind: str, *values: Any) -> Any:
    match kind:
        case "thought":
            return ReasoningDelta(*values)
        case "text":
            return TextDelta(values[0], tuple(map(logprobs_of, values[1] if values[1:] else ())))
        case "call":
            return ToolCallStart(*values)
        case "arguments":
            return ToolCallDelta(*values)
    return Finish(values[0], Usage(**values[1]))


def logprobs_of(row: list[Any]) -> TokenLogprobs:
    *token, top = row
    return TokenLogprobs(scored(token), tuple(map(scored, top)))


def scored(row: list[Any]) -> ScoredToken:
    return ScoredToken(row[0], row[1].encode(), row[2])


def streamed(call: Call, answer: list[AnswerEvent], **options: Any) -> list[ServerEvent]:
    made = writer(call, **options)
    events = made.start()
    for event in answer:
        events += made.push(event)
    return events + made.finish()


def read(events: list[ServerEvent]) -> list[AnswerEvent]:
    reader = Reader()
    return [answer for event in events for answer in reader.feed(event)] + reader.finish()


def expected_stream(exchange: dict[str, Any]) -> list[dict[str, Any]]:
    whole = exchange["response"]
    fresh = dict.fromkeys(("completed_at", "incomplete_details", "usage"))
    beginning = whole | fresh | {"status": "in_progress", "output": []}
    responses = {"IN PROGRESS": beginning, "RESPONSE": whole}
    rows = []
    for number, row in enumerate(exchange["stream"]):
        row = row | {"sequence_number": number}
        rows.append(row | {"response": responses[row["response"]]} if "response" in row else row)
    return rows
