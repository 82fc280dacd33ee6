"""The structs of a Messages request: turns, their blocks, tools and choices, as Anthropic documents them.

Only what a `Call` can hold has a place here; a block or source of another type is refused by its path.
"""

from typing import Any

from msgspec import Struct, field

from small4.wire.limits import Count, ModelName, PositiveCount, StopTexts, Temperature, TopP


class Base64Source(Struct, tag_field="type", tag="base64"):
    """An image file."""

    data: str
    media_type: str


class UrlSource(Struct, tag_field="type", tag="url"):
    """An image by its address."""

    url: str


class TextBlock(Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class ImageBlock(Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class TextSource(Struct, tag_field="type", tag="text"):
    """A document that is plain text."""

    data: str
    media_type: str | None = None


class BlocksSource(Struct, tag_field="type", tag="content"):
    """A document of blocks."""

    content: str | list[TextBlock | ImageBlock]


class Citations(Struct):
    """Whether the answer shall cite a document."""

    enabled: bool | None = None


class DocumentBlock(Struct, tag_field="type", tag="document"):
    """A document; only text can be read."""

    source: TextSource | BlocksSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


class SearchResultBlock(Struct, tag_field="type", tag="search_result"):
    """What a search of the caller's found."""

    source: str
    title: str
    content: list[TextBlock]
    citations: Citations | None = None


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    """What a tool gave back."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """A thought of an earlier answer."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag_field="type", tag="redacted_thinking"):
    """A thought that only its provider can read."""

    data: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    arguments: dict[str, Any] = field(name="input")


UserBlock = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolResultBlock
AssistantBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock


class UserTurn(Struct, tag_field="role", tag="user"):
    """What the user said and the tools gave back."""

    content: str | list[UserBlock]


class AssistantTurn(Struct, tag_field="role", tag="assistant"):
    """What the model said."""

    content: str | list[AssistantBlock]


class SystemTurn(Struct, tag_field="role", tag="system"):
    """A system text in the middle of the conversation."""

    content: str | list[TextBlock]


Turn = UserTurn | AssistantTurn | SystemTurn


class CustomTool(Struct):
    """A tool of the caller's; entries of another type are the provider's own tools."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: str | None = None


class AutoChoice(Struct, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag_field="type", tag="any"):
    """At least one call."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(Struct, tag_field="type", tag="tool"):
    """A call of this tool."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Struct, tag_field="type", tag="none"):
    """No call."""


class EnabledThinking(Struct, tag_field="type", tag="enabled"):
    """Think, up to a number of tokens."""

    budget_tokens: PositiveCount
    display: str | None = None


class AdaptiveThinking(Struct, tag_field="type", tag="adaptive"):
    """Think as much as the task needs."""

    display: str | None = None


class BetweenToolsThinking(Struct, tag_field="type", tag="between_tools"):
    """Think, between calls too."""


class DisabledThinking(Struct, tag_field="type", tag="disabled"):
    """Do not think."""


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """The answer is JSON that a schema accepts."""

    schema: dict[str, Any]


class OutputConfig(Struct):
    """How much to think, and the form of the answer."""

    effort: str | None = None
    format: SchemaFormat | None = None


class Metadata(Struct):
    """Who asks."""

    user_id: str | None = None


class Body(Struct):
    """A Messages request; `max_tokens` may be missing only where tokens are counted."""

    model: ModelName
    messages: list[Turn]
    max_tokens: PositiveCount | None = None
    system: str | list[TextBlock] | None = None
    stream: bool | None = None
    stop_sequences: StopTexts | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Count | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: EnabledThinking | AdaptiveThinking | BetweenToolsThinking | DisabledThinking | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = None  # the earlier place of `output_config.format`
    metadata: Metadata | None = None
    provider: Any = None
