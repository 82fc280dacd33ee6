"""Files and batches in process: what their callers see, what becomes of every line, and what a restart changes."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from small4.chat import Finish, TextDelta, Usage
from small4.errors import BusyError
from small4.providers.provider import Caller
from small4.providers.scripted import SCRIPTED, ScriptedProvider
from small4.server.bounds import Bounds
from small4.wire.openai_batch import ENDED
from tests.server.asgi import CHAT, Client, Served, holds

BOUNDARY = "a-boundary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
CHAT_PATH = "/v1/chat/completions"
QUICK = {"batch_retry_seconds": 0.001}


class Echo(ScriptedProvider):
    """Says the last message back; one that begins with "wait" is answered once `may_go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SCRIPTED
        self.may_go = asyncio.Event()
        self.asked: list[str] = []
        self.callers: list[Caller] = []

    async def stream(self, request, caller):
        text = request.messages[-1].content
        self.asked.append(text)
        self.callers.append(caller)
        self.num_open += 1
        try:
            if text.startswith("wait"):
                await self.may_go.wait()
            self._scripts = [[TextDelta(text), Finish("stop", Usage(1, 1))]]
            async for event in super().stream(request, caller):
                yield event
        finally:
            self.num_open -= 1


def form(data: bytes, purpose: str | None = "batch", name: str = "file", **fields: str) -> bytes:
    parts = {**({} if purpose is None else {"purpose": purpose}), **fields}
    head = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in parts.items()
    )
    file = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="in.jsonl"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + file.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def line(custom_id: str, text: str = "Hi", url: str = CHAT_PATH, **body: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    fields = {"model": "scripted", "messages": messages, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": fields}).encode()


async def upload(client: Client, *lines: bytes) -> str:
    reply = await client.post("/v1/files", form(b"\n".join(lines)), headers=FORM)
    assert reply.status == 200, reply.body
    return reply.json["id"]


async def create(client: Client, file_id: str, endpoint: str = CHAT_PATH, **fields: object):
    body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **fields}
    return await client.post("/v1/batches", body)


async def ended(client: Client, batch_id: str):
    async with asyncio.timeout(10):
        while (batch := (await client.get(f"/v1/batches/{batch_id}")).json)["status"] not in ENDED:
            await asyncio.sleep(0.002)
    return batch


def num_answered(served: Served, batch_id: str) -> int:
    return served.app.state.batches.store.find("local", batch_id).batch.request_counts.completed


async def content(client: Client, file_id: str | None) -> list[dict]:
    if file_id is None:
        return []
    reply = await client.get(f"/v1/files/{file_id}/content")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream")
    return [json.loads(entry) for entry in reply.body.splitlines()]


@asynccontextmanager
async def serving(directory: Path, *scripts, **options):
    """A server whose batches are let go of at the end, wherever they stand."""
    served = Served(directory, *scripts, **options)
    try:
        yield served
    finally:
        await served.app.state.batches.close()


def echoing(directory: Path, **bounds):
    return serving(directory, provider=Echo(), bounds=Bounds(**QUICK, **bounds))


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
            await served.client.post(f"/v1/batches/{ids[1]}/cancel")
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


def test_line_during_which_the_server_ends_again_and_again_is_given_up(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            batch_id = (await create(served.client, await upload(served.client, line("a", "wait"), line("b")))).json[
                "id"
            ]
            await holds(lambda: served.provider.num_open == 1 and num_answered(served, batch_id) == 1)
            journal = served.app.state.batches.store.journal(batch_id)
        with journal.open("ab") as entries:
            entries.write(b"0 begun\n" * 5)
        async with echoing(tmp_path) as again:
            batch = await ended(again.client, batch_id)
            (bad,) = await content(again.client, batch["error_file_id"])
        assert (bad["custom_id"], bad["error"]["code"]) == ("a", "server_error")
        assert (batch["status"], again.provider.asked) == ("completed", [])

    asyncio.run(check())


def test_lack_of_room_is_waited_for_and_not_the_line_s_fault(tmp_path):
    busy = [BusyError("full"), Finish("stop", Usage(1, 1))]
    good = [TextDelta("at last"), Finish("stop", Usage(1, 1))]

    async def check():
        async with serving(tmp_path, busy, busy, good, bounds=Bounds(**QUICK)) as served:
            batch = await ended(
                served.client, (await create(served.client, await upload(served.client, line("a")))).json["id"]
            )
            assert batch["request_counts"]["completed"] == 1
            assert len(served.provider.requests) == 3
        async with serving(tmp_path / "never", busy, bounds=Bounds(**QUICK)) as served:
            batch = await ended(
                served.client, (await create(served.client, await upload(served.client, line("a")))).json["id"]
            )
            (bad,) = await content(served.client, batch["error_file_id"])
            assert (bad["response"]["status_code"], len(served.provider.requests)) == (503, 5)

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


def test_other_keys_files_and_batches_are_not_there(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            mine, other = (Client(served.app, served.store.create(name)[0]) for name in ("mine", "other"))
            file_id = await upload(mine, line("a"))
            batch_id = (await create(mine, file_id)).json["id"]
            output_id = (await ended(mine, batch_id))["output_file_id"]
            targets = [
                ("POST", f"/v1/batches/{batch_id}/cancel", batch_id),
                ("GET", f"/v1/batches/{batch_id}", batch_id),
            ]
            for name in (file_id, output_id):
                one = f"/v1/files/{name}"
                targets += [("GET", one, name), ("GET", f"{one}/content", name), ("DELETE", one, name)]
            for method, path, name in targets:
                reply = await other.request(method, path)
                unknown = await other.request(method, path.replace(name, "x" * len(name)))
                assert reply.status == unknown.status == 404, path
                assert reply.body.replace(name.encode(), b"x" * len(name)) == unknown.body, path
            assert (await create(other, file_id)).status == 404
            assert (await other.get("/v1/files")).json["data"] == (await other.get("/v1/batches")).json["data"] == []
            assert [file["id"] for file in (await mine.get("/v1/files")).json["data"]] == [output_id, file_id]
            assert len((await mine.get("/v1/files?purpose=batch")).json["data"]) == 1

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


def test_file_is_deleted_unless_a_batch_reads_it(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            file_id = await upload(served.client, line("a", "wait"))
            batch_id = (await create(served.client, file_id)).json["id"]
            assert (await served.client.request("DELETE", f"/v1/files/{file_id}")).status == 409
            served.provider.may_go.set()
            await ended(served.client, batch_id)
            reply = await served.client.request("DELETE", f"/v1/files/{file_id}")
            assert reply.json == {"id": file_id, "object": "file", "deleted": True}
            assert (await served.client.get(f"/v1/files/{file_id}")).status == 404
            assert not list((tmp_path / "batch" / "files").glob(f"{file_id}*"))

    asyncio.run(check())


def test_only_the_owner_of_the_process_can_read_what_is_kept(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            await ended(served.client, (await create(served.client, await upload(served.client, line("a")))).json["id"])
        kept = list((tmp_path / "batch").rglob("*"))
        assert len(kept) > 5
        assert {path.stat().st_mode & 0o777 for path in kept if path.is_file()} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in kept if path.is_dir()} == {0o700}

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


def test_file_of_the_largest_size_is_taken_and_one_byte_more_is_not(tmp_path):
    async def check():
        async with echoing(tmp_path, max_file_bytes=1000, max_form_head_bytes=200, max_form_field_bytes=100) as served:
            for size, status in ((1000, 200), (1001, 413), (50_000, 413)):
                reply = await served.client.post("/v1/files", form(b"x" * size), headers=FORM)
                assert reply.status == status, size
            body = form(b"x" * 1001)
            pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
            assert (await served.client.post("/v1/files", parts=pieces, headers=FORM)).status == 413
            (kept,) = (await served.client.get("/v1/files")).json["data"]
            assert kept["bytes"] == 1000
            names = [path.suffix for path in (tmp_path / "batch" / "files").iterdir()]
            assert sorted(names) == [".data", ".json"]

    asyncio.run(check())


def test_files_of_a_key_and_of_all_keys_are_bounded_and_deleting_makes_room(tmp_path):
    async def check():
        async with echoing(tmp_path, max_files_per_key=2, max_files_bytes_per_key=100, max_files_bytes=150) as served:
            one, two = (Client(served.app, served.store.create(name)[0]) for name in "ab")

            async def put(client: Client, size: int) -> int:
                return (await client.post("/v1/files", form(b"x" * size), headers=FORM)).status

            assert [await put(one, 60), await put(one, 41), await put(one, 40), await put(one, 0)] == [
                200,
                429,
                200,
                429,
            ]
            assert [await put(two, 51), await put(two, 50)] == [429, 200]
            first = (await one.get("/v1/files?order=asc")).json["data"][0]["id"]
            assert (await one.request("DELETE", f"/v1/files/{first}")).status == 200
            assert await put(one, 60) == 200

    asyncio.run(check())


def test_what_is_old_is_dropped(tmp_path):
    now = [1_800_000_000.0]

    async def check():
        async with echoing(tmp_path, file_seconds=7200.0) as served:
            batches = served.app.state.batches
            batches.files._clock = batches.store._clock = batches._clock = lambda: now[0]
            reply = await served.client.post(
                "/v1/files",
                form(line("a"), **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}),
                headers=FORM,
            )
            assert reply.json["expires_at"] - reply.json["created_at"] == 3600
            batch = await ended(served.client, (await create(served.client, reply.json["id"])).json["id"])
            now[0] += 3600
            assert (await served.client.get(f"/v1/files/{reply.json['id']}")).status == 404
            assert (await served.client.get(f"/v1/files/{batch['output_file_id']}")).status == 200
            now[0] += 3601
            batches.store.drop_old()
            batches.files.drop_old(set())
            assert (await served.client.get("/v1/batches")).json["data"] == []
            kept = [path.name for path in (tmp_path / "batch").rglob("*") if path.is_file()]
            assert kept == ["lock"]

    asyncio.run(check())


def test_batches_of_a_key_are_bounded(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batches_per_key=2) as served:
            file_id = await upload(served.client, line("a"))
            assert [(await create(served.client, file_id)).status for _ in range(3)] == [200, 200, 429]

    asyncio.run(check())


def test_lists_come_in_pages(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            ids = [await upload(served.client, line("a")) for _ in range(5)]
            seen, after = [], ""
            while True:
                page = (await served.client.get(f"/v1/files?limit=2{after}")).json
                seen += [file["id"] for file in page["data"]]
                assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
                if not page["has_more"]:
                    break
                after = f"&after={page['last_id']}"
            assert sorted(seen) == sorted(ids)
            for path in ("/v1/files", "/v1/batches"):
                for query in ("limit=0", "limit=-1", "limit=10001", "limit=x", "limit=", "after=none"):
                    assert (await served.client.get(f"{path}?{query}")).status == 400, (path, query)

    asyncio.run(check())


BAD_FORMS = {
    "no purpose": (form(b"x", purpose=None), FORM),
    "other purpose": (form(b"x", purpose="fine-tune"), FORM),
    "no file": (form(b"x", name="other"), FORM),
    "cut": (form(b"x")[:-20], FORM),
    "nothing": (b"", FORM),
    "JSON": (b"{}", {"content-type": "application/json"}),
    "no type": (form(b"x"), {}),
    "no boundary": (form(b"x"), {"content-type": "multipart/form-data"}),
    "bad lifetime": (form(b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}), FORM),
    "half a lifetime": (form(b"x", **{"expires_after[seconds]": "3600"}), FORM),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_form_is_a_400_and_leaves_nothing(tmp_path, name):
    body, headers = BAD_FORMS[name]

    async def check():
        async with echoing(tmp_path) as served:
            assert (await served.client.post("/v1/files", body, headers=headers)).status == 400
            assert list((tmp_path / "batch" / "files").iterdir()) == []

    asyncio.run(check())


def test_upload_whose_client_leaves_is_forgotten(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            visit = served.client.visit("POST", "/v1/files", headers=FORM, parts=[form(b"x" * 100)[:150], b""])
            visit._parts.pop()  # the rest never comes
            visit.leave()
            await visit.task
            assert list((tmp_path / "batch" / "files").iterdir()) == []
            assert served.app.state.batches.files._held.total() == 0

    asyncio.run(check())
