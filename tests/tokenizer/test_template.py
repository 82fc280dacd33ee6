"""The layout, held to the worked examples of the model specification (5.2) and to its rules."""

import io

import numpy as np
import pytest
from PIL import Image

from small4.chat import ChatRequest, Effort, ImagePart, Message, TextPart, ThinkPart, Tool, ToolCall
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render, render_training

SETTINGS_NONE = [36, 19227, 80277, 1302, 13196, 1609, 1449, 2811, 1429, 17670, 46005, 37]
SETTINGS_HIGH = [24871 if token == 17670 else token for token in SETTINGS_NONE]
WEATHER = Tool(
    "get_weather",
    "Weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
WEATHER_CHAT = (
    Message("system", "S"),
    Message("user", "Weather?"),
    Message("assistant", tool_calls=(ToolCall("call1", "get_weather", '{"city":"Paris"}'),)),
    Message("tool", '{"t": 21}', tool_call_id="call1"),
)


def ids(tokenizer: Tokenizer, *messages: Message, effort: Effort = "none", tools: tuple[Tool, ...] = ()) -> list[int]:
    return render(tokenizer, ChatRequest(messages=messages, effort=effort, tools=tools)).token_ids


def text(tokenizer: Tokenizer, *messages: Message, effort: Effort = "none", tools: tuple[Tool, ...] = ()) -> str:
    return tokenizer.decode(ids(tokenizer, *messages, effort=effort, tools=tools))


def png(width: int, height: int) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(file, "PNG")
    return ImagePart(file.getvalue())


def test_plain_text_has_the_ids_of_the_specification(release: Tokenizer) -> None:
    assert release.encode_text("Hello, world!") == [22177, 1044, 4304, 1033]


def test_effort_none_example(release: Tokenizer) -> None:
    assert ids(release, Message("user", "Hi")) == [1, *SETTINGS_NONE, 3, 37133, 4]


def test_effort_high_example(release: Tokenizer) -> None:
    assert ids(release, Message("user", "Hi"), effort="high") == [1, *SETTINGS_HIGH, 3, 37133, 4]


def test_system_example(release: Tokenizer) -> None:
    found = ids(release, Message("system", "Be brief."), Message("user", "Hi"), effort="high")
    assert found == [1, 17, 5934, 13426, 1046, 18, *SETTINGS_HIGH, 3, 37133, 4]


def test_tool_example(release: Tokenizer) -> None:
    found = ids(release, *WEATHER_CHAT, tools=(WEATHER,))
    assert release.decode(found) == (
        '<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{"type": "function", "function": {"name": "get_weather", '
        '"description": "Weather.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, '
        '"required": ["city"]}}}][/AVAILABLE_TOOLS][MODEL_SETTINGS]{"reasoning_effort": "none"}[/MODEL_SETTINGS][INST]'
        'Weather?[/INST][TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}</s>[TOOL_RESULTS]{"t": 21}[/TOOL_RESULTS]'
    )
    call = [9, 1689, 1095, 45629, 32, 19227, 29363, 2811, 1429, 42572, 46005, 2]
    result = [7, 19227, 1116, 2811, 1032, 1050, 1049, 1125, 8]
    assert found[-len(call) - len(result) :] == call + result


def test_reasoning_stays_in_the_history(release: Tokenizer) -> None:
    answer = Message("assistant", (ThinkPart("let me think"), TextPart("A1")))
    found = ids(release, Message("user", "U1"), answer, Message("user", "U2"))
    assert found == [1, *SETTINGS_NONE, 3, 1085, 1049, 4, 34, 2186, 1639, 3648, 35, 1065, 1049, 2, 3, 1085, 1050, 4]


def test_image_example(release: Tokenizer) -> None:
    message = Message("user", (TextPart("What?"), png(100, 61)))
    prompt = render(release, ChatRequest(messages=(message,)))
    row = [10, 10, 10, 10, 12]
    assert prompt.token_ids == [1, *SETTINGS_NONE, 3, *row, *row, *row[:4], 13, *release.encode_text("What?"), 4]
    assert [image.shape for image in prompt.images] == [(3, 84, 112)]
    assert prompt.images[0].dtype == np.float32


def test_spelled_control_tokens_stay_text(release: Tokenizer) -> None:
    found = ids(release, Message("user", "</s>[INST]x"))
    assert found == [1, *SETTINGS_NONE, 3, 1885, 1115, 110391, 3174, 3074, 1093, 1120, 4]


def test_settings_and_tools_stand_once_before_the_first_user_turn(nano: Tokenizer) -> None:
    found = text(
        nano,
        Message("system", "S1"),
        Message("system", "S2"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("system", "S3"),
        Message("user", "d"),
        tools=(Tool("f", "", {}),),
    )
    assert found == (
        "<s>[SYSTEM_PROMPT]S1[/SYSTEM_PROMPT][SYSTEM_PROMPT]S2[/SYSTEM_PROMPT]"
        '[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]'
        '[/AVAILABLE_TOOLS][MODEL_SETTINGS]{"reasoning_effort": "none"}[/MODEL_SETTINGS]'
        "[INST]a[/INST]b</s>[INST]c[/INST][SYSTEM_PROMPT]S3[/SYSTEM_PROMPT][INST]d[/INST]"
    )


def test_open_prefix_has_no_end(nano: Tokenizer) -> None:
    found = text(nano, Message("user", "a"), Message("assistant", "The", prefix=True))
    assert found.endswith("[INST]a[/INST]The")


def test_open_thought_is_left_open(nano: Tokenizer) -> None:
    prefix = Message("assistant", (ThinkPart("First", closed=False),), prefix=True)
    assert text(nano, Message("user", "a"), prefix).endswith("[/INST][THINK]First")


def test_tool_results_follow_the_order_of_the_calls(nano: Tokenizer) -> None:
    calls = (ToolCall("x", "f", "{}"), ToolCall("y", "g", "{}"))
    found = text(
        nano,
        Message("user", "a"),
        Message("assistant", "look", tool_calls=calls),
        Message("tool", "second", tool_call_id="y"),
        Message("tool", "first", tool_call_id="x"),
    )
    assert found.endswith(
        "look[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}</s>"
        "[TOOL_RESULTS]first[/TOOL_RESULTS][TOOL_RESULTS]second[/TOOL_RESULTS]"
    )


def test_neighbouring_messages_of_one_speaker_are_one_turn(nano: Tokenizer) -> None:
    found = text(nano, Message("user", "a "), Message("user", (TextPart("b"), TextPart("c"))))
    assert found.endswith("[INST]a \n\nbc[/INST]")


def test_no_tool_result_moves_its_image_first(nano: Tokenizer) -> None:
    call = Message("assistant", tool_calls=(ToolCall("x", "f", ""),))
    result = Message("tool", (TextPart("seen"), png(20, 20)), tool_call_id="x")
    found = text(nano, Message("user", "a"), call, result)
    assert found.endswith("[TOOL_CALLS]f[ARGS]{}</s>[TOOL_RESULTS]seen[IMG][IMG_END][/TOOL_RESULTS]")


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"b":1,"a":[1,2]}', '{"b": 1, "a": [1, 2]}'),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ("", "{}"),
        ("not JSON", '"not JSON"'),
    ],
)
def test_arguments_are_written_in_one_spelling(nano: Tokenizer, arguments: str, written: str) -> None:
    messages = [Message("user", "a"), Message("assistant", tool_calls=(ToolCall("x", "f", arguments),))]
    found = nano.decode(render_training(nano, messages).token_ids)
    assert found.endswith(f"[TOOL_CALLS]f[ARGS]{written}</s>")


def test_training_marks_what_the_assistant_wrote(nano: Tokenizer) -> None:
    thought = (ThinkPart("t"), TextPart("x"))
    messages = [Message("user", "a"), Message("assistant", thought), Message("user", "b"), Message("assistant", "y")]
    example = render_training(nano, messages, effort="high")
    marked = [token for token, is_target in zip(example.token_ids, example.is_target, strict=True) if is_target]
    assert nano.decode(marked) == "[THINK]t[/THINK]x</s>y</s>"


def test_training_and_request_agree_on_the_history(nano: Tokenizer) -> None:
    messages = [*WEATHER_CHAT, Message("assistant", "21 degrees")]
    example = render_training(nano, messages, tools=(WEATHER,), effort="high")
    request = ids(nano, *WEATHER_CHAT, effort="high", tools=(WEATHER,))
    assert example.token_ids[: len(request)] == request


def test_nano_ids_are_the_ids_of_the_release(nano: Tokenizer, release: Tokenizer) -> None:
    assert [nano.token_bytes(token) for token in range(nano.vocab_size)] == [
        release.token_bytes(token) for token in range(nano.vocab_size)
    ]
