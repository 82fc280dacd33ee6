"""Requests of Anthropic's dialect: in all their spellings, honoured, refused or ignored by name, and written."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import (
    AllowedTools,
    ChatRequest,
    JsonObject,
    Message,
    NamedTool,
    Sampling,
    TextPart,
    ThinkPart,
    Tool,
    ToolCall,
)
from small4.errors import FieldError, RequestError
from small4.tokenizer.conversation import check_messages
from small4.wire import anthropic
from small4.wire.anthropic import format_request, parse_count_request, parse_request
from small4.wire.anthropic_format import unsupported
from small4.wire.call import Call
from tests.wire.anthropic_exchanges import EXCHANGES, PLAIN, TOOL, each_exchange, parse
from tests.wire.exchanges import BOUNDARIES, JSON, SIGNER, check_changed, refused_field, said


@each_exchange
def test_a_golden_request_is_written_as_it_was_read(exchange):
    call = parse(exchange["request"])
    said(call)
    assert call.ignored == ()
    assert format_request(call, SIGNER) == exchange["request"]


@each_exchange
def test_other_spellings_ask_for_the_same(exchange):
    merged = exchange.get("merged", False)
    for variant in exchange["variants"]:
        assert said(parse(variant), merged) == said(parse(exchange["request"]), merged)


def test_a_thought_counts_only_with_our_signature():
    def thoughts(signature):
        block = {"type": "thinking", "thinking": "So.", "signature": signature}
        call = parse(PLAIN | {"messages": [*PLAIN["messages"], {"role": "assistant", "content": [block]}]})
        return call.request.messages[1:], call.ignored

    assert thoughts(SIGNER.sign("So.")) == ((Message("assistant", (ThinkPart("So."),), prefix=True),), ())
    for signature in ("", "AAAA", "é", SIGNER.sign("So!")):
        assert thoughts(signature) == ((), ("messages.content.thinking",))


def test_provider_tools_and_hints_are_ignored_by_name():
    call = parse(
        PLAIN
        | {
            "tools": [TOOL | {"defer_loading": True}, {"type": "bash_20250124", "name": "bash"}],
            "container": "c",
            "made_up": 1,
            "thinking": {"type": "disabled"},
            "output_config": {"effort": "max"},
            "mcp_servers": None,
        }
    )
    assert call.request.tools == (Tool("f", "", {"type": "object"}),)
    assert call.ignored == (
        "container",
        "made_up",
        "tools.defer_loading",
        "tools.bash_20250124",
        "output_config.effort",
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice.name"),
        (
            {"tool_choice": {"type": "tool", "name": "bash"}, "tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tool_choice.name",
        ),
        ({"tool_choice": {"type": "often"}}, "tool_choice.type"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"stop_sequences": ["x" * 257]}, "stop_sequences[0]"),
        ({"messages": [{"role": "user", "content": "x"}] * 1025}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "messages[0].content[0].type"),
        ({"output_config": {"effort": "harder"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        ({"thinking": {"type": "adaptive", "display": "sung"}}, "thinking.display"),
        ({"metadata": {"user_id": "x" * 513}}, "metadata"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_path(fields, param):
    with pytest.raises(FieldError) as caught:
        parse(PLAIN | fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}, "type"),
        ({"type": "image", "source": {"type": "file", "file_id": "x"}}, "type"),
        ({"type": "image", "source": {"type": "url", "url": "file:///x"}}, "url"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}, "data"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_its_path(block, place):
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    for content, path in (([block], "messages[0].content[0]"), ([result], "messages[0].content[0].content[0]")):
        with pytest.raises(FieldError) as caught:
            parse(PLAIN | {"messages": [{"role": "user", "content": content}]})
        assert caught.value.param == f"{path}.source.{place}"


def test_citations_are_refused():
    block = {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}
    with pytest.raises(FieldError, match=r"messages\[0\]\.content\[0\]\.citations\.enabled"):
        parse(PLAIN | {"messages": [{"role": "user", "content": [block]}]})


@pytest.mark.parametrize(
    ("fields", "effort", "budget"),
    [
        ({}, "none", None),
        ({"output_config": {"effort": "high"}}, "none", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "high", 5000),
        ({"thinking": {"type": "adaptive"}}, "high", None),
        ({"thinking": {"type": "between_tools"}, "output_config": {"effort": "xhigh"}}, "high", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}, "output_config": {"effort": "low"}}, "none", None),
    ],
)
def test_thinking_and_effort_become_one_of_two_states(fields, effort, budget):
    request = parse(PLAIN | fields).request
    assert (request.effort, request.thinking_budget) == (effort, budget)
    assert request.sampling.temperature == {"none": 0.1, "high": 0.7}[effort]


def test_calls_of_neighbouring_turns_are_one_message():
    use = {"type": "tool_use", "name": "f", "input": {}}
    results = [{"type": "tool_result", "tool_use_id": f"{i}", "content": f"{i}"} for i in range(2)]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}, use | {"id": "0"}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [use | {"id": "1"}]},
        {"role": "user", "content": [results[1]]},
        {"role": "user", "content": [results[0], {"type": "text", "text": "d"}]},
    ]
    call = parse(PLAIN | {"messages": turns})
    said(call)
    assistant = call.request.messages[1]
    assert assistant.content == (TextPart("b"), TextPart("\n\n"), TextPart("c"))
    assert len(assistant.tool_calls) == 2
    assert [message.content for message in call.request.messages[2:]] == ["1", "0", "d"]


def test_a_system_text_without_a_place_is_said_by_the_user():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "system", "content": "e"},
    ]
    call = parse(PLAIN | {"messages": turns})
    said(call)
    assert [message.role for message in call.request.messages] == ["user", "system", "user", "assistant", "user"]


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "top_p", "top_k", "thinking.budget_tokens"])
def test_numbers_are_taken_or_refused_by_name(name):
    outcomes = set()
    for value in (*BOUNDARIES, 5, 5.001, 1.001, 1e-9):
        body = PLAIN | ({"thinking": {"type": "enabled", "budget_tokens": value}} if "." in name else {name: value})
        outcomes.add(refused_field(parse, body))
    assert outcomes == {None, name}


@settings(max_examples=50)
@given(data=st.data())
def test_a_request_changed_anywhere_is_refused_or_written_as_it_was_read(data):
    read_and_write(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(data=st.data())
def test_thousands_of_changed_requests_are_refused_or_written_as_they_were_read(data):
    read_and_write(data)


def read_and_write(data):
    def parse_whole(body):
        call = parse(body)
        check_messages(call.request.messages, training=False)  # results that no call asked for are refused there
        return call

    check_changed(data, EXCHANGES, parse_whole, lambda call: format_request(call, SIGNER))


@settings(max_examples=40)
@given(body=st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_body_is_read_or_refused(body):
    for read_body in (parse_request, parse_count_request):
        with pytest.raises(RequestError):
            read_body(body, SIGNER)


def test_counting_needs_no_max_tokens():
    body = {name: value for name, value in PLAIN.items() if name != "max_tokens"}
    assert parse_count_request(json.dumps(body).encode(), SIGNER).request.max_tokens is None
    assert anthropic.format_count(7) == {"input_tokens": 7}


def test_what_the_dialect_cannot_say_is_refused_by_name():
    request = ChatRequest(
        messages=(Message("user", "Hi"), Message("assistant", (ThinkPart("So", closed=False),), prefix=True)),
        sampling=Sampling(temperature=2.0, seed=1, logprobs=2),
        num_answers=2,
        response_format=JsonObject(),
    )
    names = ["seed", "logprobs", "num_answers", "response_format", "a prefix that ends inside a thought"]
    assert unsupported(request) == names
    with pytest.raises(FieldError, match="seed"):
        format_request(Call(request=request, model="m"))


def test_a_provider_gets_no_thoughts_that_it_did_not_sign():
    messages = (
        Message("user", "a"),
        Message("assistant", (ThinkPart("b"),)),
        Message("user", "c"),
        Message("assistant", (ThinkPart("d"),), (ToolCall("a1B2c3D4e", "f", "[1]"),)),
        Message("tool", "e", tool_call_id="a1B2c3D4e"),
    )
    body = format_request(Call(request=ChatRequest(messages=messages), model="m"))
    assert body["max_tokens"] == 8192
    assert body["messages"][:2] == [{"role": "user", "content": "a"}, {"role": "user", "content": "c"}]
    use = {"type": "tool_use", "id": "a1B2c3D4e", "name": "f", "input": {"INVALID_JSON": "[1]"}}
    assert body["messages"][2] == {"role": "assistant", "content": [use]}


@pytest.mark.parametrize(
    ("choice", "names", "said_choice"),
    [
        ("auto", ["f", "g"], None),
        ("none", ["f", "g"], {"type": "none"}),
        (NamedTool("g"), ["f", "g"], {"type": "tool", "name": "g"}),
        (AllowedTools(("g",)), ["g"], None),
        (AllowedTools(("g",), is_required=True), ["g"], {"type": "any"}),
    ],
)
def test_tool_choices_are_said_in_the_dialects_words(choice, names, said_choice):
    tools = (Tool("f", "", {}), Tool("g", "", {}))
    request = ChatRequest(messages=(Message("user", "a"),), tools=tools, tool_choice=choice)
    for is_parallel in (True, False):
        body = format_request(Call(request=replace(request, parallel_tool_calls=is_parallel), model="m"))
        assert [tool["name"] for tool in body["tools"]] == names
        expected = said_choice
        if not is_parallel and choice != "none":
            expected = {**(said_choice or {"type": "auto"}), "disable_parallel_tool_use": True}
        assert body.get("tool_choice") == expected
