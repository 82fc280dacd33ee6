"""Chat and fill-in-the-middle through the official Mistral SDK."""

import json

from cases import (
    ANSWER,
    CITIES,
    CITY,
    IMAGE_SEEN,
    JSON_TOKENS,
    KEY,
    LONG,
    PNG,
    SUM,
    TOO_LONG,
    URL,
    case,
    raises,
    run_all,
)
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, MistralError, SDKError
from pydantic import BaseModel, Field

client = Mistral(server_url=URL, api_key=KEY)
chat = client.chat

QUESTION = [{"role": "user", "content": SUM}]
ASKED = {"model": "nano", "messages": QUESTION}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}


class Total(BaseModel):
    total: int = Field(ge=0, le=999)


def chunks_of(**asked):
    with chat.stream(**asked) as events:
        return [event.data for event in events]


@case
def plain():
    answer = chat.complete(**ASKED)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert answer.model == "nano"


@case
async def asynchronous():
    async with Mistral(server_url=URL, api_key=KEY) as other:
        answer = await other.chat.complete_async(**ASKED)
        assert answer.choices[0].message.content == ANSWER
        events = await other.chat.stream_async(**ASKED)
        assert "".join([event.data.choices[0].delta.content or "" async for event in events]) == ANSWER


@case
def stream():
    chunks = chunks_of(**ASKED)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert (chunks[-1].choices[0].finish_reason, chunks[-1].usage.completion_tokens > 0) == ("stop", True)


@case
def tools():
    asked = {"model": "nano", "tools": [WEATHER], "max_tokens": JSON_TOKENS}
    turn = chat.complete(messages=QUESTION, tool_choice="any", parallel_tool_calls=False, **asked).choices[0]
    (call,) = turn.message.tool_calls
    assert (turn.finish_reason, call.function.name, len(call.id)) == ("tool_calls", "weather", 9)
    assert json.loads(call.function.arguments)["city"] in CITIES
    result = {"role": "tool", "name": "weather", "tool_call_id": call.id, "content": "rain"}
    after = chat.complete(messages=[*QUESTION, turn.message, result], tool_choice="none", **asked).choices[0]
    assert not after.message.tool_calls


@case
def tools_streamed():
    name = {"type": "function", "function": {"name": "weather"}}
    asked = {**ASKED, "tools": [WEATHER], "max_tokens": JSON_TOKENS}
    chunks = chunks_of(tool_choice=name, parallel_tool_calls=False, **asked)
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert (call.function.name, json.loads(call.function.arguments)["city"] in CITIES) == ("weather", True)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@case
def parallel():
    asked = {"model": "two-calls", "messages": QUESTION, "tools": [WEATHER]}
    calls = chat.complete(**asked).choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    streamed = [call for chunk in chunks_of(**asked) for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, json.loads(call.function.arguments)["city"]) for call in streamed] == [
        (0, "Paris"),
        (1, "Rome"),
    ]


@case
def schema():
    answer = chat.parse(Total, max_tokens=JSON_TOKENS, **ASKED)
    assert isinstance(answer.choices[0].message.parsed, Total)


@case
def image():
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    answer = chat.complete(model="looks", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == IMAGE_SEEN


@case
def effort():
    thinking = chat.complete(reasoning_effort="high", **ASKED)
    message = thinking.choices[0].message
    assert [part.type for part in message.content] == ["thinking", "text"]
    assert (message.content[1].text, message.content[0].thinking[0].text != "") == (ANSWER, True)
    again = chat.complete(model="nano", messages=[*QUESTION, message, *QUESTION], reasoning_effort="high")
    assert again.usage.prompt_tokens > thinking.usage.prompt_tokens
    parts = [chunk.choices[0].delta.content for chunk in chunks_of(prompt_mode="reasoning", **ASKED)]
    assert any(isinstance(part, list) and part[0].type == "thinking" for part in parts)


@case
def usage():
    asked = {"model": "nano", "messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
    first, second = (chat.complete(**asked).usage for _ in range(2))
    assert first.prompt_tokens == second.prompt_tokens > 100
    assert second.total_tokens == second.prompt_tokens + second.completion_tokens


@case
def bad_key():
    with raises(SDKError, status_code=401):
        Mistral(server_url=URL, api_key="wrong").chat.complete(**ASKED)


@case
def unknown_model():
    with raises(SDKError, "nano", status_code=404):
        chat.complete(model="mistral-none", messages=QUESTION)


@case
def context_overflow():
    with raises(MistralError, "2048", status_code=400):
        chat.complete(model="nano", messages=[{"role": "user", "content": TOO_LONG}])


@case
def wrong_field():
    with raises(HTTPValidationError, "temperature", status_code=422):
        chat.complete(temperature=9, **ASKED)


@case
def fault():
    seen = []
    with raises(MistralError), chat.stream(model="breaks", messages=QUESTION) as events:
        for event in events:
            seen.append(event.data.choices[0])
    assert (seen[-2].delta.content, seen[-1].finish_reason) == ("so far", "error")


@case
def models():
    assert {card.id for card in client.models.list().data} == {"nano", "two-calls", "looks", "breaks"}
    card = client.models.retrieve(model_id="nano")
    assert (card.id, card.max_context_length, card.capabilities.function_calling) == ("nano", 2048, True)
    with raises(MistralError, status_code=404):
        client.models.retrieve(model_id="mistral-none")


@case
def stop_string():
    answer = chat.complete(stop=["5", "x"], **ASKED)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("6", "stop")


@case
def length_stop():
    answer = chat.complete(max_tokens=1, **ASKED)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)


@case
def several_and_seed():
    unsure = [{"role": "user", "content": "17+48+36+25"}]  # of its answer, that is
    asked = {"model": "nano", "messages": unsure, "n": 3, "random_seed": 7, "temperature": 1.5, "max_tokens": 8}
    first, second = ([choice.message.content for choice in chat.complete(**asked).choices] for _ in range(2))
    assert (len(first), len(set(first)) > 1, first == second) == (3, True, True)


@case
def text_completion():
    answer = client.fim.complete(model="nano", prompt=SUM, max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length")
    with client.fim.stream(model="nano", prompt=SUM, max_tokens=4) as events:
        assert [event.data.choices[0].finish_reason for event in events][-1] in ("stop", "length")


run_all()
