"""What a provider tells of its models, and whether its key is good."""

import asyncio
import json
from typing import Any

import pytest

from small4.errors import UpstreamError, UpstreamKeyError, UpstreamUnreachableError
from small4.gateway.outcome import verdict_of
from small4.providers.discovery import Discovery, discover
from small4.wire import google
from small4.wire.models_reader import FoundModel, read_models
from tests.providers.dialects import KEY, upstream_at
from tests.providers.fault_server import Asked, FaultServer, Script, whole

LIST = {"data": [{"id": "a", "context_length": 9}, {"id": "b"}]}
REFUSED = whole({"error": {"message": "no"}}, 401)


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (LIST, [FoundModel("a", 9), FoundModel("b")]),
        ({"data": [{"id": "m", "max_context_length": 7, "x": {}}]}, [FoundModel("m", 7)]),
        ({"data": [{"id": "m", "max_model_len": 5}], "models": [{"slug": "m"}]}, [FoundModel("m", 5)]),
        ({"models": [{"name": "models/g", "inputTokenLimit": 3}]}, [FoundModel("g", 3)]),
        ({"data": [{"id": 7}, {"id": "x\n"}, {}, {"id": "y", "context_length": "9"}]}, [FoundModel("y")]),
        ({"data": []}, []),
    ],
)
def test_lists_of_every_dialect_are_read(listing: object, found: list[FoundModel]) -> None:
    assert read_models(json.dumps(listing).encode()) == found


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"data": 7}', b'{"data": [7]}', b"[" * 9999])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_models(body)


def discovered(choose: Any, **options: Any) -> Discovery:
    async def run() -> Discovery:
        async with FaultServer(choose=choose) as there:
            upstream = upstream_at(there.url)
            try:
                return await discover(upstream, **options)
            finally:
                await upstream.aclose()

    return asyncio.run(run())


def with_key(asked: Asked) -> Script:
    return [whole(LIST) if KEY in asked.headers.get("authorization", "") else REFUSED]


def test_a_key_is_proven_where_strangers_are_refused() -> None:
    assert discovered(with_key).is_key_proven
    assert not discovered(lambda asked: [whole(LIST)]).is_key_proven  # anybody may see the list


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500])
def test_a_stranger_s_refusal_for_another_reason_proves_nothing_and_is_no_error(status: int) -> None:
    def choose(asked: Asked) -> Script:
        return [whole(LIST) if KEY in asked.headers.get("authorization", "") else whole({"error": "no"}, status)]

    found = discovered(choose)
    assert ([model.id for model in found.models], found.is_key_proven) == (["a", "b"], False)


def test_google_s_word_for_a_bad_key_is_taken_for_one() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    body = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [info]}}
    error = google.parse_error(400, json.dumps(body).encode())
    assert isinstance(error, UpstreamKeyError)
    assert verdict_of(error) == "key"


def test_an_open_list_proves_nothing_but_the_provider_s_own_answer_for_the_key_does() -> None:
    def openrouter(asked: Asked) -> Script:
        return [whole(LIST)] if asked.target == "/v1/models" else with_key(asked)

    assert discovered(openrouter, key_path="/key").is_key_proven
    with pytest.raises(UpstreamKeyError):
        discovered(lambda asked: [whole(LIST) if asked.target == "/v1/models" else REFUSED], key_path="/key")


def test_a_bad_key_a_refusal_and_a_dead_provider_are_told_apart() -> None:
    with pytest.raises(UpstreamKeyError, match=r"HTTP 401\)"):
        discovered(lambda asked: [REFUSED])
    with pytest.raises(UpstreamKeyError, match=r"HTTP 403\)"):
        discovered(lambda asked: [whole({}, 403)])
    with pytest.raises(UpstreamUnreachableError):
        asyncio.run(discover(upstream_at("http://127.0.0.1:1")))
