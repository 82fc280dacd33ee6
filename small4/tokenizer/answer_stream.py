"""Tokens of one answer, as they are drawn, to its chat events: up to `Finish`.

`OutputParser` parts thought, text and calls; `StopStrings` ends the text. Stop strings are looked for in the text of
the answer alone: thoughts restate what stands in the question, and a call cut off inside its arguments is of no use.
None reaches across a thought or a call, and none is looked for in the first `min_tokens` tokens.
"""

from collections.abc import Callable, Sequence

from small4.chat import (
    ChatEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    Usage,
)
from small4.tokenizer.output import OutputEvent, OutputParser, new_call_id
from small4.tokenizer.stop_strings import StopStrings
from small4.tokenizer.tekken import Tokenizer


class AnswerStream:
    """One answer. Push tokens until `is_over`, then finish; `in_thought` says that the prompt ends inside a thought."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        num_prompt_tokens: int,
        in_thought: bool = False,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        ignore_eos: bool = False,
        make_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.is_over = False  # ended by </s> or a stop string; later tokens are not wanted
        self.num_tokens = 0
        self._tokenizer = tokenizer
        self._num_prompt_tokens = num_prompt_tokens
        self._parser = OutputParser(tokenizer, in_thought=in_thought, make_id=make_id)
        self._stops = StopStrings(stop)
        self._min_tokens, self._ignore_eos = min_tokens, ignore_eos
        self._logprobs = _Waiting()

    def push(
        self, token_id: int, logprob: float | None = None, top: Sequence[tuple[int, float]] = ()
    ) -> list[ChatEvent]:
        """Events that this token completes, often none; its log-probabilities come with them if `logprob` is given."""
        self.num_tokens += 1
        if token_id == self._tokenizer.control.eos and not self._ignore_eos:
            self.is_over = True
            return []
        channel, is_text = self._parser.channel, token_id >= self._tokenizer.num_special_tokens
        if logprob is not None and is_text and channel in ("reasoning", "text"):
            top_tokens = tuple(self._scored(other, value) for other, value in top)
            self._logprobs.add(TokenLogprobs(self._scored(token_id, logprob), top_tokens))
        events = self._shown(self._parser.push(token_id))
        if self._parser.channel != channel:
            events += self._end_run()
        return events

    def finish(
        self, reason: FinishReason = "length", *, num_cached_tokens: int = 0, error: Exception | None = None
    ) -> list[ChatEvent]:
        """What was still held back, then `Finish`; `reason` is why no more tokens come, if the answer is not over."""
        events = self._shown(self._parser.finish()) + self._end_run()
        if self.is_over:
            reason = "tool_calls" if self._parser.num_calls else "stop"
        usage = Usage(self._num_prompt_tokens, self.num_tokens, self._parser.num_reasoning_tokens, num_cached_tokens)
        return [*events, Finish(reason, usage, self._stops.found, error)]

    def _shown(self, events: list[OutputEvent]) -> list[ChatEvent]:
        shown: list[ChatEvent] = []
        for event in events:
            match event:
                case ReasoningDelta(text):
                    self._logprobs.read(text)
                    shown.append(ReasoningDelta(text, self._logprobs.show(text)))
                case TextDelta(text):
                    self._logprobs.read(text)
                    if self.num_tokens > self._min_tokens:
                        text = self._stops.push(text)
                        self.is_over = self.is_over or self._stops.found is not None
                    if text:
                        logprobs = self._logprobs.show(text)
                        shown.append(TextDelta(text, logprobs) if logprobs or text != event.text else event)
                case _:
                    shown.append(event)
        return shown

    def _end_run(self) -> list[ChatEvent]:
        """Text that waited for more of a stop string, where thought, text or call ends."""
        text = self._stops.flush()
        shown: list[ChatEvent] = [TextDelta(text, self._logprobs.show(text))] if text else []
        self._logprobs = _Waiting()
        return shown

    def _scored(self, token_id: int, logprob: float) -> ScoredToken:
        data = self._tokenizer.token_bytes(token_id) or self._tokenizer.decode([token_id]).encode()
        return ScoredToken(token_id, data, logprob)


class _Waiting:
    """Log-probabilities of one run of text, each kept until the first character of its token is shown."""

    def __init__(self) -> None:
        self.num_read = self.num_shown = 0  # characters
        self.waiting: list[tuple[int, TokenLogprobs]] = []  # with the number of characters before the token

    def add(self, logprobs: TokenLogprobs) -> None:
        self.waiting.append((self.num_read, logprobs))

    def read(self, text: str) -> None:
        """The tokens so far have spelled this out."""
        self.num_read += len(text)

    def show(self, text: str) -> tuple[TokenLogprobs, ...]:
        """What goes with a piece of text that is shown."""
        self.num_shown += len(text)
        if not self.waiting:
            return ()
        ready = tuple(logprobs for start, logprobs in self.waiting if start < self.num_shown)
        self.waiting = self.waiting[len(ready) :]
        return ready
