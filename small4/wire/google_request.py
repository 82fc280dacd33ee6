"""A client's generateContent request (Google) -> Call.

Functions are called and answered by id, or by name and order where there is none. Results of functions come before what
else the same user turn says, since the template answers calls first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from small4.chat import (
    TEMPERATURES,
    AllowedTools,
    ChatRequest,
    Effort,
    JsonObject,
    JsonSchema,
    NamedTool,
    Regex,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
)
from small4.wire.call import Call
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.effort import effort_of
from small4.wire.google_contents import read_contents
from small4.wire.google_enum import enum_pattern
from small4.wire.google_fields import (
    Body,
    FunctionCallingConfig,
    FunctionDeclaration,
    GenerationConfig,
    ThinkingConfig,
    spelled,
    wrong,
)
from small4.wire.google_schema import json_schema
from small4.wire.limits import MAX_TOOLS, check_length, check_metadata, seed_of

_JSON = "application/json"
_ENUM = "text/x.enum"
_MAX_MODEL_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class GenerateForm:
    """What the Writer must know: whether the client wants to read thoughts."""

    shows_thoughts: bool = False


def parse_request(body: bytes | dict[str, Any], model: str, is_stream: bool = False) -> Call:
    """The call of `POST .../models/{model}:generateContent` or `:streamGenerateContent`."""
    return _call(decode_object(body) if isinstance(body, bytes) else body, model, is_stream)


def parse_count_request(body: bytes | dict[str, Any], model: str) -> Call:
    """The call of `POST .../models/{model}:countTokens`: contents alone, or a whole request inside."""
    fields = decode_object(body) if isinstance(body, bytes) else body
    for name in ("generateContentRequest", "generate_content_request"):
        if isinstance(fields.get(name), dict):
            return _call(fields[name], model, is_stream=False)
    return _call(fields, model, is_stream=False)


def _call(fields: dict[str, Any], model: str, is_stream: bool) -> Call:
    fields = spelled(fields)
    parsed = convert(fields, Body)
    config = parsed.generation_config or GenerationConfig()
    _refuse(parsed, config, model)
    ignored = Ignored()
    ignored.unknown_within(fields, parsed)
    ignored.set(parsed, ("provider",))
    check_metadata(parsed.labels or {}, "labels")
    thinking = config.thinking_config or ThinkingConfig()
    effort = _effort(thinking)
    tools, choice = _tools_and_choice(parsed)
    request = ChatRequest(
        messages=read_contents(parsed, ignored),
        tools=tools,
        tool_choice=choice,
        response_format=_response_format(config),
        effort=effort,
        sampling=_sampling(config, effort),
        num_answers=config.candidate_count or 1,
        max_tokens=config.max_output_tokens,
        thinking_budget=_thinking_budget(thinking),
        stop=tuple(config.stop_sequences or ()),
    )
    return Call(
        request=request,
        model=model.removeprefix("models/"),
        is_stream=is_stream,
        has_temperature=config.temperature is not None,
        ignored=ignored.paths,
        metadata=parsed.labels or {},
        provider=parsed.provider,
        form=GenerateForm(shows_thoughts=thinking.include_thoughts is True),
    )


def _refuse(body: Body, config: GenerationConfig, model: str) -> None:
    if not 0 < len(model) <= _MAX_MODEL_CHARACTERS:
        raise wrong("model", f"the name must have 1 to {_MAX_MODEL_CHARACTERS} characters")
    if body.cached_content:
        raise wrong("cachedContent", "no contents are kept here; send them all, they are cached by themselves")
    for modality in config.response_modalities or []:
        if modality.upper() not in ("TEXT", "MODALITY_UNSPECIFIED"):
            param = "generationConfig.responseModalities"
            raise wrong(param, f"{modality[:40]!r} cannot be made; the model answers with TEXT only")


def _tools_and_choice(body: Body) -> tuple[tuple[Tool, ...], ToolChoice]:
    """Functions with what may be called of them. ANY and VALIDATED hold the arguments to their schemas."""
    config = body.tool_config.function_calling_config if body.tool_config is not None else None
    config = config or FunctionCallingConfig()
    mode = (config.mode or "AUTO").upper()
    path = "toolConfig.functionCallingConfig"
    if mode not in ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"):
        raise wrong(f"{path}.mode", f"{mode[:40]!r} is unknown; choose AUTO, ANY, NONE or VALIDATED")
    tools = _tools(body)
    names = tuple(config.allowed_function_names or ())
    _check_allowed(names, mode, tools, f"{path}.allowedFunctionNames")
    if mode == "ANY" and not tools:
        raise wrong(f"{path}.mode", "ANY asks for a call, but no function is declared; declare one")
    if mode in ("ANY", "VALIDATED"):
        tools = tuple(replace(tool, strict=not names or tool.name in names) for tool in tools)
    return tools, _choice(mode, names, bool(tools))


def _choice(mode: str, names: tuple[str, ...], has_tools: bool) -> ToolChoice:
    if mode == "ANY":
        if len(names) == 1:
            return NamedTool(names[0])
        return AllowedTools(names, is_required=True) if names else "required"
    if mode == "VALIDATED" and names:
        return AllowedTools(names)
    return "none" if mode == "NONE" and has_tools else "auto"


def _check_allowed(names: Sequence[str], mode: str, tools: Sequence[Tool], param: str) -> None:
    if names and mode not in ("ANY", "VALIDATED"):
        raise wrong(param, "names go with the mode ANY or VALIDATED; set one of them")
    check_length(names, MAX_TOOLS, param)
    declared = {tool.name for tool in tools}
    for name in names:
        if name not in declared:
            raise wrong(param, f"no function is called {name[:80]!r}; declare it in tools")


def _tools(body: Body) -> tuple[Tool, ...]:
    tools = [
        _tool(declaration, f"tools[{i}].functionDeclarations[{j}]")
        for i, entry in enumerate(body.tools or [])
        for j, declaration in enumerate(entry.function_declarations or [])
    ]
    check_length(tools, MAX_TOOLS, "tools.functionDeclarations")
    return tuple(tools)


def _tool(declaration: FunctionDeclaration, path: str) -> Tool:
    schema = declaration.parameters_json_schema
    if declaration.parameters is not None:
        if schema is not None:
            param = f"{path}.parametersJsonSchema"
            raise wrong(param, "parameters are there too; send one of them")
        schema = json_schema(declaration.parameters, f"{path}.parameters")
    return Tool(declaration.name, declaration.description or "", schema or {"type": "object", "properties": {}})


def _effort(thinking: ThinkingConfig) -> Effort:
    """A level or a budget; a client that only wants to see thoughts wants them thought."""
    path = "generationConfig.thinkingConfig"
    if thinking.thinking_level is not None and thinking.thinking_level != "THINKING_LEVEL_UNSPECIFIED":
        if thinking.thinking_budget is not None:
            raise wrong(f"{path}.thinkingBudget", "thinkingLevel is there too; send one of them")
        return effort_of(thinking.thinking_level, f"{path}.thinkingLevel")
    if thinking.thinking_budget is not None:
        return "high" if thinking.thinking_budget else "none"
    return "high" if thinking.include_thoughts else "none"


def _thinking_budget(thinking: ThinkingConfig) -> int | None:
    """-1 leaves it to the model; 0 is no thinking at all."""
    budget = thinking.thinking_budget
    return budget if budget is not None and budget > 0 else None


def _response_format(config: GenerationConfig) -> ResponseFormat | None:
    path = "generationConfig"
    if config.response_schema is not None and config.response_json_schema is not None:
        raise wrong(f"{path}.responseJsonSchema", "responseSchema is there too; send one of them")
    schema = config.response_json_schema
    if config.response_schema is not None:
        schema = json_schema(config.response_schema, f"{path}.responseSchema", is_closed=True)
    kind = config.response_mime_type or ("text/plain" if schema is None else _JSON)
    if kind == _JSON:
        return JsonObject() if schema is None else JsonSchema(schema)
    if kind == _ENUM:
        return Regex(_enum_pattern(schema))
    if kind != "text/plain":
        param = f"{path}.responseMimeType"
        raise wrong(param, f"{kind[:80]!r} cannot be made; choose text/plain, {_JSON} or {_ENUM}")
    if schema is not None:
        raise wrong(f"{path}.responseSchema", f"a schema goes with the responseMimeType {_JSON}")
    return None


def _enum_pattern(schema: dict[str, Any] | None) -> str:
    values = (schema or {}).get("enum")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise wrong("generationConfig.responseSchema", f"{_ENUM} needs the texts to choose from, as enum of a STRING")
    return enum_pattern(values)


def _sampling(config: GenerationConfig, effort: Effort) -> Sampling:
    top_k = config.top_k or 0.0  # 0 sets no limit
    if top_k != int(top_k):
        raise wrong("generationConfig.topK", f"{top_k:g} is no whole number; round it")
    if config.logprobs is not None and not config.response_logprobs:
        raise wrong("generationConfig.logprobs", "responseLogprobs is not set; set it to true")
    return Sampling(
        temperature=TEMPERATURES[effort] if config.temperature is None else config.temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=int(top_k) or None,
        seed=seed_of(config.seed),
        presence_penalty=config.presence_penalty or 0.0,
        frequency_penalty=config.frequency_penalty or 0.0,
        logprobs=(config.logprobs or 0) if config.response_logprobs else None,
    )
