"""Any call survives the way to a provider that speaks a Chat Completions dialect, whatever its fields hold together."""

import json
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import (
    TEMPERATURES,
    AllowedTools,
    ChatRequest,
    ImageLink,
    ImagePart,
    JsonObject,
    JsonSchema,
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
from small4.wire import mistral, openai_chat
from small4.wire.call import Call

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
texts = st.builds(TextPart, words)
thoughts = st.builds(ThinkPart, words, st.booleans())
images = st.builds(ImagePart, st.binary(min_size=1, max_size=8)) | st.sampled_from([ImageLink("https://a/b")])
ids = st.from_regex(r"[a-zA-Z0-9]{9}", fullmatch=True)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
schemas = st.dictionaries(names, st.integers() | words | st.lists(st.booleans(), max_size=2), min_size=1, max_size=2)


def content(*parts: st.SearchStrategy) -> st.SearchStrategy:
    return words | st.lists(st.one_of(parts), min_size=1, max_size=3).map(tuple)


calls = st.lists(st.builds(ToolCall, ids, names, words), max_size=2).map(tuple)
systems = st.builds(Message, st.just("system"), content(texts))
users = st.builds(Message, st.just("user"), content(texts, images))
assistants = st.builds(Message, st.just("assistant"), content(texts, thoughts), calls, prefix=st.booleans())
results = st.builds(Message, st.just("tool"), content(texts, images), tool_call_id=ids)
conversations = st.builds(
    lambda first, others, last: (*first, *others, last),
    st.lists(systems, max_size=2),
    st.lists(users | assistants | results, max_size=3),
    users,
)
tools = st.lists(st.builds(Tool, names, words, schemas, st.booleans()), max_size=3, unique_by=lambda tool: tool.name)
formats = st.none() | st.just(JsonObject()) | schemas.map(JsonSchema) | st.builds(Regex, words) | st.builds(Lark, words)


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    number = st.floats
    bias = st.dictionaries(st.integers(0, 2**17), number(-100, 100), max_size=3).map(lambda pairs: tuple(pairs.items()))
    return draw(
        st.builds(
            Sampling,
            temperature=number(0, 5),
            top_p=number(0.001, 1),
            top_k=st.none() | st.integers(1, 2**31 - 1),
            min_p=number(0, 1),
            seed=st.none() | st.integers(0, 2**63 - 1),
            repetition_penalty=number(0.1, 10),
            presence_penalty=number(-2, 2),
            frequency_penalty=number(-2, 2),
            logit_bias=bias,
            logprobs=st.none() | st.integers(0, 20),
            min_tokens=st.integers(0, 2**31 - 1),
            ignore_eos=st.booleans(),
        )
    )


@st.composite
def requests(draw: st.DrawFn) -> ChatRequest:
    offered = tuple(draw(tools))
    chosen = [st.sampled_from(["auto", "none"])]
    if offered:
        some = st.lists(st.sampled_from([tool.name for tool in offered]), min_size=1, max_size=2, unique=True)
        chosen += [st.just("required"), st.sampled_from(offered).map(lambda tool: NamedTool(tool.name))]
        chosen += [st.builds(AllowedTools, some.map(tuple), st.booleans())]
    effort = draw(st.sampled_from(["none", "high"]))
    return ChatRequest(
        messages=draw(conversations),
        tools=offered,
        tool_choice=draw(st.one_of(chosen)),
        parallel_tool_calls=draw(st.booleans()),
        response_format=draw(formats),
        effort=effort,
        sampling=draw(samplings()),
        num_answers=draw(st.integers(1, 8)),
        max_tokens=draw(st.none() | st.integers(1, 2**31 - 1)),
        thinking_budget=draw(st.none() | st.integers(0, 1000)) if effort == "high" else None,
        stop=draw(st.lists(words.filter(bool), max_size=3).map(tuple)),
    )


@st.composite
def any_call(draw: st.DrawFn) -> Call:
    call = Call(
        request=draw(requests()),
        model=draw(names),
        is_stream=draw(st.booleans()),
        has_temperature=draw(st.booleans()),
        metadata=draw(st.dictionaries(names, words, max_size=2)),
    )
    if call.has_temperature:
        return call
    request = call.request
    sampling = replace(request.sampling, temperature=TEMPERATURES[request.effort])
    return replace(call, request=replace(request, sampling=sampling))


def check_many(dialect: ModuleType, num_calls: int) -> None:
    @settings(max_examples=num_calls, deadline=None)
    @given(call=any_call())
    def run(call: Call) -> None:
        body = json.dumps(dialect.format_request(call)).encode()
        parsed = dialect.parse_request(body)
        assert replace(parsed, form=None) == call
        assert dialect.format_request(parsed) == dialect.format_request(call)

    run()


@pytest.mark.parametrize("dialect", [openai_chat, mistral])
def test_what_a_provider_is_sent_means_the_call(dialect: ModuleType) -> None:
    check_many(dialect, 12)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [openai_chat, mistral])
def test_what_a_provider_is_sent_means_the_call_for_many(dialect: ModuleType) -> None:
    check_many(dialect, 1000)
