"""A `Call` as the Chat Completions request that a provider gets: the way back of `chat_request.py`."""

from typing import Any

from small4.chat import (
    AllowedTools,
    ChatRequest,
    JsonObject,
    JsonSchema,
    Lark,
    NamedTool,
    Regex,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
)
from small4.wire.call import Call
from small4.wire.chat_messages import format_messages


def format_chat(call: Call, *, has_thinking_parts: bool) -> dict[str, Any]:
    """All that the dialects write alike; what a neutral value says is left out."""
    request = call.request
    body: dict[str, Any] = {
        "model": call.model,
        "messages": format_messages(request.messages, has_thinking_parts=has_thinking_parts),
        "reasoning_effort": request.effort,
    }
    if call.is_stream:
        body["stream"] = True
    if call.metadata:
        body["metadata"] = dict(call.metadata)
    body |= format_sampling(request.sampling, has_temperature=call.has_temperature)
    body |= _format_bounds(request)
    return body | _format_tools(request)


def format_sampling(sampling: Sampling, *, has_temperature: bool) -> dict[str, Any]:
    """What differs from plain sampling; the temperature only if the caller set one."""
    body: dict[str, Any] = {"temperature": sampling.temperature} if has_temperature else {}
    plain = Sampling()
    for name in ("top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(plain, name):
            body[name] = getattr(sampling, name)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token_id): value for token_id, value in sampling.logit_bias}
    if sampling.min_tokens:
        body["min_tokens"] = sampling.min_tokens
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    return body


def _format_bounds(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.num_answers != 1:
        body["n"] = request.num_answers
    if request.max_tokens is not None:
        body["max_completion_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.thinking_budget is not None:
        body["reasoning"] = {"max_tokens": request.thinking_budget}
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    return body


def _format_tools(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.tools:
        body["tools"] = [_format_tool(tool) for tool in request.tools]
    if request.tool_choice != "auto":
        body["tool_choice"] = _format_choice(request.tool_choice)
    if not request.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    if request.response_format is not None:
        body["response_format"] = _format_format(request.response_format)
    return body


def _format_tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def _format_choice(choice: ToolChoice) -> str | dict[str, Any]:
    match choice:
        case NamedTool(name):
            return _format_name(name)
        case AllowedTools(names, is_required):
            tools = [_format_name(name) for name in names]
            mode = "required" if is_required else "auto"
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        case word:
            return word


def _format_name(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _format_format(response_format: ResponseFormat) -> dict[str, Any]:
    match response_format:
        case JsonObject():
            return {"type": "json_object"}
        case JsonSchema(schema):
            return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        case Regex(pattern):
            return {"type": "grammar", "grammar": {"syntax": "regex", "definition": pattern}}
        case Lark(grammar):
            return {"type": "grammar", "grammar": {"syntax": "lark", "definition": grammar}}
