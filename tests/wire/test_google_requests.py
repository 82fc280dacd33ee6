"""Requests of Google's dialect: in all their spellings, honoured, refused or ignored by name, and written."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import (
    AllowedTools,
    ChatRequest,
    ImageLink,
    ImagePart,
    Lark,
    Message,
    NamedTool,
    Regex,
    Sampling,
    TextPart,
    ThinkPart,
    Tool,
    ToolCall,
)
from small4.errors import FieldError, RequestError
from small4.wire import google
from small4.wire.call import Call
from small4.wire.google import format_request
from small4.wire.google_format import unsupported
from tests.wire.exchanges import BOUNDARIES, JSON, check_changed, refused_field, said
from tests.wire.google_exchanges import DECLARED, EXCHANGES, PLAIN, config, declared, each_exchange, parse, parts


@each_exchange
def test_a_golden_request_is_written_as_it_was_read(exchange):
    call = parse(exchange["request"], exchange["path"])
    said(call)
    assert call.ignored == ()
    assert format_request(call) == exchange["request"]


@each_exchange
def test_other_spellings_ask_for_the_same(exchange):
    merged = exchange.get("merged", False)
    for variant in exchange["variants"]:
        expected = said(parse(exchange["request"], exchange["path"]), merged)
        assert said(parse(variant, exchange["path"]), merged) == expected


def test_hints_and_the_providers_own_tools_are_ignored_by_name():
    call = parse(
        PLAIN
        | {
            "tools": [{"googleSearch": {}}, {"function_declarations": [{"name": "f", "behavior": "BLOCKING"}]}],
            "safety_settings": [],
            "service_tier": "x",
            "generationConfig": {"media_resolution": "LOW"},
        }
    )
    assert call.ignored == (
        "tools.googleSearch",
        "tools.functionDeclarations.behavior",
        "safetySettings",
        "serviceTier",
        "generationConfig.mediaResolution",
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        (PLAIN | {"cachedContent": "cachedContents/1"}, "cachedContent"),
        (config(responseModalities=["IMAGE"]), "generationConfig.responseModalities"),
        (config(topK=1.5), "generationConfig.topK"),
        (config(topK=1, top_k=1), "topK"),
        (config(logprobs=3), "generationConfig.logprobs"),
        (config(responseMimeType="image/png"), "generationConfig.responseMimeType"),
        (config(responseMimeType="text/plain", responseSchema={}), "generationConfig.responseSchema"),
        (config(responseMimeType="text/x.enum"), "generationConfig.responseSchema"),
        (config(responseSchema={}, responseJsonSchema={}), "generationConfig.responseJsonSchema"),
        (config(responseSchema={"type": "TEXT"}), "generationConfig.responseSchema.type"),
        (config(responseSchema={"items": {"min_items": "x"}}), "generationConfig.responseSchema.items.minItems"),
        (config(responseSchema={"anyOf": [1]}), "generationConfig.responseSchema.anyOf[0]"),
        (config(thinkingConfig={"thinkingLevel": "MORE"}), "generationConfig.thinkingConfig.thinkingLevel"),
        (
            config(thinkingConfig={"thinkingLevel": "LOW", "thinkingBudget": 1}),
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (config(stopSequences=[""]), "generationConfig.stopSequences[0]"),
        (PLAIN | {"labels": {"a": "x" * 513}}, "labels"),
        (PLAIN | {"contents": [{"parts": [{"text": "x"}]}] * 1025}, "contents"),
        (parts(*[{"text": "x"}] * 257), "contents[0].parts"),
        (parts({"text": "x"}, role="system"), "contents[0].role"),
        (parts({}), "contents[0].parts[0]"),
        (parts({"executableCode": {}}), "contents[0].parts[0]"),
        (parts({"text": "x", "inlineData": {"mimeType": "image/png", "data": "AA=="}}), "contents[0].parts[0]"),
        (parts({"text": "x", "thought": True}), "contents[0].parts[0]"),
        (parts({"functionCall": {"name": "f"}}), "contents[0].parts[0]"),
        (parts({"functionResponse": {"name": "f"}}), "contents[0].parts[0].functionResponse"),
        (parts({"inlineData": {"mimeType": "image/png", "data": "AA=="}}, role="model"), "contents[0].parts[0]"),
        (parts({"inlineData": {"mimeType": "audio/wav", "data": "AA=="}}), "contents[0].parts[0].inlineData.data"),
        (parts({"inlineData": {"mimeType": "text/plain", "data": "_w=="}}), "contents[0].parts[0].inlineData.data"),
        (parts({"fileData": {"fileUri": "gs://a/b"}}), "contents[0].parts[0].fileData.fileUri"),
        (
            parts({"fileData": {"fileUri": "https://a/b", "mimeType": "application/pdf"}}),
            "contents[0].parts[0].fileData.mimeType",
        ),
        (PLAIN | {"systemInstruction": {"parts": [{"fileData": {"fileUri": "x"}}]}}, "systemInstruction.parts[0]"),
        (declared(*[{"name": "f"}] * 129), "tools.functionDeclarations"),
        (
            PLAIN
            | {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {}, "parametersJsonSchema": {}}]}]},
            "tools[0].functionDeclarations[0].parametersJsonSchema",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_path(body, param):
    with pytest.raises(FieldError) as caught:
        parse(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("choice", "expected", "strict"),
    [
        ({}, "auto", [False, False]),
        ({"mode": "AUTO"}, "auto", [False, False]),
        ({"mode": "NONE"}, "none", [False, False]),
        ({"mode": "ANY"}, "required", [True, True]),
        ({"mode": "ANY", "allowedFunctionNames": ["g"]}, NamedTool("g"), [False, True]),
        ({"mode": "ANY", "allowedFunctionNames": ["f", "g"]}, AllowedTools(("f", "g"), True), [True, True]),
        ({"mode": "VALIDATED"}, "auto", [True, True]),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["g"]}, AllowedTools(("g",)), [False, True]),
    ],
)
def test_modes_become_tool_choices_and_back(choice, expected, strict):
    call = parse(PLAIN | {"tools": DECLARED, "toolConfig": {"functionCallingConfig": choice}})
    assert call.request.tool_choice == expected
    assert [tool.strict for tool in call.request.tools] == strict
    assert parse(format_request(call)).request == call.request


@pytest.mark.parametrize(
    ("choice", "tools", "place"),
    [
        ({"mode": "SOMETIMES"}, DECLARED, ".mode"),
        ({"mode": "ANY"}, [{"googleSearch": {}}], ".mode"),
        ({"mode": "AUTO", "allowedFunctionNames": ["f"]}, DECLARED, ".allowedFunctionNames"),
        ({"mode": "ANY", "allowedFunctionNames": ["h"]}, DECLARED, ".allowedFunctionNames"),
    ],
)
def test_a_choice_that_cannot_be_honoured_is_refused(choice, tools, place):
    with pytest.raises(FieldError) as caught:
        parse(PLAIN | {"tools": tools, "toolConfig": {"functionCallingConfig": choice}})
    assert caught.value.param == f"toolConfig.functionCallingConfig{place}"


@pytest.mark.parametrize(
    ("thinking", "effort", "budget", "shows"),
    [
        ({}, "none", None, False),
        ({"thinkingBudget": 0}, "none", None, False),
        ({"thinkingBudget": 0, "includeThoughts": True}, "none", None, True),
        ({"thinkingBudget": -1}, "high", None, False),
        ({"thinkingBudget": 99}, "high", 99, False),
        ({"thinkingLevel": "MINIMAL"}, "none", None, False),
        ({"thinkingLevel": "low"}, "high", None, False),
        ({"thinkingLevel": "XHIGH", "includeThoughts": True}, "high", None, True),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, "none", None, False),
        ({"includeThoughts": True}, "high", None, True),
    ],
)
def test_levels_and_budgets_become_one_of_two_states(thinking, effort, budget, shows):
    call = parse(config(thinkingConfig=thinking))
    assert (call.request.effort, call.request.thinking_budget, call.form.shows_thoughts) == (effort, budget, shows)


def test_files_of_text_and_images_are_read():
    body = parts(
        {"inlineData": {"mimeType": "text/plain", "data": "w6k"}},
        {"inlineData": {"mimeType": "image/png", "data": "_-8="}},
        {"fileData": {"fileUri": "https://a/b"}},
    )
    expected = (TextPart("é"), ImagePart(b"\xff\xef"), ImageLink("https://a/b"))
    assert parse(body).request.messages == (Message("user", expected),)


@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "presencePenalty",
        "frequencyPenalty",
        "seed",
        "logprobs",
        "thinkingBudget",
    ],
)
def test_numbers_are_taken_or_refused_by_name(name):
    outcomes = set()
    for value in (*BOUNDARIES, 2, 2.001, 5, 5.001, 8, 9, 20, 21, 1.001, -2, -2.001, -(2**63), -(2**63) - 1):
        fields = {"thinkingConfig": {name: value}} if name == "thinkingBudget" else {name: value}
        outcomes.add(refused_field(parse, config(responseLogprobs=True, **fields)))
    prefix = "generationConfig.thinkingConfig." if name == "thinkingBudget" else "generationConfig."
    assert outcomes == {None, prefix + name}


@settings(max_examples=50)
@given(data=st.data())
def test_a_request_changed_anywhere_is_refused_or_written_as_it_was_read(data):
    check_changed(data, EXCHANGES, parse, format_request)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(data=st.data())
def test_thousands_of_changed_requests_are_refused_or_written_as_they_were_read(data):
    check_changed(data, EXCHANGES, parse, format_request)


@settings(max_examples=40)
@given(body=st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_body_is_refused(body):
    for read_body in (google.parse_request, google.parse_count_request):
        with pytest.raises(RequestError):
            read_body(body, "m")


def test_counting_takes_contents_or_a_whole_request():
    inside = {"generateContentRequest": PLAIN | {"model": "models/m"}}
    for body in (PLAIN, inside, {"generate_content_request": PLAIN}):
        call = google.parse_count_request(json.dumps(body).encode(), "models/m")
        assert (call.request.messages, call.model) == ((Message("user", "Hi"),), "m")
    assert google.format_count(7) == {"totalTokens": 7}


@pytest.mark.parametrize("model", ["", "x" * 257])
def test_a_model_without_a_name_or_with_too_long_a_one_is_refused(model):
    with pytest.raises(FieldError, match="model"):
        google.parse_request(PLAIN, model)


def test_what_the_dialect_cannot_say_is_refused_by_name():
    request = ChatRequest(
        messages=(Message("user", "Hi"), Message("assistant", (ThinkPart("So", closed=False),), prefix=True)),
        sampling=Sampling(temperature=2.0, seed=1, min_p=0.1),
        tools=(Tool("f", "", {}),),
        parallel_tool_calls=False,
        response_format=Lark("start: /a/"),
    )
    names = ["min_p", "parallel_tool_calls", "response_format", "a prefix that ends inside a thought"]
    assert unsupported(request) == names
    assert unsupported(replace(request, response_format=Regex("a+")))[2] == "response_format"
    with pytest.raises(FieldError, match="min_p"):
        format_request(Call(request=request, model="m"))


def test_a_conversation_of_another_dialect_is_said_in_googles_turns():
    messages = (
        Message("system", "a"),
        Message("system", "b"),
        Message("user", "c"),
        Message("system", "d"),
        Message("assistant", "", (ToolCall("a1B2c3D4e", "f", "[1]"),)),
        Message("tool", "e", tool_call_id="a1B2c3D4e"),
        Message("assistant", "g"),
        Message("user", ""),
    )
    call = Call(request=ChatRequest(messages=messages), model="m", metadata={"a": "b"}, has_temperature=False)
    function = {"id": "a1B2c3D4e", "name": "f"}
    assert format_request(call) == {
        "systemInstruction": {"parts": [{"text": "a"}, {"text": "b"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "c"}]},
            {"role": "user", "parts": [{"text": "d"}]},
            {"role": "model", "parts": [{"functionCall": function | {"args": {"INVALID_JSON": "[1]"}}}]},
            {"role": "user", "parts": [{"functionResponse": function | {"response": {"output": "e"}}}]},
            {"role": "model", "parts": [{"text": "g"}]},
            {"role": "user", "parts": [{"text": ""}]},
        ],
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 0}},
    }
