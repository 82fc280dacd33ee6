"""generateContent through the official Google SDK."""

import base64
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
from google import genai
from google.genai import types
from google.genai.errors import APIError, ClientError
from pydantic import BaseModel, Field

client = genai.Client(api_key=KEY, http_options={"base_url": URL})
generate, generate_stream = client.models.generate_content, client.models.generate_content_stream

WEATHER = types.Tool(function_declarations=[{"name": "weather", "parameters_json_schema": CITY}])
FORCED = {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["weather"]}}
ASKED = {"model": "nano", "contents": SUM}


class Total(BaseModel):
    total: int = Field(ge=0, le=999)


def calls_of(part_lists):
    return [part.function_call for parts in part_lists for part in parts or [] if part.function_call]


@case
def plain():
    answer = generate(**ASKED, config={"system_instruction": "Add."})
    assert (answer.text, answer.model_version) == (ANSWER, "nano")
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    older = genai.Client(api_key=KEY, http_options={"base_url": URL, "api_version": "v1beta"})
    assert older.models.generate_content(**ASKED).text == ANSWER


@case
async def asynchronous():
    answer = await client.aio.models.generate_content(**ASKED)
    assert answer.text == ANSWER
    chunks = await client.aio.models.generate_content_stream(**ASKED)
    assert "".join([chunk.text or "" async for chunk in chunks]) == ANSWER


@case
def stream():
    chunks = list(generate_stream(**ASKED))
    assert "".join(chunk.text or "" for chunk in chunks) == ANSWER
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert chunks[-1].usage_metadata.candidates_token_count > 0


@case
def tools():
    limits = {"tools": [WEATHER], "max_output_tokens": JSON_TOKENS}
    turn = generate(**ASKED, config={"tool_config": FORCED, **limits})
    call = turn.function_calls[0]
    assert (call.name, call.args["city"] in CITIES) == ("weather", True)
    history = [
        types.Content(role="user", parts=[types.Part(text=SUM)]),
        types.Content(role="model", parts=[types.Part(function_call=call)]),
        types.Content(
            role="user", parts=[types.Part.from_function_response(name="weather", response={"output": "rain"})]
        ),
    ]
    none = {"function_calling_config": {"mode": "NONE"}}
    after = generate(model="nano", contents=history, config={"tool_config": none, **limits})
    assert (after.function_calls, isinstance(after.text, str)) == (None, True)


@case
def tools_streamed():
    config = {"tools": [WEATHER], "tool_config": FORCED, "max_output_tokens": JSON_TOKENS}
    chunks = list(generate_stream(**ASKED, config=config))
    calls = calls_of(chunk.candidates[0].content.parts for chunk in chunks if chunk.candidates[0].content)
    assert calls[0].args["city"] in CITIES


@case
def parallel():
    asked = {"model": "two-calls", "contents": SUM, "config": {"tools": [WEATHER]}}
    calls = generate(**asked).function_calls
    assert [call.args for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    chunks = list(generate_stream(**asked))
    streamed = calls_of(chunk.candidates[0].content.parts for chunk in chunks if chunk.candidates[0].content)
    assert [call.args for call in streamed] == [{"city": "Paris"}, {"city": "Rome"}]


@case
def schema():
    held = {"response_mime_type": "application/json", "response_schema": Total, "max_output_tokens": JSON_TOKENS}
    assert isinstance(generate(**ASKED, config=held).parsed, Total)
    held = {"response_mime_type": "application/json", "response_json_schema": CITY, "max_output_tokens": JSON_TOKENS}
    assert json.loads(generate(**ASKED, config=held).text)["city"] in CITIES


@case
def image():
    picture = types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png")
    assert generate(model="looks", contents=["What is this?", picture]).text == IMAGE_SEEN


@case
def effort():
    shown = {"thinking_config": {"thinking_level": "HIGH", "include_thoughts": True}}
    thinking = generate(**ASKED, config=shown)
    assert thinking.text == ANSWER
    parts = thinking.candidates[0].content.parts
    assert [bool(part.thought) for part in parts] == [True, False]
    assert thinking.usage_metadata.thoughts_token_count > 0
    question = types.Content(role="user", parts=[types.Part(text=SUM)])
    again = generate(model="nano", contents=[question, thinking.candidates[0].content, question], config=shown)
    assert again.usage_metadata.prompt_token_count > thinking.usage_metadata.prompt_token_count
    off = generate(**ASKED, config={"thinking_config": {"thinking_budget": 0}})
    assert not off.usage_metadata.thoughts_token_count


@case
def usage():
    asked = {"model": "nano", "contents": LONG, "config": {"max_output_tokens": 1}}
    first, second = (generate(**asked).usage_metadata for _ in range(2))
    assert first.prompt_token_count == second.prompt_token_count > 100
    assert second.total_token_count == second.prompt_token_count + second.candidates_token_count
    assert 0 < second.cached_content_token_count < second.prompt_token_count


@case
def bad_key():
    wrong = genai.Client(api_key="wrong", http_options={"base_url": URL})
    with raises(ClientError, code=401, status="UNAUTHENTICATED"):
        wrong.models.generate_content(**ASKED)


@case
def unknown_model():
    with raises(ClientError, "nano", code=404, status="NOT_FOUND"):
        generate(model="gemini-none", contents=SUM)


@case
def context_overflow():
    with raises(ClientError, "2048", code=400, status="INVALID_ARGUMENT"):
        generate(model="nano", contents=TOO_LONG)


@case
def wrong_field():
    with raises(ClientError, "temperature", code=400, status="INVALID_ARGUMENT"):
        generate(**ASKED, config={"temperature": 9})
    ignored = generate(**ASKED, config={"safety_settings": [], "http_options": {"extra_body": {"unheardOf": 1}}})
    assert ignored.sdk_http_response.headers["x-ignored-fields"] == "safetySettings, unheardOf"


@case
def fault():
    with raises(APIError, "the engine stopped"):
        for _ in generate_stream(model="breaks", contents=SUM):
            pass


@case
def models():
    assert {model.name for model in client.models.list()} == {
        f"models/{name}" for name in ("nano", "two-calls", "looks", "breaks")
    }
    assert client.models.get(model="nano").input_token_limit == 2048
    with raises(ClientError, code=404):
        client.models.get(model="gemini-none")


@case
def count_tokens():
    counted = client.models.count_tokens(**ASKED).total_tokens
    assert counted == generate(**ASKED).usage_metadata.prompt_token_count


@case
def stop_string():
    answer = generate(**ASKED, config={"stop_sequences": ["5", "x"]})
    assert (answer.text, answer.candidates[0].finish_reason) == ("6", types.FinishReason.STOP)


@case
def length_stop():
    answer = generate(**ASKED, config={"max_output_tokens": 1})
    assert answer.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS


@case
def several_and_seed():
    config = {"candidate_count": 3, "seed": 7, "temperature": 2, "max_output_tokens": 8}
    first, second = (generate(**ASKED, config=config).candidates for _ in range(2))
    texts = [candidate.content.parts[0].text for candidate in first]
    assert texts == [candidate.content.parts[0].text for candidate in second]
    assert (len(texts), len(set(texts)) > 1) == (3, True)


@case
def logprobs():
    answer = generate(**ASKED, config={"response_logprobs": True, "logprobs": 2})
    result = answer.candidates[0].logprobs_result
    assert "".join(token.token for token in result.chosen_candidates) == ANSWER
    assert all(len(place.candidates) == 2 for place in result.top_candidates)


run_all()
