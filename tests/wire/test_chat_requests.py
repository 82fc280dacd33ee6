"""What Chat Completions requests may hold: limits, refusals, hints, and bodies that nobody foresaw."""

import json
import time
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from small4.chat import ImageLink, Message, TextPart, ThinkPart
from small4.engine.sampling_rules import check_sampling, default_sampling
from small4.errors import FieldError, RequestError
from small4.wire import mistral, openai_chat, openai_text
from small4.wire.call import Call

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "m", "prompt": "Hi"}
PARSERS = {
    "openai_chat": (openai_chat.parse_request, CHAT),
    "mistral": (mistral.parse_request, CHAT),
    "openai_text": (openai_text.parse_request, TEXT),
    "fim": (mistral.parse_fim, TEXT),
}
# field: lowest and highest value, and the step beyond
RANGES = {
    "max_tokens": (1, 2**31 - 1, 1),
    "min_tokens": (0, 2**31 - 1, 1),
    "temperature": (0, 5, 0.001),
    "top_p": (1e-9, 1, 0.001),
    "top_k": (-1, 2**31 - 1, 1),
    "min_p": (0, 1, 0.001),
    "n": (1, 8, 1),
    "seed": (-(2**63), 2**63 - 1, 1),
    "random_seed": (-(2**63), 2**63 - 1, 1),
    "presence_penalty": (-2, 2, 0.001),
    "frequency_penalty": (-2, 2, 0.001),
    "repetition_penalty": (0.1, 10, 0.001),
}
CHAT_RANGES = {"max_completion_tokens": (1, 2**31 - 1, 1)}
NUMERIC = [
    (name, field, bounds)
    for name in PARSERS
    for field, bounds in (RANGES | (CHAT_RANGES if name in ("openai_chat", "mistral") else {})).items()
]


@pytest.mark.parametrize(("name", "field", "bounds"), NUMERIC)
def test_every_number_is_within_its_range_or_refused_by_name(name: str, field: str, bounds: tuple) -> None:
    parse, base = PARSERS[name]
    low, high, step = bounds
    for value in (low, high, None):
        check_sampling(parse(json.dumps({**base, field: value}).encode()).request.sampling)
    for value in (low - step, high + step, 2**63, 2**64, 10**40, 1e308, True, "1", [], {}):
        start = time.monotonic()
        with pytest.raises(FieldError) as caught:
            parse(json.dumps({**base, field: value}).encode())
        assert caught.value.param == field
        assert str(caught.value).startswith(field)
        assert time.monotonic() - start < 0.05


def test_more_alternatives_than_twenty_are_refused() -> None:
    for parse, base in PARSERS.values():
        name = "logprobs" if base is TEXT else "top_logprobs"
        extra = {} if base is TEXT else {"logprobs": True}
        for value in (0, 20):
            assert parse({**base, **extra, name: value}).request.sampling.logprobs == value
        for value in (-1, 21, 2**31, 2**63, 1e308, "1"):
            with pytest.raises(FieldError, match=name):
                parse({**base, **extra, name: value})
    with pytest.raises(FieldError, match="set logprobs to true"):
        openai_chat.parse_request({**CHAT, "top_logprobs": 2})


@pytest.mark.parametrize("value", [-1, 2**31, 2**63, 10**40, 1e308, True, "1"])
def test_numbers_inside_other_fields_have_limits_too(value: object) -> None:
    for param, fields in (
        ("reasoning.max_tokens", {"reasoning": {"max_tokens": value}}),
        ("logit_bias", {"logit_bias": {"5": value if value != -1 else -101}}),
    ):
        with pytest.raises(FieldError) as caught:
            openai_chat.parse_request({**CHAT, **fields})
        assert caught.value.param.startswith(param)
    for field in ("top_a", "prompt_logprobs", "top_prompt_logprobs"):
        with pytest.raises(FieldError, match=field):
            openai_chat.parse_request({**CHAT, field: value})
    with pytest.raises(FieldError, match="best_of"):
        openai_text.parse_request({**TEXT, "best_of": value})


def many(count: int, value: Any) -> list:
    return [deepcopy(value) for _ in range(count)]


TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "a1B2c3D4e", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("field", "limit", "make"),
    [
        ("messages", 1024, partial(many, value=CHAT["messages"][0])),
        ("tools", 128, partial(many, value=TOOL)),
        ("stop", 16, partial(many, value="x")),
        ("logit_bias", 1024, lambda count: dict.fromkeys(map(str, range(count)), 1.0)),
        ("metadata", 16, lambda count: dict.fromkeys(map(str, range(count)), "")),
        ("messages", 256, lambda count: [{"role": "user", "content": many(count, {"type": "text", "text": "a"})}]),
        ("messages", 128, lambda count: [{"role": "assistant", "tool_calls": many(count, CALL)}]),
    ],
)
def test_lists_have_limits(field: str, limit: int, make) -> None:
    assert openai_chat.parse_request({**CHAT, field: make(limit)})
    with pytest.raises(FieldError, match=str(limit)) as caught:
        openai_chat.parse_request({**CHAT, field: make(limit + 1)})
    assert caught.value.param.startswith(field)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("functions", {"functions": [{"name": "f"}]}),
        ("function_call", {"function_call": "auto"}),
        ("web_search_options", {"web_search_options": {"search_context_size": "low"}}),
        ("plugins", {"plugins": [{"id": "web"}]}),
        ("moderation", {"moderation": {"model": "x"}}),
        ("guardrails", {"guardrails": [{}]}),
        ("safe_prompt", {"safe_prompt": True}),
        ("prompt_logprobs", {"prompt_logprobs": True}),
        ("chat_template", {"chat_template": "{{ 1 }}"}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("top_a", {"top_a": 0.1}),
        ("reasoning_effort", {"reasoning_effort": "harder"}),
        ("reasoning.effort", {"reasoning": {"effort": "harder"}}),
        ("reasoning_format", {"reasoning_format": "rot13"}),
        ("prompt_mode", {"prompt_mode": "poem"}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tool_choice": "sometimes"}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
        ("tool_choice.type", {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "g"}}}),
        ("tools[0]", {"tools": [{"type": "function"}]}),
        ("tools[1].function.name", {"tools": [TOOL, {"type": "function", "function": {"name": 7}}]}),
        ("messages", {"messages": []}),
        ("messages[0]", {"messages": [{"content": "Hi"}]}),
        ("messages[0].role", {"messages": [{"role": "function", "content": "Hi"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 7}]}),
        ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
        ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"type": "file"}]}]}),
        (
            "messages[0].content[0].image_url",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp://a"}]}]},
        ),
        ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "x"}]}),
        (
            "messages[0].tool_calls[0].id",
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": "null"}]}]},
        ),
        (
            "messages[0].tool_calls[0].type",
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
        ),
        ("messages[0].audio", {"messages": [{"role": "assistant", "audio": {"id": "x"}}]}),
        ("model", {"model": ""}),
        ("model", {"model": None}),
        ("stop[0]", {"stop": [""]}),
        ("stop[0]", {"stop": ["x" * 257]}),
        ("logit_bias", {"logit_bias": {"5": 101}}),
        ("logit_bias", {"logit_bias": {"five": 1}}),
        ("metadata", {"metadata": {"a": "x" * 513}}),
        ("stream", {"stream": "yes"}),
        ("stream_options.include_usage", {"stream_options": {"include_usage": 1}}),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_honoured_is_named(param: str, fields: dict) -> None:
    for parse in (openai_chat.parse_request, mistral.parse_request):
        with pytest.raises(FieldError) as caught:
            parse({**CHAT, **fields})
        assert (caught.value.param or "").startswith(param), str(caught.value)
        assert param.split("[")[0].split(".")[0] in str(caught.value)


def test_what_is_refused_does_no_harm_while_it_is_empty() -> None:
    empty = {"audio": None, "functions": [], "web_search_options": {}, "plugins": [], "safe_prompt": False, "top_a": 0}
    call = openai_chat.parse_request({**CHAT, **empty, "modalities": ["text"], "tools": [], "chat_template_kwargs": {}})
    assert call.ignored == ()


def test_hints_and_unknown_fields_are_listed() -> None:
    hints = {"user": "u", "store": True, "service_tier": "auto", "verbosity": "low", "prompt_cache_key": "k", "x": 1}
    nested = {"stream_options": {"include_obfuscation": False, "y": 1}, "reasoning": {"summary": "auto"}}
    parts = [{"type": "text", "text": "a", "cache_control": {}}, image("https://a/b", detail="low")]
    call = openai_chat.parse_request({**CHAT, **hints, **nested, "messages": [{"role": "user", "content": parts}]})
    assert call.ignored == (
        "x",
        "user",
        "store",
        "service_tier",
        "verbosity",
        "prompt_cache_key",
        "stream_options.y",
        "stream_options.include_obfuscation",
        "reasoning.summary",
        "messages.content.cache_control",
        "messages.content.image_url.detail",
    )


def image(url: str, **more: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url, **more}}


THOUGHT = (ThinkPart("Add."), TextPart("2"))


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"content": "2", "reasoning": "Add."}, THOUGHT),
        ({"content": "2", "reasoning_content": "Add.", "reasoning": None}, THOUGHT),
        ({"content": "2", "reasoning": "Add.", "reasoning_content": "Add."}, THOUGHT),
        ({"content": "2", "reasoning_details": [{"type": "reasoning.text", "text": "Add."}]}, THOUGHT),
        ({"content": "2", "reasoning_details": [{"type": "reasoning.summary", "summary": "Add."}]}, THOUGHT),
        ({"content": [{"type": "thinking", "thinking": "Add."}, {"type": "text", "text": "2"}]}, THOUGHT),
        ({"content": [{"type": "thinking", "thinking": "Add."}], "reasoning": "Add."}, (ThinkPart("Add."),)),
        ({"content": None, "reasoning": "Add."}, (ThinkPart("Add."),)),
        ({"content": "2", "reasoning": ""}, "2"),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, (TextPart("No."),)),
    ],
)
def test_reasoning_comes_back_in_every_form(fields: dict, content) -> None:
    for parse in (openai_chat.parse_request, mistral.parse_request):
        call = parse({**CHAT, "messages": [*CHAT["messages"], {"role": "assistant", **fields}]})
        assert call.request.messages[1] == Message("assistant", content)


@pytest.mark.parametrize(
    ("fields", "effort", "budget", "shown"),
    [
        ({}, "none", None, "both"),
        ({"reasoning_effort": "minimal"}, "none", None, "both"),
        ({"reasoning_effort": "low"}, "high", None, "both"),
        ({"reasoning_effort": "none", "reasoning": {"effort": "high", "max_tokens": 9}}, "none", None, "both"),
        ({"reasoning": {"enabled": True}}, "high", None, "both"),
        ({"reasoning": {"max_tokens": 9, "exclude": True}}, "high", 9, "hidden"),
        ({"reasoning": {"max_tokens": 0}}, "none", None, "both"),
        ({"prompt_mode": "reasoning", "reasoning_format": "reasoning"}, "high", None, "reasoning"),
        ({"include_reasoning": False}, "none", None, "hidden"),
    ],
)
def test_effort_is_read_in_every_form(fields: dict, effort: str, budget: int | None, shown: str) -> None:
    call = openai_chat.parse_request({**CHAT, **fields})
    assert (call.request.effort, call.request.thinking_budget) == (effort, budget)
    assert call.form.reasoning_format == shown
    assert call.request.sampling == default_sampling(effort)
    assert not call.has_temperature


def test_spellings_that_mean_the_same() -> None:
    assert openai_chat.parse_request({**CHAT, "stop": "x"}).request.stop == ("x",)
    assert openai_chat.parse_request({**CHAT, "max_tokens": 5, "max_completion_tokens": 4}).request.max_tokens == 4
    assert openai_chat.parse_request({**CHAT, "random_seed": 5}).request.sampling.seed == 5
    assert openai_chat.parse_request({**CHAT, "top_k": 0}).request.sampling.top_k is None
    assert openai_chat.parse_request({**CHAT, "usage": {"include": True}}).form.has_stream_usage
    assert mistral.parse_request(CHAT).form.reasoning_format == "thinking_chunks"
    call = openai_chat.parse_request({**CHAT, "messages": [{"role": "user", "content": [image("http://a/b")]}]})
    assert call.request.messages[0].content == (ImageLink("http://a/b"),)


def test_a_prompt_of_the_text_endpoint_is_continued() -> None:
    call = openai_text.parse_request({**TEXT, "echo": True, "suffix": "", "best_of": 1})
    assert call.request.messages == (Message("user", ""), Message("assistant", "Hi", prefix=True))
    assert (call.request.max_tokens, call.form.echo) == (16, "Hi")
    assert mistral.parse_fim(TEXT).request.max_tokens is None
    written = openai_text.format_request(openai_text.parse_request({**TEXT, "n": 2, "stop": "a", "logprobs": 1}))
    assert written == {**TEXT, "n": 2, "max_tokens": 16, "stop": ["a"], "logprobs": 1}
    with pytest.raises(FieldError, match="chat endpoint"):
        openai_text.format_request(openai_chat.parse_request(CHAT))


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ""}, {"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": [[1]]}, {"suffix": "x"},
     {"best_of": 2}, {"echo": True, "logprobs": 1}],
)  # fmt: skip
def test_what_the_text_endpoint_cannot_do_is_named(fields: dict) -> None:
    with pytest.raises(FieldError) as caught:
        openai_text.parse_request({**TEXT, **fields})
    assert caught.value.param == next(iter(fields))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FULL = {
    **CHAT,
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, image("https://a/b", detail="low")]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}], "closed": True}],
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "r"},
    ],
    "tools": [
        {**TOOL, "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}}
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "reasoning": {"effort": "high", "max_tokens": 5},
    "stream_options": {"include_usage": True},
    "logit_bias": {"5": 1},
    "metadata": {"a": "b"},
    "stop": ["a"],
    "usage": {"include": True},
    **{field: bounds[1] for field, bounds in (RANGES | CHAT_RANGES).items()},
}
FULL_TEXT = {name: value for name, value in FULL.items() if name not in ("messages", "tools")} | TEXT


def paths(value: Any, path: tuple = ()) -> list[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in children for deeper in paths(child, (*path, key)))]


@st.composite
def bodies(draw: st.DrawFn, full: dict) -> dict:
    """A whole request in which some values are replaced by others, or by parts of itself, or left out."""
    body = {"": deepcopy(full)}
    for _ in range(draw(st.integers(1, 3))):
        places = paths(body)[2:]
        place = draw(st.sampled_from(places))
        parent = body
        for key in place[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.integers(0, 4)) == 0:
            del parent[place[-1]]
        else:
            parent[place[-1]] = deepcopy(draw(JSON | st.sampled_from([TOOL, CALL, [], {}, "auto", image("data:,")])))
    return body[""]


def parse_or_refuse(parse, body: Any) -> None:
    try:
        call = parse(body)
    except RequestError:
        pass
    else:
        assert isinstance(call, Call)
        check_sampling(call.request.sampling)
        assert all(path.isprintable() and path.isascii() for path in call.ignored)


@pytest.mark.parametrize("name", PARSERS)
def test_no_body_raises_anything_but_a_request_error(name: str) -> None:
    parse, base = PARSERS[name]
    full = FULL if base is CHAT else FULL_TEXT
    parse(full)

    @settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
    @given(body=bodies(full) | JSON)
    def run(body: Any) -> None:
        parse_or_refuse(parse, json.dumps(body).encode())

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_no_body_of_many_raises_anything_but_a_request_error(name: str) -> None:
    parse, base = PARSERS[name]
    full = FULL if base is CHAT else FULL_TEXT

    @settings(max_examples=4000, suppress_health_check=list(HealthCheck), deadline=None)
    @given(body=bodies(full) | JSON)
    def run(body: Any) -> None:
        parse_or_refuse(parse, json.dumps(body).encode())

    run()


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_request_error(data: bytes) -> None:
    parse_or_refuse(openai_chat.parse_request, data)
