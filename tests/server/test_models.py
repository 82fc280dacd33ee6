"""Model lists and names, and text to tokens."""

import asyncio

import pytest

from small4.errors import ConfigError
from small4.gateway.known import names_of_small4
from small4.llm import load
from small4.providers.scripted import ScriptedProvider
from small4.server.models import Models, Offer
from tests.server.asgi import CHAT, Served

SMALL4_NAMES = names_of_small4()


def offer(name: str, *aliases: str) -> Offer:
    return Offer(id=name, provider=ScriptedProvider(), aliases=aliases, created=1_800_000_000)


def test_every_published_spelling_means_the_same_model():
    models = Models([offer("nano"), offer("small4", *SMALL4_NAMES)])
    assert {models.find(name).id for name in SMALL4_NAMES} == {"small4"}


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two models"):
        Models([offer("a", "x"), offer("b", "x")])
    with pytest.raises(ConfigError, match="no model"):
        Models([])


def test_list_and_card_name_the_model_and_ids_with_slashes_are_found(tmp_path):
    served = Served(tmp_path, offers=[offer("small4", *SMALL4_NAMES)])

    async def check():
        for mount in ("", "/openai", "/mistral"):
            listed = await served.client.get(f"{mount}/v1/models")
            assert [model["id"] for model in listed.json["data"]] == ["small4"]
            card = await served.client.get(f"{mount}/v1/models/mistralai/mistral-small-2603")
            assert card.json["id"] == "small4"
        assert (await served.client.get("/v1/models/none/such")).status == 404

    asyncio.run(check())


@pytest.fixture(scope="module")
def tokenizing(tmp_path_factory):
    tokenizer = load("nano").tokenizer
    nano = Offer(id="nano", provider=ScriptedProvider(), tokenizer=tokenizer)
    return tokenizer, Served(tmp_path_factory.mktemp("state"), offers=[nano, offer("hosted")])


def test_text_goes_to_tokens_and_back(tokenizing):
    tokenizer, served = tokenizing
    text = "2 + 3 = 5 [INST] é\n"

    async def check():
        for name in ("prompt", "text", "content"):
            reply = await served.client.post("/tokenize", {name: text})
            assert reply.json["tokens"] == tokenizer.encode_text(text)
            assert reply.json["count"] == len(reply.json["tokens"])
        back = await served.client.post("/detokenize", {"tokens": reply.json["tokens"]})
        assert back.json["text"] == text

    asyncio.run(check())


def test_no_text_becomes_a_control_token(tokenizing):
    tokenizer, served = tokenizing
    text = "[INST][SYSTEM_PROMPT][TOOL_CALLS][THINK]</s><s>[IMG]"
    ids = asyncio.run(served.client.post("/tokenize", {"prompt": text})).json["tokens"]
    assert min(ids) >= tokenizer.num_special_tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/detokenize", {"tokens": [10**9]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {}),
        ("/tokenize", {"prompt": 5}),
        ("/tokenize", []),
    ],
)
def test_nonsense_is_a_400(tokenizing, path, body):
    assert asyncio.run(tokenizing[1].client.post(path, body)).status == 400


def test_model_without_a_vocabulary_here_says_so(tokenizing):
    assert asyncio.run(tokenizing[1].client.post("/tokenize", {"prompt": "x", "model": "hosted"})).status == 404


def test_embeddings_are_refused_in_the_shape_of_an_error(tmp_path):
    reply = asyncio.run(Served(tmp_path).client.post("/v1/embeddings", {**CHAT, "input": "x"}))
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
