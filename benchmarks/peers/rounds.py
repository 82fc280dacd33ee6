"""What every contender is asked, in turns: decoding behind 128 tokens and at depth, and prompts.

Within a round all contenders are timed at one thing before the next thing begins, every other round in reverse order,
so that a neighbour's load falls on all.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

STREAMS = (1, 8, 32)
PROMPTS = (512, 2048)
CONTEXT, WARM = 128, 3  # tokens before decoding, steps before the timed ones
STEPS = {1: 24, 8: 12, 32: 8}  # timed steps by number of streams
DEEP, DEEP_STEPS = 4096, 8
PAUSE = 0.02  # seconds in which the threads of the contender before stop spinning

Case = tuple[str, int, int]  # "decode" streams context, or "prompt" 1 length
CASES: tuple[Case, ...] = (
    *(("decode", streams, CONTEXT) for streams in STREAMS),
    ("decode", 1, DEEP),
    *(("prompt", 1, length) for length in PROMPTS),
)


class Contender(Protocol):
    """Something that runs the miniature."""

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        """Seconds per step behind `context` tokens, after WARM steps; every call begins there again."""
        ...

    def prompt(self, length: int) -> float:
        """Seconds until the token behind a prompt not seen before."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender and the cases that it takes part in."""

    contender: Contender
    cases: frozenset[Case] = field(default=frozenset(CASES))


Times = dict[str, dict[Case, list[list[float]]]]  # contender -> case -> round -> seconds


def run_rounds(
    entries: Mapping[str, Entry],
    num_rounds: int,
    on_round: Callable[[int], None] = lambda number: None,
    *,
    pause: float = PAUSE,
) -> Times:
    """Seconds of all rounds; one round before them warms up and is not counted."""
    times: Times = {name: {case: [] for case in CASES if case in entry.cases} for name, entry in entries.items()}
    for number in range(num_rounds + 1):
        turn = 1 if number % 2 else -1
        for case in CASES:
            for name, entry in list(entries.items())[::turn]:
                if case in entry.cases:
                    time.sleep(pause)
                    seconds = measure(entry.contender, case, 1 if number == 0 else None)
                    if number:
                        times[name][case].append(seconds)
        on_round(number)
    return times


def measure(contender: Contender, case: Case, num_steps: int | None = None) -> list[float]:
    """Seconds of one contender at one thing."""
    kind, streams, length = case
    if kind == "prompt":
        return [contender.prompt(length)]
    return contender.decode(streams, length, num_steps or (DEEP_STEPS if length == DEEP else STEPS[streams]))


def timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
