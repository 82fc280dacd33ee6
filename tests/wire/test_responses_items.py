"""Messages become items and come back as the same messages."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import (
    ChatRequest,
    ImageLink,
    ImagePart,
    Message,
    Part,
    Sampling,
    TextPart,
    ThinkPart,
    Tool,
    ToolCall,
)
from small4.tokenizer.conversation import to_turns
from small4.wire.call import Call
from small4.wire.decode import Ignored
from small4.wire.openai_responses import format_request, parse_request
from small4.wire.responses_items import Conversation, items_of, kept_item

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
IDS = st.text("abcXYZ019", min_size=9, max_size=9)
TEXT_PARTS = st.builds(TextPart, TEXT)
SEEN = (
    TEXT_PARTS | st.builds(ImagePart, st.binary(min_size=1, max_size=6)) | st.just(ImageLink("https://example.com/a"))
)
THOUGHTS = st.lists(st.builds(ThinkPart, TEXT), min_size=1, max_size=3)
CALLS = st.lists(st.builds(ToolCall, IDS, TEXT, TEXT), max_size=3).map(tuple)


def as_read(parts: list[Part]) -> str | tuple[Part, ...]:
    """One text alone is read as text."""
    return parts[0].text if len(parts) == 1 and isinstance(parts[0], TextPart) else tuple(parts) or ""


CONTENT = TEXT | st.lists(SEEN, min_size=1, max_size=3).map(as_read)
SAID = TEXT | st.lists(TEXT_PARTS, min_size=2, max_size=3).map(tuple)
THOUGHT = st.builds(lambda thoughts, texts: (*thoughts, *texts), THOUGHTS, st.lists(TEXT_PARTS, max_size=2))
ASSISTANT = st.builds(Message, st.just("assistant"), SAID | THOUGHT, CALLS)
RESULT = st.builds(Message, st.just("tool"), CONTENT, tool_call_id=IDS)
USER = st.builds(Message, st.just("user"), CONTENT)
SYSTEM = st.builds(Message, st.just("system"), TEXT)


@settings(max_examples=60)
@given(
    st.lists(SYSTEM, max_size=2),
    st.lists(st.tuples(USER, ASSISTANT, st.lists(RESULT, max_size=2)), min_size=1, max_size=3),
)
def test_messages_come_back_from_their_items(system: list[Message], turns: list[tuple[Any, ...]]):
    messages = (*system, *(message for user, said, results in turns for message in (user, said, *results)))
    body = format_request(Call(request=ChatRequest(messages=messages), model="m"))
    assert parse_request(body).request.messages == messages


@settings(max_examples=40)
@given(st.lists(ASSISTANT, min_size=1, max_size=4))
def test_neighbouring_messages_of_the_assistant_stay_the_same_turn(messages: list[Message]):
    """Items cannot always tell two messages from one, but what the model is given does not change."""
    conversation = Conversation(Ignored())
    for item in items_of(messages):
        conversation.add(item, "input")
    assert to_turns(conversation.messages) == to_turns(messages)


def test_a_request_comes_back_with_every_field_that_the_dialect_has():
    request = ChatRequest(
        messages=(Message("user", "hi"),),
        tools=(Tool("f", "does", {"type": "object"}, strict=True),),
        tool_choice="required",
        parallel_tool_calls=False,
        effort="high",
        sampling=Sampling(temperature=0.0, top_p=0.5, presence_penalty=1.0, frequency_penalty=-1.0, logprobs=0),
        max_tokens=7,
    )
    call = Call(request=request, model="m", is_stream=True, metadata={"a": "b"})
    again = parse_request(format_request(call))
    assert (again.request, again.model, again.is_stream, again.metadata) == (request, "m", True, {"a": "b"})


def test_a_kept_item_has_an_id_a_type_and_parts():
    assert kept_item({"role": "assistant", "content": "x", "id": None}, "in_1") == {
        "id": "in_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "x", "annotations": []}],
    }
    call = {"type": "function_call", "id": "fc_7", "call_id": "c", "name": "f", "arguments": "{}"}
    assert kept_item(call, "in_1") == call
