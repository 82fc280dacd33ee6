"""Several answers to one question, shown one after the other though they are drawn side by side."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from small4.answer import Answer
from small4.chat import AnswerEvent, ChatEvent, Finish


@dataclass(frozen=True, slots=True)
class Whole:
    """The events of one answer, from its first to its last."""

    index: int
    events: tuple[ChatEvent, ...]
    seconds: float  # from asking to its end


def one_by_one(events: Iterator[AnswerEvent]) -> Iterator[Whole]:
    """Each answer as soon as it has ended and all before it were given."""
    start, pieces, ended, following = time.monotonic(), dict[int, list[ChatEvent]](), dict[int, Whole](), 0
    for event in events:
        own = pieces.setdefault(event.index, [])
        own.append(event.event)
        if isinstance(event.event, Finish):
            ended[event.index] = Whole(event.index, tuple(own), time.monotonic() - start)
        while following in ended:
            yield ended.pop(following)
            following += 1


def several_usage_note(answers: Sequence[Answer], seconds: float) -> str:
    """Tokens and time of all answers together, in one line."""
    usages = [answer.usage for answer in answers]
    num_tokens = sum(usage.completion_tokens for usage in usages)
    reasoning = sum(usage.reasoning_tokens for usage in usages)
    return (
        f"{max(usage.prompt_tokens for usage in usages)} tokens in, {num_tokens} out ({reasoning} of them thinking) in "
        f"{len(answers)} answers, {num_tokens / seconds:.1f} tokens/s"
    )
