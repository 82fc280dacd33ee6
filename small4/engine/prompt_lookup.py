"""Guesses without a model: what followed the last tokens where they stood before is guessed to follow again.

The longest ending of up to four tokens is tried first and, of equal ones, the latest place (prompt lookup decoding,
after arXiv 2304.04487).
"""

from collections.abc import Sequence as Items

from small4.engine.scheduler import Run

MAX_MATCH, MIN_MATCH = 4, 2  # tokens of the ending that is looked for
MAX_LOOKBACK = 4096  # tokens: bounds the search in a long context


class PromptLookup:
    """Drafts out of each sequence's own tokens."""

    def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
        """For each run, up to so many guesses of what follows it."""
        return [look_up(run.sequence.tokens[-MAX_LOOKBACK:], count) for run, count in wishes]


def look_up(tokens: Items[int], count: int) -> list[int]:
    """What followed the latest earlier place that looks most like the end of `tokens`; at most `count` tokens."""
    for length in range(min(MAX_MATCH, len(tokens) - 1), MIN_MATCH - 1, -1):
        ending = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start] == ending[0] and tokens[start : start + length] == ending:
                return list(tokens[start + length : start + length + count])
    return []
