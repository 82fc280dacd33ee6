"""Streams: heartbeats into silence, slow and leaving clients, errors after the headers, stopping."""

import asyncio
import json

import pytest

from small4.chat import AnswerEvent, Finish, TextDelta, Usage
from small4.errors import BusyError, ContextLengthError, EngineStoppedError
from small4.providers.provider import Caller
from small4.providers.scripted import SCRIPTED, Pause
from small4.server.bounds import Bounds
from tests.server.asgi import CHAT, STREAM, Served, holds

PATH = "/v1/chat/completions"
WORDS = [TextDelta(f"w{number} ") for number in range(200)]
LONG = [*WORDS, Finish("stop", Usage(5, 200))]
BY_AND_BY = [*[step for word in WORDS for step in (word, Pause(0))], Finish("stop", Usage(5, 200))]


def test_silence_is_broken_by_comments_that_are_no_events(tmp_path):
    served = Served(
        tmp_path, [TextDelta("a"), Pause(0.2), Finish("stop", Usage(1, 1))], bounds=Bounds(heartbeat_seconds=0.04)
    )
    reply = asyncio.run(served.client.post(PATH, STREAM))
    assert reply.body.count(b": keep-alive\n\n") >= 3
    assert reply.events[-1] == "[DONE]"


def test_status_is_sent_with_the_first_heartbeat_at_the_latest(tmp_path):
    served = Served(tmp_path, [Pause(60)], bounds=Bounds(heartbeat_seconds=0.02))

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.until(b": keep-alive\n\n")
        assert visit.messages[0]["status"] == 200
        visit.leave()
        await visit.task

    asyncio.run(check())


def test_stream_without_silence_has_no_comments(tmp_path):
    assert b": keep-alive" not in asyncio.run(Served(tmp_path, LONG).client.post(PATH, STREAM)).body


def test_whole_answer_has_no_heartbeats(tmp_path):
    served = Served(tmp_path, [Pause(0.1), *LONG], bounds=Bounds(heartbeat_seconds=0.02))
    assert asyncio.run(served.client.post(PATH, CHAT)).status == 200


def test_slow_reader_holds_the_provider_back(tmp_path):
    served = Served(tmp_path, BY_AND_BY)

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.until(b"w3 ")
        visit.stop_reading()
        await asyncio.sleep(0.02)
        num_sent = len(visit.messages)
        await asyncio.sleep(0.05)
        assert len(visit.messages) == num_sent < 200
        assert served.provider.num_open == 1
        visit.read_on()
        reply = await visit.reply()
        texts = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in reply.events[:-1]]
        assert "".join(texts) == "".join(f"w{number} " for number in range(200))

    asyncio.run(check())


def test_client_that_reads_nothing_for_too_long_is_let_go(tmp_path):
    served = Served(tmp_path, BY_AND_BY, bounds=Bounds(heartbeat_seconds=0.02, send_stall_seconds=0.05))

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.begun()
        visit.stop_reading()
        await asyncio.wait_for(visit.task, 5)
        assert visit.aborted
        assert (served.provider.num_open, served.provider.num_left) == (0, 1)

    asyncio.run(check())


def test_stream_that_never_has_to_wait_lets_the_others_have_their_turn(tmp_path):
    served = Served(tmp_path, LONG)

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.begun()
        assert not visit.task.done()
        await visit.reply()

    asyncio.run(check())


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_client_that_leaves_ends_its_answer_and_its_usage_is_counted(tmp_path, body):
    served = Served(tmp_path, [TextDelta("a"), TextDelta("b"), Pause(60)])

    async def check():
        visit = served.client.visit("POST", PATH, body)
        await holds(lambda: served.provider.num_open == 1)
        await asyncio.sleep(0.01)
        visit.leave()
        await asyncio.wait_for(visit.task, 5)
        assert (served.provider.num_open, served.provider.num_left) == (0, 1)

    asyncio.run(check())
    line = served.logged()[-1]
    assert (line["left"], line["error"], line["estimate"]) == (True, "left", True)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (2, 2)
    page = served.service.metrics.page().decode()
    assert "small4_clients_left_total 1.0" in page
    labels = (
        'gen_ai_operation_name="chat",gen_ai_request_model="scripted",gen_ai_token_type="output",is_estimate="true"'
    )
    assert f"gen_ai_client_token_usage_sum{{{labels}}} 2.0" in page


def test_client_that_leaves_while_it_waits_for_its_turn_leaves_the_line(tmp_path):
    served = Served(tmp_path, [Pause(60)], bounds=Bounds(max_concurrent=1))

    async def check():
        first = served.client.visit("POST", PATH, STREAM)
        await holds(lambda: served.provider.num_open == 1)
        second = served.client.visit("POST", PATH, STREAM)
        await holds(lambda: served.service.admission.num_queued == 1)
        second.leave()
        await second.task
        assert served.service.admission.num_queued == 0
        first.leave()
        await first.task
        assert served.service.admission.num_running == 0
        assert len(served.provider.requests) == 1

    asyncio.run(check())


def test_many_random_leavings_leave_nothing_behind(tmp_path):
    import random

    draw = random.Random(4)
    script = [TextDelta("a"), Pause(0.001)] * 20
    served = Served(tmp_path, [*script, Finish("stop", Usage(1, 20))], bounds=Bounds(max_concurrent=5))

    async def visit():
        visit = served.client.visit("POST", PATH, draw.choice([CHAT, STREAM]))
        await asyncio.sleep(draw.random() * 0.05)
        visit.leave()
        await visit.task

    async def check():
        await asyncio.gather(*(visit() for _ in range(200)))
        assert served.provider.num_open == 0
        assert (served.service.admission.num_running, served.service.admission.num_queued) == (0, 0)
        assert served.service.bodies.held_bytes == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())


def test_error_before_the_first_event_has_a_status_of_its_own(tmp_path):
    served = Served(tmp_path, [ContextLengthError("the prompt has 9 tokens, the limit is 8; shorten it")])
    for body in (CHAT, STREAM):
        reply = asyncio.run(served.client.post(PATH, body))
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")


def test_error_after_the_first_event_is_an_event_and_no_end_follows(tmp_path):
    served = Served(tmp_path, [TextDelta("a"), EngineStoppedError("the engine stopped; send it again")])
    reply = asyncio.run(served.client.post(PATH, STREAM))
    assert reply.status == 200
    assert "error" in json.loads(reply.events[-1])
    assert "[DONE]" not in reply.events


def test_stream_that_ends_without_a_finish_is_an_error_not_an_end(tmp_path):
    served = Served(tmp_path, [TextDelta("a")])
    reply = asyncio.run(served.client.post(PATH, STREAM))
    assert "error" in json.loads(reply.events[-1])
    assert asyncio.run(served.client.post(PATH, CHAT)).status == 502


def test_what_our_own_faults_say_stays_here(tmp_path):
    served = Served(tmp_path, [RuntimeError("0xdeadbeef /home/secret prompt text")])
    reply = asyncio.run(served.client.post(PATH, CHAT))
    assert reply.status == 500
    lines = served.logged()
    assert b"secret" not in reply.body
    assert "secret" not in json.dumps(lines)
    assert [line["type"] for line in lines if line["event"] == "fault"] == ["RuntimeError"]


def test_busy_engine_is_a_503_that_says_when_to_come_again(tmp_path):
    served = Served(tmp_path, [BusyError("the queue is full; send it again later")])
    reply = asyncio.run(served.client.post(PATH, STREAM))
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert int(reply.headers["retry-after-ms"]) >= 1


def test_full_line_is_refused_with_retry_after_while_the_others_are_answered(tmp_path):
    bounds = Bounds(max_concurrent=1, max_queued=2, max_queued_per_key=2)
    served = Served(tmp_path, [Pause(0.05), *LONG], bounds=bounds)

    async def check():
        visits = [served.client.visit("POST", PATH, CHAT) for _ in range(10)]
        replies = [await visit.reply() for visit in visits]
        statuses = [reply.status for reply in replies]
        assert (statuses.count(200), statuses.count(429)) == (3, 7)
        assert all("retry-after" in reply.headers for reply in replies if reply.status == 429)

    asyncio.run(check())


def test_stopping_lets_open_answers_end_and_takes_no_others(tmp_path):
    served = Served(tmp_path, [TextDelta("a"), Pause(0.1), TextDelta("b"), Finish("stop", Usage(1, 2))])

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.until(b'"a"')
        assert (await served.client.get("/ready")).status == 200
        served.service.drain.begin(5.0)
        assert (await served.client.get("/ready")).status == 503
        assert (await served.client.get("/health")).status == 200
        refused = await served.client.post(PATH, STREAM)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert (await visit.reply()).events[-1] == "[DONE]"

    asyncio.run(check())


def test_answer_that_outlives_the_grace_ends_with_an_error_event(tmp_path):
    served = Served(tmp_path, [TextDelta("a"), Pause(60)])

    async def check():
        visit = served.client.visit("POST", PATH, STREAM)
        await visit.until(b'"a"')
        served.service.drain.begin(0.02)
        reply = await visit.reply()
        assert "stopping" in json.loads(reply.events[-1])["error"]["message"]
        assert served.provider.num_open == 0

    asyncio.run(check())


class Two:
    """A provider that answers twice, one after the other, and may leave the second out."""

    model = SCRIPTED

    def __init__(self, num_ends: int) -> None:
        self.num_ends = num_ends

    async def stream(self, request, caller: Caller):
        for index in range(self.num_ends):
            yield AnswerEvent(index, TextDelta(f"answer {index}"))
            yield AnswerEvent(index, Finish("stop", Usage(7, 3, 1, 2)))

    async def count_tokens(self, request) -> int:
        return 7


def test_answers_to_one_prompt_share_its_tokens_in_the_count(tmp_path):
    served = Served(tmp_path, provider=Two(2))
    reply = asyncio.run(served.client.post(PATH, {**CHAT, "n": 2}))
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1]
    line = served.logged()[-1]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 6)
    assert (line["reasoning_tokens"], line["cached_tokens"]) == (2, 2)


def test_missing_second_answer_is_no_answer(tmp_path):
    assert asyncio.run(Served(tmp_path, provider=Two(1)).client.post(PATH, {**CHAT, "n": 2})).status == 502
