"""The fields of a Chat Completions request as OpenAI, Mistral and OpenRouter send them, one struct for all three.

A field that is here is either honoured, refused with its name, or a hint; `chat_request.py` says which. All others are
unknown and only listed.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from small4.wire.limits import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    Count,
    MinP,
    ModelName,
    NumAnswers,
    Penalty,
    PositiveCount,
    RepetitionPenalty,
    Seed,
    StopText,
    StopTexts,
    Temperature,
    TopLogprobs,
    TopP,
)

ReasoningFormat = Literal["both", "reasoning", "reasoning_content", "thinking_chunks", "hidden"]


class TextFields(Struct, tag_field="type", tag="text"):
    text: str


class RefusalFields(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ImageUrlFields(Struct):
    url: str
    detail: str | None = None


class ImageFields(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrlFields | str


class ThinkingFields(Struct, tag_field="type", tag="thinking"):
    thinking: list[TextFields] | str
    closed: bool | None = None
    signature: str | None = None


PartFields = TextFields | RefusalFields | ImageFields | ThinkingFields
Content = str | Annotated[list[PartFields], Meta(max_length=MAX_PARTS)]


class FunctionCallFields(Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class ToolCallFields(Struct):
    function: FunctionCallFields
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None


class ReasoningDetailFields(Struct):
    type: str
    text: str | None = None
    summary: str | None = None


class SystemFields(Struct, tag_field="role", tag="system"):
    content: Content


class DeveloperFields(Struct, tag_field="role", tag="developer"):
    content: Content


class UserFields(Struct, tag_field="role", tag="user"):
    content: Content


class AssistantFields(Struct, tag_field="role", tag="assistant"):
    content: Content | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: Annotated[list[ReasoningDetailFields], Meta(max_length=MAX_PARTS)] | None = None
    tool_calls: Annotated[list[ToolCallFields], Meta(max_length=MAX_TOOLS)] | None = None
    prefix: bool | None = None
    audio: Any = None
    function_call: Any = None


class ToolResultFields(Struct, tag_field="role", tag="tool"):
    content: Content | None = None
    tool_call_id: str | None = None


MessageFields = SystemFields | DeveloperFields | UserFields | AssistantFields | ToolResultFields


class FunctionFields(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolFields(Struct, tag_field="type", tag="function"):
    function: FunctionFields


class FunctionName(Struct):
    name: str


class NamedChoiceFields(Struct, tag_field="type", tag="function"):
    function: FunctionName


class AllowedFields(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoiceFields], Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoiceFields(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedFields


ChoiceFields = Literal["none", "auto", "required", "any"] | NamedChoiceFields | AllowedChoiceFields


class TextFormatFields(Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFields(Struct, tag_field="type", tag="json_object"):
    pass


class SchemaFields(Struct):
    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFields(Struct, tag_field="type", tag="json_schema"):
    json_schema: SchemaFields


class GrammarDefinitionFields(Struct):
    syntax: Literal["lark", "regex"]
    definition: str


class GrammarFields(Struct, tag_field="type", tag="grammar"):
    grammar: GrammarDefinitionFields


FormatFields = TextFormatFields | JsonObjectFields | JsonSchemaFields | GrammarFields


class StreamOptions(Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ReasoningFields(Struct):
    effort: str | None = None
    max_tokens: Count | None = None
    exclude: bool | None = None
    enabled: bool | None = None
    summary: str | None = None


class UsageFields(Struct):
    include: bool | None = None


class SamplingFields(Struct, kw_only=True):
    """What the chat and the text endpoints have in common."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveCount | None = None
    min_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None  # 0 and -1: off
    min_p: MinP | None = None
    top_a: float | None = None
    n: NumAnswers | None = None
    stop: StopText | StopTexts | None = None
    seed: Seed | None = None
    random_seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    metadata: dict[str, str] | None = None
    provider: Any = None


class ChatFields(SamplingFields, kw_only=True):
    """A Chat Completions request; its tools are read later, since those of unknown types are left out."""

    messages: Annotated[list[MessageFields], Meta(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ChoiceFields | None = None
    parallel_tool_calls: bool | None = None
    response_format: FormatFields | None = None
    max_completion_tokens: PositiveCount | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningFields | None = None
    reasoning_format: ReasoningFormat | None = None
    include_reasoning: bool | None = None
    prompt_mode: Literal["reasoning"] | None = None
    usage: UsageFields | None = None
    # refused unless empty
    audio: Any = None
    modalities: list[str] | None = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    plugins: Any = None
    moderation: Any = None
    guardrails: Any = None
    safe_prompt: Any = None
    prompt_logprobs: Any = None
    top_prompt_logprobs: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    # hints
    user: Any = None
    safety_identifier: Any = None
    store: Any = None
    service_tier: Any = None
    verbosity: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    models: Any = None
