"""Our layout and our refusals, held to mistral-common's own over random conversations."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk, ThinkChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest, ReasoningEffort
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall
from mistral_common.protocol.instruct.tool_calls import Tool as CommonTool
from mistral_common.protocol.instruct.tool_calls import ToolCall as CommonCall
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import SpecialTokens, TokenizerVersion
from mistral_common.tokens.tokenizers.image import ImageEncoder, SpecialImageIDs
from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV15
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from PIL import Image

from small4.chat import ChatRequest, Effort, ImagePart, Message, TextPart, ThinkPart, Tool, ToolCall
from small4.errors import RequestError
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render, render_training
from small4.tokenizer.truncate import SPECIAL_TOKENS


class Oracle:
    """mistral-common's way from a chat to ids: validate, normalise, encode."""

    def __init__(self, path: Any) -> None:
        tekken = Tekkenizer.from_file(path)
        assert tekken.image is not None
        names = (SpecialTokens.img.value, SpecialTokens.img_break.value, SpecialTokens.img_end.value)
        marks = SpecialImageIDs(*(tekken.get_special_token(name) for name in names))
        self.normalizer = get_normalizer(TokenizerVersion.v15, tekken.model_settings_builder)
        self.encoder: Any = InstructTokenizerV15(tekken, image_encoder=ImageEncoder(tekken.image, marks))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], effort: Effort, *, training: bool = False
    ) -> tuple[list[int], list[Any]]:
        mode = ValidationMode.finetuning if training else ValidationMode.serving
        request: Any = ChatCompletionRequest(
            model="small4",
            messages=[to_common(message) for message in messages],
            tools=[
                CommonTool(function=Function(name=tool.name, description=tool.description, parameters=tool.parameters))
                for tool in tools
            ],
            reasoning_effort=ReasoningEffort(effort),
        )
        get_validator(TokenizerVersion.v15, mode).validate_request(request)
        encoded = self.encoder.encode_instruct(self.normalizer.from_chat_completion_request(request))
        return encoded.tokens, encoded.images


def to_common(message: Message) -> Any:
    content: Any = message.content
    if not isinstance(content, str):
        content = [to_chunk(part) for part in content]
    if message.role == "assistant":
        calls = [
            CommonCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
            for call in message.tool_calls
        ]
        return AssistantMessage(content=content, tool_calls=calls or None, prefix=message.prefix)
    if message.role == "tool":
        return ToolMessage(content=content, tool_call_id=message.tool_call_id)
    return SystemMessage(content=content) if message.role == "system" else UserMessage(content=content)


def to_chunk(part: TextPart | ImagePart | ThinkPart) -> Any:
    if isinstance(part, TextPart):
        return TextChunk(text=part.text)
    if isinstance(part, ThinkPart):
        return ThinkChunk(thinking=part.text, closed=part.closed)
    return ImageChunk(image=Image.open(io.BytesIO(part.data)))


@pytest.fixture(scope="session")
def oracle(nano_file: Any) -> Oracle:
    return Oracle(nano_file)


def png(width: int, height: int) -> ImagePart:
    gradient = np.arange(width * height * 3, dtype=np.uint32) * 2654435761 >> 24
    file = io.BytesIO()
    Image.fromarray(gradient.astype(np.uint8).reshape(height, width, 3)).save(file, "PNG")
    return ImagePart(file.getvalue())


IMAGES = [png(1, 1), png(30, 20), png(57, 90)]

some_text = st.one_of(
    st.text(alphabet=st.sampled_from("ab1 \n.é中😀{}[]"), max_size=8),
    st.sampled_from([*SPECIAL_TOKENS.values(), "  ", "a  ", ""]),
)
text_part = some_text.map(TextPart)
image_part = st.sampled_from(IMAGES)
think_part = st.builds(ThinkPart, some_text)
some_arguments = st.sampled_from(['{"a": 1}', '{"b":[1,2.5,null],"a":"é"}', "", "{}", "no JSON", '"text"', "NaN"])


def content_of(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(some_text, st.lists(st.one_of(*parts), max_size=4).map(tuple))


@st.composite
def conversations(draw: st.DrawFn, *, training: bool) -> list[Message]:
    """Mostly allowed conversations; the oracle decides which are not."""
    messages = [Message("system", draw(content_of(text_part))) for _ in range(draw(st.integers(0, 2)))]
    for turn in range(draw(st.integers(1, 3))):
        user = content_of(text_part, image_part)
        messages += [Message("user", draw(user)) for _ in range(draw(st.integers(1, 2)))]
        if draw(st.integers(0, 9)) == 0:
            messages += [Message("system", draw(some_text)), Message("user", draw(some_text))]
        if draw(st.booleans()):
            names = draw(st.lists(st.sampled_from(["f", "get_weather", "x-1"]), min_size=1, max_size=3))
            calls = [ToolCall(f"call{turn}{i}", name, draw(some_arguments)) for i, name in enumerate(names)]
            messages.append(Message("assistant", draw(content_of(text_part, think_part)), tool_calls=tuple(calls)))
            results = content_of(text_part, image_part)
            messages += [Message("tool", draw(results), tool_call_id=call.id) for call in draw(st.permutations(calls))]
        if draw(st.booleans()):
            answer = draw(content_of(text_part, think_part))
            messages += [Message("assistant", answer)] * draw(st.integers(1, 2))
    if training:
        return [*messages, Message("assistant", draw(content_of(text_part, think_part)))]
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        ending = draw(st.sampled_from([Message("user", "end"), Message("assistant", "so  ", prefix=True)]))
        return [*messages, ending]
    return messages


TOOLS = (Tool("f", "Does f.", {}), Tool("get_weather", "é", {"type": "object", "properties": {"a": {"enum": [1]}}}))
efforts: st.SearchStrategy[Effort] = st.sampled_from(["none", "high"])
tool_lists = st.sampled_from([(), TOOLS[:1], TOOLS])


@given(messages=conversations(training=False), effort=efforts, tools=tool_lists)
def test_prompts_are_those_of_mistral_common(
    nano: Tokenizer, oracle: Oracle, messages: list[Message], effort: Effort, tools: tuple[Tool, ...]
) -> None:
    request = ChatRequest(messages=tuple(messages), effort=effort, tools=tools)
    try:
        token_ids, images = oracle.render(messages, tools, effort)
    except MistralCommonException:
        with pytest.raises(RequestError):
            render(nano, request)
        return
    prompt = render(nano, request)
    assert prompt.token_ids == token_ids
    assert len(prompt.images) == len(images)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(prompt.images, images, strict=True))


@given(messages=conversations(training=True), effort=efforts, tools=tool_lists)
def test_training_examples_are_those_of_mistral_common(
    nano: Tokenizer, oracle: Oracle, messages: list[Message], effort: Effort, tools: tuple[Tool, ...]
) -> None:
    try:
        token_ids, _ = oracle.render(messages, tools, effort, training=True)
    except MistralCommonException:
        with pytest.raises(RequestError):
            render_training(nano, messages, tools=tools, effort=effort)
        return
    assert render_training(nano, messages, tools=tools, effort=effort).token_ids == token_ids


some_message = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.sampled_from(["", "a"])),
    st.just(Message("assistant", "p", prefix=True)),
    st.builds(
        lambda ids: Message("assistant", tool_calls=tuple(ToolCall(call_id, "f", "{}") for call_id in ids)),
        st.lists(st.sampled_from(["1", "2", "null", ""]), min_size=1, max_size=2),
    ),
    st.builds(lambda call_id: Message("tool", "r", tool_call_id=call_id), st.sampled_from(["1", "2", "null", None])),
)


def is_ours_alone(messages: list[Message], training: bool) -> bool:
    """Conversations on which we differ from mistral-common on purpose.

    Without a user message it drops effort and tools; it lets a request end with a system message; it does not look at
    calls and results of the very first message.
    """
    no_user = all(message.role != "user" for message in messages)
    ends_with_system = bool(messages) and messages[-1].role == "system" and not training
    first_is_special = bool(messages) and (messages[0].role == "tool" or bool(messages[0].tool_calls))
    return no_user or ends_with_system or first_is_special


@settings(max_examples=300)
@given(messages=st.lists(some_message, max_size=6), training=st.booleans())
@example(messages=[], training=False)
def test_conversations_are_refused_exactly_when_mistral_common_refuses_them(
    nano: Tokenizer, oracle: Oracle, messages: list[Message], training: bool
) -> None:
    if messages and is_ours_alone(messages, training):
        return
    try:
        oracle.render(messages, (), "none", training=training)
    except MistralCommonException:
        is_allowed = False
    else:
        is_allowed = True
    try:
        if training:
            render_training(nano, messages)
        else:
            render(nano, ChatRequest(messages=tuple(messages)))
    except RequestError:
        assert not is_allowed
    else:
        assert is_allowed
