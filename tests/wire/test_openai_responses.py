"""The Responses API against recorded shapes: requests, answers whole and streamed, errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small4.chat import (
    AllowedTools,
    AnswerEvent,
    Finish,
    ImageLink,
    ImagePart,
    JsonObject,
    NamedTool,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TextPart,
    ThinkPart,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import (
    EngineStoppedError,
    FieldError,
    RateLimitError,
    RequestError,
    UpstreamError,
)
from small4.tokenizer.conversation import check_messages, to_turns
from small4.wire.call import Call, Head
from small4.wire.openai_responses import (
    Reader,
    Writer,
    format_count,
    format_count_request,
    format_error,
    format_item_list,
    format_request,
    parse_count,
    parse_error,
    parse_request,
)
from small4.wire.problem import Problem
from small4.wire.sse import EventReader, ServerEvent, encode

GOLDEN = Path(__file__).parent / "golden" / "responses"
EXCHANGES = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))}
REQUESTS = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("requests/*.json"))}
HEAD = Head("0a1b", 1763600000, "mistral-small-4")


class PlainSealer:
    """A `Sealer` whose seals can be read in a recorded request."""

    def seal(self, text: str) -> str:
        return f"SEALED {text}"

    def open(self, sealed: str) -> str | None:
        return sealed.removeprefix("SEALED ") if sealed.startswith("SEALED ") else None


def parse(fields: dict[str, Any]) -> Call:
    return parse_request(json.dumps(fields).encode(), sealer=PlainSealer())


def ask(**fields: Any) -> Call:
    return parse({"model": "m", "input": "hi"} | fields)


def writer(call: Call, **options: Any) -> Writer:
    return Writer(call, HEAD, clock=lambda: 1763600002.9, **options)


def answer_of(rows: list[list[Any]]) -> list[AnswerEvent]:
    return [AnswerEvent(0, event_of(*row)) for row in rows]


def event_of(kind: str, *values: Any) -> Any:
    match kind:
        case "thought":
            return ReasoningDelta(*values)
        case "text":
            return TextDelta(values[0], tuple(map(logprobs_of, values[1] if values[1:] else ())))
        case "call":
            return ToolCallStart(*values)
        case "arguments":
            return ToolCallDelta(*values)
    return Finish(values[0], Usage(**values[1]))


def logprobs_of(row: list[Any]) -> TokenLogprobs:
    *token, top = row
    return TokenLogprobs(scored(token), tuple(map(scored, top)))


def scored(row: list[Any]) -> ScoredToken:
    return ScoredToken(row[0], row[1].encode(), row[2])


def streamed(call: Call, answer: list[AnswerEvent], **options: Any) -> list[ServerEvent]:
    made = writer(call, **options)
    events = made.start()
    for event in answer:
        events += made.push(event)
    return events + made.finish()


def read(events: list[ServerEvent]) -> list[AnswerEvent]:
    reader = Reader()
    return [answer for event in events for answer in reader.feed(event)] + reader.finish()


def expected_stream(exchange: dict[str, Any]) -> list[dict[str, Any]]:
    whole = exchange["response"]
    fresh = dict.fromkeys(("completed_at", "incomplete_details", "usage"))
    beginning = whole | fresh | {"status": "in_progress", "output": []}
    responses = {"IN PROGRESS": beginning, "RESPONSE": whole}
    rows = []
    for number, row in enumerate(exchange["stream"]):
        row = row | {"sequence_number": number}
        rows.append(row | {"response": responses[row["response"]]} if "response" in row else row)
    return rows


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_an_answer_is_written_whole_as_recorded(exchange):
    made = writer(parse(exchange["request"]))
    for event in answer_of(exchange["answer"]):
        made.push(event)
    assert made.whole() == exchange["response"]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_an_answer_is_streamed_as_recorded(exchange):
    events = streamed(parse(exchange["request"]), answer_of(exchange["answer"]))
    assert [json.loads(event.data) for event in events] == expected_stream(exchange)
    assert [event.name for event in events] == [row["type"] for row in exchange["stream"]]


@pytest.mark.parametrize("has_open_names", [False, True])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_stream_is_read_back_as_the_events_that_were_written(exchange, has_open_names):
    answer = answer_of(exchange["answer"])
    assert read(streamed(parse(exchange["request"]), answer, has_open_names=has_open_names)) == answer


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_whole_answer_is_read_back_and_written_the_same(exchange):
    made = writer(parse(exchange["request"]))
    for event in Reader().whole(json.dumps(exchange["response"]).encode()):
        made.push(event)
    assert made.whole() == exchange["response"]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_stream_cut_at_any_byte_ends_in_an_error(exchange):
    answer = answer_of(exchange["answer"])
    data = b"".join(map(encode, streamed(parse(exchange["request"]), answer)))
    for end in range(len(data)):
        reader, sse = Reader(), EventReader()
        for event in sse.feed(data[:end]):
            assert not any(isinstance(each.event, Finish) for each in reader.feed(event))
        with pytest.raises(UpstreamError, match="in the middle"):
            reader.finish()


@pytest.mark.parametrize("golden", [*EXCHANGES.values(), *REQUESTS.values()], ids=[*EXCHANGES, *REQUESTS])
def test_a_request_survives_being_formatted_and_parsed_again(golden):
    call = parse(golden["request"])
    again = parse(format_request(call))
    assert again.request == call.request
    assert (again.model, again.is_stream, again.metadata, again.form, again.has_temperature) == (
        call.model,
        call.is_stream,
        call.metadata,
        call.form,
        call.has_temperature,
    )
    assert format_request(again) == format_request(call)


@pytest.mark.parametrize("golden", REQUESTS.values(), ids=REQUESTS)
def test_what_agents_send_parses_and_tells_what_it_ignores(golden):
    call = parse(golden["request"])
    assert sorted(call.ignored) == sorted(golden["ignored"])
    assert [message.role for message in call.request.messages] == golden["roles"]
    check_messages([message for message in call.request.messages if not has_link(message.content)], training=False)
    assert to_turns([message for message in call.request.messages if not has_link(message.content)])


def has_link(content: Any) -> bool:
    return any(isinstance(part, ImageLink) for part in content)


def test_items_of_one_turn_become_one_message():
    messages = parse(REQUESTS["codex"]["request"]).request.messages
    assert messages[3].content == (ThinkPart("I should look."),)
    assert [call.name for call in messages[3].tool_calls] == ["shell_command"]
    assert messages[4].tool_call_id == messages[3].tool_calls[0].id
    assert len(messages[4].tool_call_id or "") == 9


def test_every_kind_of_item_and_part_is_read():
    request = parse(REQUESTS["every_item"]["request"]).request
    image = ImagePart(b"\x89PNG\r\n\x1a\n")
    link = ImageLink("https://example.com/cat.png")
    assert request.messages[2].content == (TextPart("What is it?"), image, link, TextPart("note.txt:\nhi"))
    assert request.messages[3].content == (ThinkPart("Zoom first."), TextPart("I zoom."))
    assert request.messages[4].content == (TextPart("here"), image)
    assert request.messages[5].tool_calls[0].arguments == '{"input":"left"}'
    assert request.messages[7].content == "No more."
    assert request.messages[8].content == "so far: a cat"
    assert request.tool_choice == AllowedTools(("zoom",), is_required=True)
    assert (request.response_format, request.parallel_tool_calls) == (JsonObject(), False)
    assert (request.sampling.top_p, request.sampling.presence_penalty) == (0.9, 0.5)


@pytest.mark.parametrize("given", ["", [], None])
def test_an_empty_input_is_a_probe_that_can_be_answered(given):
    request = ask(input=given, max_output_tokens=1).request
    check_messages(request.messages, training=False)
    assert request.max_tokens == 1


def test_system_text_after_an_answer_is_said_by_the_user():
    items = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "developer", "content": "c"},
    ]
    messages = ask(input=items).request.messages
    assert [message.role for message in messages] == ["user", "assistant", "user"]


def test_a_thought_with_a_broken_seal_is_left_out_and_named():
    items = [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}, {"role": "user", "content": "hi"}]
    call = ask(input=items)
    assert call.ignored == ("input[0]",)
    assert [message.role for message in call.request.messages] == ["user"]


def test_a_sealed_thought_comes_back_as_it_was_written():
    call = ask(include=["reasoning.encrypted_content"], store=False)
    made = writer(call, sealer=PlainSealer())
    for event in answer_of([["thought", "deep"], ["text", "yes"], ["finish", "stop", {}]]):
        made.push(event)
    item = made.whole()["output"][0] | {"content": []}
    assert item["encrypted_content"] == "SEALED deep"
    again = ask(input=[{"role": "user", "content": "a"}, item, {"role": "assistant", "content": "yes"}])
    assert again.request.messages[1].content == (ThinkPart("deep"), TextPart("yes"))


def test_thoughts_are_sealed_only_where_the_caller_asks_for_it():
    made = writer(ask(), sealer=PlainSealer())
    for event in answer_of([["thought", "deep"], ["finish", "stop", {}]]):
        made.push(event)
    assert made.whole()["output"][0]["encrypted_content"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}, "input[0]"),
        ({"input": [{"type": "riddle"}]}, "input[0].type"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}, "tool_choice.tools"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"truncation": "middle"}, "truncation"),
        ({"model": ""}, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_its_name(fields, param):
    with pytest.raises(FieldError) as caught:
        ask(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "input_audio"}, "type"),
        ({"type": "input_image", "file_id": "file_1"}, "file_id"),
        ({"type": "input_image", "image_url": "ftp://example.com/cat"}, "image_url"),
        ({"type": "input_file", "file_url": "https://example.com/cat.pdf"}, "file_url"),
        ({"type": "input_file", "file_id": "file_1"}, "file_id"),
        ({"type": "input_file", "file_data": "JVBE"}, "file_data"),
        ({"type": "input_file", "file_data": "data:application/pdf;base64,JVBE"}, "file_data"),
        ({"type": "input_file", "file_data": "data:text/plain;base64,/w=="}, "file_data"),
    ],
)
def test_a_part_that_cannot_be_seen_is_refused_by_its_name(part, name):
    with pytest.raises(FieldError) as caught:
        ask(input=[{"role": "user", "content": [part]}])
    assert caught.value.param == f"input[0].content[0].{name}"


def test_tools_of_other_kinds_alone_leave_the_answer_free():
    assert ask(tools=[{"type": "web_search"}]).request.tools == ()
    only_hosted = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}
    assert ask(tools=[{"type": "web_search"}], tool_choice=only_hosted).request.tool_choice == "none"
    named = ask(tools=[{"type": "function", "name": "f"}], tool_choice={"type": "function", "name": "f"})
    assert named.request.tool_choice == NamedTool("f")


def test_log_probabilities_need_the_include_that_shows_them():
    shown = ask(top_logprobs=2, include=["message.output_text.logprobs"])
    hidden = ask(top_logprobs=2)
    assert (shown.request.sampling.logprobs, shown.ignored) == (2, ())
    assert (hidden.request.sampling.logprobs, hidden.ignored) == (None, ("top_logprobs",))


def test_what_the_dialect_cannot_say_is_refused_and_not_dropped():
    call = ask()
    for request in (
        replace(call.request, stop=("x",)),
        replace(call.request, num_answers=2),
        replace(call.request, sampling=replace(call.request.sampling, seed=1)),
    ):
        with pytest.raises(FieldError, match="no such field"):
            format_request(replace(call, request=request))


def test_a_fault_in_a_stream_is_an_error_and_a_failed_response():
    made = writer(ask())
    events = [*made.start(), *made.push(AnswerEvent(0, TextDelta("He")))]
    events += made.fail(Problem("overloaded", "the engine stopped"))
    error, failed = (json.loads(event.data) for event in events[-2:])
    assert error["type"] == "error"
    assert error["error"] | {"type": 0} == {"type": 0, "code": None, "message": "the engine stopped", "param": None}
    assert (error["message"], error["code"], error["param"]) == ("the engine stopped", None, None)
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "the engine stopped"}
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert [json.loads(event.data)["sequence_number"] for event in events] == list(range(len(events)))
    with pytest.raises(UpstreamError, match="the engine stopped"):
        read(events)
    with pytest.raises(UpstreamError, match="the engine stopped"):
        read([*events[:-2], events[-1]])


@pytest.mark.parametrize("reason", ["aborted", "error"])
def test_an_answer_that_broke_off_is_never_a_response(reason):
    made = writer(ask())
    made.start()
    made.push(AnswerEvent(0, TextDelta("He")))
    made.push(AnswerEvent(0, Finish(reason, Usage())))
    assert made.finish()[-1].name == "response.failed"
    with pytest.raises(EngineStoppedError):
        made.whole()


def test_text_after_a_call_opens_a_message_of_its_own():
    made = writer(ask())
    rows = [["text", "a"], ["call", 0, "aB3dE6gH9", "f"], ["arguments", 0, "{}"], ["text", "b"], ["finish", "stop", {}]]
    for event in answer_of(rows):
        made.push(event)
    assert [item["type"] for item in made.whole()["output"]] == ["message", "function_call", "message"]
    assert len({item["id"] for item in made.whole()["output"]}) == 3


def test_summaries_stand_in_for_a_thought_that_is_not_shown():
    rows = [
        {"type": "response.reasoning_summary_part.added", "output_index": 0},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "First."},
        {"type": "response.reasoning_summary_part.added", "output_index": 0},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Second."},
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "First."}]}},
        {"type": "response.web_search_call.searching", "output_index": 1},
        {"type": "response.output_item.done", "output_index": 1, "item": {"type": "tool_search_call", "arguments": {}}},
        {"type": "response.completed", "response": {"status": "completed", "output": [], "usage": None}},
    ]  # fmt: skip
    texts = [answer.event.text for answer in read([ServerEvent(json.dumps(row)) for row in rows])[:-1]]
    assert "".join(texts) == "First.\n\nSecond."


def test_items_that_came_without_deltas_are_read_from_their_end():
    rows = [
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}},
        {"type": "response.output_item.done", "output_index": 1,
         "item": {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}},
        {"type": "response.completed", "response": {"status": "completed"}},
    ]  # fmt: skip
    events = [answer.event for answer in read([ServerEvent(json.dumps(row)) for row in rows])]
    assert events[:3] == [TextDelta("Hi"), ToolCallStart(0, "call_1", "f"), ToolCallDelta(0, "{}")]
    assert events[3].reason == "tool_calls"


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"type": 7},
        {"type": "error", "code": "server_error", "message": "no"},
        {"type": "error", "error": {"message": "no"}},
        {"type": "response.completed"},
        {"type": "response.completed", "response": {"status": "queued"}},
        {"type": "response.incomplete", "response": {"status": "incomplete"}},
        {"type": "response.cancelled", "response": {"status": "cancelled"}},
        {"type": "response.failed", "response": {"status": "failed", "error": {"code": "x", "message": "no"}}},
        {"type": "response.output_text.delta", "delta": 7},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.output_item.added", "item": {"type": "function_call"}},
    ],
)
def test_faults_and_nonsense_of_a_provider_are_upstream_errors(row):
    with pytest.raises(UpstreamError):
        Reader().feed(ServerEvent(json.dumps(row)))


def test_errors_have_the_shape_of_openai_and_are_read_back():
    problem = Problem("invalid", "top_p: too large", param="top_p")
    body = format_error(problem)
    assert body["error"] == {
        "message": "top_p: too large",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": None,
    }
    assert isinstance(parse_error(400, json.dumps(body).encode()), RequestError)
    assert isinstance(parse_error(429, b"{}"), RateLimitError)
    assert isinstance(parse_error(500, b"\xff"), UpstreamError)


def test_counting_reads_the_same_body_and_answers_with_a_number():
    assert parse_count(json.dumps(format_count(7)).encode()) == 7
    assert format_count_request(ask(stream=True, max_output_tokens=5)).keys() == {"model", "input"}
    with pytest.raises(UpstreamError):
        parse_count(b"{}")


def test_lists_of_items_come_in_pages():
    items = [{"id": f"in_{number}"} for number in range(5)]
    page = format_item_list(items, limit=2, after="in_3")
    assert [item["id"] for item in page["data"]] == ["in_2", "in_1"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("in_2", "in_1", True)
    assert not format_item_list(items, is_ascending=True)["has_more"]
    for wrong in ({"limit": 0}, {"limit": 101}, {"after": "in_9"}):
        with pytest.raises(FieldError):
            format_item_list(items, **wrong)
