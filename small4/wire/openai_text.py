"""OpenAI's older endpoint for plain text, `POST /v1/completions`: the model continues a prompt.

The model knows conversations only, so the prompt becomes the beginning of its own answer to an empty message: it is
continued, not answered. Reasoning, tools and images do not exist here.
"""

from dataclasses import replace
from typing import Any

import msgspec

from small4.answer import Gathering
from small4.chat import AnswerEvent, ChatRequest, Finish, Message, ScoredToken, TextDelta, TokenLogprobs
from small4.errors import FieldError
from small4.wire.call import Call, Head
from small4.wire.chat_fields import SamplingFields, StreamOptions
from small4.wire.chat_format import format_sampling
from small4.wire.chat_logprobs import LOWEST
from small4.wire.chat_reader import ChatReader
from small4.wire.chat_request import ChatForm, call_of, sampling_of, stop_of
from small4.wire.chat_usage import format_usage, sum_usage
from small4.wire.chat_writer import DONE
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.limits import TopLogprobs
from small4.wire.openai_chat import STYLE, format_model, format_models
from small4.wire.openai_errors import format_error, parse_error
from small4.wire.problem import Problem
from small4.wire.sse import ServerEvent

__all__ = [
    "Reader",
    "Writer",
    "format_error",
    "format_model",
    "format_models",
    "format_request",
    "parse_error",
    "parse_request",
]

DEFAULT_MAX_TOKENS = 16  # OpenAI's

Reader = ChatReader  # text is read like content


class TextRequestFields(SamplingFields, kw_only=True):
    prompt: str | list[Any]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: TopLogprobs | None = None
    user: Any = None


def parse_request(body: bytes | dict[str, Any]) -> Call:
    """The call that a client makes; a `FieldError` names what is wrong with it."""
    return parse_text(body, ChatForm(), default_max_tokens=DEFAULT_MAX_TOKENS)


def parse_text(body: bytes | dict[str, Any], form: ChatForm, *, default_max_tokens: int | None) -> Call:
    """A call that continues a prompt; Mistral's fill-in-the-middle is one too."""
    raw = decode_object(body) if isinstance(body, bytes) else body
    fields = convert(raw, TextRequestFields)
    prompt = _prompt(fields)
    request = ChatRequest(
        messages=messages_of(prompt),
        sampling=replace(sampling_of(fields, "none"), logprobs=fields.logprobs),
        num_answers=fields.n or 1,
        max_tokens=fields.max_tokens or default_max_tokens,
        stop=stop_of(fields),
    )
    ignored = Ignored()
    ignored.unknown(raw, TextRequestFields)
    ignored.set(fields, ["user", "provider"])
    if fields.stream_options is not None:
        ignored.unknown(raw["stream_options"], StreamOptions, "stream_options")
        ignored.set(fields.stream_options, ["include_obfuscation"], "stream_options")
    has_usage = bool(fields.stream_options and fields.stream_options.include_usage)
    form = replace(form, echo=prompt if fields.echo else "", has_stream_usage=form.has_stream_usage or has_usage)
    return call_of(fields, request, ignored, form)


def messages_of(prompt: str) -> tuple[Message, ...]:
    """The conversation in which the answer continues the prompt."""
    return (Message("user", ""), Message("assistant", prompt, prefix=True))


def format_request(call: Call) -> dict[str, Any]:
    """The body for a provider; a conversation that is no prompt raises."""
    request = call.request
    prompt = request.messages[-1].content
    if not isinstance(prompt, str) or request.messages != messages_of(prompt) or request.tools:
        raise FieldError("a conversation cannot be sent as a text completion; use a chat endpoint", "messages")
    body: dict[str, Any] = {"model": call.model, "prompt": prompt}
    if call.is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    for name, value, neutral in (
        ("n", request.num_answers, 1),
        ("max_tokens", request.max_tokens, None),
        ("stop", list(request.stop), []),
        ("logprobs", request.sampling.logprobs, None),
        ("metadata", dict(call.metadata), {}),
    ):
        if value != neutral:
            body[name] = value
    return body | format_sampling(request.sampling, has_temperature=call.has_temperature)


def _prompt(fields: TextRequestFields) -> str:
    prompt = fields.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise FieldError("prompt must be one text; send one request for each, and text instead of ids", "prompt")
        prompt = prompt[0]
    if not prompt:
        raise FieldError("prompt is empty; there is nothing to continue", "prompt")
    if fields.suffix:
        raise FieldError("suffix cannot be honoured: the model does not fill gaps; leave it out", "suffix")
    if fields.best_of is not None and fields.best_of != (fields.n or 1):
        raise FieldError("best_of cannot be honoured; leave it out, or set it to n", "best_of")
    if fields.echo and fields.logprobs is not None:
        raise FieldError("echo with logprobs cannot be honoured: prompts are not scored; leave one out", "echo")
    return prompt


class Writer:
    """Writes the continuation of a prompt; see `call.Writer`."""

    def __init__(self, call: Call, head: Head) -> None:
        assert isinstance(call.form, ChatForm)
        self._call = call
        self._form = call.form
        self._head = head
        self._answers = [Gathering() for _ in range(call.request.num_answers)]
        self._lengths = [len(call.form.echo)] * call.request.num_answers  # characters so far

    def start(self) -> list[ServerEvent]:
        """The prompt, where it is to be repeated."""
        return [self._chunk(index, self._form.echo) for index in range(len(self._answers)) if self._form.echo]

    def push(self, event: AnswerEvent) -> list[ServerEvent]:
        """The chunk that text or an end adds."""
        if isinstance(event.event, Finish) or not self._call.is_stream:
            self._answers[event.index].add(event.event)
        if not self._call.is_stream:
            return []
        match event.event:
            case TextDelta(text, logprobs):
                scores = format_logprobs(logprobs, self._lengths[event.index]) if logprobs else None
                self._lengths[event.index] += len(text)
                return [self._chunk(event.index, text, scores)]
            case Finish() as finish:
                return [self._chunk(event.index, "", finish=finish)]
        return []

    def finish(self) -> list[ServerEvent]:
        """The chunk with the usage, where it was asked for, and the end."""
        usage = {"choices": [], "usage": self._usage()}
        return [self._event(usage), DONE] if self._form.has_stream_usage else [DONE]

    def fail(self, problem: Problem) -> list[ServerEvent]:
        """The error as an event; that the end is missing tells it from an answer."""
        return [ServerEvent(msgspec.json.encode(format_error(problem)).decode())]

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = []
        for index, gathering in enumerate(self._answers):
            answer = gathering.answer()
            has_scores = self._call.request.sampling.logprobs is not None
            scores = format_logprobs(answer.logprobs, len(self._form.echo)) if has_scores else None
            choices.append(_choice(index, self._form.echo + answer.text, scores, gathering.finish))
        return self._envelope() | {"choices": choices, "usage": self._usage()}

    def _chunk(
        self, index: int, text: str, scores: dict[str, Any] | None = None, finish: Finish | None = None
    ) -> ServerEvent:
        fields: dict[str, Any] = {"choices": [_choice(index, text, scores, finish)]}
        return self._event(fields | ({"usage": None} if self._form.has_stream_usage else {}))

    def _event(self, fields: dict[str, Any]) -> ServerEvent:
        return ServerEvent(msgspec.json.encode(self._envelope() | fields).decode())

    def _envelope(self) -> dict[str, Any]:
        head = self._head
        return {
            "id": f"cmpl-{head.id}",
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, Any]:
        ends = [gathering.finish for gathering in self._answers]
        return format_usage(sum_usage([finish.usage for finish in ends if finish is not None]))


def format_logprobs(logprobs: tuple[TokenLogprobs, ...], offset: int) -> dict[str, Any]:
    """The four lists of the older form; `offset` is where the first token's text stands."""
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(_text(entry.token))
    return {
        "tokens": [_text(entry.token) for entry in logprobs],
        "token_logprobs": [max(entry.token.logprob, LOWEST) for entry in logprobs],
        "top_logprobs": [{_text(scored): max(scored.logprob, LOWEST) for scored in entry.top} for entry in logprobs],
        "text_offset": offsets,
    }


def _text(scored: ScoredToken) -> str:
    return scored.data.decode("utf-8", "replace")


def _choice(index: int, text: str, scores: dict[str, Any] | None, finish: Finish | None) -> dict[str, Any]:
    reason = None if finish is None else STYLE.finish_reasons[finish.reason]
    choice = {"index": index, "text": text, "logprobs": scores, "finish_reason": reason}
    return choice if finish is None or finish.stop is None else choice | {"stop_reason": finish.stop}
