"""What every skill's generator makes: what is asked, the thought that leads to the answer, and a checker.

A problem is held out of training by a hash of its `key`, which leaves out wording and the order of operands, so that no
training text holds an evaluation problem in another dress.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from small4.chat import ImagePart, Message, Part, TextPart, ThinkPart, Tool, ToolCall

HELD_OUT_ONE_IN = 10

Checker = Callable[["Problem", str, Sequence[ToolCall]], bool]  # problem, text, calls


def is_last_number(problem: "Problem", text: str, calls: Sequence[ToolCall]) -> bool:
    """The last number of the text is the answer; where the answer is no number, the whole text."""
    if not re.fullmatch(r"-?\d+", problem.answer):
        return is_whole_text(problem, text, calls)
    numbers = re.findall(r"-?\d+", text.replace(",", ""))
    return not calls and bool(numbers) and numbers[-1] == problem.answer


def is_whole_text(problem: "Problem", text: str, calls: Sequence[ToolCall]) -> bool:
    """The text is the answer, but for blanks around it."""
    return not calls and text.strip() == problem.answer


def is_same_json(problem: "Problem", text: str, calls: Sequence[ToolCall]) -> bool:
    """The text is JSON of the answer's value: every field exact, nothing more."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not calls and _is_same(found, json.loads(problem.answer))


def are_same_calls(problem: "Problem", text: str, calls: Sequence[ToolCall]) -> bool:
    """The wanted tools are called with the wanted arguments, in any order, and no others."""
    try:
        found = sorted((call.name, _canonical(call.arguments)) for call in calls)
    except (ValueError, RecursionError):
        return False
    return found == sorted((call.name, _canonical(call.arguments)) for call in problem.calls)


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its worked thought and exact answer, or with the tool calls that it needs."""

    skill: str
    key: str  # what makes two problems the same whatever the wording
    question: str | tuple[Part, ...]
    thought: str
    answer: str
    checker: Checker = is_last_number
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    calls: tuple[ToolCall, ...] = ()  # wanted instead of an answer
    history: tuple[Message, ...] = ()  # between question and answer: earlier calls or answers, with their thoughts
    schema: dict[str, Any] | None = None  # of the answer, where that is JSON

    def is_held_out(self) -> bool:
        return is_held_out(self.key)

    def accepts(self, text: str, calls: Sequence[ToolCall] = ()) -> bool:
        """Whether an answer is right."""
        return self.checker(self, text, calls)

    @property
    def has_image(self) -> bool:
        return not isinstance(self.question, str) and any(isinstance(part, ImagePart) for part in self.question)

    def asked(self, *, thinks: bool) -> tuple[Message, ...]:
        """The messages to answer; earlier thoughts only where the model thinks."""
        system = (Message("system", self.system),) if self.system is not None else ()
        history = (message if thinks else without_thought(message) for message in self.history)
        return (*system, Message("user", self.question), *history)

    def answered(self, *, thinks: bool) -> Message:
        """The wanted message of the assistant."""
        if not thinks:
            return Message("assistant", self.answer, tool_calls=self.calls)
        parts = (ThinkPart(self.thought), TextPart(self.answer)) if self.answer else (ThinkPart(self.thought),)
        return Message("assistant", parts, tool_calls=self.calls)


def without_thought(message: Message) -> Message:
    """The message as it is where nobody thinks."""
    if isinstance(message.content, str):
        return message
    kept = tuple(part for part in message.content if not isinstance(part, ThinkPart))
    return Message(message.role, kept, message.tool_calls, message.tool_call_id, message.prefix)


def is_held_out(key: str) -> bool:
    """True for one key in ten, the same ones for ever."""
    return hash_of(key) % HELD_OUT_ONE_IN == 0


def hash_of(text: str) -> int:
    """A number of 64 bits that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _canonical(arguments: str) -> str:
    return json.dumps(json.loads(arguments or "{}"), sort_keys=True)


def _is_same(found: object, wanted: object) -> bool:
    """Equal in type too: 1 is neither true nor 1.0."""
    return json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)
