"""`Idempotency-Key`: a request that is sent twice is answered once."""

import asyncio

import pytest

from small4.chat import Finish, TextDelta, Usage
from small4.errors import BusyError
from small4.providers.scripted import Pause
from small4.server.bounds import Bounds
from small4.server.exchange import Exchange, exchange_of
from small4.server.idempotency import KeptAnswers
from tests.server.asgi import CHAT, STREAM, Client, Served, holds

PATH = "/v1/chat/completions"
ONE = [TextDelta("one"), Finish("stop", Usage(1, 1))]
TWO = [TextDelta("two"), Finish("stop", Usage(1, 1))]
KEY = {"idempotency-key": "order-1"}


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_same_key_and_body_gives_the_same_bytes_without_asking_again(tmp_path, body):
    served = Served(tmp_path, ONE, TWO)

    async def check():
        first = await served.client.post(PATH, body, headers=KEY)
        again = await served.client.post(PATH, body, headers=KEY)
        assert first.body == again.body
        assert first.headers["content-type"] == again.headers["content-type"]
        assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
        assert first.headers["x-request-id"] != again.headers["x-request-id"]
        assert len(served.provider.requests) == 1

    asyncio.run(check())


def test_other_body_or_path_under_the_same_key_is_a_422(tmp_path):
    served = Served(tmp_path, ONE)

    async def check():
        await served.client.post(PATH, CHAT, headers=KEY)
        assert (await served.client.post(PATH, {**CHAT, "seed": 1}, headers=KEY)).status == 422
        assert (await served.client.post("/openai" + PATH, CHAT, headers=KEY)).status == 422
        assert len(served.provider.requests) == 1

    asyncio.run(check())


def test_second_request_while_the_first_is_answered_is_a_409(tmp_path):
    served = Served(tmp_path, [TextDelta("one"), Pause(60)])

    async def check():
        visit = served.client.visit("POST", PATH, STREAM, headers=KEY)
        await visit.until(b"one")
        assert (await served.client.post(PATH, STREAM, headers=KEY)).status == 409
        visit.leave()
        await visit.task

    asyncio.run(check())


def test_answer_that_its_client_left_is_given_anew(tmp_path):
    served = Served(tmp_path, [TextDelta("one"), Pause(60)], TWO)

    async def check():
        visit = served.client.visit("POST", PATH, STREAM, headers=KEY)
        await visit.until(b"one")
        visit.leave()
        await visit.task
        assert b"two" in (await served.client.post(PATH, STREAM, headers=KEY)).body

    asyncio.run(check())


def test_refused_request_may_be_sent_again(tmp_path):
    served = Served(tmp_path, [BusyError("full; later")], [TextDelta("a"), BusyError("died")], TWO)

    async def check():
        assert (await served.client.post(PATH, STREAM, headers=KEY)).status == 503
        assert b"died" in (await served.client.post(PATH, STREAM, headers=KEY)).body
        assert b"two" in (await served.client.post(PATH, STREAM, headers=KEY)).body
        assert len(served.service.kept) == 1

    asyncio.run(check())


def test_keys_of_two_callers_never_meet(tmp_path):
    served = Served(tmp_path, ONE, TWO)
    clients = [Client(served.app, served.store.create(name)[0]) for name in ("a", "b")]

    async def check():
        replies = [await client.post(PATH, CHAT, headers=KEY) for client in clients]
        assert [reply.json["choices"][0]["message"]["content"] for reply in replies] == ["one", "two"]

    asyncio.run(check())


def test_kept_answers_are_bounded_in_number_size_and_age(tmp_path):
    served = Served(tmp_path, ONE, bounds=Bounds(max_kept_answers=3, idempotency_seconds=100.0))
    kept = served.service.kept
    now = [0.0]
    kept.clock = lambda: now[0]

    async def ask(name: str) -> bool:
        reply = await served.client.post(PATH, CHAT, headers={"idempotency-key": name})
        return "idempotency-replayed" in reply.headers

    async def check():
        for name in "abcd":
            assert not await ask(name)
        assert len(kept) == 3
        assert await ask("b")
        now[0] = 100.1
        assert not await ask("b")
        assert len(kept) == 1
        kept.bounds = Bounds(max_kept_answer_bytes=kept.size_bytes + 10)
        assert not await ask("e")
        assert await ask("e")
        assert (len(kept), kept.size_bytes <= kept.bounds.max_kept_answer_bytes) == (1, True)

    asyncio.run(check())


def test_answers_that_are_being_given_count_too(tmp_path):
    script = [TextDelta("x" * 300), Pause(0.02), TextDelta("y" * 300), Finish("stop", Usage(1, 2))]
    served = Served(tmp_path, script, bounds=Bounds(max_kept_answer_bytes=2500))

    async def check():
        visits = [
            served.client.visit("POST", PATH, STREAM, headers={"idempotency-key": str(number)}) for number in range(8)
        ]
        sizes = []
        while not all(visit.task.done() for visit in visits):
            sizes.append(served.service.kept.size_bytes)
            await asyncio.sleep(0.001)
        assert 0 < max(sizes) <= 2500
        assert {(await visit.reply()).events[-1] for visit in visits} == {"[DONE]"}

    asyncio.run(check())


def test_answer_too_long_to_keep_is_not_given_twice_either(tmp_path):
    served = Served(tmp_path, ONE, TWO, bounds=Bounds(max_one_kept_answer_bytes=50))

    async def check():
        assert (await served.client.post(PATH, CHAT, headers=KEY)).status == 200
        assert (await served.client.post(PATH, CHAT, headers=KEY)).status == 409
        assert (len(served.provider.requests), served.service.kept.size_bytes) == (1, 0)

    asyncio.run(check())


async def ask(client: Client, name: str, body: dict = CHAT) -> bool:
    """Whether the answer was one that had been kept."""
    return "idempotency-replayed" in (await client.post(PATH, body, headers={"idempotency-key": name})).headers


@pytest.mark.parametrize("bounds", [Bounds(max_kept_answers=6), Bounds(max_kept_answer_bytes=4000)])
def test_answers_of_one_key_push_out_none_of_another(tmp_path, bounds):
    served = Served(tmp_path, ONE, bounds=bounds)
    greedy, modest = (Client(served.app, served.store.create(name)[0]) for name in ("greedy", "modest"))

    async def check():
        assert not await ask(modest, "mine")
        for number in range(30):
            assert not await ask(greedy, str(number))
        assert await ask(modest, "mine")
        assert (await ask(greedy, "29"), await ask(greedy, "0")) == (True, False)  # its own oldest went
        assert served.service.kept.size_bytes <= bounds.max_kept_answer_bytes

    asyncio.run(check())


def test_answers_that_are_being_given_to_one_key_push_out_none_of_another(tmp_path):
    large = [TextDelta("x" * 3000), Pause(60)]
    served = Served(tmp_path, ONE, large, large, large, ONE, bounds=Bounds(max_kept_answer_bytes=8000))
    greedy, modest = (Client(served.app, served.store.create(name)[0]) for name in ("greedy", "modest"))

    async def check():
        await ask(modest, "before")
        visits = [greedy.visit("POST", PATH, STREAM, headers={"idempotency-key": str(n)}) for n in range(3)]
        for visit in visits:
            await visit.until(b"xxx")
        await ask(modest, "after")
        assert (await ask(modest, "before"), await ask(modest, "after")) == (True, True)
        assert 0 < served.service.kept.size_bytes <= 8000
        for visit in visits:
            visit.leave()
            await visit.task

    asyncio.run(check())


def test_answer_that_fails_after_it_was_dropped_takes_no_other_with_it():
    bounds = Bounds(max_kept_answers=1)
    kept, may_fail = KeptAnswers(bounds), asyncio.Event()

    async def give(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def give_and_fail(scope, receive, send):
        await give(scope, receive, send)
        await may_fail.wait()
        exchange_of(scope).fail(BusyError("after its end"))

    async def send(message):
        pass

    async def answer(name, response):
        scope = {"small4.exchange": Exchange("req_1", "POST")}
        await kept.answer(("anna", name), b"", response, scope, None, send)

    async def check():
        failing = asyncio.create_task(answer("a", give_and_fail))
        await asyncio.sleep(0)
        await answer("b", give)  # pushes out the first
        kept.bounds = Bounds()
        await answer("a", give)
        may_fail.set()
        await failing
        assert (len(kept), kept.size_bytes) == (2, 2)

    asyncio.run(check())


@pytest.mark.parametrize(("key", "status"), [("x" * 255, 200), ("x" * 256, 400), ("", 400), ("é", 400), ("a\tb", 400)])
def test_key_is_1_to_255_printable_characters(tmp_path, key, status):
    assert asyncio.run(Served(tmp_path).client.post(PATH, CHAT, headers={"idempotency-key": key})).status == status


def test_concurrent_requests_with_one_key_are_answered_once(tmp_path):
    served = Served(tmp_path, [Pause(0.02), *ONE])

    async def check():
        visits = [served.client.visit("POST", PATH, CHAT, headers=KEY) for _ in range(20)]
        statuses = [(await visit.reply()).status for visit in visits]
        assert (statuses.count(200), statuses.count(409)) == (1, 19)
        await holds(lambda: served.provider.num_open == 0)
        assert len(served.provider.requests) == 1

    asyncio.run(check())
