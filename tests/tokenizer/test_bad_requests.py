"""Every malformed conversation ends in a typed error that names the way out."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.chat import ChatRequest, ImagePart, Message, TextPart, ThinkPart, Tool, ToolCall
from small4.errors import EffortError, ImageError, MessageOrderError, RequestError, ToolError
from small4.tokenizer.tekken import MAX_WHITESPACE_RUN, Tokenizer
from small4.tokenizer.template import MAX_SCHEMA_CHARACTERS, render, render_training
from small4.tokenizer.truncate import SPECIAL_TOKENS, dump_tekken, nano_tekken

HI = Message("user", "Hi")
CALL = Message("assistant", tool_calls=(ToolCall("c1", "f", "{}"),))


def ask(tokenizer: Tokenizer, *messages: Message, **options: Any) -> list[int]:
    return render(tokenizer, ChatRequest(messages=messages, **options)).token_ids


@pytest.mark.parametrize("effort", ["medium", "", "HIGH", None, 1])
def test_unknown_effort_names_both_allowed(nano: Tokenizer, effort: Any) -> None:
    with pytest.raises(EffortError, match="allowed: none, high"):
        ask(nano, HI, effort=effort)
    with pytest.raises(EffortError, match="allowed: none, high"):
        render_training(nano, [HI, Message("assistant", "a")], effort=effort)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "conversation is empty"),
        ([Message("assistant", "a")], "the last message has the role assistant"),
        ([Message("system", "s")], "the last message has the role system"),
        ([HI, Message("system", "s")], "the last message has the role system"),
        ([HI, Message("assistant", "a")], "the last message has the role assistant"),
        ([Message("tool", "r", tool_call_id="c1")], "the first message has the role tool"),
        ([HI, Message("tool", "r", tool_call_id="c1")], "the role tool after the role user"),
        ([HI, Message("assistant", "a"), Message("system", "s"), HI], "the role system after the role assistant"),
        ([Message("system", "s"), Message("tool", "r", tool_call_id="c1")], "the role tool after the role system"),
        ([HI, Message("assistant", "a", prefix=True), HI], "message 1 is marked as a prefix; only a last"),
        ([Message("user", "a", prefix=True)], "message 0 is marked as a prefix; only a last"),
        ([HI, Message("assistant", "", prefix=True)], "an assistant message is empty"),
        ([HI, Message("assistant", ""), HI], "an assistant message is empty"),
        ([HI, Message("assistant", (TextPart(""),)), HI], "an assistant message is empty"),
        ([Message("assistant", "a", prefix=True)], "no user message"),
        ([Message("developer", "d"), HI], "unknown role 'developer'; allowed: system, user"),  # type: ignore[arg-type]
    ],
)
def test_wrong_order_is_refused(nano: Tokenizer, messages: list[Message], reason: str) -> None:
    with pytest.raises(MessageOrderError, match=reason):
        ask(nano, *messages)


@pytest.mark.parametrize(
    "messages", [[], [HI], [HI, Message("assistant", "a", prefix=True)], [HI, Message("assistant", "")]]
)
def test_training_conversation_ends_with_a_finished_answer(nano: Tokenizer, messages: list[Message]) -> None:
    with pytest.raises(MessageOrderError):
        render_training(nano, messages)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([HI, CALL, HI], "no result for the tool call 'c1'"),
        ([HI, CALL, Message("assistant", "a"), HI], "no result for the tool call 'c1'"),
        ([HI, CALL, Message("tool", "r")], "message 2 \\(tool\\) has no tool call id"),
        ([HI, CALL, Message("tool", "r", tool_call_id="null")], "neither empty nor 'null'"),
        ([HI, CALL, Message("tool", "r", tool_call_id="c2")], "unknown tool call 'c2'"),
        ([HI, CALL, *[Message("tool", "r", tool_call_id="c1")] * 2], "'c1' a second time"),
        ([HI, Message("assistant", "a"), Message("tool", "r", tool_call_id="c1")], "unknown tool call 'c1'"),
        ([HI, Message("assistant", tool_calls=(ToolCall("", "f", "{}"),)), HI], "has no tool call id"),
        ([HI, Message("assistant", tool_calls=(ToolCall("c", "f g", "{}"),)), HI], "has the name 'f g'; use 1 to 64"),
        ([HI, Message("assistant", tool_calls=(ToolCall("c", "f\n", "{}"),)), HI], "has the name"),
        ([HI, Message("assistant", tool_calls=CALL.tool_calls * 2), HI], "two tool calls with the id 'c1'"),
        ([Message("user", "a", tool_calls=CALL.tool_calls)], "only assistant messages may"),
    ],
)
def test_calls_and_results_must_fit(nano: Tokenizer, messages: list[Message], reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        ask(nano, *messages)


@pytest.mark.parametrize("arguments", ["[" * 100_000, "1" * 10_000])
def test_arguments_beyond_the_json_limits_are_refused(nano: Tokenizer, arguments: str) -> None:
    call = Message("assistant", tool_calls=(ToolCall("c1", "f", arguments),))
    with pytest.raises(ToolError, match="nest too deep or hold too long a number"):
        ask(nano, HI, call, Message("tool", "r", tool_call_id="c1"))


@pytest.mark.parametrize("name", ["", "a b", "é", "a" * 65, "f.g", "f\n"])
def test_bad_tool_name_is_refused(nano: Tokenizer, name: str) -> None:
    with pytest.raises(ToolError, match="use 1 to 64 of the letters"):
        ask(nano, HI, tools=(Tool(name, "", {}),))


def test_two_tools_of_one_name_are_refused(nano: Tokenizer) -> None:
    with pytest.raises(ToolError, match="two tools are named 'f'"):
        ask(nano, HI, tools=(Tool("f", "", {}), Tool("f", "other", {})))


circular: dict[str, Any] = {}
circular["properties"] = circular


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "objekt"}, "no JSON Schema"),
        ({"properties": []}, "no JSON Schema"),
        ({"required": "city"}, "no JSON Schema"),
        (["type"], "not an object"),
        ({"default": {1, 2}}, "cannot be written as JSON"),
        (circular, "cannot be written as JSON"),
        ({"description": "x" * MAX_SCHEMA_CHARACTERS}, f"the limit is {MAX_SCHEMA_CHARACTERS}"),
    ],
)
def test_bad_tool_schema_is_refused(nano: Tokenizer, parameters: Any, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        ask(nano, HI, tools=(Tool("f", "", parameters),))


@pytest.mark.parametrize("depth", [100, 400, 900, 3000])
def test_deep_schema_is_answered_or_refused(nano: Tokenizer, depth: int) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    with contextlib.suppress(ToolError):
        ask(nano, HI, tools=(Tool("f", "", schema),))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([Message("system", (ThinkPart("t"),)), HI], r"message 0 \(system\) holds reasoning; it may hold text"),
        ([Message("user", (ThinkPart("t"),))], "holds reasoning; it may hold text and an image"),
        ([Message("system", (ImagePart(b""),)), HI], "holds an image; it may hold text"),
        ([HI, Message("assistant", (ImagePart(b""),)), HI], "holds an image; it may hold text and reasoning"),
        ([HI, CALL, Message("tool", (ThinkPart("t"),), tool_call_id="c1")], "holds reasoning"),
        ([HI, Message("assistant", (ThinkPart("t", closed=False), TextPart("a"))), HI], "close the reasoning first"),
        ([Message("user", ("text",))], "holds str; it may hold text"),  # type: ignore[arg-type]
    ],
)
def test_parts_belong_to_their_speakers(nano: Tokenizer, messages: list[Message], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        ask(nano, *messages)


def test_endless_blanks_are_refused_not_fatal(nano: Tokenizer) -> None:
    with pytest.raises(RequestError, match=f"the limit is {MAX_WHITESPACE_RUN}"):
        ask(nano, Message("user", "a" + " " * (MAX_WHITESPACE_RUN + 1) + "b"))
    assert len(ask(nano, Message("user", "a" + " " * MAX_WHITESPACE_RUN + "b"))) > 1000


def test_text_only_model_refuses_images(tmp_path: Any) -> None:
    path = tmp_path / "tekken.json"
    path.write_text(dump_tekken(nano_tekken(256, None)), encoding="utf-8")
    with pytest.raises(ImageError, match="reads no images"):
        ask(Tokenizer.from_file(path), Message("user", (ImagePart(b""),)))


def test_lone_surrogate_becomes_a_replacement_character(nano: Tokenizer) -> None:
    assert nano.decode(nano.encode_text("a\ud800b")) == "a\ufffdb"


spelling = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS.values(), "<SPECIAL_20>", "<SPECIAL_999>"]), st.text(max_size=3)),
    min_size=1,
    max_size=5,
).map("".join)


@given(said=st.lists(spelling, min_size=5, max_size=5))
def test_spelled_control_tokens_never_become_one(nano: Tokenizer, said: list[str]) -> None:
    def render_all(texts: list[str]) -> list[int]:
        messages = [
            Message("system", texts[0]),
            Message("user", (TextPart(texts[1]),)),
            Message("assistant", (ThinkPart(texts[2]), TextPart(texts[3])), (ToolCall("c", "f", texts[4]),)),
            Message("tool", texts[3], tool_call_id="c"),
            Message("assistant", "A" + texts[2]),
        ]
        return render_training(nano, messages, tools=(Tool("f", texts[4], {"description": texts[0]}),)).token_ids

    def controls(token_ids: list[int]) -> list[int]:
        return [token_id for token_id in token_ids if token_id < nano.num_special_tokens]

    assert controls(render_all(said)) == controls(render_all(["harmless"] * 5))
