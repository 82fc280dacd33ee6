"""Numbers at and beyond their bounds, in every dialect: honoured, or refused by their names, and never our fault."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.asgi import Served
from tests.server.batch_client import FORM, content, create, ended, form, serving, upload
from tests.server.numbers import BODIES, CHATTED, Obliging, body_of, cases_of, obliging

PATHS = (
    "/v1/chat/completions",
    "/mistral/v1/chat/completions",
    "/v1/completions",
    "/mistral/v1/fim/completions",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1beta/models/scripted:generateContent",
    "/v1beta/models/scripted:countTokens",
    "/v1/batches",
    "/detokenize",
)
LEAST, MOST = ("minimum", "exclusiveMinimum"), ("maximum",)
UNSTATED = {"logit_bias.7", "top_a", "best_of", "tokens[0]"}  # whose bounds are not the struct's alone


@pytest.mark.parametrize("path", PATHS)
def test_every_number_is_honoured_within_its_bounds_and_refused_by_its_name_beyond(tmp_path, path):
    served = obliging(tmp_path)

    async def ask() -> list[tuple[str, str, int, bytes]]:
        wrong = []
        for case in await cases_of(served, path):
            reply = await served.client.post(path, case.data)
            if not case.is_answered_well(reply):
                wrong.append((case.field, case.text[:40], reply.status, reply.body[:200]))
        await served.app.state.batches.close()
        return wrong

    assert asyncio.run(ask()) == []


def test_no_number_of_any_body_is_left_out_and_bounds_are_those_of_the_document(tmp_path):
    served = Served(tmp_path)
    document = asyncio.run(served.client.get("/openapi.json")).json
    posts = [(path, methods["post"]) for path, methods in document["paths"].items() if "post" in methods]
    for path, operation in posts:
        (taken,) = operation["requestBody"]["content"].values()
        described = dict(numbers_in(taken["schema"], document["components"]["schemas"]))
        body = body_of(path)
        listed = {} if body is None else {nameless(field): number for field, number in body.numbers.items()}
        assert described.keys() == listed.keys(), path
        for field, schema in described.items():
            number = listed[field]
            if not UNSTATED & {field, field.replace("*", "7")}:
                assert [schema.get(name) for name in (*LEAST, *MOST)] == [number.least, number.over, number.most], field
    assert {end for end in BODIES if any(path.endswith(end) for path, _ in posts)} == set(BODIES)


def nameless(field: str) -> str:
    """A path without what is the caller's own in it."""
    return field.replace("logit_bias.7", "logit_bias.*").replace("[1]", "[0]")


def numbers_in(schema: Any, schemas: Any, path: str = "", seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every number that a schema describes, with its path."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from numbers_in(schemas[name], schemas, path, (*seen, name))
    if schema.get("type") in ("integer", "number"):
        yield path, schema
    inner = [(path, each) for word in ("anyOf", "oneOf", "allOf") for each in schema.get(word, ())]
    inner += [(f"{path}.{name}".lstrip("."), each) for name, each in schema.get("properties", {}).items()]
    inner += [(f"{path}{end}", schema[word]) for word, end in (("additionalProperties", ".*"), ("items", "[0]"))
              if isinstance(schema.get(word), dict)]  # fmt: skip
    for place, each in inner:
        yield from numbers_in(each, schemas, place, seen)


def test_lines_of_a_batch_pass_the_same_bounds(tmp_path):
    async def ask() -> None:
        async with serving(tmp_path, provider=Obliging()) as served:
            client = served.client
            sent = [
                case for case in await cases_of(served, "/v1/chat/completions") if case.is_json and not case.is_right
            ]
            lines = [
                b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": %s}'
                % (number, case.data)
                for number, case in enumerate(sent)
            ]
            batch = await ended(client, (await create(client, await upload(client, *lines))).json["id"])
            assert batch["request_counts"] == {"total": len(sent), "completed": 0, "failed": len(sent)}
            for case, answer in zip(sent, await content(client, batch["error_file_id"]), strict=True):
                assert answer["response"]["status_code"] == 400
                assert case.is_named(answer["response"]["body"])

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "most"), [("/v1/files", 10_000), ("/v1/batches", 100), ("/v1/responses/{id}/input_items", 100)]
)
def test_the_length_of_a_page_is_bounded(tmp_path, path, most):
    served = obliging(tmp_path)

    async def ask() -> None:
        kept = (await served.client.post("/v1/responses", {"model": "scripted", "input": "Hi"})).json["id"]
        for text in ("1", str(most)):
            assert (await served.client.get(f"{path}?limit={text}".replace("{id}", kept))).status == 200
        for text in (
            "0",
            "-1",
            str(most + 1),
            "1e1",
            "1.0",
            "-0",
            "NaN",
            "Infinity",
            "true",
            "",
            "x",
            "%D9%A1",
            "9" * 400,
        ):
            reply = await served.client.get(f"{path}?limit={text}".replace("{id}", kept))
            assert (reply.status, reply.json["error"]["param"]) == (400, "limit"), text
        await served.app.state.batches.close()

    asyncio.run(ask())


def test_the_time_that_a_file_is_kept_is_bounded(tmp_path):
    served = obliging(tmp_path)

    async def ask() -> None:
        async def send(text: str):
            fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": text}
            return await served.client.post("/v1/files", form(b"{}", **fields), headers=FORM)

        for text in ("3600", "2592000"):
            assert (await send(text)).status == 200
        for text in ("3599", "2592001", "-1", "0", "1e999", "NaN", "Infinity", "true", "", "x", "9" * 400, str(2**63)):
            reply = await send(text)
            assert (reply.status, reply.json["error"]["param"]) == (400, "expires_after"), text
        await served.app.state.batches.close()

    asyncio.run(ask())


def test_the_table_sends_what_stands_at_both_ends():
    texts = CHATTED.numbers["n"].texts()
    assert {"0", "1", "8", "9", "NaN", "-0", "true", '"1"', str(2**63), "9" * 5000} <= set(texts)
    assert [text for text in texts if CHATTED.numbers["n"].takes(text)] == ["1", "2", "7", "8"]
    assert json.loads(CHATTED.with_number("logit_bias.7", "5"))["logit_bias"] == {"7": 5}
