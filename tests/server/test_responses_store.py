"""Responses that are kept to go on from: whose they are, how they grow, and what makes room."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from small4.chat import AnswerEvent, Finish, ReasoningDelta, TextDelta, TextPart, ThinkPart, Usage
from small4.errors import ConfigError, FieldError, UnknownResponseError
from small4.gateway.sealing import Seal
from small4.server.responses_store import ResponsesStore, StoreConfig
from small4.wire.call import Call, Head
from small4.wire.openai_responses import Writer, parse_request
from small4.wire.problem import problem_of

ANNA, BERT = "anna", "bert"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def parse(store: ResponsesStore, owner: str = ANNA, /, **fields: Any) -> Call:
    return parse_request(json.dumps({"model": "m", "input": "hi"} | fields).encode(), past=store.of(owner))


def respond(store: ResponsesStore, name: str, owner: str = ANNA, /, **fields: Any) -> dict[str, Any]:
    call = parse(store, owner, **fields)
    made = Writer(call, Head(name, 0, "m"))
    for event in (ReasoningDelta("hm"), TextDelta(f"answer {name}"), Finish("stop", Usage())):
        made.push(AnswerEvent(0, event))
    response = made.whole()
    store.keep(owner, call, response)
    return response


def test_a_response_goes_on_from_all_that_was_said_before():
    store = ResponsesStore(StoreConfig())
    respond(store, "1", input="one", instructions="Be brief.")
    second = respond(store, "2", input="two", previous_response_id="resp_1")
    call = parse(store, input="three", previous_response_id="resp_2")
    assert second["previous_response_id"] == "resp_1"
    assert [(message.role, message.content) for message in call.request.messages] == [
        ("user", "one"),
        ("assistant", (ThinkPart("hm"), TextPart("answer 1"))),
        ("user", "two"),
        ("assistant", (ThinkPart("hm"), TextPart("answer 2"))),
        ("user", "three"),
    ]


def test_a_kept_response_is_given_back_with_the_items_that_led_to_it():
    store = ResponsesStore(StoreConfig())
    first = respond(store, "1", input=[{"role": "user", "content": "one"}])
    assert store.response(ANNA, "resp_1") == first
    assert store.input_items(ANNA, "resp_1") == [
        {"id": "in_1_0", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]}
    ]


def test_an_item_is_referred_to_by_its_id():
    store = ResponsesStore(StoreConfig())
    respond(store, "1", input="one")
    items = [
        {"role": "user", "content": "again"},
        {"type": "item_reference", "id": "msg_1_1"},
        {"id": "in_1_0"},
    ]
    messages = parse(store, input=items).request.messages
    assert [message.content for message in messages] == ["again", "answer 1", "one"]


def test_what_a_request_refers_to_is_counted_every_time_and_bounded():
    store = ResponsesStore(StoreConfig(max_joined_bytes=20_000))
    respond(store, "1", input="x" * 1000)
    reference = {"type": "item_reference", "id": "in_1_0"}
    assert len(parse(store, input=[reference] * 15).request.messages) == 15
    for references in ([reference] * 20, [{"id": "in_1_0"}] * 4000):
        with pytest.raises(FieldError, match="20000 bytes together, the limit") as caught:
            parse(store, input=references)
        assert problem_of(caught.value).status == 400
    assert parse(store, input=[reference] * 15)  # each request anew


def test_what_a_request_goes_on_from_is_bounded_too():
    store = ResponsesStore(StoreConfig(max_joined_bytes=20_000))
    respond(store, "1", input="x" * 12_000)
    respond(store, "2", input="y" * 12_000, previous_response_id="resp_1")
    with pytest.raises(FieldError, match="the limit"):
        parse(store, previous_response_id="resp_2")


def test_an_item_that_is_referred_to_again_is_kept_once():
    store = ResponsesStore(StoreConfig())
    respond(store, "1", input="x" * 10_000)
    respond(store, "2", input=[{"type": "item_reference", "id": "in_1_0"}] * 100)
    assert store.num_bytes < 10_000 + 5000
    store.delete(ANNA, "resp_1")
    assert len(parse(store, previous_response_id="resp_2").request.messages) > 100
    store.delete(ANNA, "resp_2")
    assert (store.num_bytes, store.item(ANNA, "in_1_0")) == (0, None)


@pytest.mark.parametrize("use", ["response", "thread", "input_items", "delete"])
def test_what_another_caller_keeps_is_as_unknown_as_what_nobody_keeps(use):
    store = ResponsesStore(StoreConfig())
    respond(store, "1", BERT)
    for owner, name in ((ANNA, "resp_1"), (BERT, "resp_2")):
        with pytest.raises(UnknownResponseError) as caught:
            getattr(store, use)(owner, name)
    problem = problem_of(caught.value)
    assert (problem.status, problem.code) == (404, "previous_response_not_found")
    with pytest.raises(FieldError):
        parse(store, ANNA, input=[{"type": "item_reference", "id": "msg_1_1"}])


def test_nothing_is_kept_of_a_call_that_asks_so():
    store = ResponsesStore(StoreConfig())
    assert respond(store, "1", store=False)["store"] is False
    assert (len(store), store.num_bytes) == (0, 0)


def test_a_deleted_response_leaves_those_that_went_on_from_it_whole():
    store = ResponsesStore(StoreConfig())
    respond(store, "1", input="one")
    respond(store, "2", input="two", previous_response_id="resp_1")
    store.delete(ANNA, "resp_1")
    assert len(store.thread(ANNA, "resp_2")) == 6
    store.delete(ANNA, "resp_2")
    assert (store.num_bytes, len(store)) == (0, 0)
    assert store.item(ANNA, "msg_1_1") is None


def test_a_long_conversation_counts_each_item_once():
    store = ResponsesStore(StoreConfig())
    respond(store, "0", input="x" * 10_000)
    for number in range(1, 20):
        respond(store, str(number), previous_response_id=f"resp_{number - 1}")
    assert store.num_bytes < 10_000 + 20 * 2500


def test_the_least_recently_used_goes_when_there_are_too_many():
    store = ResponsesStore(StoreConfig(max_responses=2))
    respond(store, "1")
    respond(store, "2")
    store.response(ANNA, "resp_1")
    respond(store, "3")
    assert store.response(ANNA, "resp_1")
    with pytest.raises(UnknownResponseError):
        store.response(ANNA, "resp_2")


@pytest.mark.parametrize("config", [StoreConfig(max_responses=4), StoreConfig(max_bytes=12_000)])
def test_responses_of_one_caller_push_out_none_of_another(config):
    store = ResponsesStore(config)
    respond(store, "mine", BERT)
    for number in range(30):
        respond(store, str(number), ANNA, input="x" * 1000)
    assert store.response(BERT, "resp_mine")
    assert store.response(ANNA, "resp_29")
    with pytest.raises(UnknownResponseError):
        store.response(ANNA, "resp_0")
    assert store.num_bytes <= config.max_bytes


def test_bytes_are_bounded_and_one_too_large_pushes_out_nobody():
    store = ResponsesStore(StoreConfig(max_bytes=10_000))
    for number in range(20):
        respond(store, str(number))
        assert store.num_bytes <= 10_000
    kept = len(store)
    respond(store, "large", input="x" * 10_000)
    assert len(store) == kept > 1


def test_what_nobody_goes_on_from_is_forgotten_in_time():
    clock = Clock()
    store = ResponsesStore(StoreConfig(max_age_seconds=10), clock)
    respond(store, "1")
    clock.seconds = 9
    respond(store, "2", previous_response_id="resp_1")
    clock.seconds = 18
    assert store.response(ANNA, "resp_1")
    clock.seconds = 28.5
    assert store.item(ANNA, "msg_2_1") is None
    with pytest.raises(UnknownResponseError):
        store.response(ANNA, "resp_1")
    assert (store.num_bytes, len(store)) == (0, 0)


def test_a_store_without_room_is_refused():
    with pytest.raises(ConfigError):
        StoreConfig(max_responses=0)


def test_a_thought_sealed_by_this_instance_comes_back_and_no_other_does():
    body = json.dumps({"model": "m", "input": "hi", "include": ["reasoning.encrypted_content"]}).encode()
    seal = Seal(b"s" * 32, ANNA)
    made = Writer(parse_request(body), Head("1", 0, "m"), sealer=seal)
    for event in (ReasoningDelta("hm"), Finish("stop", Usage())):
        made.push(AnswerEvent(0, event))
    item = made.whole()["output"][0] | {"content": None}
    body = json.dumps({"model": "m", "input": [item, {"role": "user", "content": "go on"}]}).encode()
    assert parse_request(body, sealer=seal).request.messages[0].content == (ThinkPart("hm"),)
    other = parse_request(body, sealer=Seal(b"t" * 32, ANNA))
    assert (len(other.request.messages), other.ignored) == (1, ("input[0]",))


def test_several_threads_leave_the_counts_right():
    store = ResponsesStore(StoreConfig(max_responses=5))

    def talk(thread: int) -> None:
        for number in range(40):
            previous = {} if number % 4 == 0 else {"previous_response_id": f"resp_{thread}x{number - 1}"}
            with suppress(UnknownResponseError):
                respond(store, f"{thread}x{number}", **previous)
            with suppress(UnknownResponseError):
                store.delete(ANNA, f"resp_{(thread + 1) % 4}x{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(talk, range(4)))
    for response_id in [name for _, name in list(store._responses)]:
        store.delete(ANNA, response_id)
    assert (store.num_bytes, len(store), store._by_item, store._by_fields) == (0, 0, {}, {})
