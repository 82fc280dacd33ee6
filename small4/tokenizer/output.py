"""Token ids to reasoning, text and tool calls, as they stream.

By id (model specification 5.5): [THINK]..[/THINK] holds reasoning; each [TOOL_CALLS] starts a call, whose name runs to
[ARGS] (or to the first brace, should the model forget it) and whose arguments run to the next [TOOL_CALLS] or the end.
A thought never closed takes all that follows. Control tokens without a meaning where they stand are passed over; text
that spells one stays text. Characters come out whole: bytes wait until the rest of their character has arrived.
Blanks before the first character of arguments are left out: clients that parse what came so far fail on them.
"""

import codecs
import secrets
import string
from collections.abc import Callable
from typing import Literal

from small4.chat import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart
from small4.tokenizer.tekken import Tokenizer

OutputEvent = ReasoningDelta | TextDelta | ToolCallStart | ToolCallDelta

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # older templates of this family accept no other
_BLANKS = " \t\r\n"  # of JSON


def new_call_id() -> str:
    """A random tool call id."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


class OutputParser:
    """Parser of one answer. `in_thought` says that the prompt ends inside an open thought."""

    def __init__(
        self, tokenizer: Tokenizer, *, in_thought: bool = False, make_id: Callable[[], str] = new_call_id
    ) -> None:
        self.in_thought = in_thought
        self.num_reasoning_tokens = 0  # [THINK] and [/THINK] included
        self.num_calls = 0
        self._tokenizer = tokenizer
        self._make_id = make_id
        self._channel: Literal["text", "name", "arguments"] = "text"  # where tokens outside a thought belong
        self._name = ""  # of the call whose name is not complete
        self._has_begun = False  # the open call's arguments
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def channel(self) -> Literal["reasoning", "text", "name", "arguments"]:
        """What the next token of text belongs to."""
        return "reasoning" if self.in_thought else self._channel

    def push(self, token_id: int) -> list[OutputEvent]:
        """Events that this token completes, often none."""
        control = self._tokenizer.control
        was_in_thought = self.in_thought
        if token_id >= self._tokenizer.num_special_tokens:
            events = self._take(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        elif token_id == control.think and not self.in_thought:
            events = self._flush()
            self.in_thought = True
        elif token_id == control.end_think and self.in_thought:
            events = self._flush()
            self.in_thought = False
        elif token_id == control.tool_calls and not self.in_thought:
            events = self._flush() + self._end_name()
            self._channel = "name"
        elif token_id == control.args and not self.in_thought and self._channel == "name":
            events = self._flush()
            events += self._start_call() if self._channel == "name" else []
        else:
            events = []
        self.num_reasoning_tokens += was_in_thought or self.in_thought
        return events

    def finish(self) -> list[OutputEvent]:
        """What was still held back; U+FFFD stands for a character that never came to its end."""
        events = self._flush() + self._end_name()
        self._channel = "text"
        return events

    def _take(self, text: str) -> list[OutputEvent]:
        if not text:
            return []
        if self.in_thought:
            return [ReasoningDelta(text)]
        if self._channel == "text":
            return [TextDelta(text)]
        if self._channel == "arguments":
            return self._take_arguments(text)
        self._name += text
        name, brace, rest = self._name.partition("{")
        if not brace:
            return []
        self._name = name
        return [*self._start_call(), *self._take_arguments(brace + rest)]

    def _take_arguments(self, text: str) -> list[OutputEvent]:
        if not self._has_begun:
            text = text.lstrip(_BLANKS)
        if not text:
            return []
        self._has_begun = True
        return [ToolCallDelta(self.num_calls - 1, text)]

    def _flush(self) -> list[OutputEvent]:
        return self._take(self._decoder.decode(b"", final=True))

    def _start_call(self) -> list[OutputEvent]:
        start = ToolCallStart(self.num_calls, self._make_id(), self._name.strip())
        self.num_calls += 1
        self._name = ""
        self._channel = "arguments"
        self._has_begun = False
        return [start]

    def _end_name(self) -> list[OutputEvent]:
        """A call that ended before its arguments began is still a call, if it has a name."""
        return self._start_call() if self._channel == "name" and self._name.strip() else []
