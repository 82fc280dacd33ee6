"""Every number that a request may hold in its body, in every dialect, with its bounds; and what is sent in its place.

A number is written as JSON text, since much of what is sent is no number, or none that JSON can say.
"""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import small4.nano
from small4.chat import AnswerEvent, Finish, TextDelta, Usage
from small4.providers.scripted import SCRIPTED
from small4.server.models import Offer
from small4.tokenizer.tekken import Tokenizer
from tests.server.asgi import CHAT, Reply, Served
from tests.server.batch_client import upload

COUNT = 2**31 - 1
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", '"1"', '"x"', '""', "true", "false", "[]", "{}", "[1]", '{"a": 1}']
ODD = ["0", "-0", "-0.0", "0.5", "5.0", "1e0", "1e-320", "1e308", "-1e308", "1e999", "-1e999"]
HUGE = [str(2**31), str(2**32), str(2**63 - 1), str(2**63), str(-(2**63) - 1), str(2**64), "9" * 400, "9" * 5000]


@dataclass(frozen=True, kw_only=True)
class Number:
    """The least and the most that a field takes, both among what it takes; None: there is no such end."""

    least: float | None = None
    most: float | None = None
    is_whole: bool = True
    takes_point: bool = False  # whether a whole number may be written as 5.0
    over: float | None = None  # in place of `least`: what it must be more than
    name: str | None = None  # under which it is refused, where that is not its whole path

    def takes(self, text: str) -> bool:
        """Whether this text in JSON is a number within the bounds."""
        if not re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", text) or len(text) > 4300:
            return False
        if re.fullmatch(r"-?\d+", text) and self.is_whole:
            value: float = int(text)
        else:
            value = float(text)
            if not math.isfinite(value) or (self.is_whole and not (self.takes_point and value.is_integer())):
                return False
        is_over = self.over is None or value > self.over
        return is_over and (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def texts(self) -> list[str]:
        """What to send: both ends, just inside and just beyond them, and what is no number for anybody."""
        ends = [end for end in (self.least, self.most, self.over) if end is not None]
        steps = (-1, 0, 1) if self.is_whole else (-1, -1e-6, 0, 1e-6, 1)
        return [*dict.fromkeys([*(_text(end + step) for end in ends for step in steps), *NO_NUMBERS, *ODD, *HUGE])]


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)


@dataclass(frozen=True)
class Body:
    """A body that is answered, and its numbers by their paths."""

    fields: Mapping[str, Any]
    numbers: Mapping[str, Number]

    def with_number(self, path: str, text: str) -> bytes:
        """The body with this text where the path leads."""
        body: Any = copy.deepcopy(dict(self.fields))
        place, *steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]
        parent = body
        for step in steps:
            parent = parent.setdefault(place, {}) if isinstance(parent, dict) else parent[place]
            place = str(step) if isinstance(parent, dict) else step
        parent[place] = "@"
        return json.dumps(body).replace('"@"', text).encode()


SEED = Number(least=-(2**63), most=2**63 - 1)
POSITIVE, COUNTED, TOP_LOGPROBS = Number(least=1, most=COUNT), Number(least=0, most=COUNT), Number(least=0, most=20)
TEMPERATURE = Number(least=0, most=5, is_whole=False)
TOP_P = Number(over=0, most=1, is_whole=False)
PENALTY = Number(least=-2, most=2, is_whole=False)
SEVERAL = Number(least=1, most=8)
OPENAI = {
    "temperature": TEMPERATURE,
    "top_p": TOP_P,
    "frequency_penalty": PENALTY,
    "presence_penalty": PENALTY,
}
SAMPLED = {
    **OPENAI,
    "n": SEVERAL,
    "max_tokens": POSITIVE,
    "min_tokens": COUNTED,
    "top_k": Number(least=-1, most=COUNT),
    "min_p": Number(least=0, most=1, is_whole=False),
    "top_a": Number(least=0, most=0, is_whole=False),
    "repetition_penalty": Number(least=0.1, most=10, is_whole=False),
    "seed": SEED,
    "random_seed": SEED,
    "logit_bias.7": Number(least=-100, most=100, is_whole=False, name="logit_bias"),
}
CALLED = {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "x"}
CHATTED = Body(
    CHAT | {"logprobs": True, "messages": [*CHAT["messages"], CALLED, RESULT]},
    {
        **SAMPLED,
        "max_completion_tokens": POSITIVE,
        "top_logprobs": TOP_LOGPROBS,
        "reasoning.max_tokens": COUNTED,
        "messages[1].tool_calls[0].index": Number(),
    },
)
TEXT = Body(
    {"model": "scripted", "prompt": "Hi"},
    {**SAMPLED, "logprobs": TOP_LOGPROBS, "best_of": Number(least=1, most=1)},
)
RESPONSE = Body(
    {"model": "scripted", "input": "Hi", "include": ["message.output_text.logprobs"]},
    {**OPENAI, "max_output_tokens": POSITIVE, "max_tool_calls": POSITIVE, "top_logprobs": TOP_LOGPROBS},
)
MESSAGES = Body(
    {
        "model": "scripted",
        "max_tokens": 9,
        "messages": CHAT["messages"],
        "thinking": {"type": "enabled", "budget_tokens": 5},
    },
    {
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "top_k": COUNTED,
        "max_tokens": POSITIVE,
        "thinking.budget_tokens": POSITIVE,
    },
)
GENERATE = Body(
    {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"responseLogprobs": True}},
    {
        f"generationConfig.{name}": number
        for name, number in {
            "temperature": TEMPERATURE,
            "topP": TOP_P,
            "topK": Number(least=0, most=COUNT, takes_point=True),
            "candidateCount": SEVERAL,
            "maxOutputTokens": POSITIVE,
            "presencePenalty": PENALTY,
            "frequencyPenalty": PENALTY,
            "seed": SEED,
            "logprobs": TOP_LOGPROBS,
            "thinkingConfig.thinkingBudget": Number(least=-1, most=COUNT),
        }.items()
    },
)
BATCH = Body(
    {
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "output_expires_after": {"anchor": "created_at"},
    },
    {"output_expires_after.seconds": Number(least=3600, most=2_592_000)},
)
BODIES = {  # by what the path ends in
    "/chat/completions": CHATTED,
    "/v1/completions": TEXT,
    "/fim/completions": TEXT,
    "/responses": RESPONSE,
    "/responses/input_tokens": RESPONSE,
    "/messages": MESSAGES,
    "/messages/count_tokens": MESSAGES,
    ":generateContent": GENERATE,
    ":streamGenerateContent": GENERATE,
    ":countTokens": GENERATE,
    "/batches": BATCH,
    "/detokenize": Body({"tokens": [1]}, {"tokens[0]": Number(least=0, most=3071, name="tokens")}),
}


class Obliging:
    """Gives as many answers as it is asked for."""

    model = SCRIPTED

    async def stream(self, request, caller):
        """One text each."""
        for index in range(request.num_answers):
            yield AnswerEvent(index, TextDelta("a"))
            yield AnswerEvent(index, Finish("stop", Usage(1, 1)))

    async def count_tokens(self, request) -> int:
        """One, whatever it is."""
        return 1


def obliging(directory: Path) -> Served:
    """A server that answers whatever is within the bounds."""
    provider, tokenizer = Obliging(), Tokenizer.from_file(Path(small4.nano.__path__[0]) / "tekken.json")
    return Served(directory, provider=provider, offers=[Offer(id="scripted", provider=provider, tokenizer=tokenizer)])


def body_of(path: str) -> Body | None:
    """The body that a path of the server takes; None: one without numbers."""
    return next((body for end, body in BODIES.items() if path.endswith(end)), None)


@dataclass(frozen=True)
class Case:
    """One request with something in a number's place."""

    field: str
    text: str
    number: Number
    data: bytes

    @property
    def is_right(self) -> bool:
        return self.number.takes(self.text)

    @property
    def is_json(self) -> bool:
        """Whether msgspec reads it, as it reads a whole file of them."""
        try:
            msgspec.json.decode(self.data)
        except msgspec.DecodeError:
            return False
        return True

    def is_answered_well(self, reply: Reply) -> bool:
        """Honoured, or refused by its name; Mistral's status for that is 422."""
        return reply.status == 200 if self.is_right else reply.status in (400, 422) and self.is_named(reply.json)

    def is_named(self, error: Any) -> bool:
        """Whether an error body names the field."""
        names = (self.field,) if self.number.name is None else (self.number.name, self.field)
        return named_field(error).startswith(names)


async def cases_of(served: Served, path: str) -> Iterator[Case]:
    """Every number of a path with everything that is sent in its place."""
    body = body_of(path)
    if body is BATCH:
        file = await upload(served.client, b"")
        body = Body({**BATCH.fields, "input_file_id": file}, BATCH.numbers)
    numbers = {} if body is None else body.numbers
    return (
        Case(field, text, number, body.with_number(field, text))
        for field, number in numbers.items()
        for text in number.texts()
    )


def named_field(reply: Any) -> str:
    """The field that an error body of any dialect names; empty: none."""
    if "detail" in reply:
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in reply["detail"][0]["loc"][1:]]
        return "".join(steps).lstrip(".")
    error = reply["error"]
    if "param" in error:
        return error["param"] or ""
    violations = [each for detail in error.get("details", ()) for each in detail.get("fieldViolations", ())]
    if "details" in error:
        return violations[0]["field"] if violations else ""
    return error["message"].partition(":")[0]
