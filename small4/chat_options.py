"""A conversation and options by name, as scripts give them, as one chat request."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypedDict, Unpack

from small4.chat import EFFORTS, ChatRequest, Effort, Message, ResponseFormat, Sampling, Tool, ToolChoice
from small4.errors import EffortError


class ChatOptions(TypedDict, total=False):
    """What `chat` takes beside the messages: the fields of `ChatRequest` and of `Sampling`, by name.

    What is left out is as it is there, but for the temperature: that is what the model is recommended to run at.
    """

    effort: Effort
    tools: Sequence[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    response_format: ResponseFormat | None
    max_tokens: int | None
    thinking_budget: int | None
    stop: str | Sequence[str]
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    seed: int | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    logprobs: int | None
    min_tokens: int
    ignore_eos: bool


def request_of(
    messages: str | Sequence[Message], temperatures: Mapping[Effort, float], **options: Unpack[ChatOptions]
) -> ChatRequest:
    """The request that asks for an answer to a conversation, or to one user message given as text.

    `temperatures` are what the model is recommended to run at, for where no temperature is given.
    """
    named: dict[str, Any] = dict(options)
    effort = named.get("effort", "none")
    if effort not in EFFORTS:
        raise EffortError(f"unknown effort {effort!r}; choose one of {', '.join(EFFORTS)}")
    drawing = {field.name: named.pop(field.name) for field in fields(Sampling) if field.name in named}
    drawing = {"temperature": temperatures[effort], **drawing}
    stop = named.pop("stop", ())
    return ChatRequest(
        messages=(Message("user", messages),) if isinstance(messages, str) else tuple(messages),
        tools=tuple(named.pop("tools", ())),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        sampling=Sampling(**drawing),
        **named,
    )
