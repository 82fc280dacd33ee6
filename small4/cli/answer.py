"""An answer as it streams: the thought dimmed and labelled, then the text."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from small4.answer import Answer, Gathering
from small4.chat import ChatEvent, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart
from small4.cli.ink import Ink
from small4.cli.logprobs import logprobs_json
from small4.cli.speaker import Speaker

INDENT = "  "


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that was shown, and how long it took."""

    answer: Answer
    seconds: float  # from asking to the end
    first_seconds: float | None  # from asking to the first piece


def follow(events: Iterator[ChatEvent], *, thoughts: Ink | None, text: Ink | None) -> Told:
    """Print the events of one answer and gather them. None for an ink: that part is not shown.

    Ctrl-C ends the answer, not the program: what came so far is returned with the finish reason `aborted`.
    """
    gathering, printer, start = Gathering(), _Printer(thoughts, text), time.monotonic()
    seconds, first_seconds = 0.0, None
    # A second Ctrl-C while the line is being ended must not throw away what the first one kept.
    with suppress(KeyboardInterrupt):
        try:
            for event in events:
                if first_seconds is None:
                    first_seconds = time.monotonic() - start
                gathering.add(event)
                printer.show(event)
        finally:
            seconds = time.monotonic() - start
            printer.end()
    return Told(gathering.answer(), seconds, first_seconds)


class _Printer:
    """Keeps track of which part is being printed, to label it and to end its last line."""

    def __init__(self, thoughts: Ink | None, text: Ink | None) -> None:
        self.thoughts, self.text = thoughts, text
        self.part: str | None = None  # thinking, answer or calls
        self.ink: Ink | None = None  # the one that wrote last
        self.has_labels = False
        self.at_line_start = True

    def show(self, event: ChatEvent) -> None:
        match event:
            case ReasoningDelta(piece) if self.thoughts:
                self._enter("thinking", self.thoughts)
                self._write(self.thoughts, self._indented(piece), dim=True)
            case TextDelta(piece) if self.text:
                self._enter("answer", self.text)
                self._write(self.text, piece)
            case ToolCallStart(_, _, name) if self.text:
                self.end()
                self._enter("calls", self.text)
                self._write(self.text, f"{name} ")
            case ToolCallDelta(_, piece) if self.text:
                self._write(self.text, piece)
            case _:
                pass

    def _enter(self, part: str, ink: Ink) -> None:
        if part == self.part:
            return
        self.end()
        self.part = part
        self.has_labels = self.has_labels or part == "thinking"
        if self.has_labels:
            (self.thoughts or ink).line(f"{part}:", "label")

    def _indented(self, piece: str) -> str:
        """Every line of a thought is indented as it begins, so that it is told from the answer without colour too."""
        indented = piece[:-1].replace("\n", f"\n{INDENT}") + piece[-1:]
        return INDENT + indented if self.at_line_start and piece else indented

    def _write(self, ink: Ink, piece: str, *, dim: bool = False) -> None:
        if piece:
            ink.write(piece, "dim" if dim else None)
            self.ink, self.at_line_start = ink, piece.endswith("\n")

    def end(self) -> None:
        """End the last line, if it is not."""
        if self.ink is not None and not self.at_line_start:
            self.ink.line()
        self.at_line_start = True


def finish_note(answer: Answer, speaker: Speaker) -> str | None:
    """A line on an answer that did not end by itself; nothing is cut in silence."""
    match answer.finish_reason:
        case "length":
            return f"(cut off at the limit of {answer.usage.completion_tokens} tokens; raise --max-tokens)"
        case "context" if speaker.cache_tokens < speaker.context_length:
            return f"(cut off: the cache of {speaker.cache_tokens} tokens is full; give it more with --cache)"
        case "context":
            return (
                f"(cut off: the context of {speaker.context_length} tokens is full; start anew or shorten the question)"
            )
        case "error":
            return f"(failed: {answer.error})"
        case "aborted":
            return "(stopped)"
    return None


def usage_note(told: Told) -> str:
    """Tokens and times of an answer, in one line."""
    usage = told.answer.usage
    about = "about " if usage.is_estimated else ""  # a provider that does not count
    cached = f" ({usage.cached_tokens} of them from the cache)" if usage.cached_tokens else ""
    parts = [
        f"{about}{usage.prompt_tokens} tokens in{cached}",
        f"{about}{usage.completion_tokens} out ({usage.reasoning_tokens} of them thinking)",
    ]
    if told.first_seconds is not None:
        parts.append(f"first after {told.first_seconds:.2f} s")
        if (rest := told.seconds - told.first_seconds) > 0 and usage.completion_tokens > 1:
            parts.append(f"{(usage.completion_tokens - 1) / rest:.1f} tokens/s")
    return ", ".join(parts)


def answer_json(told: Told, model: str, note: str, index: int | None = None) -> str:
    """The whole answer as one JSON object; `index` is its number among several."""
    answer, usage = told.answer, told.answer.usage
    return json.dumps(
        ({} if index is None else {"index": index})
        | {
            "model": model,
            "model_note": note,
            "text": answer.text,
            "reasoning": answer.reasoning,
            "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.tool_calls],
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "cached_tokens": usage.cached_tokens,
                "is_estimated": usage.is_estimated,
            },
            "seconds": round(told.seconds, 3),
            "first_token_seconds": None if told.first_seconds is None else round(told.first_seconds, 3),
        }
        | ({"logprobs": logprobs_json(answer.logprobs)} if answer.logprobs else {}),
        ensure_ascii=False,
    )
