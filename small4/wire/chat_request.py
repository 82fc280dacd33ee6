"""A Chat Completions request as a `Call`: for OpenAI's dialect, for Mistral's, and for the text endpoint's sampling.

Every field is honoured, refused by name because it would change the answer and cannot be honoured, or listed as
ignored.
"""

from dataclasses import dataclass, replace
from typing import Any

from small4.chat import (
    TEMPERATURES,
    AllowedTools,
    ChatRequest,
    Effort,
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
from small4.errors import FieldError
from small4.wire.call import Call
from small4.wire.chat_fields import (
    AllowedChoiceFields,
    ChatFields,
    FunctionFields,
    GrammarFields,
    JsonObjectFields,
    JsonSchemaFields,
    NamedChoiceFields,
    ReasoningFormat,
    SamplingFields,
    StreamOptions,
    TextFormatFields,
    ToolFields,
)
from small4.wire.chat_messages import list_unknown_of_messages, messages_of
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.effort import effort_of
from small4.wire.limits import bias_of, check_metadata, seed_of

_HINTS = (
    "user",
    "safety_identifier",
    "store",
    "service_tier",
    "verbosity",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "models",
    "provider",
)
_REFUSED = {  # where they hold something
    "audio": "answers are text; leave it out",
    "functions": "it is deprecated; use tools",
    "function_call": "it is deprecated; use tool_choice",
    "web_search_options": "the model does not search the web; leave it out or offer a tool",
    "plugins": "there are none; leave it out",
    "moderation": "there is no moderation model; leave it out and check the texts yourself",
    "guardrails": "there are none; leave it out and check the texts yourself",
    "safe_prompt": "no prompt is added; write it as a system message",
    "prompt_logprobs": "log-probabilities are of the answer only; use logprobs",
    "top_prompt_logprobs": "log-probabilities are of the answer only; use top_logprobs",
    "chat_template": "the template is the model's own; leave it out",
    "chat_template_kwargs": "the template is the model's own; use reasoning_effort",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatForm:
    """What the answer's JSON depends on, beside the answer."""

    reasoning_format: ReasoningFormat = "both"
    has_stream_usage: bool = False
    echo: str = ""  # what the older text endpoint repeats before the answer


def parse_chat(body: bytes | dict[str, Any], form: ChatForm | None = None) -> Call:
    """The call that a body makes; `form` has the dialect's defaults."""
    raw = decode_object(body) if isinstance(body, bytes) else body
    fields = convert(raw, ChatFields)
    _refuse(fields)
    ignored = _ignored(raw, fields)
    effort = _effort(fields)
    tools = _tools(fields, ignored)
    request = ChatRequest(
        messages=messages_of(fields.messages),
        tools=tools,
        tool_choice=_tool_choice(fields, tools),
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        response_format=_response_format(fields),
        effort=effort,
        sampling=replace(sampling_of(fields, effort), logprobs=_logprobs(fields)),
        num_answers=fields.n or 1,
        max_tokens=fields.max_completion_tokens or fields.max_tokens,
        thinking_budget=_thinking_budget(fields, effort),
        stop=stop_of(fields),
    )
    return call_of(fields, request, ignored, _form(fields, form or ChatForm()))


def call_of(fields: SamplingFields, request: ChatRequest, ignored: Ignored, form: ChatForm) -> Call:
    """The request with all that the two endpoints have in common."""
    check_metadata(fields.metadata or {}, "metadata")
    return Call(
        request=request,
        model=fields.model,
        is_stream=fields.stream is True,
        has_temperature=fields.temperature is not None,
        ignored=ignored.paths,
        metadata=fields.metadata or {},
        provider=fields.provider,
        form=form,
    )


def sampling_of(fields: SamplingFields, effort: Effort) -> Sampling:
    """How to draw; a temperature that is left open is the release's for the effort."""
    if fields.top_a:
        raise FieldError("top_a: this filter is not supported; use min_p, or leave it out", "top_a")
    seed = fields.seed if fields.random_seed is None else fields.random_seed
    return Sampling(
        temperature=TEMPERATURES[effort] if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=fields.top_k if fields.top_k is not None and fields.top_k > 0 else None,
        min_p=fields.min_p or 0.0,
        seed=seed_of(seed),
        repetition_penalty=fields.repetition_penalty or 1.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=bias_of(fields.logit_bias or {}, "logit_bias"),
        min_tokens=fields.min_tokens or 0,
        ignore_eos=fields.ignore_eos is True,
    )


def stop_of(fields: SamplingFields) -> tuple[str, ...]:
    """The texts that end the answer."""
    return (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())


def _refuse(fields: ChatFields) -> None:
    for name, way_out in _REFUSED.items():
        if getattr(fields, name):
            raise FieldError(f"{name} cannot be honoured: {way_out}", name)
    if any(modality != "text" for modality in fields.modalities or ()):
        raise FieldError("modalities: answers are text; ask for text only", "modalities")


def _ignored(raw: dict[str, Any], fields: ChatFields) -> Ignored:
    ignored = Ignored()
    ignored.unknown(raw, ChatFields)
    ignored.set(fields, _HINTS)
    if fields.stream_options is not None:
        ignored.unknown(raw["stream_options"], StreamOptions, "stream_options")
        ignored.set(fields.stream_options, ["include_obfuscation"], "stream_options")
    if fields.reasoning is not None:
        ignored.unknown(raw["reasoning"], type(fields.reasoning), "reasoning")
        ignored.set(fields.reasoning, ["summary"], "reasoning")
    list_unknown_of_messages(raw["messages"], fields.messages, ignored)
    return ignored


def _effort(fields: ChatFields) -> Effort:
    """The first that is said of: reasoning_effort, reasoning.effort, reasoning.enabled or its budget, prompt_mode."""
    if fields.reasoning_effort is not None:
        return effort_of(fields.reasoning_effort, "reasoning_effort")
    reasoning = fields.reasoning
    if reasoning is not None:
        if reasoning.effort is not None:
            return effort_of(reasoning.effort, "reasoning.effort")
        if reasoning.enabled is not None:
            return "high" if reasoning.enabled else "none"
        if reasoning.max_tokens is not None:
            return "high" if reasoning.max_tokens else "none"
    return "high" if fields.prompt_mode else "none"


def _thinking_budget(fields: ChatFields, effort: Effort) -> int | None:
    return fields.reasoning.max_tokens if fields.reasoning is not None and effort == "high" else None


def _logprobs(fields: ChatFields) -> int | None:
    if fields.logprobs:
        return fields.top_logprobs or 0
    if fields.top_logprobs:
        raise FieldError("top_logprobs is given without logprobs; set logprobs to true", "top_logprobs")
    return None


def _tools(fields: ChatFields, ignored: Ignored) -> tuple[Tool, ...]:
    tools = []
    for index, raw in enumerate(fields.tools or ()):
        path = f"tools[{index}]"
        if "type" in raw and raw["type"] != "function":
            # What another type means is unknown here, so the model is not told of it; a forced one is refused.
            ignored.add(f"tools.{str(raw['type'])[:80]}")
            continue
        tool = convert({"type": "function", **raw}, ToolFields, path)
        ignored.unknown(raw, ToolFields, "tools")
        ignored.unknown(raw["function"], FunctionFields, "tools.function")
        tools.append(_tool(tool.function))
    return tuple(tools)


def _tool(function: FunctionFields) -> Tool:
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters or parameters,
        strict=function.strict is True,
    )


def _tool_choice(fields: ChatFields, tools: tuple[Tool, ...]) -> ToolChoice:
    choice = fields.tool_choice
    if isinstance(choice, NamedChoiceFields):
        _check_offered([choice.function.name], tools)
        return NamedTool(choice.function.name)
    if isinstance(choice, AllowedChoiceFields):
        names = tuple(tool.function.name for tool in choice.allowed_tools.tools)
        _check_offered(names, tools)
        return AllowedTools(names, choice.allowed_tools.mode == "required")
    if choice in ("required", "any"):
        if not tools:
            raise FieldError("tool_choice asks for a call, but no tool is offered; add tools", "tool_choice")
        return "required"
    return "none" if choice == "none" else "auto"


def _check_offered(names: tuple[str, ...] | list[str], tools: tuple[Tool, ...]) -> None:
    offered = {tool.name for tool in tools}
    for name in names:
        if name not in offered:
            raise FieldError(f"tool_choice names {name[:80]!r}, which is not among the tools; offer it", "tool_choice")


def _response_format(fields: ChatFields) -> ResponseFormat | None:
    match fields.response_format:
        case None | TextFormatFields():
            return None
        case JsonObjectFields():
            return JsonObject()
        case JsonSchemaFields(json_schema):
            return JsonSchema(json_schema.schema)
        case GrammarFields(grammar):
            return Regex(grammar.definition) if grammar.syntax == "regex" else Lark(grammar.definition)


def _form(fields: ChatFields, form: ChatForm) -> ChatForm:
    reasoning_format = fields.reasoning_format or form.reasoning_format
    if fields.include_reasoning is False or (fields.reasoning is not None and fields.reasoning.exclude):
        reasoning_format = "hidden"
    options = fields.stream_options
    has_usage = bool(options and options.include_usage) or bool(fields.usage and fields.usage.include)
    return replace(form, reasoning_format=reasoning_format, has_stream_usage=form.has_stream_usage or has_usage)
