"""Whatever a client sends to the Responses API: an answerable call, or an error that names the field."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.errors import FieldError, RequestError, UpstreamError
from small4.wire.openai_responses import Reader, format_request, parse_request
from small4.wire.sse import ServerEvent

INF, BIG = "1e999", "1e308"
RANGES = {
    "max_output_tokens": (1, 2**31 - 1),
    "max_tool_calls": (1, 2**31 - 1),
    "temperature": (0, 5),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
}
NEVER = ["true", "false", '"1"', "[]", "{}", str(2**31), str(2**63), str(2**64), BIG, "-1e308", "NaN", INF]


def body(name: str, value: str) -> bytes:
    return f'{{"model": "m", "input": "hi", "{name}": {value}}}'.encode()


@pytest.mark.parametrize("name", [*RANGES, "top_p"])
@pytest.mark.parametrize("value", NEVER)
def test_a_number_outside_all_ranges_or_of_another_type_is_refused(name, value):
    with pytest.raises(FieldError):
        parse_request(body(name, value))


@pytest.mark.parametrize(("name", "bounds"), RANGES.items(), ids=RANGES)
def test_numbers_are_accepted_up_to_their_bounds_and_no_further(name, bounds):
    low, high = bounds
    for inside in (low, high, "null"):
        parse_request(body(name, str(inside)))
    for outside in (low - 1, high + 1):
        with pytest.raises(FieldError) as caught:
            parse_request(body(name, str(outside)))
        assert caught.value.param == name


def test_top_p_is_over_0_and_at_most_1():
    parse_request(body("top_p", "1e-9"))
    parse_request(body("top_p", "1"))
    for outside in ("0", "-0.0", "1.0001"):
        with pytest.raises(FieldError):
            parse_request(body("top_p", outside))


@pytest.mark.parametrize("name", ["stream", "store", "background", "parallel_tool_calls"])
@pytest.mark.parametrize("value", ["1", '"true"', "[]"])
def test_truths_are_true_or_false(name, value):
    with pytest.raises(FieldError) as caught:
        parse_request(body(name, value))
    assert caught.value.param == name


def test_lists_are_bounded():
    item = {"role": "user", "content": "x"}
    tool = {"type": "function", "name": "f"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    for fields, param in (
        ({"input": [item] * 1025}, "input[1024]"),
        ({"input": [{"type": "web_search_call"}] * 4097}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * 257}]}, "input[0].content"),
        ({"input": [{"type": "reasoning", "content": [{"text": "x"}]}] * 257}, "input[256]"),
        ({"input": [call] * 129}, "input[128]"),
        ({"tools": [tool] * 129}, "tools"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"user": "u" * 513}, "user"),
    ):
        with pytest.raises(FieldError) as caught:
            parse_request(json.dumps({"model": "m", "input": "hi"} | fields).encode())
        assert caught.value.param == param


WORDS = st.sampled_from(
    "type role content text id call_id name arguments output summary encrypted_content image_url file_data message "
    "user assistant developer input_text input_image input_file output_text reasoning reasoning_text function_call "
    "function_call_output item_reference compaction custom_tool_call input function allowed_tools mode tools auto none "
    "required json_schema schema format effort high data:image/png;base64,AA== data:text/plain;base64,aGk=".split()
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=12
)
NAMES = st.sampled_from(
    "model input instructions previous_response_id conversation store stream stream_options background prompt user "
    "max_output_tokens max_tool_calls temperature top_p presence_penalty frequency_penalty top_logprobs truncation "
    "tools tool_choice parallel_tool_calls reasoning text include metadata safety_identifier prompt_cache_key".split()
)
ITEMS = st.lists(st.dictionaries(WORDS, VALUES, max_size=5), max_size=5)


BODIES = st.builds(
    lambda fields, items: {"model": "m"} | fields | ({} if items is None else {"input": items}),
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.none() | ITEMS,
)


def check_body(whole: dict[str, Any]) -> None:
    try:
        call = parse_request(json.dumps(whole).encode())
        format_request(call)
    except RequestError:
        pass


@settings(max_examples=50)
@given(BODIES)
def test_any_json_is_a_call_or_a_request_error(whole: dict[str, Any]):
    check_body(whole)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(BODIES)
def test_a_great_deal_of_json_is_a_call_or_a_request_error(whole: dict[str, Any]):
    check_body(whole)


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_call_or_a_request_error(data: bytes):
    with pytest.raises(FieldError):
        parse_request(data)


EVENT_NAMES = st.sampled_from(
    "response.created response.output_item.added response.output_item.done response.output_text.delta error "
    "response.function_call_arguments.delta response.reasoning_text.delta response.reasoning_summary_text.delta "
    "response.completed response.incomplete response.failed".split()
)
EVENT_WORDS = st.sampled_from(
    "item response delta output_index error status output usage message content logprobs".split()
)


STREAMS = st.lists(st.tuples(EVENT_NAMES, st.dictionaries(EVENT_WORDS, VALUES, max_size=4)), max_size=4)


def check_stream(rows: list[tuple[str, dict[str, Any]]]) -> None:
    reader = Reader()
    try:
        for name, fields in rows:
            reader.feed(ServerEvent(json.dumps({"type": name} | fields)))
        reader.finish()
    except UpstreamError:
        pass


@settings(max_examples=50)
@given(STREAMS)
def test_any_event_is_read_or_an_upstream_error(rows: list[tuple[str, dict[str, Any]]]):
    check_stream(rows)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(STREAMS)
def test_a_great_many_events_are_read_or_an_upstream_error(rows: list[tuple[str, dict[str, Any]]]):
    check_stream(rows)
