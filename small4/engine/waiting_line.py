"""The line of sequences that wait, fair between priority classes and between the callers of a class.

Start-time fair queueing on two levels: each class and each caller of a class has a virtual time, the tokens it was
served over its weight. The lowest is next. One that comes back from idling starts no lower than the time that has
passed for those who waited, so that idling saves nothing up. A prompt is charged when it is admitted, output as it
comes.

    class weights  HIGH 64, NORMAL 8, LOW 1;  callers of a class weigh the same;  one caller's sequences: in order
"""

from bisect import insort
from collections.abc import Container, Hashable, Iterator

from small4.engine.sequence import Priority, Sequence

_CLASS_WEIGHTS = {Priority.HIGH: 64, Priority.NORMAL: 8, Priority.LOW: 1}


class _Service:
    """Virtual times of some parties."""

    def __init__(self) -> None:
        self.now = 0.0  # virtual time
        self.times: dict[Hashable, float] = {}

    def arrive(self, party: Hashable) -> None:
        """`party` begins to wait; those that were served no more than `now` and are away need no entry."""
        self.times[party] = max(self.times.get(party, 0.0), self.now)

    def serve(self, party: Hashable, cost: float, num_waiting: int) -> None:
        """`party`, one of `num_waiting`, is next and is charged at once, so that its next one waits its turn."""
        # Time passes as if all who wait were served side by side, so that newcomers do not come before everyone.
        self.now = max(self.now, self.times[party]) + cost / num_waiting
        self.times[party] += cost

    def charge(self, party: Hashable, cost: float) -> None:
        """Count a cost that comes later; `party` may be away by now."""
        self.times[party] = self.times.get(party, self.now) + cost

    def prune(self, waiting: Container[Hashable]) -> None:
        """Forget who is away and would come back at `now` anyway."""
        self.times = {party: time for party, time in self.times.items() if party in waiting or time > self.now}


class WaitingLine:
    """Sequences in the order in which they may be admitted."""

    def __init__(self) -> None:
        self._lines: dict[Priority, dict[str, list[Sequence]]] = {priority: {} for priority in Priority}
        self._classes = _Service()
        self._callers = {priority: _Service() for priority in Priority}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for lines in self._lines.values() for line in lines.values() for sequence in line)

    def push(self, sequence: Sequence) -> None:
        """Take a place; a preempted sequence, being older, comes before its caller's later ones."""
        lines = self._lines[sequence.priority]
        if not lines:
            self._classes.arrive(sequence.priority)
        if sequence.caller not in lines:
            self._callers[sequence.priority].arrive(sequence.caller)
        insort(lines.setdefault(sequence.caller, []), sequence, key=lambda other: other.id)
        self._length += 1

    def first(self) -> Sequence | None:
        """The sequence to admit next: the first in fair order that is ready, or None."""
        for priority in sorted((p for p in Priority if self._lines[p]), key=lambda p: (self._classes.times[p], p)):
            lines, times = self._lines[priority], self._callers[priority].times
            for caller in sorted(lines, key=lambda c: (times[c], lines[c][0].id)):
                for sequence in lines[caller]:
                    if sequence.is_ready:
                        return sequence
        return None

    def remove(self, sequence: Sequence) -> None:
        """Leave the line."""
        lines = self._lines[sequence.priority]
        lines[sequence.caller].remove(sequence)
        if not lines[sequence.caller]:
            del lines[sequence.caller]
            self._callers[sequence.priority].prune(lines)
        self._length -= 1

    def admit(self, sequence: Sequence, num_tokens: int) -> None:
        """Leave the line in order to run; `num_tokens` are charged to the caller and the class."""
        num_classes = sum(bool(lines) for lines in self._lines.values())
        self._classes.serve(sequence.priority, num_tokens / _CLASS_WEIGHTS[sequence.priority], num_classes)
        num_callers = len(self._lines[sequence.priority])
        self._callers[sequence.priority].serve(sequence.caller, num_tokens, num_callers)
        self.remove(sequence)

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        """Count tokens served to a sequence that runs."""
        self._classes.charge(sequence.priority, num_tokens / _CLASS_WEIGHTS[sequence.priority])
        self._callers[sequence.priority].charge(sequence.caller, num_tokens)
