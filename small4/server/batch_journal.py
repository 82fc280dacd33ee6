"""What has become of each line of one batch: a file to which every answer is added as it comes.

    INDEX begun                        a line is being answered
    INDEX left                         it is not any more, and nobody is to blame: the server stops, or the batch ends
    INDEX answered|failed CRC32 LINE   it has its line of output, for good

The journal alone says what has been done: a line without an end in it is asked again after a restart, one that has its
end never is. A last entry that was cut, or that a loss of power garbled, is dropped with all behind it. So is what was
written of an entry for which the disk had no room: it counts once it is whole, and the next one takes its place.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from small4.gateway.private_files import append_private

Outcome = Literal["answered", "failed"]


class _End(NamedTuple):
    outcome: str
    start: int  # of the line of output in the journal
    size: int


class Journal:
    """The journal in this file, from where it stands."""

    def __init__(self, path: Path) -> None:
        self.ends: dict[int, _End] = {}
        self.num_begun: Counter[int] = Counter()  # by line: times that it was begun and neither left nor ended
        self.counts: Counter[str] = Counter()  # lines by outcome
        self._path = path
        self._stream: BinaryIO | None = None
        self._has_torn_end = False
        self.num_bytes = 0
        if path.exists():
            with path.open("r+b") as entries:
                self._replay_all(entries)
                entries.truncate(self.num_bytes)

    def begin(self, index: int) -> None:
        """A line is asked."""
        self._append(b"%d begun\n" % index)
        self.num_begun[index] += 1

    def leave(self, index: int) -> None:
        """It was not to blame that this got no answer."""
        self._append(b"%d left\n" % index)
        self.num_begun[index] -= 1

    def end(self, index: int, outcome: Outcome, line: bytes) -> None:
        """A line has its output, which holds no end of line."""
        head = _head(index, outcome.encode(), line)
        end = _End(outcome, self.num_bytes + len(head), len(line))
        self._append(head + line + b"\n")
        self._note(index, end)

    def lines(self, outcome: Outcome) -> Iterator[bytes]:
        """All output of one outcome, in the order of the input."""
        if not self.ends:
            return
        with self._path.open("rb") as entries:
            for index in sorted(self.ends):
                end = self.ends[index]
                if end.outcome == outcome:
                    entries.seek(end.start)
                    yield entries.read(end.size) + b"\n"

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()

    def _append(self, entry: bytes) -> None:
        if self._stream is None:
            self._stream = append_private(self._path)
        if self._has_torn_end:
            self._stream.truncate(self.num_bytes)
        self._has_torn_end = True  # until all is written
        left = memoryview(entry)
        while left:
            left = left[self._stream.write(left) :]
        self._has_torn_end = False
        self.num_bytes += len(entry)

    def _replay_all(self, entries: BinaryIO) -> None:
        for entry in entries:
            if not self._replay(entry):
                return
            self.num_bytes += len(entry)

    def _replay(self, entry: bytes) -> bool:
        """Take an entry that stands there; False where it is none."""
        number, _, rest = entry.partition(b" ")
        if not (number.isdigit() and rest.endswith(b"\n")):
            return False
        index = int(number)
        if rest in (b"begun\n", b"left\n"):
            self.num_begun[index] += 1 if rest == b"begun\n" else -1
            return True
        word, _, rest = rest[:-1].partition(b" ")
        line = rest.partition(b" ")[2]
        if word not in (b"answered", b"failed") or not entry.startswith(_head(index, word, line)):
            return False
        start = self.num_bytes + len(entry) - 1 - len(line)
        self._note(index, _End(word.decode(), start, len(line)))
        return True

    def _note(self, index: int, end: _End) -> None:
        assert index not in self.ends
        self.ends[index] = end
        self.counts[end.outcome] += 1


def _head(index: int, word: bytes, line: bytes) -> bytes:
    """What stands before a line of output, with a sum over all of it."""
    start = b"%d %s " % (index, word)
    return start + b"%08x " % zlib.crc32(line, zlib.crc32(start))
