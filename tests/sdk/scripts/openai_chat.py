"""Chat completions through the official OpenAI SDK."""

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
from openai import (
    APIError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    pydantic_function_tool,
)
from pydantic import BaseModel, Field

BASE_URL = f"{URL}/v1"
client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
chat = client.chat.completions

QUESTION = [{"role": "user", "content": SUM}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}


class Total(BaseModel):
    total: int = Field(ge=0, le=999)


@case
def plain():
    answer = chat.create(model="nano", messages=QUESTION)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.tool_calls is None
    assert (answer.choices[0].finish_reason, answer.object, answer.model) == ("stop", "chat.completion", "nano")


@case
async def asynchronous():
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as other:
        answer = await other.chat.completions.create(model="nano", messages=QUESTION)
        assert answer.choices[0].message.content == ANSWER
        stream = await other.chat.completions.create(model="nano", messages=QUESTION, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER


@case
def stream():
    options = {"include_usage": True}
    chunks = list(chat.create(model="nano", messages=QUESTION, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    assert (chunks[-1].choices, {chunk.usage for chunk in chunks[:-1]}) == ([], {None})
    assert chunks[-1].usage.total_tokens > chunks[-1].usage.completion_tokens > 0


@case
def tools():
    asked = {"model": "nano", "tools": [WEATHER], "max_tokens": JSON_TOKENS}
    turn = chat.create(messages=QUESTION, tool_choice="required", parallel_tool_calls=False, **asked).choices[0]
    (call,) = turn.message.tool_calls
    assert (turn.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(call.function.arguments)["city"] in CITIES
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    after = chat.create(messages=[*QUESTION, turn.message, result], tool_choice="none", **asked).choices[0]
    assert after.finish_reason in ("stop", "length")
    assert after.message.tool_calls is None


@case
def tools_streamed():
    name = {"type": "function", "function": {"name": "weather"}}
    asked = {"model": "nano", "messages": QUESTION, "tools": [WEATHER], "max_tokens": JSON_TOKENS}
    with chat.stream(tool_choice=name, parallel_tool_calls=False, **asked) as events:
        kinds = {event.type for event in events}
        turn = events.get_final_completion().choices[0]
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert turn.message.tool_calls[0].function.parsed_arguments["city"] in CITIES
    assert turn.finish_reason == "tool_calls"


@case
def parallel():
    asked = {"model": "two-calls", "messages": QUESTION, "tools": [WEATHER]}
    calls = chat.create(**asked).choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert len({call.id for call in calls}) == 2
    with chat.stream(**asked) as events:
        streamed = events.until_done().get_final_completion().choices[0].message.tool_calls
    assert [call.function.parsed_arguments for call in streamed] == [{"city": "Paris"}, {"city": "Rome"}]


@case
def schema():
    limits = {"max_tokens": JSON_TOKENS, "parallel_tool_calls": False}
    answer = chat.parse(model="nano", messages=QUESTION, response_format=Total, max_tokens=JSON_TOKENS)
    assert 0 <= answer.choices[0].message.parsed.total <= 999
    tool = pydantic_function_tool(Total)
    called = chat.parse(model="nano", messages=QUESTION, tools=[tool], tool_choice="required", **limits)
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Total)


@case
def image():
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "auto"}},
    ]
    answer = chat.create(model="looks", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == IMAGE_SEEN


@case
def effort():
    thinking = chat.create(model="nano", messages=QUESTION, reasoning_effort="high")
    message = thinking.choices[0].message
    assert message.content == ANSWER
    assert message.reasoning == message.reasoning_content != ""
    assert thinking.usage.completion_tokens_details.reasoning_tokens > 0
    without = chat.create(model="nano", messages=QUESTION, reasoning_effort="none")
    assert without.usage.completion_tokens_details.reasoning_tokens == 0
    again = chat.create(model="nano", messages=[*QUESTION, message, *QUESTION], reasoning_effort="high", max_tokens=99)
    assert again.usage.prompt_tokens > thinking.usage.prompt_tokens


@case
def usage():
    asked = {"model": "nano", "messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
    first, second = (chat.create(**asked).usage for _ in range(2))
    assert first.prompt_tokens == second.prompt_tokens > 100
    assert second.completion_tokens == 1
    assert second.total_tokens == second.prompt_tokens + second.completion_tokens
    assert 0 < second.prompt_tokens_details.cached_tokens < second.prompt_tokens


@case
def bad_key():
    with raises(AuthenticationError, code="invalid_api_key", status_code=401):
        OpenAI(base_url=BASE_URL, api_key="wrong", max_retries=0).chat.completions.create(
            model="nano", messages=QUESTION
        )


@case
def unknown_model():
    with raises(NotFoundError, "nano", code="model_not_found", type="invalid_request_error"):
        chat.create(model="gpt-none", messages=QUESTION)


@case
def context_overflow():
    with raises(BadRequestError, "2048", code="context_length_exceeded"):
        chat.create(model="nano", messages=[{"role": "user", "content": TOO_LONG}])
    with raises(BadRequestError, code="context_length_exceeded"):
        list(chat.create(model="nano", messages=[{"role": "user", "content": TOO_LONG}], stream=True))


@case
def wrong_field():
    with raises(BadRequestError, param="temperature", type="invalid_request_error"):
        chat.create(model="nano", messages=QUESTION, temperature=9)
    with raises(BadRequestError, param="modalities"):
        chat.create(model="nano", messages=QUESTION, modalities=["text", "audio"])
    raw = chat.with_raw_response.create(model="nano", messages=QUESTION, extra_body={"unheard_of": 1})
    assert raw.headers["x-ignored-fields"] == "unheard_of"
    assert raw.parse().choices[0].message.content == ANSWER


@case
def fault():
    with raises(APIError, "the engine stopped"):
        for _ in chat.create(model="breaks", messages=QUESTION, stream=True):
            pass


@case
def models():
    assert {model.id for model in client.models.list()} == {"nano", "two-calls", "looks", "breaks"}
    assert client.models.retrieve("nano").owned_by == "local"
    with raises(NotFoundError, code="model_not_found"):
        client.models.retrieve("gpt-none")


@case
def stop_string():
    answer = chat.create(model="nano", messages=QUESTION, stop=["5", "x"])
    assert answer.choices[0].message.content == "6"
    assert answer.choices[0].finish_reason == "stop"


@case
def length_stop():
    answer = chat.create(model="nano", messages=QUESTION, max_completion_tokens=1)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)
    chunks = list(chat.create(model="nano", messages=QUESTION, max_tokens=1, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


@case
def several_and_seed():
    asked = {"model": "nano", "messages": QUESTION, "n": 3, "seed": 7, "temperature": 2, "max_tokens": 8}
    first, second = (chat.create(**asked) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1
    chunks = chat.create(stream=True, **asked)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}


@case
def logprobs():
    answer = chat.create(model="nano", messages=QUESTION, logprobs=True, top_logprobs=2)
    scored = answer.choices[0].logprobs.content
    assert "".join(token.token for token in scored) == ANSWER
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in scored)


@case
def text_completion():
    answer = client.completions.create(model="nano", prompt=SUM, max_tokens=4, echo=True)
    assert answer.choices[0].text.startswith(SUM)
    chunks = client.completions.create(model="nano", prompt=SUM, max_tokens=4, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("stop", "length")


run_all()
