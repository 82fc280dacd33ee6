"""The Responses API through the official OpenAI SDK."""

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
from openai import APIError, AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel, Field

BASE_URL = f"{URL}/v1"
client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
responses = client.responses

WEATHER = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}


class Total(BaseModel):
    total: int = Field(ge=0, le=999)


@case
def plain():
    answer = responses.create(model="nano", input=SUM, instructions="Add.")
    assert answer.output_text == ANSWER
    assert (answer.status, answer.object, answer.model, answer.error) == ("completed", "response", "nano", None)


@case
async def asynchronous():
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as other:
        answer = await other.responses.create(model="nano", input=SUM)
        assert answer.output_text == ANSWER
        events = await other.responses.create(model="nano", input=SUM, stream=True)
        assert [event.type async for event in events][-1] == "response.completed"


@case
def stream():
    events = list(responses.create(model="nano", input=SUM, reasoning={"effort": "high"}, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert events[-1].response.output[0].content[0].text == thought != ""


@case
def tools():
    asked = {"model": "nano", "tools": [WEATHER], "max_output_tokens": JSON_TOKENS}
    turn = responses.create(input=SUM, tool_choice="required", parallel_tool_calls=False, **asked)
    (call,) = turn.output
    assert (turn.status, call.type, call.name) == ("completed", "function_call", "weather")
    assert json.loads(call.arguments)["city"] in CITIES
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    after = responses.create(input=[{"role": "user", "content": SUM}, call, result], tool_choice="none", **asked)
    assert [item.type for item in after.output] == ["message"]


@case
def tools_streamed():
    name = {"type": "function", "name": "weather"}
    asked = {"model": "nano", "input": SUM, "tools": [WEATHER], "max_output_tokens": JSON_TOKENS}
    with responses.stream(tool_choice=name, parallel_tool_calls=False, **asked) as events:
        kinds = {event.type for event in events}
        (call,) = events.get_final_response().output
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert call.parsed_arguments["city"] in CITIES


@case
def parallel():
    asked = {"model": "two-calls", "input": SUM, "tools": [WEATHER]}
    calls = responses.create(**asked).output
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2
    with responses.stream(**asked) as events:
        streamed = events.until_done().get_final_response().output
    assert [call.parsed_arguments for call in streamed] == [{"city": "Paris"}, {"city": "Rome"}]


@case
def schema():
    answer = responses.parse(model="nano", input=SUM, text_format=Total, max_output_tokens=JSON_TOKENS)
    assert 0 <= answer.output_parsed.total <= 999


@case
def image():
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
    ]
    assert responses.create(model="looks", input=[{"role": "user", "content": parts}]).output_text == IMAGE_SEEN


@case
def effort():
    asked = {"model": "nano", "reasoning": {"effort": "high"}, "include": ["reasoning.encrypted_content"]}
    thinking = responses.create(input=SUM, store=False, **asked)
    assert (thinking.output_text, thinking.reasoning.effort) == (ANSWER, "high")
    assert [item.type for item in thinking.output] == ["reasoning", "message"]
    assert thinking.output[0].encrypted_content
    assert thinking.usage.output_tokens_details.reasoning_tokens > 0
    question = {"role": "user", "content": SUM}
    again = responses.create(input=[question, *thinking.output, question], max_output_tokens=99, **asked)
    assert again.usage.input_tokens > thinking.usage.input_tokens


@case
def usage():
    asked = {"model": "nano", "input": LONG, "max_output_tokens": 1}
    first, second = (responses.create(**asked).usage for _ in range(2))
    assert first.input_tokens == second.input_tokens > 100
    assert second.total_tokens == second.input_tokens + second.output_tokens
    assert 0 < second.input_tokens_details.cached_tokens < second.input_tokens


@case
def bad_key():
    with raises(AuthenticationError, code="invalid_api_key", status_code=401):
        OpenAI(base_url=BASE_URL, api_key="wrong", max_retries=0).responses.create(model="nano", input=SUM)


@case
def unknown_model():
    with raises(NotFoundError, "nano", code="model_not_found"):
        responses.create(model="gpt-none", input=SUM)


@case
def context_overflow():
    with raises(BadRequestError, "2048", code="context_length_exceeded"):
        responses.create(model="nano", input=TOO_LONG)


@case
def wrong_field():
    with raises(BadRequestError, param="temperature", type="invalid_request_error"):
        responses.create(model="nano", input=SUM, temperature=9)
    with raises(BadRequestError, param="background"):
        responses.create(model="nano", input=SUM, background=True)
    raw = responses.with_raw_response.create(model="nano", input=SUM, truncation="auto", extra_body={"unheard_of": 1})
    assert raw.headers["x-ignored-fields"] == "unheard_of, truncation"


@case
def fault():
    with raises(APIError, "the engine stopped"):
        for _ in responses.create(model="breaks", input=SUM, stream=True):
            pass


@case
def count_tokens():
    counted = responses.input_tokens.count(model="nano", input=SUM).input_tokens
    assert counted == responses.create(model="nano", input=SUM).usage.input_tokens


@case
def length_stop():
    answer = responses.create(model="nano", input=SUM, max_output_tokens=1)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    events = list(responses.create(model="nano", input=SUM, max_output_tokens=1, stream=True))
    assert events[-1].type == "response.incomplete"


@case
def logprobs():
    include = ["message.output_text.logprobs"]
    answer = responses.create(model="nano", input=SUM, include=include, top_logprobs=2)
    scored = answer.output[0].content[0].logprobs
    assert "".join(token.token for token in scored) == ANSWER
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in scored)


@case
def kept():
    first = responses.create(model="nano", input=SUM)
    after = responses.create(model="nano", input=SUM, previous_response_id=first.id, max_output_tokens=9)
    assert after.usage.input_tokens > first.usage.input_tokens
    assert after.previous_response_id == first.id
    assert responses.retrieve(first.id).output_text == ANSWER
    assert [item.content[0].text for item in responses.input_items.list(first.id)] == [SUM]
    responses.delete(first.id)
    with raises(NotFoundError, status_code=404):
        responses.retrieve(first.id)


run_all()
