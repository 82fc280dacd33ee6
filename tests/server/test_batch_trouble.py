"""Batches that meet trouble: no room, a full disk, an engine or a server that ends, faults of ours."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from small4.chat import Finish, TextDelta, Usage
from small4.errors import BusyError, EngineStoppedError, RateLimitError
from small4.server.bounds import Bounds
from tests.server.asgi import Client, holds
from tests.server.batch_client import (
    QUICK,
    content,
    create,
    echoing,
    ended,
    line,
    no_file_longer_than,
    num_answered,
    serving,
    upload,
)

BUSY = [BusyError("full"), Finish("stop", Usage(1, 1))]
AT_LAST = [TextDelta("at last"), Finish("stop", Usage(1, 1))]


async def run_one(served, *lines: bytes):
    """A batch of its own, and the error lines."""
    batch = await ended(served.client, (await create(served.client, await upload(served.client, *lines))).json["id"])
    return batch, await content(served.client, batch["error_file_id"])


@pytest.mark.parametrize("lacking", [BusyError("full"), RateLimitError("too many", 7.0)])
def test_lack_of_room_is_waited_for_however_often_and_not_the_line_s_fault(tmp_path, lacking):
    async def check():
        scripts = [*[[lacking]] * 12, AT_LAST]
        async with serving(tmp_path, *scripts, bounds=Bounds(**QUICK, max_batch_retry_seconds=0.004)) as served:
            batch, _ = await run_one(served, line("a"))
            assert (batch["request_counts"]["completed"], len(served.provider.requests)) == (1, 13)

    asyncio.run(check())


def test_lack_of_room_is_waited_for_until_the_batch_expires(tmp_path):
    async def check():
        async with serving(tmp_path, BUSY, bounds=Bounds(**QUICK, batch_seconds=1.1)) as served:
            batch, (bad,) = await run_one(served, line("a"))
            assert (batch["status"], bad["error"]["code"]) == ("expired", "batch_expired")
            assert 5 < len(served.provider.requests) < 25  # less and less often

    asyncio.run(check())


def test_line_over_which_the_engine_ends_again_and_again_is_given_up(tmp_path):
    async def check():
        died = [EngineStoppedError("the engine died; it starts again, send the request again")]
        async with serving(tmp_path, died, bounds=Bounds(**QUICK)) as served:
            batch, (bad,) = await run_one(served, line("a"))
            assert (batch["status"], bad["error"]["code"]) == ("completed", "server_error")
            assert len(served.provider.requests) == 5
        async with serving(tmp_path / "once", died, AT_LAST, bounds=Bounds(**QUICK)) as served:
            assert (await run_one(served, line("a")))[0]["request_counts"]["completed"] == 1

    asyncio.run(check())


def test_line_that_waits_for_room_holds_nobody_up(tmp_path):
    async def check():
        bounds = Bounds(max_batch_concurrent=1, batch_retry_seconds=60)
        async with serving(tmp_path, BUSY, AT_LAST, bounds=bounds) as served:
            first, second = (Client(served.app, served.store.create(name)[0]) for name in ("first", "second"))
            waiting = (await create(first, await upload(first, line("a")))).json["id"]
            await holds(lambda: len(served.provider.requests) == 1 and not served.provider.num_open)
            batch = await ended(second, (await create(second, await upload(second, line("a")))).json["id"])
            assert batch["request_counts"]["completed"] == 1
            await first.post(f"/v1/batches/{waiting}/cancel")
            assert (await ended(first, waiting))["status"] == "cancelled"

    asyncio.run(check())


def test_batch_waits_for_room_on_the_disk_with_what_it_has(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_concurrent=1, max_batch_attempts=1) as served:
            file_id = await upload(served.client, line("a"), line("b"), line("c", "wait " + "c" * 500), line("d"))
            batch_id = (await create(served.client, file_id)).json["id"]
            await holds(lambda: served.provider.num_open == 1 and num_answered(served, batch_id) == 2)
            journal = served.app.state.batches.store.journal(batch_id)
            with no_file_longer_than(journal.stat().st_size + 100):
                served.provider.may_go.set()
                await holds(lambda: served.lines.getvalue().count('"fault"') > 2)
            batch = await ended(served.client, batch_id)
            good = await content(served.client, batch["output_file_id"])
        assert (batch["status"], [entry["custom_id"] for entry in good]) == ("completed", ["a", "b", "c", "d"])
        assert len(served.provider.asked) == 4

    asyncio.run(check())


def test_batch_whose_output_cannot_be_written_waits_until_it_can(tmp_path):
    async def check():
        async with echoing(tmp_path, max_batch_concurrent=1) as served:
            file_id = await upload(served.client, line("a", "a" * 1000), line("b", "wait"))
            batch_id = (await create(served.client, file_id)).json["id"]
            await holds(lambda: served.provider.num_open == 1 and num_answered(served, batch_id) == 1)
            batches = served.app.state.batches
            obstacle = batches.files.path(batches.store.find("local", batch_id).output_id)
            obstacle.mkdir()
            served.provider.may_go.set()
            await holds(lambda: served.lines.getvalue().count('"fault"') > 2)
            obstacle.rmdir()
            batch = await ended(served.client, batch_id)
            assert (batch["status"], len(await content(served.client, batch["output_file_id"]))) == ("completed", 2)

    asyncio.run(check())


def test_files_that_take_long_to_read_hold_up_nothing_but_batches(tmp_path):
    async def check():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        async with echoing(tmp_path) as served:
            clients = [Client(served.app, served.store.create(name)[0]) for name in "abc"]
            file_ids = [await upload(client, line("a")) for client in clients]
            pipes = [served.app.state.batches.files.path(file_id) for file_id in file_ids]
            for pipe in pipes:
                pipe.unlink()
                os.mkfifo(pipe)
            writers = [os.open(pipe, os.O_RDWR) for pipe in pipes]  # who write nothing, so that to read takes long
            for client, file_id in zip(clients, file_ids, strict=True):
                await create(client, file_id)
            await asyncio.sleep(0.02)
            try:
                assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 2) == "done"
            finally:
                for pipe, writer in zip(pipes, writers, strict=True):
                    pipe.unlink()
                    os.close(writer)

    asyncio.run(check())


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), KeyError("another")])
def test_batch_that_fails_late_keeps_what_was_answered(tmp_path, fault):
    async def check():
        async with echoing(tmp_path, max_batch_concurrent=1) as served:
            file_id = await upload(served.client, line("a"), b"{", line("b", "wait"), line("c"))
            batch_id = (await create(served.client, file_id)).json["id"]
            await holds(lambda: served.provider.num_open == 1 and num_answered(served, batch_id) == 1)

            def identify(key_id):
                raise fault

            served.app.state.batches._worker._identify = identify
            served.provider.may_go.set()
            batch = await ended(served.client, batch_id)
            good = await content(served.client, batch["output_file_id"])
            bad = await content(served.client, batch["error_file_id"])
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "server_error")
        assert ([entry["custom_id"] for entry in good], len(bad)) == (["a", "b"], 1)
        assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 1}

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


def test_server_that_stops_in_good_order_counts_against_no_line(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            batch_id = (await create(served.client, await upload(served.client, line("a", "wait")))).json["id"]
            await holds(lambda: served.provider.num_open)
        for _ in range(3):
            async with echoing(tmp_path, max_batch_attempts=2) as again:
                again.app.state.batches.open()
                await holds(lambda: again.provider.num_open)
        async with echoing(tmp_path, max_batch_attempts=2) as last:
            last.provider.may_go.set()
            assert (await ended(last.client, batch_id))["request_counts"]["completed"] == 1

    asyncio.run(check())
