"""Guesses of the next tokens, which one step verifies together with the last known token.

Prompt lookup: where the last n tokens stood before, what followed them then is guessed to follow again; the longest n
is tried first and, of equal ones, the latest place (prompt lookup decoding, after arXiv 2304.04487).

A guess is only a guess: the token behind every position is drawn as without it, by the same uniform, and a draft is
kept exactly where it equals what was drawn. So output is the same text, greedy or sampled, at every acceptance.
"""

from collections.abc import Sequence

MAX_MATCH, MIN_MATCH = 4, 2  # tokens of the ending that is looked for
MAX_LOOKBACK = 4096  # tokens: bounds the search in a long context
BACKOFF = 8  # steps without drafts after one whose drafts were all wrong, doubled up to
MAX_BACKOFF = 128


class PromptLookup:
    """The drafts of one sequence; rests where they do not pay."""

    def __init__(self, max_drafts: int) -> None:
        self.max_drafts = max_drafts
        self.rest = 0  # steps without drafts still to come
        self.backoff = BACKOFF

    def propose(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Up to `limit` guesses of what follows `tokens`."""
        if self.rest > 0:
            self.rest -= 1
            return []
        return look_up(tokens[-MAX_LOOKBACK:], min(limit, self.max_drafts))

    def verified(self, num_drafts: int, num_accepted: int) -> None:
        """Learn how the last drafts went."""
        if num_accepted:
            self.backoff = BACKOFF
        elif num_drafts:
            self.rest, self.backoff = self.backoff, min(2 * self.backoff, MAX_BACKOFF)


def look_up(tokens: Sequence[int], count: int) -> list[int]:
    """What followed the latest earlier place that looks most like the end of `tokens`; at most `count` tokens."""
    if count < 1:
        return []
    for length in range(min(MAX_MATCH, len(tokens) - 1), MIN_MATCH - 1, -1):
        ending = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start] == ending[0] and tokens[start : start + length] == ending:
                return list(tokens[start + length : start + length + count])
    return []
