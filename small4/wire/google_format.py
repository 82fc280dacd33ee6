"""Call -> a generateContent request (Google) for a provider that speaks the dialect."""

from collections.abc import Iterator, Sequence
from typing import Any

from small4.chat import (
    AllowedTools,
    ChatRequest,
    ImageLink,
    ImagePart,
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    Part,
    Regex,
    Sampling,
    TextPart,
    ThinkPart,
    ToolCall,
)
from small4.errors import UnsayableError
from small4.wire.call import Call
from small4.wire.google_enum import enum_values
from small4.wire.google_request import GenerateForm
from small4.wire.images import image_base64, media_type
from small4.wire.message_parts import ERROR_MARK, has_open_thought, text_of
from small4.wire.tool_arguments import arguments_object

_Json = dict[str, Any]
_SAYABLE = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "logprobs")


def unsupported(request: ChatRequest) -> list[str]:
    """Names of what the request asks for and the dialect cannot say."""
    sampling, plain = request.sampling, Sampling()
    names = [
        name
        for name in Sampling.__dataclass_fields__
        if name not in _SAYABLE and getattr(sampling, name) != getattr(plain, name)
    ]
    if request.tools and not request.parallel_tool_calls:
        names.append("parallel_tool_calls")
    if not _can_say(request.response_format):
        names.append("response_format")
    if has_open_thought(request.messages):
        names.append("a prefix that ends inside a thought")
    return names


def format_request(call: Call) -> _Json:
    """The body for `:generateContent`, or `:streamGenerateContent?alt=sse`, of the call's model.

    Raises `UnsayableError` for what `unsupported` names.
    """
    request = call.request
    if names := unsupported(request):
        raise UnsayableError(f"{names[0]} cannot be said to a provider with Google's API; leave it out", names[0])
    num_system = next(
        (i for i, message in enumerate(request.messages) if message.role != "system"), len(request.messages)
    )
    declarations = [_declaration(tool.name, tool.description, tool.parameters) for tool in request.tools]
    return _given(
        systemInstruction=_system(request.messages[:num_system]),
        contents=list(_contents(request.messages[num_system:])),
        tools=[{"functionDeclarations": declarations}] if declarations else None,
        toolConfig=_tool_config(request) if declarations else None,
        generationConfig=_generation_config(call),
        labels=dict(call.metadata) if call.metadata and isinstance(call.form, GenerateForm) else None,
    )


def _can_say(form: object) -> bool:
    if isinstance(form, Regex):
        return enum_values(form.pattern) is not None
    return isinstance(form, JsonObject | JsonSchema | None)


def _given(**fields: Any) -> _Json:
    return {name: value for name, value in fields.items() if value is not None}


def _system(messages: Sequence[Message]) -> _Json | None:
    parts = [{"text": text_of(message.content)} for message in messages]
    return {"parts": parts} if parts else None


def _contents(messages: Sequence[Message]) -> Iterator[_Json]:
    """Turns; results of functions and what the user says next are one. A later system text is said by the user."""
    names: dict[str | None, str] = {}
    results: list[_Json] = []
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        if message.role == "tool":
            results.append(_result(message, names.get(message.tool_call_id, "")))
            continue
        parts = [_part(part) for part in _parts(message)]
        if message.role == "assistant":
            yield from [{"role": "user", "parts": results}] if results else []
            yield {"role": "model", "parts": [*parts, *map(_call, message.tool_calls)]}
        else:
            yield {"role": "user", "parts": [*results, *parts]}
        results = []
    if results:
        yield {"role": "user", "parts": results}


def _parts(message: Message) -> Sequence[Part]:
    if isinstance(message.content, str):
        return (TextPart(message.content),) if message.content or not message.tool_calls else ()
    return message.content


def _part(part: Part) -> _Json:
    match part:
        case ImagePart():
            return {"inlineData": {"mimeType": media_type(part), "data": image_base64(part)}}
        case ImageLink(url):
            return {"fileData": {"fileUri": url}}
        case ThinkPart(text):
            return {"text": text, "thought": True}
    return {"text": part.text}


def _call(call: ToolCall) -> _Json:
    return {"functionCall": {"id": call.id, "name": call.name, "args": arguments_object(call.arguments)}}


def _result(message: Message, name: str) -> _Json:
    text = text_of(message.content)
    word, value = ("error", text.removeprefix(ERROR_MARK)) if text.startswith(ERROR_MARK) else ("output", text)
    files = (
        [] if isinstance(message.content, str) else [_part(p) for p in message.content if not isinstance(p, TextPart)]
    )
    fields = _given(id=message.tool_call_id, name=name, response={word: value}, parts=files or None)
    return {"functionResponse": fields}


def _declaration(name: str, description: str, parameters: _Json) -> _Json:
    return _given(name=name, description=description or None, parametersJsonSchema=parameters)


def _tool_config(request: ChatRequest) -> _Json | None:
    names: list[str] | None = None
    match request.tool_choice:
        case "none":
            mode = "NONE"
        case "required":
            mode = "ANY"
        case NamedTool(name):
            mode, names = "ANY", [name]
        case AllowedTools(allowed, is_required):
            mode, names = "ANY" if is_required else "VALIDATED", list(allowed)
        case _ if all(tool.strict for tool in request.tools):
            mode = "VALIDATED"
        case _:
            return None
    return {"functionCallingConfig": _given(mode=mode, allowedFunctionNames=names)}


def _generation_config(call: Call) -> _Json:
    request, sampling = call.request, call.request.sampling
    return _given(
        temperature=sampling.temperature if call.has_temperature else None,
        topP=sampling.top_p if sampling.top_p != 1.0 else None,
        topK=sampling.top_k,
        candidateCount=request.num_answers if request.num_answers > 1 else None,
        maxOutputTokens=request.max_tokens,
        stopSequences=list(request.stop) or None,
        seed=sampling.seed,
        presencePenalty=sampling.presence_penalty or None,
        frequencyPenalty=sampling.frequency_penalty or None,
        responseLogprobs=None if sampling.logprobs is None else True,
        logprobs=sampling.logprobs or None,
        thinkingConfig=_thinking_config(call),
        **_response_format(request),
    )


def _thinking_config(call: Call) -> _Json:
    """-1 leaves the number of tokens to the model, 0 is no thinking."""
    if call.request.effort == "none":
        return {"thinkingBudget": 0}
    shows_thoughts = call.form.shows_thoughts if isinstance(call.form, GenerateForm) else True
    budget = -1 if call.request.thinking_budget is None else call.request.thinking_budget
    return {"includeThoughts": shows_thoughts, "thinkingBudget": budget}


def _response_format(request: ChatRequest) -> _Json:
    match request.response_format:
        case JsonObject():
            return {"responseMimeType": "application/json"}
        case JsonSchema(schema):
            return {"responseMimeType": "application/json", "responseJsonSchema": schema}
        case Regex(pattern):
            values = enum_values(pattern)
            return {"responseMimeType": "text/x.enum", "responseJsonSchema": {"type": "string", "enum": values}}
    return {}
