"""Results of calls in Google's dialect: paired with their calls, and read by its rule."""

import json
from time import process_time

import pytest

from small4.errors import FieldError
from small4.wire import google
from tests.wire.google_exchanges import PLAIN, parse


def test_results_are_paired_by_id_or_by_name_and_order():
    def called(name, call_id=None):
        return {"functionCall": {"name": name, "args": {}} | ({"id": call_id} if call_id else {})}

    def result(name, text, call_id=None):
        response = {"name": name, "response": {"output": text}} | ({"id": call_id} if call_id else {})
        return {"functionResponse": response}

    contents = [
        *PLAIN["contents"],
        {"parts": [called("f", "x1"), called("f"), called("g"), called("f", "x2")]},
        {"parts": [result("g", "g"), result("f", "f2", "x2"), result("f", "f1", "x1"), result("f", "f0")]},
    ]
    _, calls, *results = parse({"contents": contents}).request.messages
    by_id = {message.tool_call_id: message.content for message in results}
    assert [by_id[call.id] for call in calls.tool_calls] == ["f1", "f0", "g", "f2"]
    assert parse({"contents": contents}).request.messages[1].tool_calls == calls.tool_calls
    again = {"parts": [result("f", "again", "x1")]}
    with pytest.raises(FieldError, match="no call of 'f' waits"):
        parse({"contents": [*contents, again]})
    assert parse({"contents": [*contents, *contents[1:]]})  # a later turn may use an id again


def test_many_calls_are_paired_in_one_go():
    calls = {"parts": [{"functionCall": {"name": "f", "id": f"{i}"}} for i in range(120)]}
    answers = {"parts": [{"functionResponse": {"name": "f"}}] * 120}
    body = json.dumps({"contents": [*PLAIN["contents"], *[calls] * 50, *[answers] * 25]}).encode()
    start = process_time()
    with pytest.raises(FieldError, match="no call of 'f' waits"):  # 50 times the same ids are 120 calls
        google.parse_request(body, "m")
    assert process_time() - start < 2.5


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ({"output": "5"}, "5"),
        ({"output": {"a": "é"}}, '{"a": "é"}'),
        ({"error": "gone"}, "Error: gone"),
        ({"result": 5}, '{"result": 5}'),
        ({"output": 1, "more": 2}, '{"output": 1, "more": 2}'),
        ({}, "{}"),
    ],
)
def test_a_result_is_read_by_googles_rule(response, text):
    called = {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}
    answered = {"parts": [{"functionResponse": {"name": "f", "response": response}}]}
    assert parse({"contents": [*PLAIN["contents"], called, answered]}).request.messages[2].content == text
