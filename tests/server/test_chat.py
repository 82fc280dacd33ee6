"""A chat request from bytes to bytes, through everything but a socket."""

import asyncio
import json

from small4.chat import Finish, TextDelta, Usage
from small4.providers.scripted import Pause
from tests.server.asgi import CHAT, STREAM, Served


def test_whole_answer_comes_as_one_body(tmp_path):
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", CHAT))
    assert reply.status == 200
    assert reply.json["choices"][0]["message"]["content"] == "Hello!"
    assert reply.json["usage"]["total_tokens"] == 8
    assert reply.headers["content-type"] == "application/json"


def test_stream_comes_event_by_event_and_ends_with_done(tmp_path):
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", STREAM))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = reply.events
    assert done == "[DONE]"
    texts = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == "Hello!"


def test_first_event_is_sent_before_the_answer_is_over(tmp_path):
    served = Served(tmp_path, [TextDelta("first"), Pause(60), TextDelta("last"), Finish("stop", Usage(1, 2))])

    async def check():
        visit = served.client.visit("POST", "/v1/chat/completions", STREAM)
        await visit.until(b"first")
        assert served.provider.num_open == 1
        visit.leave()
        await visit.task
        assert (served.provider.num_open, served.provider.num_left) == (0, 1)

    asyncio.run(check())


def test_headers_name_what_was_ignored_and_the_effort_that_was_applied(tmp_path):
    body = {**CHAT, "reasoning_effort": "low", "user": "me", "made_up": 1}
    reply = asyncio.run(Served(tmp_path).client.post("/v1/chat/completions", body))
    assert reply.headers["x-reasoning-effort"] == "high"
    assert {"made_up", "user"} <= set(reply.headers["x-ignored-fields"].split(", "))
    assert reply.headers["x-request-id"] == reply.headers["request-id"]


def test_aliases_and_googles_prefix_mean_the_same_model_and_unknown_names_none(tmp_path):
    served = Served(tmp_path)

    async def check():
        for name in ("scripted", "other-name", "models/scripted"):
            reply = await served.client.post("/v1/chat/completions", {**CHAT, "model": name})
            assert reply.json["model"] == "scripted"
        reply = await served.client.post("/v1/chat/completions", {**CHAT, "model": "gpt"})
        assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
        assert "scripted" in reply.json["error"]["message"]

    asyncio.run(check())
