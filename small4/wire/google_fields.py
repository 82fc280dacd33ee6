"""The structs of a generateContent request, as Google documents them; `spelled` brings either spelling to one."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from small4.errors import FieldError
from small4.wire.google_schema import camel
from small4.wire.limits import (
    NumAnswers,
    Penalty,
    PositiveCount,
    Seed,
    StopTexts,
    Temperature,
    TopLogprobs,
    TopP,
)

# Their values are the caller's own JSON, whose names are nobody else's.
_FREE = (
    "args",
    "response",
    "parameters",
    "parametersJsonSchema",
    "responseSchema",
    "responseJsonSchema",
    "labels",
    "provider",
)


def spelled(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, and those inside them, in camelCase."""
    renamed: dict[str, Any] = {}
    for name, value in fields.items():
        new = camel(name)
        if new in renamed:
            raise wrong(new[:100], "it is there in two spellings; send one")
        renamed[new] = value if new in _FREE else _spelled(value)
    return renamed


def wrong(param: str, why: str) -> FieldError:
    """The error of a field that is not as it must be."""
    return FieldError(f"{param}: {why}", param)


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return spelled(value)
    return [_spelled(item) for item in value] if isinstance(value, list) else value


class Blob(Struct, rename="camel"):
    """A file in the request."""

    mime_type: str
    data: str


class FileData(Struct, rename="camel"):
    """A file by its address."""

    file_uri: str
    mime_type: str | None = None


class FunctionCall(Struct, rename="camel"):
    """A call that the model made."""

    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class FunctionResponsePart(Struct, rename="camel"):
    """A file that a function gave back."""

    inline_data: Blob | None = None
    file_data: FileData | None = None


class FunctionResponse(Struct, rename="camel"):
    """What a function gave back."""

    name: str
    response: dict[str, Any] | None = None
    id: str | None = None
    parts: list[FunctionResponsePart] | None = None


class Part(Struct, rename="camel"):
    """A piece of a turn: one of its first five fields."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None


class Content(Struct, rename="camel"):
    """A turn, or the system's instruction."""

    parts: list[Part] | Part | None = None
    role: str | None = None


class FunctionDeclaration(Struct, rename="camel"):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class ToolEntry(Struct, rename="camel"):
    """Functions; the other kinds of tools are Google's own."""

    function_declarations: list[FunctionDeclaration] | None = None


class FunctionCallingConfig(Struct, rename="camel"):
    """Whether functions are called, and which."""

    mode: str | None = None
    allowed_function_names: list[str] | None = None


class ToolConfig(Struct, rename="camel"):
    """The choice of tools."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(Struct, rename="camel"):
    """How much to think, and whether thoughts are shown."""

    include_thoughts: bool | None = None
    thinking_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    thinking_level: str | None = None


class GenerationConfig(Struct, rename="camel"):
    """How the answer is drawn, and its form."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[float, Meta(ge=0, le=2**31 - 1)] | None = None  # clients send it as a float
    candidate_count: NumAnswers | None = None
    max_output_tokens: PositiveCount | None = None
    stop_sequences: StopTexts | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_logprobs: bool | None = None
    logprobs: TopLogprobs | None = None
    response_modalities: list[str] | None = None
    thinking_config: ThinkingConfig | None = None


class Body(Struct, rename="camel"):
    """A generateContent request."""

    contents: list[Content] | Content
    system_instruction: Content | None = None
    tools: list[ToolEntry] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    cached_content: str | None = None
    labels: dict[str, str] | None = None
    provider: Any = None
