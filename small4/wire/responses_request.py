"""Requests of the Responses API, OpenAI's and Open Responses' alike: a body to a `Call`, and a `Call` to a body.

A hint changes how an answer is made, never what it says: it is taken and listed as ignored. A field that would change
the answer and cannot be honoured is refused by its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from small4.chat import (
    TEMPERATURES,
    ChatRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Message,
    Regex,
    ResponseFormat,
    Sampling,
)
from small4.errors import FieldError, UnsayableError
from small4.wire.call import Call
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.effort import EFFORT_WORDS, effort_of
from small4.wire.limits import check_length, check_metadata
from small4.wire.responses_fields import RequestFields, TextFields
from small4.wire.responses_items import MAX_ITEMS, Conversation, Sealer, items_of
from small4.wire.responses_parts import Item
from small4.wire.responses_tools import choice_echo, tool_choice_of, tool_echo, tools_of
from small4.wire.system_texts import place_system_texts

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"


class Past(Protocol):
    """What one caller's earlier responses said."""

    def thread(self, response_id: str) -> Sequence[Item]:
        """All items up to the end of a response; raises `UnknownResponseError`."""

    def item(self, item_id: str) -> Item | None:
        """A kept item, if there is one of that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaWords:
    """What a caller said of a JSON schema besides the schema."""

    name: str = "answer"
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesForm:
    """What a response says of its request that the chat request does not hold."""

    instructions: str | None = None
    effort: str | None = None  # the caller's word
    schema: SchemaWords = SchemaWords()
    max_tool_calls: int | None = None
    has_sealed_reasoning: bool = False
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # how this server keeps the conversation; says nothing of the answer
    is_stored: bool = field(default=False, compare=False)
    previous_response_id: str | None = field(default=None, compare=False)
    past_items: tuple[Item, ...] = field(default=(), compare=False)
    new_items: tuple[Item, ...] = field(default=(), compare=False)


def parse_request(body: bytes | dict[str, Any], *, past: Past | None = None, sealer: Sealer | None = None) -> Call:
    """The call that a body asks for; without a `past` it must hold the whole conversation."""
    fields = decode_object(body) if isinstance(body, bytes) else body
    ignored = Ignored()
    ignored.unknown(fields, RequestFields)
    request = convert(fields, RequestFields)
    _refuse(request)
    _note_hints(request, past, ignored)
    past_items, new_items = _join(request, past)
    words = request.reasoning.effort if request.reasoning else None
    return Call(
        request=_chat_request(request, _messages(request, past_items, new_items, ignored, sealer), ignored),
        model=request.model,
        is_stream=bool(request.stream),
        has_temperature=request.temperature is not None,
        ignored=ignored.paths,
        metadata=request.metadata or {},
        provider=request.provider,
        form=ResponsesForm(
            instructions=request.instructions,
            effort=words,
            schema=_schema_words(request.text),
            max_tool_calls=request.max_tool_calls,
            has_sealed_reasoning=SEALED_REASONING in (request.include or ()),
            user=request.user,
            safety_identifier=request.safety_identifier,
            prompt_cache_key=request.prompt_cache_key,
            is_stored=past is not None and request.store is not False,
            previous_response_id=request.previous_response_id,
            past_items=tuple(past_items),
            new_items=tuple(new_items),
        ),
    )


def format_request(call: Call) -> dict[str, Any]:
    """The body for a provider that speaks the dialect; raises `UnsayableError` for what the dialect lacks."""
    if names := unsupported(call.request):
        raise UnsayableError(f"{', '.join(names)}: the Responses API has no such field; leave it out", names[0])
    form = call.form if isinstance(call.form, ResponsesForm) else ResponsesForm()
    request, sampling = call.request, call.request.sampling
    instructions, messages = _split_instructions(form, request.messages)
    include = [LOGPROBS] * (sampling.logprobs is not None) + [SEALED_REASONING] * form.has_sealed_reasoning
    fields = {
        "instructions": instructions,
        "max_output_tokens": request.max_tokens,
        "max_tool_calls": form.max_tool_calls,
        "temperature": sampling.temperature if call.has_temperature else None,
        "top_p": sampling.top_p if sampling.top_p != 1.0 else None,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "top_logprobs": sampling.logprobs or None,
        "tools": [tool_echo(tool) for tool in request.tools] or None,
        "tool_choice": choice_echo(request.tool_choice) if request.tool_choice != "auto" else None,
        "parallel_tool_calls": None if request.parallel_tool_calls else False,
        "reasoning": _reasoning(form, request),
        "text": {"format": text_format(call)} if request.response_format is not None else None,
        "include": include or None,
        "metadata": dict(call.metadata) or None,
        "user": form.user,
        "safety_identifier": form.safety_identifier,
        "prompt_cache_key": form.prompt_cache_key,
    }
    body = {"model": call.model, "input": items_of(messages), "stream": call.is_stream, "store": False}
    return body | {name: value for name, value in fields.items() if value is not None}


def text_format(call: Call) -> dict[str, Any]:
    """The form of the answer, as the dialect writes it."""
    wanted = call.request.response_format
    if isinstance(wanted, JsonObject):
        return {"type": "json_object"}
    if not isinstance(wanted, JsonSchema):
        return {"type": "text"}
    words = call.form.schema if isinstance(call.form, ResponsesForm) else SchemaWords()
    return {
        "type": "json_schema",
        "name": words.name,
        "description": words.description,
        "schema": wanted.schema,
        "strict": words.strict,
    }


def unsupported(request: ChatRequest) -> tuple[str, ...]:
    """What the request asks for that the dialect has no word for."""
    sampling, plain = request.sampling, Sampling()
    names = ("top_k", "min_p", "seed", "repetition_penalty", "logit_bias", "min_tokens", "ignore_eos")
    unsaid = [name for name in names if getattr(sampling, name) != getattr(plain, name)]
    asked = {
        "num_answers": request.num_answers != 1,
        "stop": bool(request.stop),
        "thinking_budget": request.thinking_budget is not None,
        "prefix": any(message.prefix for message in request.messages),
        "response_format": isinstance(request.response_format, (Regex, Lark)),
    }
    return (*unsaid, *(name for name, is_asked in asked.items() if is_asked))


def _refuse(request: RequestFields) -> None:
    """Raises on fields that would change the answer and cannot be honoured."""
    if request.background:
        raise FieldError("background: responses are not made in the background here; stream instead", "background")
    if request.conversation is not None:
        raise FieldError(
            "conversation: no conversations are kept here; chain responses by previous_response_id, or send all items",
            "conversation",
        )
    if request.prompt is not None:
        raise FieldError("prompt: no prompt templates are kept here; send instructions and input", "prompt")


def _note_hints(request: RequestFields, past: Past | None, ignored: Ignored) -> None:
    ignored.set(request, ("service_tier", "prompt_cache_key", "stream_options", "provider"))
    if request.truncation == "auto":
        ignored.add("truncation")  # nothing is ever cut: what does not fit is refused
    if request.store and past is None:
        ignored.add("store")
    if request.reasoning is not None:
        ignored.set(request.reasoning, ("summary", "generate_summary"), "reasoning")
    if request.text is not None:
        ignored.set(request.text, ("verbosity",), "text")
    for index, name in enumerate(request.include or ()):
        if name not in (LOGPROBS, SEALED_REASONING):
            ignored.add(f"include[{index}]")
    if request.top_logprobs and LOGPROBS not in (request.include or ()):
        ignored.add("top_logprobs")


def _join(request: RequestFields, past: Past | None) -> tuple[Sequence[Item], list[Item]]:
    """Items of earlier responses, and the new ones with every reference replaced by what it stands for."""
    earlier: Sequence[Item] = ()
    if request.previous_response_id is not None:
        if past is None:
            raise FieldError(
                "previous_response_id: no responses are kept here; send the whole conversation in input",
                "previous_response_id",
            )
        earlier = past.thread(request.previous_response_id)
    items = request.items
    if items is None or isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": items}] if items else []
    if not items and not earlier:
        items = [{"type": "message", "role": "user", "content": ""}]  # agents probe with an empty input
    check_length(items, MAX_ITEMS, "input")
    check_length(earlier, MAX_ITEMS, "previous_response_id")
    return earlier, [_resolved(item, past, f"input[{index}]") for index, item in enumerate(items)]


def _resolved(item: Any, past: Past | None, path: str) -> Item:
    if not isinstance(item, dict):
        raise FieldError(f"{path}: an item must be a JSON object", path)
    if item.get("type") != "item_reference" and not (item.keys() <= {"id", "type"} and item.get("type") is None):
        return item
    item_id = item.get("id")
    found = past.item(item_id) if past is not None and isinstance(item_id, str) else None
    if found is None:
        raise FieldError(f"{path}.id: no item {str(item_id)[:80]!r} is kept here; send the item itself", f"{path}.id")
    return found


def _messages(
    request: RequestFields,
    past_items: Sequence[Item],
    new_items: Sequence[Item],
    ignored: Ignored,
    sealer: Sealer | None,
) -> tuple[Message, ...]:
    conversation = Conversation(ignored, sealer)
    if request.instructions:
        conversation.messages.append(Message("system", request.instructions))
    for index, item in enumerate(past_items):
        conversation.add(item, f"previous_response_id.items[{index}]")
    for index, item in enumerate(new_items):
        conversation.add(item, f"input[{index}]")
    return place_system_texts(conversation.messages)


def _chat_request(request: RequestFields, messages: tuple[Message, ...], ignored: Ignored) -> ChatRequest:
    check_metadata(request.metadata or {}, "metadata")
    word = request.reasoning.effort if request.reasoning else None
    effort = "none" if word is None else effort_of(word, "reasoning.effort")
    tools = tools_of(request.tools or [], ignored)
    return ChatRequest(
        messages=messages,
        tools=tools,
        tool_choice=tool_choice_of(request.tool_choice, tools),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=_response_format(request.text),
        effort=effort,
        sampling=Sampling(
            temperature=TEMPERATURES[effort] if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logprobs=(request.top_logprobs or 0) if LOGPROBS in (request.include or ()) else None,
        ),
        max_tokens=request.max_output_tokens,
    )


def _response_format(text: TextFields | None) -> ResponseFormat | None:
    wanted = text.format if text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonObject()
    if wanted.schema is None:
        raise FieldError("text.format.schema is missing; give the JSON schema of the answer", "text.format.schema")
    return JsonSchema(wanted.schema)


def _schema_words(text: TextFields | None) -> SchemaWords:
    wanted = text.format if text else None
    if wanted is None or wanted.type != "json_schema":
        return SchemaWords()
    return SchemaWords(name=wanted.name or SchemaWords().name, description=wanted.description, strict=wanted.strict)


def _split_instructions(form: ResponsesForm, messages: tuple[Message, ...]) -> tuple[str | None, tuple[Message, ...]]:
    if form.instructions and messages[:1] == (Message("system", form.instructions),):
        return form.instructions, messages[1:]
    return None, messages


def _reasoning(form: ResponsesForm, request: ChatRequest) -> dict[str, Any] | None:
    if form.effort is not None and EFFORT_WORDS.get(form.effort.lower()) == request.effort:
        return {"effort": form.effort}
    return None if request.effort == "none" else {"effort": request.effort}
