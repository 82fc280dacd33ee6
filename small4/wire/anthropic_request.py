"""A client's Messages request (Anthropic) -> Call.

Thoughts in the conversation count only with our own signature. Tool results come before what else the same user turn
says, since the template answers calls first. A system text after the first user turn stays one where the template has
a place for it, and is said by the user elsewhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from small4.chat import (
    TEMPERATURES,
    ChatRequest,
    Effort,
    ImageLink,
    ImagePart,
    JsonSchema,
    Message,
    NamedTool,
    Part,
    Sampling,
    TextPart,
    ThinkPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from small4.errors import FieldError
from small4.wire import anthropic_blocks as blocks
from small4.wire.call import Call
from small4.wire.call_ids import native_id
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.effort import effort_of
from small4.wire.images import image_of_base64, image_of_url
from small4.wire.limits import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, check_length, check_metadata
from small4.wire.message_parts import marked_as_error, plain, with_calls_together
from small4.wire.signature import Signer
from small4.wire.tool_arguments import arguments_text

BETWEEN_BLOCKS = "\n\n"  # of the system prompt


@dataclass(frozen=True, slots=True)
class MessagesForm:
    """What the Writer must know: whether the client wants to read thoughts, or only their signatures."""

    shows_thoughts: bool = True


def parse_request(body: bytes | dict[str, Any], signer: Signer) -> Call:
    """The call of `POST /v1/messages`."""
    call = parse_count_request(body, signer)
    if call.request.max_tokens is None:
        raise FieldError("max_tokens is missing; say how many tokens the answer may have", "max_tokens")
    return call


def parse_count_request(body: bytes | dict[str, Any], signer: Signer) -> Call:
    """The call of `POST /v1/messages/count_tokens`: the same body, but `max_tokens` may be missing."""
    fields = decode_object(body) if isinstance(body, bytes) else body
    parsed = convert(fields, blocks.Body)
    ignored = Ignored()
    ignored.unknown_within(fields, parsed)
    ignored.set(parsed, ("provider",))
    tools = _tools(parsed, ignored)
    effort = _effort(parsed, ignored)
    user_id = None if parsed.metadata is None else parsed.metadata.user_id
    metadata = {} if user_id is None else {"user_id": user_id}
    check_metadata(metadata, "metadata")
    request = ChatRequest(
        messages=_Conversation(signer, ignored).read(parsed),
        tools=tools,
        tool_choice=_tool_choice(parsed, tools),
        parallel_tool_calls=not (tools and getattr(parsed.tool_choice, "disable_parallel_tool_use", False)),
        response_format=_response_format(parsed),
        effort=effort,
        sampling=_sampling(parsed, effort),
        max_tokens=parsed.max_tokens,
        thinking_budget=getattr(parsed.thinking, "budget_tokens", None) if effort == "high" else None,
        stop=tuple(parsed.stop_sequences or ()),
    )
    return Call(
        request=request,
        model=parsed.model,
        is_stream=bool(parsed.stream),
        has_temperature=parsed.temperature is not None,
        ignored=ignored.paths,
        metadata=metadata,
        provider=parsed.provider,
        form=MessagesForm(shows_thoughts=_shows_thoughts(parsed)),
    )


@dataclass(slots=True)
class _Conversation:
    """Turns to messages, in the order that the template takes them."""

    signer: Signer
    ignored: Ignored

    def read(self, body: blocks.Body) -> tuple[Message, ...]:
        check_length(body.messages, MAX_MESSAGES, "messages")
        messages: list[Message] = []
        system = _system_text(body.system)
        if system:
            messages.append(Message("system", system))
        for _, run in groupby(enumerate(body.messages), key=lambda entry: type(entry[1])):
            turns = [(f"messages[{index}].content", turn) for index, turn in run]
            for path, turn in turns:
                check_length([] if isinstance(turn.content, str) else turn.content, MAX_PARTS, path)
                messages += _tool_results(turn, path) if isinstance(turn, blocks.UserTurn) else ()
            messages += with_calls_together([message for path, turn in turns for message in self._said(turn, path)])
        return _with_prefix(_place_system(messages))

    def _said(self, turn: blocks.Turn, path: str) -> Iterator[Message]:
        match turn:
            case blocks.UserTurn():
                yield from _said_by_user(turn, path)
            case blocks.AssistantTurn():
                yield from self._said_by_assistant(turn, path)
            case blocks.SystemTurn(content):
                yield from [Message("system", text)] if (text := _system_text(content)) else []

    def _said_by_assistant(self, turn: blocks.AssistantTurn, path: str) -> Iterator[Message]:
        """One message, or none where nothing is left of the turn."""
        content: Sequence[blocks.AssistantBlock] = (
            [blocks.TextBlock(turn.content)] if isinstance(turn.content, str) else turn.content
        )
        parts = [part for block in content for part in self._parts(block)]
        uses = [(i, block) for i, block in enumerate(content) if isinstance(block, blocks.ToolUseBlock)]
        check_length(uses, MAX_TOOLS, path)
        calls = tuple(
            ToolCall(native_id(use.id, f"{path}[{i}].id"), use.name, arguments_text(use.arguments)) for i, use in uses
        )
        if parts or calls:
            yield Message("assistant", plain(parts), calls)

    def _parts(self, block: blocks.AssistantBlock) -> Iterator[Part]:
        match block:
            case blocks.TextBlock(text) if text:
                yield TextPart(text)
            case blocks.ThinkingBlock(text, signature) if text and self.signer.verifies(text, signature):
                yield ThinkPart(text)
            case blocks.ThinkingBlock() | blocks.RedactedThinkingBlock():
                self.ignored.add(f"messages.content.{block.__struct_config__.tag}")


def _tool_results(turn: blocks.UserTurn, path: str) -> Iterator[Message]:
    for index, block in enumerate([] if isinstance(turn.content, str) else turn.content):
        if not isinstance(block, blocks.ToolResultBlock):
            continue
        place = f"{path}[{index}]"
        content = block.content or []
        parts: list[Part] = (
            [TextPart(content)] if isinstance(content, str) else _user_parts(content, f"{place}.content")
        )
        if block.is_error:
            parts = marked_as_error(parts)
        call_id = native_id(block.tool_use_id, f"{place}.tool_use_id")
        yield Message("tool", plain(parts), tool_call_id=call_id)


def _said_by_user(turn: blocks.UserTurn, path: str) -> Iterator[Message]:
    """One message, or none if the turn has only tool results."""
    if isinstance(turn.content, str):
        yield Message("user", turn.content)
    elif (parts := _user_parts(turn.content, path)) or not turn.content:
        yield Message("user", plain(parts))


def _user_parts(content: Sequence[blocks.UserBlock], path: str) -> list[Part]:
    return [part for index, block in enumerate(content) for part in _user_part(block, f"{path}[{index}]")]


def _user_part(block: blocks.UserBlock, path: str) -> Iterator[Part]:
    match block:
        case blocks.TextBlock(text):
            yield TextPart(text)
        case blocks.ImageBlock(source):
            yield _image(source, f"{path}.source")
        case blocks.DocumentBlock(source, title, context, citations):
            _refuse_citations(citations, path)
            yield from _headed([title, context])
            if isinstance(source, blocks.TextSource):
                yield TextPart(source.data)
            elif isinstance(source.content, str):
                yield TextPart(source.content)
            else:
                yield from _user_parts(source.content, f"{path}.source.content")
        case blocks.SearchResultBlock(address, title, texts, citations):
            _refuse_citations(citations, path)
            yield from _headed([title, address])
            yield from _user_parts(texts, f"{path}.content")


def _headed(lines: Sequence[str | None]) -> Iterator[TextPart]:
    text = "\n".join(line for line in lines if line)
    if text:
        yield TextPart(text + BETWEEN_BLOCKS)


def _refuse_citations(citations: blocks.Citations | None, path: str) -> None:
    if citations is not None and citations.enabled:
        param = f"{path}.citations.enabled"
        raise FieldError(f"{param}: the model gives no citations; leave it out and ask for quotes in the text", param)


def _image(source: blocks.Base64Source | blocks.UrlSource, path: str) -> ImagePart | ImageLink:
    if isinstance(source, blocks.UrlSource):
        return image_of_url(source.url, f"{path}.url")
    return image_of_base64(source.data, f"{path}.data", source.media_type)


def _system_text(content: str | list[blocks.TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return BETWEEN_BLOCKS.join(block.text for block in content if block.text)


def _place_system(messages: list[Message]) -> list[Message]:
    """The template has system texts at the start and after a user, if somebody speaks after them."""
    placed: list[Message] = []
    for index, message in enumerate(messages):
        is_last = index == len(messages) - 1
        if message.role == "system" and placed and (is_last or placed[-1].role not in ("system", "user")):
            message = replace(message, role="user")
        placed.append(message)
    return placed


def _with_prefix(messages: list[Message]) -> tuple[Message, ...]:
    """A last assistant message without calls is the beginning of the answer."""
    if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages[-1] = replace(messages[-1], prefix=True)
    return tuple(messages)


def _tools(body: blocks.Body, ignored: Ignored) -> tuple[Tool, ...]:
    """The caller's own tools; those that Anthropic would run are listed as ignored."""
    entries = body.tools or []
    check_length(entries, MAX_TOOLS, "tools")
    tools = []
    for index, fields in enumerate(entries):
        if fields.get("type") not in (None, "custom"):
            ignored.add(f"tools.{fields['type']}")
            continue
        tool = convert(fields, blocks.CustomTool, f"tools[{index}]")
        ignored.unknown(fields, blocks.CustomTool, "tools")
        tools.append(Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict)))
    return tuple(tools)


def _tool_choice(body: blocks.Body, tools: tuple[Tool, ...]) -> ToolChoice:
    match body.tool_choice:
        case blocks.ToolChoice(name):
            if name not in [tool.name for tool in tools]:
                raise FieldError(_no_such_tool(name, body.tools or []), "tool_choice.name")
            return NamedTool(name)
        case blocks.AnyChoice():
            if not tools:
                raise FieldError(
                    "tool_choice: a call is asked for, but there is no tool that can be called; add one", "tool_choice"
                )
            return "required"
        case blocks.NoChoice() if tools:
            return "none"
    return "auto"


def _no_such_tool(name: str, entries: Sequence[dict[str, Any]]) -> str:
    shown = repr(name[:80])
    if any(fields.get("name") == name for fields in entries):
        return f"tool_choice.name: {shown} is a tool that Anthropic's servers run and this one does not; give your own"
    return f"tool_choice.name: no tool is called {shown}; add it to tools"


def _effort(body: blocks.Body, ignored: Ignored) -> Effort:
    word = None if body.output_config is None else body.output_config.effort
    effort = effort_of(word or "high", "output_config.effort")
    if body.thinking is None or isinstance(body.thinking, blocks.DisabledThinking):
        if word is not None:
            ignored.add("output_config.effort")  # without thinking there is nothing to scale
        return "none"
    return "none" if word is not None and word.lower() == "low" else effort


def _shows_thoughts(body: blocks.Body) -> bool:
    display = getattr(body.thinking, "display", None)
    if display not in (None, "summarized", "omitted"):
        raise FieldError(
            f"thinking.display: {display[:40]!r} is unknown; choose summarized or omitted", "thinking.display"
        )
    return display != "omitted"


def _response_format(body: blocks.Body) -> JsonSchema | None:
    formats = [body.output_format, None if body.output_config is None else body.output_config.format]
    given = [form for form in formats if form is not None]
    if len(given) == 2:
        raise FieldError("output_format: output_config.format is there too; give one of them", "output_format")
    return JsonSchema(given[0].schema) if given else None


def _sampling(body: blocks.Body, effort: Effort) -> Sampling:
    return Sampling(
        temperature=TEMPERATURES[effort] if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or None,  # 0 sets no limit
    )
