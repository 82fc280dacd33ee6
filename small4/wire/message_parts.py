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
    """Neighbouring messages of one speaker, those after tool calls put into the message of the calls.

    The template joins neighbours by itself, but wants all calls answered before the assistant's next message.
    """
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].tool_calls:
            before = joined.pop()
            parts = [*_parts(before), *_parts(message, separated=bool(text_of(before.content)))]
            message = Message("assistant", plain(parts), (*before.tool_calls, *message.tool_calls))
        joined.append(message)
    return joined


def _parts(message: Message, separated: bool = False) -> list[Part]:
    content = message.content
    parts: list[Part] = ([TextPart(content)] if content else []) if isinstance(content, str) else list(content)
    if separated and parts and isinstance(parts[0], TextPart):
        return [TextPart(_BETWEEN_MESSAGES), *parts]
    return parts
