"""Files and their lists: what is taken and kept, for whom, and how much of it."""

import asyncio

import pytest

from tests.server.asgi import Client, holds
from tests.server.batch_client import FORM, create, echoing, ended, form, line, num_answered, upload


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


def test_what_is_old_is_dropped_and_what_cannot_be_dropped_now_the_next_time(tmp_path, monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr("small4.server.batches.TIDY_SECONDS", 0.005)

    def kept() -> list[str]:
        return [path.name for path in (tmp_path / "batch").rglob("*") if path.is_file()]

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
            obstacle = (batches.files.path(batch["output_file_id"])).with_suffix(".json")
            obstacle.unlink()
            obstacle.mkdir()
            now[0] += 3601
            await holds(lambda: len(kept()) == 2 and served.lines.getvalue().count('"fault"') > 2)
            assert (await served.client.get("/v1/batches")).json["data"] == []
            obstacle.rmdir()
            await holds(lambda: kept() == ["lock"])

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


def test_description_that_is_damaged_is_set_aside_with_what_it_describes(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            file_id = await upload(served.client, line("a"), line("b", "wait"))
            batch_id = (await create(served.client, file_id)).json["id"]
            await holds(lambda: num_answered(served, batch_id) == 1)
            data = served.app.state.batches.files.path(file_id).read_bytes()
            journal = served.app.state.batches.store.journal(batch_id)
        for name in (f"files/{file_id}.json", f"batches/{batch_id}.json"):
            (tmp_path / "batch" / name).write_bytes(b'{"owner": 7')
        async with echoing(tmp_path) as again:
            again.app.state.batches.open()
            assert (await again.client.get("/v1/files")).json["data"] == []
            assert (await again.client.get("/v1/batches")).json["data"] == []
            assert (tmp_path / "batch" / "files" / f"{file_id}.data.damaged").read_bytes() == data
            assert b'"custom_id":"a"' in journal.with_name(f"{journal.name}.damaged").read_bytes()
            aside = {path.name for path in (tmp_path / "batch").rglob("*.damaged")}
            assert len(aside) == 4
        assert {entry["file"] for entry in again.logged() if entry["event"] == "damaged"} == aside

    asyncio.run(check())


def test_directory_that_cannot_be_opened_is_opened_with_the_next_request(tmp_path):
    async def check():
        async with echoing(tmp_path) as served:
            file_id = await upload(served.client, line("a" * 1000))
        obstacle = tmp_path / "batch" / "batches"
        obstacle.rmdir()
        obstacle.touch()
        async with (
            echoing(tmp_path, max_files_bytes_per_key=2500) as again,
            again.app.router.lifespan_context(again.app),  # it starts all the same
        ):
            for _ in range(3):
                assert (await again.client.get("/v1/files")).status == 500
            obstacle.unlink()
            assert [file["id"] for file in (await again.client.get("/v1/files")).json["data"]] == [file_id]
            assert again.app.state.batches._tidying is not None
            await upload(again.client, line("b" * 1000))  # what is there was counted once

    asyncio.run(check())
