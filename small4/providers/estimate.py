"""Tokens as far as they can be told from text alone, for providers that do not count; whoever shows it says so."""

import json
from dataclasses import replace

from small4.chat import (
    AnswerEvent,
    ChatRequest,
    Finish,
    ImageLink,
    ImagePart,
    JsonSchema,
    Lark,
    Message,
    ReasoningDelta,
    Regex,
    ResponseFormat,
    TextDelta,
    TextPart,
    ThinkPart,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

BYTES_PER_TOKEN = 4  # of UTF-8, over prose and code in European languages
TOKENS_PER_MESSAGE = 4  # the marks around it
TOKENS_PER_IMAGE = 1024  # about
MAX_TOKENS_PER_IMAGE = 4096
MAX_COUNT = 2**40  # tokens that anybody is believed


def prompt_tokens(request: ChatRequest) -> int:
    """About how many tokens a request's prompt has."""
    num_tokens = _tokens(prompt_bytes(request)) + TOKENS_PER_MESSAGE * len(request.messages)
    return num_tokens + TOKENS_PER_IMAGE * num_images(request)


def prompt_bytes(request: ChatRequest) -> int:
    """Bytes of all texts of a request's prompt; what form the answer must have is told to the model too."""
    num_bytes = sum(_message_bytes(message) for message in request.messages) + _form_bytes(request.response_format)
    return num_bytes + sum(
        len(tool.name) + _size(tool.description) + _json_size(tool.parameters) for tool in request.tools
    )


def num_images(request: ChatRequest) -> int:
    """Images in the conversation, sent along or to be fetched."""
    contents = [message.content for message in request.messages if not isinstance(message.content, str)]
    return sum(isinstance(part, ImagePart | ImageLink) for content in contents for part in content)


class Tally:
    """Watches the events of a request's answers and fills in what the provider did not count."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._text_bytes = [0] * request.num_answers
        self._reasoning_bytes = [0] * request.num_answers

    def settle(self, event: AnswerEvent) -> AnswerEvent:
        """The event; a `Finish` without a count, or with one that cannot be, gets an estimated one."""
        match event.event:
            case TextDelta(text) | ToolCallDelta(_, text) | ToolCallStart(_, _, text):
                self._text_bytes[event.index] += _size(text)
            case ReasoningDelta(text):
                self._reasoning_bytes[event.index] += _size(text)
            case Finish(usage=usage) as finish:
                told = _believable(usage)
                usage = self._estimated(told, event.index) if told.is_estimated else told
                return AnswerEvent(event.index, replace(finish, usage=consistent(usage)))
        return event

    @property
    def num_bytes(self) -> int:
        """Of all that was seen of the answers."""
        return sum(self._text_bytes) + sum(self._reasoning_bytes)

    def so_far(self) -> Usage:
        """An estimate of what answers used that broke off: all of them together."""
        return self._usage(sum(self._text_bytes), sum(self._reasoning_bytes))

    def _estimated(self, told: Usage, index: int) -> Usage:
        """What the provider told of it stays."""
        guessed = self._usage(self._text_bytes[index], self._reasoning_bytes[index])
        reasoning = told.reasoning_tokens or guessed.reasoning_tokens
        completion = told.completion_tokens or _tokens(self._text_bytes[index]) + reasoning
        return replace(
            guessed,
            prompt_tokens=told.prompt_tokens or max(guessed.prompt_tokens, told.cached_tokens),
            completion_tokens=completion,
            reasoning_tokens=told.reasoning_tokens or min(reasoning, completion),
            cached_tokens=told.cached_tokens,
        )

    def _usage(self, text_bytes: int, reasoning_bytes: int) -> Usage:
        reasoning = _tokens(reasoning_bytes)
        return Usage(prompt_tokens(self._request), _tokens(text_bytes) + reasoning, reasoning, is_estimated=True)


def consistent(usage: Usage) -> Usage:
    """The same where each part fits its whole; a part that exceeds it was counted apart and is added."""
    thought_apart = usage.reasoning_tokens > usage.completion_tokens
    cached_apart = usage.cached_tokens > usage.prompt_tokens
    if not (thought_apart or cached_apart):
        return usage
    return replace(
        usage,
        prompt_tokens=usage.prompt_tokens + cached_apart * usage.cached_tokens,
        completion_tokens=usage.completion_tokens + thought_apart * usage.reasoning_tokens,
        is_estimated=True,
    )


def _believable(usage: Usage) -> Usage:
    """A count that cannot be is one that was not told."""
    told = (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens)
    prompt, completion, reasoning, cached = (count if 0 <= count <= MAX_COUNT else 0 for count in told)
    is_whole = told == (prompt, completion, reasoning, cached)
    return usage if is_whole else Usage(prompt, completion, reasoning, cached, is_estimated=True)


def _message_bytes(message: Message) -> int:
    calls = sum(len(call.name) + _size(call.arguments) for call in message.tool_calls)
    if isinstance(message.content, str):
        return calls + _size(message.content)
    return calls + sum(_size(part.text) for part in message.content if isinstance(part, TextPart | ThinkPart))


def _form_bytes(form: ResponseFormat | None) -> int:
    match form:
        case JsonSchema(schema):
            return _json_size(schema)
        case Regex(text) | Lark(text):
            return _size(text)
        case _:
            return 0


def _json_size(value: object) -> int:
    """With the blanks that templates put after colons and commas."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tokens(num_bytes: int) -> int:
    return -(-num_bytes // BYTES_PER_TOKEN)
