"""What a request asks of a route: tokens, abilities and parameters."""

from collections.abc import Iterator
from dataclasses import dataclass

from small4.chat import (
    TEMPERATURES,
    ChatRequest,
    JsonObject,
    JsonSchema,
    Sampling,
    Usage,
)
from small4.providers.estimate import num_images

EXPECTED_OUTPUT_TOKENS = 500  # of a request that sets no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """A request, as far as it matters for where it goes."""

    prompt_tokens: int = 0  # about
    output_tokens: int = EXPECTED_OUTPUT_TOKENS  # expected
    cached_tokens: int = 0  # expected, of the prompt
    max_tokens: int | None = None  # of output, as the request sets it
    num_images: int = 0
    abilities: frozenset[str] = frozenset()  # by their fields in the catalogue
    parameters: frozenset[str] = frozenset()  # that it sets, in OpenRouter's words
    is_batch: bool = False

    @property
    def usage(self) -> Usage:
        """What it is expected to be billed for."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.output_tokens,
            cached_tokens=min(self.cached_tokens, self.prompt_tokens),
        )

    @property
    def most_usage(self) -> Usage | None:
        """What it can be billed for at most, as far as a limit is set."""
        return None if self.max_tokens is None else Usage(self.prompt_tokens, self.max_tokens)


def needs_of(request: ChatRequest, prompt_tokens: int, *, cached_tokens: int = 0) -> Needs:
    """The needs of a chat request whose prompt has about so many tokens."""
    expected = EXPECTED_OUTPUT_TOKENS if request.max_tokens is None else request.max_tokens
    return Needs(
        prompt_tokens=prompt_tokens,
        output_tokens=min(expected, EXPECTED_OUTPUT_TOKENS) * request.num_answers,
        cached_tokens=cached_tokens,
        max_tokens=request.max_tokens,
        num_images=num_images(request),
        abilities=frozenset(_abilities(request)),
        parameters=frozenset((*_parameters(request), *_sampling_parameters(request.sampling))),
    )


def _abilities(request: ChatRequest) -> Iterator[str]:
    if request.tools:
        yield "tools"
    if request.effort != "none":
        yield "reasoning"
    match request.response_format:
        case None:
            pass
        case JsonObject():
            yield "json"
        case JsonSchema():
            yield "structured_output"
        case _:
            yield "grammar"


def _parameters(request: ChatRequest) -> Iterator[str]:
    """What it sets beside sampling; `max_tokens` is not among it, since every API has it."""
    if request.tools:
        yield "tools"
        if request.tool_choice != "auto":
            yield "tool_choice"
        if not request.parallel_tool_calls:
            yield "parallel_tool_calls"
    if request.response_format is not None:
        yield "response_format" if isinstance(request.response_format, JsonObject) else "structured_outputs"
    if request.effort != "none":
        yield "reasoning_effort"
    if request.stop:
        yield "stop"
    if request.num_answers > 1:
        yield "n"
    if request.sampling.temperature != TEMPERATURES[request.effort]:
        yield "temperature"


def _sampling_parameters(sampling: Sampling) -> Iterator[str]:
    default = Sampling()
    words = {"logprobs": "logprobs", "logit_bias": "logit_bias", "seed": "seed", "min_tokens": "min_tokens"}
    same = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    for field, word in {**words, **dict(zip(same, same, strict=True))}.items():
        if getattr(sampling, field) != getattr(default, field):
            yield word
