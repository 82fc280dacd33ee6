"""When guessing pays, and how far ahead: switches speculation off by itself where it does not, and on again.

    plain   seconds of a step in which B sequences decode without drafts: median of the last ones with that B
    f, d    seconds that drafts add to it, drawing them up included: for any at all, and for each one; a line through
            the last ones with that B, by medians, since on a busy machine some steps take many times as long
    a       share of right ones among a sequence's drafts that were reached, older ones fading; begins as everybody's
    k       drafts of the sequence in a step, the number that maximises

                tokens won     1 + a + a^2 + ... + a^k
                ----------  =  ----------------------------------------------       time in steps per token
                time taken     1 + (f if k > 0) / plain + k * d * B / plain

A draft thus has to win more than its share of the step costs: at B = 1 on a mixture of experts a second token costs
half a step or more, at B = 128 next to nothing. Where no k beats k = 0, the sequence rests: it tries again only in
every 8th step, then in every 16th, up to every 128th, all resting sequences in the same one, with the k that would be
best if nearly all were right. At the first B three plain steps and three that draft tell the costs; at any other they
are those of the nearest B until three of both have come by, for which one step in 4, later in 32, is plain.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

PLAIN_EVERY = 32  # drafting steps at one B before a plain one
FIRST_REST, LAST_REST = 8, 128  # steps from one trial to the next
ENOUGH, MEMORY = 3, 15  # steps of a kind at one B: to be believed, and remembered
PLAIN_EVERY_AT_FIRST = 4  # the same, until enough plain ones are known
FIRST_GUESS, NEARLY_ALL = 0.7, 0.95  # share of right drafts before any was seen; share that a trial hopes for
BEGIN_WEIGHT, BEGIN_WEIGHT_ALL = 4.0, 20.0  # how many drafts the share counts for that a sequence, and all, begin with
FADING, SLOW_FADING = 0.97, 0.99  # of older drafts with every step, for one sequence and for all


@dataclass(slots=True)
class StepCosts:
    """Steps with one number of decoding sequences."""

    plain_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    drafted: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MEMORY))  # drafts, seconds
    num_since_plain: int = 0
    price: tuple[float, float] = (0.0, 0.0)  # of drafts at all and of each one, in steps per token

    @property
    def is_known(self) -> bool:
        return len(self.plain_seconds) >= ENOUGH and len(self.drafted) >= ENOUGH

    def line(self) -> tuple[float, float]:
        """What any drafts and each draft add to a plain step, in plain steps; neither is below 0."""
        plain = median(self.plain_seconds)
        if plain <= 0.0:  # a clock that stands still
            return 0.0, 0.0
        points = [(count, seconds / plain - 1.0) for count, seconds in self.drafted]
        slopes = [(b - a) / (n - m) for (m, a), (n, b) in combinations(points, 2) if m != n]
        each = max(0.0, median(slopes)) if slopes else 0.0
        at_all = median(added - each * count for count, added in points)
        if slopes and at_all > 0.0:
            return at_all, each
        return 0.0, max(0.0, median(added / count for count, added in points))


class Acceptance:
    """The share of right drafts among those that were reached; older ones fade with every step that verifies some."""

    def __init__(self, share: float, weight: float, fading: float) -> None:
        self.num_right, self.num_reached, self.fading = share * weight, weight, fading
        self.rest = FIRST_REST  # steps from one trial to the next while drafts do not pay

    @property
    def share(self) -> float:
        return self.num_right / self.num_reached

    def add(self, num_drafts: int, num_right: int) -> None:
        self.num_right = self.fading * self.num_right + num_right
        self.num_reached = self.fading * self.num_reached + min(num_right + 1, num_drafts)


class DraftRule:
    """Decides how many drafts each sequence gets, from what it is told of steps and of drafts."""

    def __init__(self, max_drafts: int) -> None:
        self.max_drafts = max_drafts
        self.num_steps = 0
        self.costs: dict[int, StepCosts] = {}  # by number of decoding sequences
        self.everybody = Acceptance(FIRST_GUESS, BEGIN_WEIGHT_ALL, SLOW_FADING)
        self.sequences: dict[int, Acceptance] = {}  # by sequence id
        self._here = StepCosts()
        self._num_decoding, self._is_known = 1, False
        self._at_all, self._per_draft = 0.0, 0.0  # in the step under way: what drafts take, in steps per token

    def begin(self, num_decoding: int) -> None:
        """A step begins in which so many sequences decode."""
        self.num_steps += 1
        self._num_decoding = num_decoding
        self._here = self.costs.setdefault(num_decoding, StepCosts())
        known = self._here if self._here.is_known else self._nearest(num_decoding)
        self._is_known = known is not None
        if known is not None:
            self._at_all, self._per_draft = known.price

    def length(self, sequence_id: int, limit: int) -> int:
        """How many drafts the sequence gets in this step, `limit` at most."""
        limit = min(limit, self.max_drafts)
        if limit < 1 or self._must_be_plain:
            return 0
        if not self._is_known:
            return limit
        own = self._of(sequence_id)
        best = self._best_length(own.share, limit)
        if best > 0:
            own.rest = FIRST_REST
            return best
        if self.num_steps % own.rest:
            return 0
        own.rest = min(2 * own.rest, LAST_REST)
        return max(1, self._best_length(NEARLY_ALL, limit))

    def end(self, num_drafts: int, seconds: float) -> None:
        """The step is over, and nothing but decoding was in it."""
        if num_drafts:
            self._here.drafted.append((num_drafts, seconds))
            self._here.num_since_plain += 1
        else:
            self._here.plain_seconds.append(seconds)
            self._here.num_since_plain = 0
        if num_drafts and self._here.is_known:
            at_all, each = self._here.line()
            self._here.price = at_all, each * self._num_decoding

    def verified(self, sequence_id: int, num_drafts: int, num_right: int) -> None:
        """Learn how the drafts of one sequence went."""
        self._of(sequence_id).add(num_drafts, num_right)
        self.everybody.add(num_drafts, num_right)

    def forget(self, sequence_id: int) -> None:
        """The sequence has ended."""
        self.sequences.pop(sequence_id, None)

    @property
    def _must_be_plain(self) -> bool:
        has_enough = len(self._here.plain_seconds) >= ENOUGH
        if not self._is_known:
            return not has_enough
        return self._here.num_since_plain >= (PLAIN_EVERY if has_enough else PLAIN_EVERY_AT_FIRST)

    def _nearest(self, num_decoding: int) -> StepCosts | None:
        """The costs at the nearest number of sequences whose drafts are known."""
        known = [number for number, costs in self.costs.items() if costs.is_known]
        return self.costs[min(known, key=lambda number: abs(number - num_decoding))] if known else None

    def _of(self, sequence_id: int) -> Acceptance:
        if sequence_id not in self.sequences:
            self.sequences[sequence_id] = Acceptance(self.everybody.share, BEGIN_WEIGHT, FADING)
        return self.sequences[sequence_id]

    def _best_length(self, share: float, limit: int) -> int:
        best, best_rate, won = 0, 1.0, 1.0
        for length in range(1, limit + 1):
            won += share**length
            rate = won / (1.0 + self._at_all + length * self._per_draft)
            if rate > best_rate:
                best, best_rate = length, rate
        return best
