"""Every dialect through the whole server: whole, streamed, counted, listed, and refused in its own shape."""

import asyncio
import json

import pytest

from small4.chat import Finish, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart, Usage
from small4.errors import BusyError, ContextLengthError, EngineStoppedError, RateLimitError
from small4.providers.scripted import Pause
from small4.server.bounds import Bounds
from small4.server.dialects import dialect_name
from tests.server.asgi import CHAT, Client, Served

TURN = [{"role": "user", "content": "Hi there"}]
GOOGLE = {"contents": [{"role": "user", "parts": [{"text": "Hi there"}]}]}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/openai/v1/chat/completions": CHAT,
    "/api/v1/chat/completions": CHAT,
    "/mistral/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "scripted", "prompt": "Hi there"},
    "/v1/fim/completions": {"model": "scripted", "prompt": "Hi there"},
    "/v1/responses": {"model": "scripted", "input": "Hi there"},
    "/mistral/v1/responses": {"model": "scripted", "input": "Hi there"},
    "/v1/messages": {"model": "scripted", "max_tokens": 50, "messages": TURN},
    "/v1/messages?beta=true": {"model": "scripted", "max_tokens": 50, "messages": TURN},
    "/anthropic/v1/messages": {"model": "scripted", "max_tokens": 50, "messages": TURN},
    "/v1beta/models/scripted:generateContent": GOOGLE,
    "/v1/models/scripted:generateContent": GOOGLE,
    "/v1/models/scripted%3AgenerateContent": GOOGLE,
    "/google/v1beta/models/other-name:generateContent": GOOGLE,
}


def text_of(answer) -> str:
    """The text of a whole answer, in whichever shape."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}]} | {"choices": [{"text": text}]}:
            return text
        case {"output": [{"content": [{"text": text}]}]} | {"content": [{"text": text}]}:
            return text
        case {"candidates": [{"content": {"parts": [{"text": text}]}}]}:
            return text
    raise AssertionError(answer)


@pytest.mark.parametrize("path", BODIES)
def test_whole_answer(tmp_path, path):
    reply = asyncio.run(Served(tmp_path).client.post(path, BODIES[path]))
    assert reply.status == 200
    assert text_of(reply.json) == "Hello!"


def streamed(path: str) -> tuple[str, dict]:
    if "generateContent" in path:
        return path.replace("generateContent", "streamGenerateContent") + "?alt=sse", BODIES[path]
    return path, {**BODIES[path], "stream": True}


@pytest.mark.parametrize("path", BODIES)
def test_stream_says_the_same(tmp_path, path):
    target, body = streamed(path)
    reply = asyncio.run(Served(tmp_path).client.post(target, body))
    assert reply.headers["content-type"].startswith("text/event-stream")
    data = b"".join(event.encode() for event in reply.events)
    assert b"Hello" in data
    assert b"error" not in data.replace(b'"error":null', b"")
    assert (reply.events[-1] == "[DONE]") == ("completions" in path)


@pytest.mark.parametrize("script", [(TextDelta("a"), Finish("stop", Usage(1, 1))), (Finish("stop", Usage(1, 0)),)])
def test_events_of_a_response_are_numbered_as_they_are_sent(tmp_path, script):
    served = Served(tmp_path, list(script))
    reply = asyncio.run(served.client.post("/v1/responses", {**BODIES["/v1/responses"], "stream": True}))
    events = [json.loads(event) for event in reply.events]
    assert events[0]["type"] == "response.created"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_google_without_alt_is_one_array(tmp_path):
    served = Served(tmp_path)
    reply = asyncio.run(served.client.post("/v1beta/models/scripted:streamGenerateContent", GOOGLE))
    assert reply.headers["content-type"] == "application/json"
    parts = [part["text"] for item in reply.json for part in item["candidates"][0]["content"].get("parts", [])]
    assert "".join(parts) == "Hello!"
    assert reply.json[-1]["candidates"][0]["finishReason"] == "STOP"


def test_array_stays_json_over_heartbeats_and_with_an_error_at_its_end(tmp_path):
    script = [TextDelta("a"), Pause(0.05), TextDelta("b"), EngineStoppedError("the engine stopped; ask again")]
    served = Served(tmp_path, script, bounds=Bounds(heartbeat_seconds=0.01))
    reply = asyncio.run(served.client.post("/v1beta/models/scripted:streamGenerateContent", GOOGLE))
    assert "error" in reply.json[-1]


@pytest.mark.parametrize("path", BODIES)
def test_error_within_a_stream_is_in_the_dialect_and_is_no_end(tmp_path, path):
    target, body = streamed(path)
    served = Served(tmp_path, [TextDelta("a"), EngineStoppedError("the engine stopped; ask again")])
    reply = asyncio.run(served.client.post(target, body))
    assert reply.status == 200
    assert "the engine stopped" in reply.body.decode()
    for end in ("[DONE]", "message_stop", "response.completed", '"STOP"', '"stop"'):
        assert end not in reply.body.decode()


def shape(body: dict) -> str:
    """Which dialect an error body is of."""
    match body:
        case {"type": "error", "error": {"type": str(), "message": str()}, "request_id": str()}:
            return "anthropic"
        case {"error": {"code": int(), "message": str(), "status": str()}}:
            return "google"
        case {"object": "error", "message": str()} | {"detail": [{"msg": str()}]}:
            return "mistral"
        case {"error": {"message": str(), "type": str(), "param": _, "code": _}}:
            return "openai"
    return "unknown"


SHAPES = [
    ("/v1/chat/completions", {}, "openai"),
    ("/v1/completions", {}, "openai"),
    ("/v1/responses", {}, "openai"),
    ("/v1/unheard/of", {}, "openai"),
    ("/v1/messages", {}, "anthropic"),
    ("/v1/messages/count_tokens", {}, "anthropic"),
    ("/anthropic/v1/unheard", {}, "anthropic"),
    ("/v1beta/models/x:generateContent", {}, "google"),
    ("/v1/models/x:generateContent", {}, "google"),
    ("/v1beta/unheard", {}, "google"),
    ("/google/v1/unheard", {}, "google"),
    ("/mistral/v1/chat/completions", {}, "mistral"),
    ("/v1/fim/completions", {}, "mistral"),
    ("/v1/chat/completions", {"user-agent": "mistral-client-python/3.7.0"}, "mistral"),
    ("/v1/models/unheard", {"anthropic-version": "2023-06-01"}, "anthropic"),
    ("/v1/models/unheard", {"x-goog-api-key": "k"}, "google"),
    ("/api/v1/messages", {}, "anthropic"),
]


@pytest.mark.parametrize(("path", "headers", "expected"), SHAPES)
def test_refusals_are_in_the_dialect_of_their_path(tmp_path, path, headers, expected):
    served = Served(tmp_path, bounds=Bounds(max_body_bytes=100))

    async def check():
        replies = [
            await served.client.request("PATCH", path, headers=headers),  # 404 or 405
            await served.client.post(path, b"{", headers=headers),
            await served.client.post(path, b"x" * 101, headers=headers),
            await served.client.get(path, headers={**headers, "host": "evil.example"}),
        ]
        served.store.create("laptop")
        refused = {name: value for name, value in headers.items() if name != "x-goog-api-key"}
        replies.append(await served.client.post(path, CHAT, headers={**refused, "x-api-key": "wrong"}))
        return replies

    replies = asyncio.run(check())
    assert {shape(reply.json) for reply in replies[:4]} == {expected}
    if "x-goog-api-key" not in headers:
        assert (replies[4].status, shape(replies[4].json)) == (401, expected)
    assert replies[3].status == 403
    assert all(reply.headers["request-id"].startswith("req_") for reply in replies)


def test_body_of_a_refusal_has_the_status_that_it_came_with(tmp_path):
    path = "/v1beta/models/scripted:generateContent"
    bounds = Bounds(max_body_bytes=100, body_idle_seconds=0.02)
    served = Served(tmp_path, bounds=bounds)

    async def check():
        again = {"headers": {"idempotency-key": "a"}}
        await served.client.post(path, GOOGLE, **again)
        replies = {
            404: await served.client.post("/v1beta/unheard", GOOGLE),
            405: await served.client.request("PUT", path),
            408: await served.client.post(path, parts=[]),  # none of it comes
            413: await served.client.post(path, b"x" * 101),
            414: await served.client.post(path + "?" + "x" * 3000, GOOGLE),
            415: await served.client.post(path, GOOGLE, headers={"content-encoding": "gzip"}),
            422: await served.client.post(path, {"contents": []}, **again),
            431: await served.client.post(path, GOOGLE, headers=[(f"x-{n}", "") for n in range(65)]),
        }
        told = {status: (reply.status, reply.json["error"]["code"]) for status, reply in replies.items()}
        assert told == {status: (status, status) for status in replies}

    asyncio.run(check())


ERRORS = [
    (ContextLengthError("the prompt has 9 tokens, the limit is 8"), 400),
    (RateLimitError("too many requests; come again", 7.2), 429),
    (BusyError("the queue is full"), 503),
    (EngineStoppedError("the engine died"), 503),
    (RuntimeError("a bug"), 500),
]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/mistral/v1/chat/completions"]
)
@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_faults_of_the_provider_have_their_status_and_say_when_to_come_again(tmp_path, path, error, status):
    reply = asyncio.run(Served(tmp_path, [error]).client.post(path, BODIES.get(path, CHAT)))
    expected = {503: 529} if path == "/v1/messages" else {}
    assert reply.status == expected.get(status, status)
    assert ("retry-after" in reply.headers) == (status in (429, 503))
    if status == 429:
        assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("8", "7200")
    assert "a bug" not in reply.body.decode()


COUNTS = {
    "/v1/messages/count_tokens": ({"model": "scripted", "messages": TURN}, {"input_tokens": 2}),
    "/anthropic/v1/messages/count_tokens": ({"model": "scripted", "messages": TURN}, {"input_tokens": 2}),
    "/v1beta/models/scripted:countTokens": (GOOGLE, {"totalTokens": 2}),
    "/v1/models/scripted:countTokens": ({"generateContentRequest": GOOGLE}, {"totalTokens": 2}),
    "/v1/responses/input_tokens": ({"model": "scripted", "input": "Hi there"}, {"input_tokens": 2}),
}


@pytest.mark.parametrize("path", COUNTS)
def test_tokens_are_counted_without_an_answer(tmp_path, path):
    served = Served(tmp_path)
    body, expected = COUNTS[path]
    reply = asyncio.run(served.client.post(path, body))
    assert reply.status == 200
    assert expected.items() <= reply.json.items()
    assert not served.provider.requests


def test_list_of_models_is_in_the_shape_of_its_caller(tmp_path):
    served = Served(tmp_path)

    async def listed(path, **headers):
        return (await served.client.get(path, headers=headers)).json

    async def check():
        default = await listed("/v1/models")
        assert (default["object"], default["data"][0]["id"], default["models"][0]["slug"]) == (
            "list",
            *["scripted"] * 2,
        )
        for path, headers in (("/v1/models", {"anthropic-version": "2023-06-01"}), ("/anthropic/v1/models", {})):
            assert (await listed(path, **headers))["data"][0]["type"] == "model"
        for path, headers in (
            ("/v1beta/models", {}),
            ("/google/v1beta/models", {}),
            ("/v1/models", {"x-goog-api-key": "k"}),
        ):
            assert (await listed(path, **headers))["models"][0]["name"] == "models/scripted"
        assert (await listed("/v1beta/models/scripted"))["name"] == "models/scripted"
        assert (await listed("/anthropic/v1/models/scripted"))["id"] == "scripted"

    asyncio.run(check())


def test_verb_that_is_none_is_a_404(tmp_path):
    served = Served(tmp_path)
    for call in ("scripted:embedContent", "scripted", ":generateContent", "scripted:"):
        reply = asyncio.run(served.client.post(f"/v1beta/models/{call}", GOOGLE))
        assert (reply.status, shape(reply.json)) == (404, "google")


SAID = [ReasoningDelta("a thought to itself"), TextDelta("one"), Finish("stop", Usage(3, 4, 1))]


def test_response_is_kept_and_gone_on_from(tmp_path):
    served = Served(tmp_path, SAID)

    async def check():
        first = (await served.client.post("/v1/responses", BODIES["/v1/responses"])).json
        path = f"/v1/responses/{first['id']}"
        assert (await served.client.get(path)).json["id"] == first["id"]
        items = (await served.client.get(f"{path}/input_items?limit=5&order=asc")).json
        assert items["data"][0]["content"]
        more = {"model": "scripted", "input": "And?", "previous_response_id": first["id"]}
        assert (await served.client.post("/v1/responses", more)).status == 200
        roles = [message.role for message in served.provider.requests[1][0].messages]
        assert roles == ["user", "assistant", "user"]
        assert (await served.client.post(f"{path}/cancel")).status == 400
        assert (await served.client.request("DELETE", path)).json["deleted"] is True
        for method, target in (
            ("GET", path),
            ("DELETE", path),
            ("GET", f"{path}/input_items"),
            ("POST", f"{path}/cancel"),
        ):
            assert (await served.client.request(method, target)).status == 404
        assert (await served.client.post("/v1/responses", more)).status == 404

    asyncio.run(check())


def test_streamed_response_is_kept_too_and_one_that_failed_is_not(tmp_path):
    served = Served(tmp_path, SAID, [TextDelta("a"), EngineStoppedError("died")])
    body = {**BODIES["/v1/responses"], "stream": True}

    async def check():
        for status in (200, 404):
            reply = await served.client.post("/v1/responses", body)
            name = json.loads(reply.events[0])["response"]["id"]
            assert (await served.client.get(f"/v1/responses/{name}")).status == status

    asyncio.run(check())


def test_response_of_one_caller_is_not_there_for_another(tmp_path):
    served = Served(tmp_path, SAID)
    mine, yours = (Client(served.app, served.store.create(name)[0]) for name in ("mine", "yours"))

    async def check():
        name = (await mine.post("/v1/responses", BODIES["/v1/responses"])).json["id"]
        for target in (f"/v1/responses/{name}", f"/v1/responses/{name}/input_items"):
            foreign, unknown = await yours.get(target), await yours.get(target.replace(name, "resp_" + "0" * 24))
            assert (foreign.status, unknown.status) == (404, 404)
            assert foreign.body.replace(name.encode(), b"") == unknown.body.replace(b"resp_" + b"0" * 24, b"")
        assert (await yours.request("DELETE", f"/v1/responses/{name}")).status == 404
        assert (await mine.get(f"/v1/responses/{name}")).status == 200

    asyncio.run(check())


def test_response_that_is_not_to_be_stored_is_not(tmp_path):
    served = Served(tmp_path, SAID)

    async def check():
        reply = await served.client.post("/v1/responses", {**BODIES["/v1/responses"], "store": False})
        assert (await served.client.get(f"/v1/responses/{reply.json['id']}")).status == 404

    asyncio.run(check())


def test_thought_comes_back_sealed_or_signed_and_only_this_instance_reads_it(tmp_path):
    served = Served(tmp_path / "here", SAID)
    elsewhere = Served(tmp_path / "there", SAID)
    body = {**BODIES["/v1/responses"], "store": False, "include": ["reasoning.encrypted_content"]}

    async def check():
        output = (await served.client.post("/v1/responses", body)).json["output"]
        sealed = output[0]["encrypted_content"]
        assert "a thought to itself" not in sealed
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}
        turn = [{"role": "user", "content": "a"}, item, output[1], {"role": "user", "content": "b"}]
        for server in (served, elsewhere):
            await server.client.post("/v1/responses", {**body, "input": turn})
        assert "a thought to itself" in repr(served.provider.requests[-1][0].messages)
        assert "a thought to itself" not in repr(elsewhere.provider.requests[-1][0].messages)

    asyncio.run(check())


def test_thought_of_one_caller_is_none_in_the_hands_of_another(tmp_path):
    served = Served(tmp_path, SAID)
    mine, yours = (Client(served.app, served.store.create(name)[0]) for name in ("mine", "yours"))
    body = {**BODIES["/v1/responses"], "store": False, "include": ["reasoning.encrypted_content"]}
    messages = {**BODIES["/v1/messages"], "thinking": {"type": "adaptive"}}

    async def check():
        sealed = (await mine.post("/v1/responses", body)).json["output"][0]["encrypted_content"]
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}
        thought = (await mine.post("/v1/messages", messages)).json["content"][0]
        said = [*TURN, {"role": "assistant", "content": [thought, {"type": "text", "text": "one"}]}, *TURN]
        for client, heard in ((mine, True), (yours, False)):
            reply = await client.post("/v1/responses", {**body, "input": [item, *TURN]})
            assert ("input[0]" in reply.headers.get("x-ignored-fields", "")) == (not heard)
            assert ("a thought to itself" in repr(served.provider.requests[-1][0].messages)) == heard
            assert (await client.post("/v1/messages", {**messages, "messages": said})).status == 200
            assert ("a thought to itself" in repr(served.provider.requests[-1][0].messages)) == heard
        compaction = {"type": "compaction", "encrypted_content": sealed}
        statuses = [
            (await client.post("/v1/responses", {**body, "input": [compaction, *TURN]})).status
            for client in (mine, yours)
        ]
        assert statuses == [200, 400]

    asyncio.run(check())


def test_open_responses_names_are_given_where_asked_for(tmp_path):
    served = Served(tmp_path, SAID)
    body = {**BODIES["/v1/responses"], "stream": True}
    plain = asyncio.run(served.client.post("/v1/responses", body)).body
    named = asyncio.run(served.client.post("/v1/responses", body, headers={"x-openresponses": "1"})).body
    assert b"event: response.reasoning_text.delta" in plain
    assert b"event: response.reasoning.delta" in named


CALLED = [
    ToolCallStart(0, "abcdefghi", "add"),
    ToolCallDelta(0, '{"a": 1'),
    ToolCallDelta(0, "}"),
    Finish("tool_calls", Usage(3, 4)),
]


def test_mistrals_client_gets_calls_whole_by_its_user_agent(tmp_path):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    headers = {"user-agent": "mistral-client-python/3.7.0"}
    served = Served(tmp_path, CALLED)
    body = {**CHAT, "stream": True, "tools": tools}
    pieces = asyncio.run(served.client.post("/v1/chat/completions", body)).body
    whole = asyncio.run(served.client.post("/v1/chat/completions", body, headers=headers)).body
    assert (pieces.count(b'"tool_calls":['), whole.count(b'"tool_calls":[')) == (3, 1)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messagesx", "anthropic"),
        ("/openai/v1/messages", "anthropic"),
        ("/openai/v1/chat/completions", "openai"),
        ("/openai/v1/models/a:b", "openai"),
        ("/v1/models/a:b", "google"),
        ("/mistral/v1/fim/completions", "fim"),
        ("/health", "openai"),
        ("/", "openai"),
    ],
)
def test_dialect_is_told_from_the_path(path, expected):
    assert dialect_name({"path": path, "headers": []}) == expected
