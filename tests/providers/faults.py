"""All that may go wrong with a hosted provider: scripts of the fault server, and the error that each becomes."""

import gzip
import json
from dataclasses import dataclass

from small4.errors import (
    ContextLengthError,
    FieldError,
    RateLimitError,
    RequestError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from tests.providers.dialects import KEY, TEXT, sent
from tests.providers.fault_server import (
    EVENTS,
    LAST_CHUNK,
    Close,
    Forever,
    Reset,
    Script,
    Stall,
    Wait,
    chunk,
    head,
    stream,
    whole,
)

GOOD = sent("openai", *TEXT)
HALF = GOOD.events[:4]  # the opening, the thought and a piece of text
MIB = 2**20


@dataclass(frozen=True)
class Fault:
    script: Script
    error: type[Exception]
    says: str  # in the error's message
    limit: str | None = None  # the limit of time that ends it
    has_text: bool = False  # a piece of the answer came before it
    retry_after_seconds: float | None = None
    is_streamed: bool = True  # what is asked for


def _refused(status: int, error: type[Exception], says: str, body: object = b"", **headers: str) -> Fault:
    return Fault([whole(body, status, **headers)], error, says)


def _error(message: str = "so it is", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


def _half(*steps: object, error: type[Exception] = UpstreamError, says: str, limit: str | None = None) -> Fault:
    """The beginning of a stream, then these steps."""
    script = [head(200, EVENTS) + b"".join(map(chunk, HALF)), *steps]
    return Fault(script, error, says, limit=limit, has_text=True)  # type: ignore[arg-type]


def _event(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return chunk(f"data: {text}\n\n".encode())


def _choice(**fields: object) -> bytes:
    return _event({"choices": [{"index": 0, "delta": {}, **fields}]})


def _bomb(size: int) -> bytes:
    return gzip.compress(b'{"choices": "' + b"a" * size)


FAULTS: dict[str, Fault] = {
    # --- the connection ---
    "closed without an answer": Fault([Close()], UpstreamError, "closed its connection early"),
    "reset without an answer": Fault([Reset()], UpstreamError, "connection"),
    "no answer": Fault([Stall()], UpstreamTimeoutError, "first byte", limit="first_byte_seconds"),
    "headers byte by byte": Fault(
        [Forever(b"H", 0.05)], UpstreamTimeoutError, "first byte", limit="first_byte_seconds"
    ),
    "headers without an end": Fault(
        [b"HTTP/1.1 200 OK\r\n", Forever(b"X-A: " + b"a" * 1000 + b"\r\n")], UpstreamError, "did not answer in HTTP"
    ),
    "no HTTP": Fault([b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Close()], UpstreamError, "did not answer in HTTP"),
    "headers and no body": Fault(
        [head(200, EVENTS), Stall()], UpstreamTimeoutError, "first byte", limit="first_byte_seconds"
    ),
    "closed after the headers": Fault([head(200, EVENTS), Close()], UpstreamError, "closed its connection early"),
    "only a first status": Fault(
        [b"HTTP/1.1 100 Continue\r\n\r\n", Stall()], UpstreamTimeoutError, "first byte", limit="first_byte_seconds"
    ),
    # --- refusals ---
    "moved for ever": _refused(301, UpstreamError, "redirect", Location="http://127.0.0.1:1/v1/chat/completions"),
    "found elsewhere": _refused(302, UpstreamError, "redirect", Location="//example.org/"),
    "see another": _refused(303, UpstreamError, "redirect", Location="/v1/other"),
    "moved for now": _refused(307, UpstreamError, "redirect", Location="http://127.0.0.1:1/"),
    "moved for good": _refused(308, UpstreamError, "redirect", Location="https://example.org/v1/chat/completions"),
    "bad request": _refused(400, RequestError, "so it is", _error()),
    "bad field": _refused(400, FieldError, "so it is", _error(param="top_p")),
    "too long": _refused(400, ContextLengthError, "so it is", _error(code="context_length_exceeded")),
    "too long in words": _refused(
        400,
        ContextLengthError,
        "maximum context length",
        {"object": "error", "message": "This model's maximum context length is 8192 tokens.", "code": 400},
    ),
    "too long for llama.cpp": _refused(
        400, ContextLengthError, "so it is", _error(type="exceed_context_size_error", code=400)
    ),
    "wrong key": _refused(401, UpstreamKeyError, "refused the key", _error(f"Incorrect API key provided: {KEY}")),
    "no money": _refused(402, UpstreamKeyError, "refused the key", _error()),
    "not allowed": _refused(403, UpstreamKeyError, "refused the key", b"<html>no</html>"),
    "no such model": _refused(404, UpstreamError, "HTTP 404: so it is", _error(code="model_not_found")),
    "too slow for it": _refused(408, UpstreamTimeoutError, "HTTP 408"),
    "too large": _refused(413, RequestError, "without a reason", b"<html>"),
    "field by field": _refused(422, FieldError, "wrong", {"detail": [{"loc": ["body", "top_p"], "msg": "wrong"}]}),
    "too often": Fault([whole(_error(), 429, Retry_After="7")], RateLimitError, "so it is", retry_after_seconds=7.0),
    "too often for now": Fault(
        [whole(_error(), 429, Retry_After_Ms="1500")], RateLimitError, "so it is", retry_after_seconds=1.5
    ),
    "nothing left": _refused(429, UpstreamKeyError, "HTTP 429", _error(code="insufficient_quota")),
    "a fault of its own": _refused(500, UpstreamError, "HTTP 500: so it is", _error()),
    "a fault of its own as a list": _refused(500, UpstreamError, "HTTP 500: so it is", [_error()]),
    "bad gateway": _refused(502, UpstreamError, "HTTP 502: no reason", b"<html>502</html>"),
    "overloaded": Fault(
        [whole({"detail": "busy"}, 503, Retry_After="3")], UpstreamError, "HTTP 503: busy", retry_after_seconds=3.0
    ),
    "gateway timeout": _refused(504, UpstreamTimeoutError, "HTTP 504"),
    "overloaded as Anthropic": _refused(529, UpstreamError, "HTTP 529"),
    "no content": Fault([b"HTTP/1.1 204 No Content\r\n\r\n"], UpstreamError, "HTTP 204"),
    "its key in its words": _refused(500, UpstreamError, "[key]", _error(f"I got Authorization: Bearer {KEY}")),
    "a refusal without an end": Fault([head(500), Forever(chunk(b" " * 4096))], UpstreamError, "HTTP 500"),
    "a refusal that stalls": Fault([head(500), chunk(b"{"), Stall()], UpstreamError, "HTTP 500", limit="error_seconds"),
    # --- answers that are none ---
    "a page": Fault([whole(b"<html>", kind="text/html; charset=utf-8")], UpstreamError, "'text/html'"),
    "no media type": Fault([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], UpstreamError, "no media type"),
    "an empty body": Fault([whole(b"")], UpstreamError, "no chat completion"),
    "an error as an answer": Fault([whole(_error())], UpstreamError, "broke off: so it is"),
    "half a body": Fault(
        [whole(GOOD.body)[:-40], Close()], UpstreamError, "closed its connection early", is_streamed=False
    ),
    "a body cut to size": Fault([whole(GOOD.body[:-40])], UpstreamError, "no chat completion", is_streamed=False),
    "an endless body": Fault(
        [head(200), Forever(chunk(b" " * 65536))], UpstreamError, "larger than", is_streamed=False
    ),
    "a bomb": Fault([whole(_bomb(32 * MIB), Content_Encoding="gzip")], UpstreamError, "larger than"),
    "half a gzip": Fault([whole(_bomb(9)[:-12], Content_Encoding="gzip")], UpstreamError, "cut off"),
    "no gzip": Fault([whole(GOOD.body, Content_Encoding="gzip")], UpstreamError, "broken"),
    "an unknown coding": Fault([whole(GOOD.body, Content_Encoding="br")], UpstreamError, "not read"),
    "a bad chunk": _half(b"xyz\r\n", Close(), says="did not answer in HTTP"),
    # --- streams that break ---
    "an empty stream": Fault([stream([])], UpstreamError, "ended before its answer did"),
    "a stream that ends": _half(LAST_CHUNK, says="ended before its answer did"),
    "a stream that is cut": _half(chunk(GOOD.events[4][:20])[:-2], Close(), says="closed its connection early"),
    "a stream that is reset": _half(Wait(0.02), Reset(), says="connection"),
    "a stream that stalls": _half(Stall(), error=UpstreamTimeoutError, says="more of the answer", limit="idle_seconds"),
    "heartbeats and nothing else": _half(
        Forever(chunk(b": wait\n\n"), 0.02), error=UpstreamTimeoutError, says="the whole answer", limit="total_seconds"
    ),
    "a line without an end": _half(Forever(chunk(b"a" * 65536)), says="a line of the stream is larger"),
    "an event without an end": _half(
        Forever(chunk((b"data: " + b"a" * 1000 + b"\n") * 60)), says="an event of the stream is larger"
    ),
    "a stream without an end": _half(Forever(_event({"choices": [], "x": "a" * 60_000})), says="answer is larger"),
    "no JSON": _half(_event("{{{"), says="no chat completion"),
    "bad UTF-8": _half(chunk(b"data: \xff\xfe\n\n"), says="no chat completion"),
    "a fault in the stream": _half(_event(_error(code=502)), says="broke off: so it is"),
    "a key in the stream": _half(_event(_error(f"no: {KEY}")), says="broke off: no: [key]"),
    "no mark of the end": _half(_choice(finish_reason="stop"), LAST_CHUNK, says="ended before its answer did"),
    "a mark and no reason": _half(_event("[DONE]"), LAST_CHUNK, says="no finish reason"),
    "an unknown end": _half(_choice(finish_reason="bored"), says="unknown reason"),
    "more after the end": _half(_choice(finish_reason="stop"), _choice(delta={"content": "x"}), says="went on after"),
    "an answer too many": _half(_event({"choices": [{"index": 7, "delta": {"content": "x"}}]}), says="answer 7"),
    "a call without a name": _half(_choice(delta={"tool_calls": [{"index": 0}]}), says="without its id or name"),
    "a picture": _half(_choice(delta={"content": [{"type": "image_url"}]}), says="cannot be passed on"),
    "too deep": _half(_event("[" * 5000), says="no chat completion"),
}
UNREACHABLE = Fault([], UpstreamUnreachableError, "no connection to the provider")
