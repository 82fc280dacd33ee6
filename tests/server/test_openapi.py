"""The OpenAPI document is true, and its page stands alone."""

import asyncio
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.server.asgi import CHAT, STREAM, Served


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def document(served):
    return asyncio.run(served.client.get("/openapi.json")).json


def test_every_path_and_method_of_the_table_is_described_and_no_other(served, document):
    described = {
        (path.rpartition(":")[0] if ":" in path else path, method)
        for path, operations in document["paths"].items()
        for method in operations
    }
    rows = served.app.state.routes.paths
    served_paths = {(re.sub(r":path}", "}", row.path), method.lower()) for row in rows for method in row.methods}
    assert described == served_paths


def test_operations_have_names_of_their_own_and_schemas_that_are_schemas(document):
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_references_lead_somewhere(document):
    for reference in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=10,
)


@given(st.data())
def test_whatever_is_sent_every_status_is_a_described_one_and_none_is_our_fault(served, document, data):
    path = data.draw(st.sampled_from([path for path in document["paths"] if "post" in document["paths"][path]]))
    operation = document["paths"][path]["post"]
    names = ("model", "messages", "prompt", "tokens", "stream", "n", "stop", "tools", "max_tokens", "contents", "input")
    body = data.draw(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(names, JSON)) | st.just(CHAT))
    reply = asyncio.run(served.client.post(path.replace("{call}", "scripted"), body))
    assert str(reply.status) in operation["responses"]
    assert reply.status < 500


def test_streams_and_bodies_are_of_the_described_types(served, document):
    described = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    for body in (CHAT, STREAM):
        kind = asyncio.run(served.client.post("/v1/chat/completions", body)).headers["content-type"]
        assert kind.partition(";")[0] in described


def test_the_models_that_are_served_are_the_examples_of_what_may_be_asked_for(document):
    assert document["components"]["schemas"]["ChatFields"]["properties"]["model"]["examples"] == ["scripted"]
    parameters = [
        parameter
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
    ]
    named = [parameter for parameter in parameters if parameter["name"] in ("model", "call")]
    assert len(named) > 10
    assert all(parameter["schema"]["examples"] == ["scripted"] for parameter in named)


def test_a_refused_method_is_told_of_all_that_the_path_takes(served, document):
    for path, methods in document["paths"].items():
        target = re.sub(r"{\w+}", "scripted", path)
        reply = asyncio.run(served.client.request("TRACE", target))
        taken = {method.upper() for method in methods}
        assert reply.status == 405
        assert set(reply.headers["allow"].split(", ")) == taken | ({"HEAD"} if "GET" in taken else set()), path


def test_page_has_every_path_and_asks_nothing_of_any_other_host(served, document):
    reply = asyncio.run(served.client.get("/docs"))
    text = reply.body.decode()
    assert all(path in text for path in document["paths"])
    assert not re.search(r"<script|<link|<img|<iframe|src=|href=|url\(|@import|javascript:", text)
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    import base64
    import hashlib

    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    assert f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}" in policy
