"""Messages through the official Anthropic SDK."""

from typing import Literal

from anthropic import (
    Anthropic,
    APIStatusError,
    AsyncAnthropic,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    transform_schema,
)
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
from pydantic import BaseModel

client = Anthropic(base_url=URL, api_key=KEY, max_retries=0)
messages = client.messages

QUESTION = [{"role": "user", "content": SUM}]
ASKED = {"model": "nano", "max_tokens": 50, "messages": QUESTION}
WEATHER = {"name": "weather", "input_schema": CITY, "strict": True}
FORCED = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
THINKING = {"type": "enabled", "budget_tokens": 1024}


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


@case
def plain():
    answer = messages.create(system="Add.", **ASKED)
    assert [(block.type, block.text) for block in answer.content] == [("text", ANSWER)]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "nano")


@case
async def asynchronous():
    async with AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as other:
        answer = await other.messages.create(**ASKED)
        assert answer.content[0].text == ANSWER
        async with other.messages.stream(**ASKED) as events:
            assert "".join([text async for text in events.text_stream]) == ANSWER


@case
def stream():
    events = list(messages.create(stream=True, **ASKED))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == ANSWER
    with messages.stream(**ASKED) as helper:
        assert "".join(helper.text_stream) == ANSWER
        whole = helper.get_final_message()
    assert (whole.stop_reason, whole.content[0].text) == ("end_turn", ANSWER)
    assert whole.usage.output_tokens > 0


@case
def tools():
    asked = {**ASKED, "max_tokens": JSON_TOKENS, "tools": [WEATHER]}
    turn = messages.create(tool_choice={"type": "any", "disable_parallel_tool_use": True}, **asked)
    (call,) = turn.content
    assert (turn.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "weather")
    assert call.input["city"] in CITIES
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    history = [*QUESTION, {"role": "assistant", "content": turn.content}, {"role": "user", "content": [result]}]
    after = messages.create(tool_choice={"type": "none"}, **{**asked, "messages": history})
    assert [block.type for block in after.content] == ["text"]


@case
def tools_streamed():
    asked = {**ASKED, "max_tokens": JSON_TOKENS, "tools": [WEATHER]}
    with messages.stream(tool_choice=FORCED, **asked) as events:
        kinds = {event.type for event in events}
        whole = events.get_final_message()
    assert "input_json" in kinds
    assert (whole.stop_reason, whole.content[0].input["city"] in CITIES) == ("tool_use", True)


@case
def parallel():
    asked = {**ASKED, "model": "two-calls", "tools": [WEATHER]}
    calls = messages.create(**asked).content
    assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({call.id for call in calls}) == 2
    with messages.stream(**asked) as events:
        assert [call.input for call in events.get_final_message().content] == [{"city": "Paris"}, {"city": "Rome"}]


@case
def schema():
    held = {"format": {"type": "json_schema", "schema": transform_schema(Place)}}
    answer = messages.create(output_config=held, **{**ASKED, "max_tokens": JSON_TOKENS})
    assert isinstance(Place.model_validate_json(answer.content[0].text), Place)
    parsed = messages.parse(output_format=Place, **{**ASKED, "max_tokens": JSON_TOKENS})
    assert isinstance(parsed.parsed_output, Place)


@case
def image():
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    answer = messages.create(model="looks", max_tokens=50, messages=[{"role": "user", "content": parts}])
    assert answer.content[0].text == IMAGE_SEEN


@case
def effort():
    asked = {**ASKED, "max_tokens": 2000, "thinking": THINKING}
    thinking = messages.create(**asked)
    assert [block.type for block in thinking.content] == ["thinking", "text"]
    assert (thinking.content[1].text, thinking.content[0].thinking != "") == (ANSWER, True)
    history = [*QUESTION, {"role": "assistant", "content": thinking.content}, *QUESTION]
    again = messages.create(**{**asked, "messages": history, "max_tokens": 1500})
    assert again.usage.input_tokens + again.usage.cache_read_input_tokens > thinking.usage.input_tokens
    with messages.stream(**asked) as events:
        assert events.get_final_message().content[0].signature == thinking.content[0].signature != ""
    adaptive = {**asked, "thinking": {"type": "adaptive"}}
    assert messages.create(**adaptive).content[0].type == "thinking"
    assert [block.type for block in messages.create(**adaptive, output_config={"effort": "low"}).content] == ["text"]


@case
def usage():
    asked = {"model": "nano", "messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
    first, second = (messages.create(**asked).usage for _ in range(2))
    totals = [used.input_tokens + used.cache_read_input_tokens for used in (first, second)]
    assert totals[0] == totals[1] > 100
    assert (second.cache_read_input_tokens > 0, second.input_tokens > 0, second.output_tokens) == (True, True, 1)


@case
def bad_key():
    with raises(AuthenticationError, status_code=401, type="authentication_error"):
        Anthropic(base_url=URL, api_key="wrong", max_retries=0).messages.create(**ASKED)
    by_token = Anthropic(base_url=URL, api_key=None, auth_token=KEY, max_retries=0)
    assert by_token.messages.create(**ASKED).content[0].text == ANSWER


@case
def unknown_model():
    with raises(NotFoundError, "nano", type="not_found_error"):
        messages.create(**{**ASKED, "model": "claude-none"})


@case
def context_overflow():
    with raises(BadRequestError, "prompt is too long", "2048", type="invalid_request_error"):
        messages.create(model="nano", max_tokens=50, messages=[{"role": "user", "content": TOO_LONG}])


@case
def wrong_field():
    with raises(BadRequestError, "temperature", type="invalid_request_error"):
        messages.create(**ASKED, extra_body={"temperature": 9})
    raw = messages.with_raw_response.create(**ASKED, service_tier="auto", extra_body={"unheard_of": 1})
    assert set(raw.headers["x-ignored-fields"].split(", ")) == {"service_tier", "unheard_of"}


@case
def fault():
    with raises(APIStatusError, "the engine stopped"):
        for _ in messages.create(stream=True, **{**ASKED, "model": "breaks"}):
            pass


@case
def models():
    assert {model.id for model in client.models.list()} == {"nano", "two-calls", "looks", "breaks"}
    assert (client.models.retrieve("nano").type, client.models.retrieve("nano").id) == ("model", "nano")
    with raises(NotFoundError, type="not_found_error"):
        client.models.retrieve("claude-none")


@case
def count_tokens():
    counted = messages.count_tokens(model="nano", messages=QUESTION, tools=[WEATHER]).input_tokens
    used = messages.create(tools=[WEATHER], **ASKED).usage
    assert counted == used.input_tokens + used.cache_read_input_tokens


@case
def stop_string():
    answer = messages.create(stop_sequences=["5", "x"], **ASKED)
    assert (answer.content[0].text, answer.stop_reason, answer.stop_sequence) == ("6", "stop_sequence", "5")


@case
def length_stop():
    answer = messages.create(**{**ASKED, "max_tokens": 1})
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 1)


run_all()
