"""What a message holds, for dialects whose turns are lists of blocks or parts."""

from collections.abc import Sequence

from small4.chat import Message, Part, TextPart, ThinkPart

ERROR_MARK = "Error: "  # before the result of a tool that failed
_BETWEEN_MESSAGES = "\n\n"  # of one speaker, as the template has it


def plain(parts: Sequence[Part]) -> str | tuple[Part, ...]:
    """The content of a message: text where there is nothing else."""
    if not parts:
        return ""
    return parts[0].text if len(parts) == 1 and isinstance(parts[0], TextPart) else tuple(parts)


def text_of(content: str | tuple[Part, ...]) -> str:
    """The text in a message, without what else it holds."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, TextPart))


def has_open_thought(messages: Sequence[Message]) -> bool:
    """Whether the answer has to go on inside a thought."""
    return any(isinstance(part, ThinkPart) and not part.closed for message in messages[-1:] for part in message.content)


def marked_as_error(parts: Sequence[Part]) -> list[Part]:
    """The result of a tool that failed, so that the model can see it."""
    if parts and isinstance(parts[0], TextPart):
        return [TextPart(ERROR_MARK + parts[0].text), *parts[1:]]
    return [TextPart(ERROR_MARK), *parts]


def with_calls_together(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring messages of the assistant, the first that has tool calls and those after it as one.

    The template joins neighbours by itself, but wants all calls answered before the assistant's next message.
    """
    start = next((index for index, message in enumerate(messages) if message.tool_calls), len(messages))
    if start >= len(messages) - 1:
        return list(messages)
    parts: list[Part] = []
    for message in messages[start:]:
        new = _parts(message)
        if parts and new and isinstance(parts[-1], TextPart) and isinstance(new[0], TextPart):
            parts.append(TextPart(_BETWEEN_MESSAGES))
        parts += new
    calls = tuple(call for message in messages[start:] for call in message.tool_calls)
    return [*messages[:start], Message("assistant", plain(parts), calls)]


def _parts(message: Message) -> Sequence[Part]:
    if isinstance(message.content, str):
        return [TextPart(message.content)] if message.content else []
    return message.content
