"""Call -> a Messages request (Anthropic) for a provider that speaks the dialect."""

from collections.abc import Iterator, Sequence
from typing import Any

from small4.chat import (
    AllowedTools,
    ChatRequest,
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
)
from small4.errors import UnsayableError
from small4.wire.anthropic_request import MessagesForm
from small4.wire.call import Call
from small4.wire.images import image_base64, media_type
from small4.wire.message_parts import has_open_thought, text_of
from small4.wire.signature import Signer
from small4.wire.tool_arguments import arguments_object

DEFAULT_MAX_TOKENS = 8192  # the dialect wants a number; a call without one gets this


def unsupported(request: ChatRequest) -> list[str]:
    """Names of what the request asks for and the dialect cannot say."""
    plain, sampling = Sampling(temperature=request.sampling.temperature), request.sampling
    sayable = ("temperature", "top_p", "top_k")
    names = [
        name
        for name in Sampling.__dataclass_fields__
        if name not in sayable and getattr(sampling, name) != getattr(plain, name)
    ]
    if request.num_answers > 1:
        names.append("num_answers")
    if not isinstance(request.response_format, JsonSchema | None):
        names.append("response_format")
    if has_open_thought(request.messages):
        names.append("a prefix that ends inside a thought")
    return names


def format_request(call: Call, signer: Signer | None = None, max_tokens: int = DEFAULT_MAX_TOKENS) -> dict[str, Any]:
    """The body for `POST /v1/messages`; raises `UnsayableError` for what `unsupported` names.

    Thoughts of earlier turns go along if a signer is given: providers refuse those that they did not sign.
    """
    request = call.request
    if names := unsupported(request):
        raise UnsayableError(f"{names[0]} cannot be said to a provider with Anthropic's API; leave it out", names[0])
    num_system = _num_leading_system(request.messages)
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": request.max_tokens or max_tokens,
        "system": _system(request.messages[:num_system]),
        "messages": list(_turns(request.messages[num_system:], signer)),
        "stop_sequences": list(request.stop) or None,
        "temperature": request.sampling.temperature if call.has_temperature else None,
        "top_p": request.sampling.top_p if request.sampling.top_p != 1.0 else None,
        "top_k": request.sampling.top_k,
        "tools": [_tool(tool) for tool in _callable_tools(request)] or None,
        "tool_choice": _tool_choice(request),
        "thinking": _thinking(call),
        "output_config": _output_config(request),
        "metadata": {"user_id": call.metadata["user_id"]} if "user_id" in call.metadata else None,
        "stream": call.is_stream or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _num_leading_system(messages: Sequence[Message]) -> int:
    return next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))


def _system(messages: Sequence[Message]) -> str | list[dict[str, Any]] | None:
    texts = [text_of(message.content) for message in messages]
    if len(texts) < 2:
        return texts[0] if texts and texts[0] else None
    return [{"type": "text", "text": text} for text in texts]


def _turns(messages: Sequence[Message], signer: Signer | None) -> Iterator[dict[str, Any]]:
    """Turns; the results of tools and what the user says next are one."""
    results: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            results.append(_tool_result(message))
            continue
        if message.role == "user" and results:
            yield {"role": "user", "content": [*results, *_blocks(message.content)]}
        else:
            yield from [{"role": "user", "content": results}] if results else []
            yield from _turn(message, signer)
        results = []
    if results:
        yield {"role": "user", "content": results}


def _turn(message: Message, signer: Signer | None) -> Iterator[dict[str, Any]]:
    """One turn, or none where nothing but unsigned thoughts was said."""
    match message.role:
        case "assistant":
            content = _said(message, signer)
            if content:
                yield {"role": "assistant", "content": content}
        case "system":
            yield {"role": "system", "content": text_of(message.content)}
        case _:
            yield {"role": "user", "content": _content(message.content)}


def _said(message: Message, signer: Signer | None) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str) and not message.tool_calls:
        return message.content
    uses = [_tool_use(call) for call in message.tool_calls]
    return [*_blocks(message.content, signer), *uses]


def _tool_result(message: Message) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": _content(message.content)}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_object(call.arguments)}


def _content(content: str | tuple[Part, ...]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else _blocks(content)


def _blocks(content: str | tuple[Part, ...], signer: Signer | None = None) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for part in content for block in _block(part, signer)]


def _block(part: Part, signer: Signer | None) -> Iterator[dict[str, Any]]:
    match part:
        case TextPart(text):
            yield {"type": "text", "text": text}
        case ImagePart():
            source = {"type": "base64", "media_type": media_type(part), "data": image_base64(part)}
            yield {"type": "image", "source": source}
        case ImageLink(url):
            yield {"type": "image", "source": {"type": "url", "url": url}}
        case ThinkPart(text) if signer is not None:
            yield {"type": "thinking", "thinking": text, "signature": signer.sign(text)}


def _callable_tools(request: ChatRequest) -> Sequence[Tool]:
    """The dialect cannot tell of a tool and forbid it, so only those that may be called are told."""
    if isinstance(request.tool_choice, AllowedTools):
        return [tool for tool in request.tools if tool.name in request.tool_choice.names]
    return request.tools


def _tool(tool: Tool) -> dict[str, Any]:
    fields = {"name": tool.name, "input_schema": tool.parameters}
    hints = {"description": tool.description, "strict": tool.strict}
    return fields | {name: value for name, value in hints.items() if value}


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    if not request.tools:
        return None
    match request.tool_choice:
        case "none":
            return {"type": "none"}
        case NamedTool(name):
            choice: dict[str, Any] = {"type": "tool", "name": name}
        case "required" | AllowedTools(is_required=True):
            choice = {"type": "any"}
        case _ if request.parallel_tool_calls:
            return None
        case _:
            choice = {"type": "auto"}
    return choice if request.parallel_tool_calls else {**choice, "disable_parallel_tool_use": True}


def _thinking(call: Call) -> dict[str, Any] | None:
    if call.request.effort == "none":
        return None
    is_hidden = isinstance(call.form, MessagesForm) and not call.form.shows_thoughts
    display = {"display": "omitted"} if is_hidden else {}
    if call.request.thinking_budget is None:
        return {"type": "adaptive", **display}
    return {"type": "enabled", "budget_tokens": call.request.thinking_budget, **display}


def _output_config(request: ChatRequest) -> dict[str, Any] | None:
    if isinstance(request.response_format, JsonSchema):
        return {"format": {"type": "json_schema", "schema": request.response_format.schema}}
    return None
