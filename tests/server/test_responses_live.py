"""The Responses API through the whole server: what a response says of how it was made."""

import asyncio
from dataclasses import replace

from small4.providers.scripted import SCRIPTED, ScriptedProvider
from tests.server.asgi import Served

COOL = replace(SCRIPTED, temperatures={"none": 0.0, "high": 0.3})


def test_a_response_tells_the_temperature_that_its_model_was_run_at(tmp_path):
    provider = ScriptedProvider(model=COOL)
    served = Served(tmp_path, provider=provider)
    for fields, expected in (({}, 0.0), ({"reasoning": {"effort": "high"}}, 0.3), ({"temperature": 0.9}, 0.9)):
        reply = asyncio.run(served.client.post("/v1/responses", {"model": "scripted", "input": "Hi"} | fields))
        request, _ = provider.requests[-1]
        assert reply.json["temperature"] == request.sampling.temperature == expected


def test_a_response_is_gone_on_from_and_forgotten(tmp_path):
    served = Served(tmp_path)

    async def talk():
        first = (await served.client.post("/v1/responses", {"model": "scripted", "input": "One"})).json
        body = {"model": "scripted", "input": "Two", "previous_response_id": first["id"]}
        second = (await served.client.post("/v1/responses", body)).json
        body["store"], body["previous_response_id"] = False, second["id"]
        third = (await served.client.post("/v1/responses", body)).json
        lost = await served.client.post("/v1/responses", body | {"previous_response_id": third["id"]})
        return second, lost

    second, lost = asyncio.run(talk())
    contents = [message.content for message in served.provider.requests[-1][0].messages]
    assert contents == ["One", "Hello!", "Two", "Hello!", "Two"]
    assert (second["store"], lost.status) == (True, 404)
    assert lost.json["error"]["code"] == "previous_response_not_found"
