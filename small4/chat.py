"""The words that both halves share: messages, tools, requests, and the events that an answer arrives as.

Plain frozen dataclasses without behaviour. `wire` translates every vendor's JSON to and from these; `tokenizer`
turns a `ChatRequest` into token ids and token ids back into `ChatEvent`s.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Effort = Literal["none", "high"]
EFFORTS: tuple[Effort, ...] = ("none", "high")

# The release's card: 0.7 with reasoning; without, 0.0 to 0.7 by task, and 0.1 in its example. It names no other filter.
TEMPERATURES: dict[Effort, float] = {"high": 0.7, "none": 0.1}

MAX_ANSWERS = 8  # to one request

# length: max_tokens were written; context: the context is full; filtered: a hosted provider withheld the rest
FinishReason = Literal["stop", "length", "context", "tool_calls", "filtered", "aborted", "error"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message: the encoded file as it came (PNG, JPEG, WebP, ...), not yet decoded."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ImageLink:
    """An image by its address; the server's fetcher puts an `ImagePart` in its place before a model sees it."""

    url: str


@dataclass(frozen=True, slots=True)
class ThinkPart:
    """Reasoning in an assistant message; `closed` is false where a prefix continues inside the thought."""

    text: str
    closed: bool = True


Part = TextPart | ImagePart | ImageLink | ThinkPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the assistant made; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is text or a list of parts.

    `tool_calls` belongs to assistants; `tool_call_id` to tool results; `prefix` marks a last assistant message that the
    answer continues.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON Schema (Draft 7) of an object.

    `strict` holds the arguments to that schema while they are written; otherwise they are some JSON object.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one tool: the answer is a call of it."""

    name: str


@dataclass(frozen=True, slots=True)
class AllowedTools:
    """The choice among some of the tools; the others stay in the prompt but are not called."""

    names: tuple[str, ...]
    is_required: bool = False  # at least one call


# the model decides, no call, at least one call
ToolChoice = Literal["auto", "none", "required"] | NamedTool | AllowedTools


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The answer is one JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that this schema accepts."""

    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches this pattern (syntax of Rust's regex: no look-around, no back-references)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Lark:
    """The answer is a sentence of this grammar, in llguidance's dialect of Lark; its rule `start` is the whole."""

    grammar: str


ResponseFormat = JsonObject | JsonSchema | Regex | Lark


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn; `engine/sampling_rules.py` holds what is allowed and the defaults per effort.

    At temperature 0 the likeliest token is taken. top_p, top_k and min_p always keep that one, so they change nothing
    then, nor does the seed; penalties and logit_bias do.
    """

    temperature: float = 0.0  # 0 to 5
    top_p: float = 1.0  # over 0, to 1: smallest set of tokens with this much probability
    top_k: int | None = None  # at least 1: only so many of the most likely
    min_p: float = 0.0  # 0 to 1: at least this share of the best token's probability
    seed: int | None = None  # same seed, same text; None draws a fresh one
    repetition_penalty: float = (
        1.0  # 0.1 to 10; divides the positive scores of tokens in prompt or output, else multiplies
    )
    presence_penalty: float = 0.0  # -2 to 2; taken from the score of every token in the output
    frequency_penalty: float = 0.0  # -2 to 2; the same, times how often it is there
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, -100 to 100 added to its score; at most 1024
    logprobs: int | None = None  # 0 to 20: report every token's log-probability and so many alternatives; None: do not
    min_tokens: int = 0  # no stop id and no stop string before so many tokens
    ignore_eos: bool = False  # </s> does not end the answer; max_tokens and stop strings do


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """All that an answer depends on."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True  # more than one call in an answer
    response_format: ResponseFormat | None = None  # None: free text
    effort: Effort = "none"
    sampling: Sampling = field(default_factory=Sampling)
    num_answers: int = 1  # answers to the same prompt, up to MAX_ANSWERS, each drawn by itself
    max_tokens: int | None = None  # tokens of output, thinking included; None: what the context leaves
    thinking_budget: int | None = None  # tokens of thought before the block is closed for the model
    stop: tuple[str, ...] = ()  # texts that end the answer where one is complete; up to 16 of up to 256 characters


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. `cached_tokens` are part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.

    `is_estimated` marks what no model counted: a hosted provider did not tell all of it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0  # found in the prefix cache
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its natural log-probability, as the model itself holds it: before penalties, bans and filters."""

    token_id: int | None  # None: a hosted provider that did not tell it
    data: bytes  # often not a whole character; the name of a control token
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token of the output, and the likeliest ones at its place, best first."""

    token: ScoredToken
    top: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the thought; `logprobs`, if asked for, are of the tokens whose text begins to show with it."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer; `logprobs`, if asked for, are of the tokens whose text begins to show with it."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The assistant begins call number `index` (from 0); arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the JSON arguments of call number `index`."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every answer."""

    reason: FinishReason
    usage: Usage
    stop: str | None = None  # the stop string that ended it, where one did
    error: Exception | None = None  # what went wrong, where the reason is "error"


ChatEvent = ReasoningDelta | TextDelta | ToolCallStart | ToolCallDelta | Finish


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """An event of answer number `index`, from 0: one request may ask for several."""

    index: int
    event: ChatEvent
