"""Batches in process: what becomes of every line, and what a restart changes."""

import asyncio
import json

import pytest

from tests.server.asgi import CHAT, Client, holds
from tests.server.batch_client import (
    CHAT_PATH,
    content,
    create,
    echoing,
    ended,
    line,
    num_answered,
    serving,
    upload,
)


def test_batch_is_answered_in_the_order_of_its_lines_with_openai_s_shapes(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            file_id = await upload(served.client, *(line(f"line-{n}", f"text {n}") for n in range(20)))
            first = (await create(served.client, file_id, metadata={"a": "b"})).json
            batch = await ended(served.client, first["id"])
            lines = await content(served.client, batch["output_file_id"])
            told = (await served.client.get(f"/v1/files/{batch['output_file_id']}")).json
        assert (first["object"], first["status"], first["completion_window"]) == ("batch", "validating", "24h")
        assert first["expires_at"] - first["created_at"] == 24 * 3600
        assert (batch["status"], batch["errors"], batch["error_file_id"]) == ("completed", None, None)
        assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
        assert batch["metadata"] == {"a": "b"}
        times = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
        assert times == sorted(times)
        assert [batch[f"{name}_at"] for name in ("failed", "expired", "cancelling", "cancelled")] == [None] * 4
        assert [entry["custom_id"] for entry in lines] == [f"line-{n}" for n in range(20)]
        assert all(set(entry) == {"id", "custom_id", "response", "error"} for entry in lines)
        answers = [entry["response"] for entry in lines]
        said = [answer["body"]["choices"][0]["message"]["content"] for answer in answers]
        assert said == [f"text {n}" for n in range(20)]
        assert {answer["status_code"] for answer in answers} == {200}
        assert len({answer["request_id"] for answer in answers} | {entry["id"] for entry in lines}) == 40
        assert (told["object"], told["purpose"], told["status"]) == ("file", "batch_output", "processed")
        assert {caller.priority for caller in served.provider.callers} == {"batch"}
        assert len({caller.salt for caller in served.provider.callers}) == 1

    asyncio.run(check())


BAD_LINES = {
    "not JSON": b"{",
    "a list": b"[]",
    "no id": json.dumps({"method": "POST", "url": CHAT_PATH, "body": CHAT}).encode(),
    "empty id": line(""),
    "id too long": line("x" * 513),
    "other url": line("bad-0", url="/v1/responses"),
    "url of another kind": line("bad-1", url="/v1/files"),
    "other method": line("bad-2").replace(b"POST", b"GET"),
    "body is no object": json.dumps({"custom_id": "bad-x", "method": "POST", "url": CHAT_PATH, "body": []}).encode(),
    "streamed": line("bad-3", stream=True),
    "no such model": line("bad-4", model="other"),
    "number out of range": line("bad-5", temperature=99),
    "no such field value": line("bad-6", messages=7),
    "too deep": line("bad-7").replace(b'"Hi"', b"[" * 100_000 + b"]" * 100_000),
    "bytes that are no text": line("bad-8").replace(b"Hi", b"\xff\xfe"),
    "half a pair": line("bad-9").replace(b"Hi", b"\\ud800"),
}


def test_every_bad_line_is_an_error_line_and_the_end_of_nothing(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            lines = [line("first"), *BAD_LINES.values(), line("first", "again"), b"  ", line("last")]
            batch = await ended(
                served.client, (await create(served.client, await upload(served.client, *lines))).json["id"]
            )
            good = await content(served.client, batch["output_file_id"])
            bad = await content(served.client, batch["error_file_id"])
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 19, "completed": 2, "failed": 17}
        assert [entry["custom_id"] for entry in good] == ["first", "last"]
        assert len(bad) == len(BAD_LINES) + 1
        for name, entry in zip([*BAD_LINES, "same id"], bad, strict=True):
            problem = entry["error"] or entry["response"]["body"]["error"]
            assert problem["message"], name
            assert entry["response"] is None or 400 <= entry["response"]["status_code"] < 500, name
        refused = {name for name, entry in zip(BAD_LINES, bad, strict=False) if entry["response"] is not None}
        assert {"no such model", "number out of range", "no such field value"} <= refused
        assert bad[-1]["custom_id"] == "first"

    asyncio.run(check())


@pytest.mark.parametrize(
    ("endpoint", "fields", "read"),
    [
        ("/v1/responses", {"input": "to be"}, lambda body: body["output"][0]["content"][0]["text"]),
        ("/v1/completions", {"prompt": "to be"}, lambda body: body["choices"][0]["text"]),
    ],
)
def test_each_endpoint_answers_in_its_own_dialect(tmp_path, endpoint, fields, read):
    async def check():
        async with serving(tmp_path) as served:
            body = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "scripted", **fields}}
            wrong = {**body, "custom_id": "b", "body": {**body["body"], "model": "none"}}
            file_id = await upload(served.client, json.dumps(body).encode(), json.dumps(wrong).encode())
            batch = await ended(served.client, (await create(served.client, file_id, endpoint)).json["id"])
            (good,) = await content(served.client, batch["output_file_id"])
            (bad,) = await content(served.client, batch["error_file_id"])
        assert read(good["response"]["body"]) == "Hello!"
        assert (bad["response"]["status_code"], bad["response"]["body"]["error"]["code"]) == (404, "model_not_found")

    asyncio.run(check())


def test_cancelled_batch_keeps_what_was_answered_and_ends_what_runs(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_concurrent=2) as served:
            lines = [line("a"), line("b", "wait b"), line("c", "wait c"), line("d")]
            batch_id = (await create(served.client, await upload(served.client, *lines))).json["id"]
            await holds(lambda: served.provider.num_open == 2 and num_answered(served, batch_id) == 1)
            reply = await served.client.post(f"/v1/batches/{batch_id}/cancel")
            assert (reply.status, reply.json["status"]) == (200, "cancelling")
            batch = await ended(served.client, batch_id)
            assert (batch["status"], served.provider.num_open) == ("cancelled", 0)
            assert batch["cancelling_at"] <= batch["cancelled_at"]
            assert [entry["custom_id"] for entry in await content(served.client, batch["output_file_id"])] == ["a"]
            assert (await served.client.post(f"/v1/batches/{batch_id}/cancel")).status == 200
            done = await ended(
                served.client, (await create(served.client, await upload(served.client, line("x")))).json["id"]
            )
            assert (await served.client.post(f"/v1/batches/{done['id']}/cancel")).status == 409

    asyncio.run(check())


def test_waiting_batch_can_be_cancelled_before_its_turn(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            ids = [
                (await create(served.client, await upload(served.client, line("a", text)))).json["id"]
                for text in ("wait", "never asked")
            ]
            await holds(lambda: served.provider.num_open)
            reply = await served.client.post(f"/v1/batches/{ids[1]}/cancel")
            assert (reply.status, reply.json["status"]) == (200, "cancelled")  # at once: its turn may be a day away
            served.provider.may_go.set()
            batches = [await ended(served.client, batch_id) for batch_id in ids]
            assert [batch["status"] for batch in batches] == ["completed", "cancelled"]
            assert served.provider.asked == ["wait"]

    asyncio.run(check())


@pytest.mark.parametrize("num_quick", [0, 1, 7])
def test_batch_goes_on_after_a_restart_no_line_twice_and_none_lost(tmp_path, num_quick):
    async def check():
        lines = [line(f"{n}", "quick" if n < num_quick else f"wait {n}") for n in range(12)]
        lines[5:5] = [b"{"]
        async with echoing(tmp_path, max_batch_concurrent=3) as served:
            batch_id = (await create(served.client, await upload(served.client, *lines))).json["id"]
            await holds(lambda: served.provider.num_open == 3 and served.provider.asked.count("quick") == num_quick)
        async with echoing(tmp_path, max_batch_concurrent=3) as again:
            again.provider.may_go.set()
            batch = await ended(again.client, batch_id)
            good = await content(again.client, batch["output_file_id"])
            bad = await content(again.client, batch["error_file_id"])
        assert batch["request_counts"] == {"total": 13, "completed": 12, "failed": 1}
        assert [entry["custom_id"] for entry in good] == [str(n) for n in range(12)]
        assert len(bad) == 1
        assert sorted(again.provider.asked) == sorted(f"wait {n}" for n in range(num_quick, 12))
        kept = sorted(path.suffix for path in (tmp_path / "batch" / "batches").iterdir())
        assert kept == [".json"]

    asyncio.run(check())


def test_batch_that_was_being_cancelled_is_cancelled_after_a_restart(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            batch_id = (await create(served.client, await upload(served.client, line("a"), line("b", "wait")))).json[
                "id"
            ]
            await holds(lambda: served.provider.num_open == 1 and num_answered(served, batch_id) == 1)
            await served.app.state.batches.close()
            stored = served.app.state.batches.store.find("local", batch_id)
            stored.batch.status = "cancelling"
            served.app.state.batches.store.save(stored)
        async with echoing(tmp_path) as again:
            batch = await ended(again.client, batch_id)
            assert (batch["status"], again.provider.asked) == ("cancelled", [])
            assert len(await content(again.client, batch["output_file_id"])) == 1

    asyncio.run(check())


def test_live_requests_go_before_lines_that_wait(tmp_path):
    async def check():
        async with echoing(tmp_path, max_concurrent=1, queue_seconds=5.0) as served:
            visit = served.client.visit("POST", CHAT_PATH, {**CHAT, "messages": [{"role": "user", "content": "wait"}]})
            await holds(lambda: served.provider.num_open)
            batch_id = (await create(served.client, await upload(served.client, line("a", "batch")))).json["id"]
            await holds(lambda: served.service.admission.num_queued == 1)
            live = served.client.visit("POST", CHAT_PATH, {**CHAT, "messages": [{"role": "user", "content": "live"}]})
            await holds(lambda: served.service.admission.num_queued == 2)
            served.provider.may_go.set()
            assert (await visit.reply()).status == (await live.reply()).status == 200
            await ended(served.client, batch_id)
            assert served.provider.asked == ["wait", "live", "batch"]

    asyncio.run(check())


def test_batch_that_expires_ends_with_what_it_has(tmp_path):
    async def check():
        async with echoing(tmp_path, batch_seconds=0.3, max_batch_concurrent=1) as served:
            file_id = await upload(served.client, line("a"), line("b", "wait"), line("c"))
            batch = await ended(served.client, (await create(served.client, file_id)).json["id"])
            good = await content(served.client, batch["output_file_id"])
            bad = await content(served.client, batch["error_file_id"])
        assert (batch["status"], served.provider.num_open) == ("expired", 0)
        assert len(good) + len(bad) == 3
        assert {entry["error"]["code"] for entry in bad} == {"batch_expired"}
        assert [entry["custom_id"] for entry in bad][-2:] == ["b", "c"]

    asyncio.run(check())


def test_revoked_key_ends_its_batch(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_concurrent=1) as served:
            served.store.create("other")
            text, key = served.store.create("mine")
            client = Client(served.app, text)
            batch_id = (await create(client, await upload(client, line("a", "wait"), line("b")))).json["id"]
            await holds(lambda: served.provider.num_open)
            served.store.revoke(key.id)
            served.provider.may_go.set()
            stored = served.app.state.batches.store.find(key.id, batch_id)
            await holds(lambda: stored.has_ended)
        assert (stored.batch.status, stored.batch.errors.data[0].code) == ("failed", "invalid_api_key")
        assert served.provider.asked == ["wait"]

    asyncio.run(check())


def test_second_server_of_a_directory_leaves_the_batches_to_the_first(tmp_path):
    async def check():
        async with echoing(tmp_path) as first, echoing(tmp_path) as second:
            file_id = await upload(first.client, line("a"))
            reply = await second.client.get("/v1/files")
            assert (reply.status, "retry-after" in reply.headers) == (503, True)
            await first.app.state.batches.close()
            assert [file["id"] for file in (await second.client.get("/v1/files")).json["data"]] == [file_id]

    asyncio.run(check())


BAD_BATCHES = [
    {"endpoint": "/v1/embeddings"},
    {"endpoint": "/v1/messages"},
    {"completion_window": "1h"},
    {"metadata": {str(n): "" for n in range(17)}},
    {"metadata": {"x" * 65: ""}},
    {"metadata": {"x": "y" * 513}},
    {"metadata": {"x": 1}},
    {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
    {"input_file_id": 7},
]


@pytest.mark.parametrize("fields", BAD_BATCHES, ids=lambda fields: next(iter(fields)))
def test_request_for_a_batch_beyond_its_limits_is_a_400(tmp_path, fields):
    async def check():
        async with echoing(tmp_path) as served:
            reply = await create(
                served.client, await upload(served.client, line("a")), **{"endpoint": CHAT_PATH, **fields}
            )
            assert reply.status == 400

    asyncio.run(check())


def test_metadata_at_its_limits_is_taken_and_unknown_fields_are_named(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            metadata = {f"{n:064}": "y" * 512 for n in range(16)}
            reply = await create(served.client, await upload(served.client, line("a")), metadata=metadata, other=1)
            assert (reply.status, reply.json["metadata"]) == (200, metadata)
            assert reply.headers["x-ignored-fields"] == "other"

    asyncio.run(check())


def test_number_of_lines_is_bounded_and_an_empty_file_is_no_batch(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_lines=3) as served:
            for lines, status in (
                ([line(str(n)) for n in range(3)], "completed"),
                ([b"{}"] * 4, "failed"),
                ([b" \n"], "failed"),
            ):
                batch = await ended(
                    served.client, (await create(served.client, await upload(served.client, *lines))).json["id"]
                )
                assert batch["status"] == status
                assert (batch["errors"] is None) == (status == "completed")

    asyncio.run(check())


def test_answers_of_a_batch_are_bounded(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_answers_bytes=1500, max_batch_concurrent=1) as served:
            lines = [line(str(n)) for n in range(20)]
            batch = await ended(
                served.client, (await create(served.client, await upload(served.client, *lines))).json["id"]
            )
            bad = await content(served.client, batch["error_file_id"])
        assert 0 < batch["request_counts"]["completed"] < 20
        assert {entry["error"]["code"] for entry in bad} == {"too_large"}

    asyncio.run(check())


def test_batches_of_a_key_are_bounded(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batches_per_key=2) as served:
            file_id = await upload(served.client, line("a"))
            assert [(await create(served.client, file_id)).status for _ in range(3)] == [200, 200, 429]

    asyncio.run(check())
