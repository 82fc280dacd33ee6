"""Requests of the Responses API: in all their shapes, honoured, refused or ignored by name, and written."""

import json
from dataclasses import replace
from typing import Any

import pytest

from small4.chat import AllowedTools, ImageLink, ImagePart, JsonObject, NamedTool, TextPart, ThinkPart
from small4.errors import FieldError, UpstreamError
from small4.tokenizer.conversation import check_messages, to_turns
from small4.wire.openai_responses import format_count, format_count_request, format_request, parse_count
from tests.wire.responses_exchanges import EXCHANGES, REQUESTS, ask, parse


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


def test_counting_reads_the_same_body_and_answers_with_a_number():
    assert parse_count(json.dumps(format_count(7)).encode()) == 7
    assert format_count_request(ask(stream=True, max_output_tokens=5)).keys() == {"model", "input"}
    with pytest.raises(UpstreamError):
        parse_count(b"{}")
