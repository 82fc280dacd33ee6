"""The fields of a request of the Responses API that are known here, with their types and ranges."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from small4.wire.limits import ModelName, Penalty, PositiveCount, Temperature, TopLogprobs, TopP

ShortText = Annotated[str, Meta(max_length=512)]


class ReasoningFields(Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class FormatFields(Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Meta(max_length=64)] | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextFields(Struct):
    format: FormatFields | None = None
    verbosity: str | None = None


class RequestFields(Struct):
    model: ModelName
    items: str | list[Any] | None = field(default=None, name="input")
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None
    max_output_tokens: PositiveCount | None = None
    max_tool_calls: PositiveCount | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_logprobs: TopLogprobs | None = None
    truncation: Literal["auto", "disabled"] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningFields | None = None
    text: TextFields | None = None
    include: Annotated[list[str], Meta(max_length=64)] | None = None
    metadata: dict[str, str] | None = None
    user: ShortText | None = None
    safety_identifier: ShortText | None = None
    prompt_cache_key: ShortText | None = None
    service_tier: str | None = None
    provider: Any = None
